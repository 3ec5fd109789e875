//! Real servers for tests, and the conformance suite that every adapter passes against its own.
//!
//! This package is only ever a dev-dependency; it panics on failures, as tests do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test kit fails by panicking")]

pub mod conformance;
pub mod gate;
pub mod mangle;
pub mod mirror;
pub mod process;
pub mod servers;
pub mod tls;

pub use mirror::Mirror;
pub use process::{Process, free_port};
pub use tls::Certificates;

/// The part of the suite that every store with a server passes; each promise is a test with a server of its own. `$server` is a type of
/// [`servers`], `$store` makes a [`conformance::Store`] of one, `$open` makes one of endpoints, and `$on_the_wire` encodes a value as the
/// store's protocol does.
#[macro_export]
macro_rules! conformance_suite {
    ($server:ty, $store:path, $open:path, $on_the_wire:path) => {
        $crate::conformance_suite! { @alone $server, $store:
            ordinary_life, burst_of_ten_thousand_keys, binary_and_empty_values, prefix_boundaries, whole_tree_deleted,
            put_if_raced_by_sixteen_writers, idle_is_told
        }
        $crate::conformance_suite! { @harmed $server, $store:
            server_killed_and_restarted 1, server_frozen_for_longer_than_every_time_out 1, leader_of_three_killed 3, store_wiped 1,
            put_if_with_an_unknown_outcome 1
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn put_if_whose_answer_or_itself_is_lost_on_the_way() {
            let server = <$server>::new(1);
            let gate = $crate::gate::Gate::before(&server.endpoints()[0]).await;
            let behind = $open(vec![gate.endpoint()]);
            $crate::conformance::put_if_whose_answer_or_itself_is_lost_on_the_way(behind, $store(&server), &gate, $on_the_wire).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn a_cluster_of_three_passes_the_basic_part() {
            let server = <$server>::new(3);
            let store = $store(&server);
            $crate::conformance::ordinary_life(store.clone()).await;
            $crate::conformance::whole_tree_deleted(store.clone()).await;
            $crate::conformance::put_if_raced_by_sixteen_writers(store).await;
        }
    };
    (@alone $server:ty, $store:path: $($name:ident),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let server = <$server>::new(1);
            $crate::conformance::$name($store(&server)).await;
        }
    )+};
    (@harmed $server:ty, $store:path: $($name:ident $members:literal),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let server = <$server>::new($members);
            $crate::conformance::$name($store(&server), server).await;
        }
    )+};
}

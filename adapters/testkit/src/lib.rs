//! Real servers for tests, and the one conformance suite that every adapter passes against its own.
//!
//! This package is only ever a dev-dependency: it panics where a test would.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test kit fails by panicking")]

pub mod conformance;
pub mod mirror;
pub mod process;
pub mod servers;
pub mod tls;

pub use mirror::Mirror;
pub use process::{Process, free_port};
pub use tls::Certificates;

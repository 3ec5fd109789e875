//! The controller: compiles the entries of the stores into snapshots for the proxies.
//!
//! ```text
//! stores/feed (one per store) ─▶ state (pure, one task owns it) ─▶ publish: watch<Arc<Snapshot>>
//!                                  ▲        ▲                    └▶ disk, stores/verdicts, log
//!                     handle (commands of the API)   peers (other controllers)
//! ```

pub mod answers;
pub mod clock;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
mod cost_tests;
pub mod disk;
pub mod freshness;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
mod golden_tests;
pub mod handle;
pub mod jitter;
pub mod message;
pub mod metrics;
pub mod operator;
mod owner;
pub mod peers;
pub mod rules;
pub mod settings;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
mod sim;
pub mod start;
pub mod state;
pub mod stored;
pub mod stores;
pub mod waiters;

//! The controller: from what the stores say to what the proxies get.
//!
//! ```text
//! feed (one per store) ─▶ step (pure, one task owns the state) ─▶ publish: watch<Arc<Snapshot>>
//!                              ▲                                └▶ disk, verdicts, log
//!                     commands of the API
//! ```

pub mod disk;
pub mod elect;
pub mod election;
pub mod events;
pub mod feed;
pub mod fresh;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
mod golden_tests;
pub mod guard;
pub mod handle;
pub mod health;
pub mod history;
pub mod hold;
pub mod identity;
pub mod metrics;
pub mod operator;
pub mod proxies;
pub mod recall;
pub mod relay;
pub mod replica;
mod run;
pub mod save;
pub mod secrets;
pub mod settings;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
mod sim;
pub mod start;
pub mod step;
pub mod verdicts;
pub mod view;
pub mod window;

pub use handle::Handle;
pub use settings::{Settings, Store};
pub use start::{StartError, start};

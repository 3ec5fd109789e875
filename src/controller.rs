//! The controller: from what the stores say to what the proxies get.
//!
//! ```text
//! feed (one per store) ─▶ step (pure, one task owns the state) ─▶ publish: watch<Arc<Snapshot>>
//!                              ▲                                └▶ disk, verdicts, log
//!                     commands of the API
//! ```

pub mod disk;
pub mod events;
pub mod feed;
pub mod guard;
pub mod handle;
pub mod hold;
pub mod identity;
pub mod metrics;
pub mod operator;
pub mod proxies;
pub mod run;
pub mod save;
pub mod settings;
pub mod step;
pub mod verdicts;
pub mod view;
pub mod window;

pub use handle::Handle;
pub use run::{StartError, start};
pub use settings::{Settings, Store};

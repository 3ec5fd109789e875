//! The thin proxy: it follows a controller, stores the published state on disk, and serves requests.
//!
//! ```text
//! subscribe ─▶ apply: check ▶ disk marker ▶ build table ─▶ active (the one ArcSwap) ─▶ http on every core
//!     ▲                                   └▶ listener: bind, accept, hand to a core
//!     └──────────── report ◀── what was applied, what could not be, what was probed
//! ```
//!
//! Parsing and building never run on a serving thread; a request uses one table until it is routed.

pub mod active;
pub mod admin;
pub mod apply;
pub mod balance;
pub mod cli;
mod clients;
pub mod config;
mod descriptors;
pub mod endpoint;
mod enrol;
mod fresh;
mod http;
mod inbound;
pub mod light;
mod link;
pub mod listener;
pub mod metrics;
mod names;
mod outlier;
mod probe;
mod report;
mod run;
mod save;
mod secrets;
mod state;
mod stream;
mod subscribe;
pub mod table;
mod tail;
mod upstream;
mod worker;

pub use config::Config;
pub use enrol::Certified;
pub use run::{RunError, Running, start};

/// The release, for display.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

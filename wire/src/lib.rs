//! What controllers and proxies say to each other: the watch stream and the report. Messages and codec, nothing else.
//!
//! `POST /v1/watch` with a [`WatchRequest`] is answered by an endless response of JSON lines, each a [`Frame`]:
//!
//! ```text
//! begin ─ (put | delete)* ─ track? ─ commit ─ … ─ heartbeat ─ … ─ begin ─ …
//! ```
//!
//! The receiver collects what comes between `begin` and `commit`, applies it to what it held, and takes the result
//! only if its digests are those of the `commit`. Fields and frames that are not known are passed over; the formats
//! of past releases stay readable (golden files in the tests).

mod apply;
mod frame;
mod report;

pub use apply::{ApplyError, Held, Incoming};
pub use frame::{Begin, Commit, Delete, Frame, Lane, Put, Track, WatchRequest, decode, encode};
pub use report::{DrainingEndpoint, ListenerState, Load, ObjectProblem, Report};

/// Where proxies and people watch.
pub const WATCH_PATH: &str = "/v1/watch";

/// The longest line that is accepted, in bytes: a value at its limit, twice escaped, with room to spare.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// How often the sender says that it is alive, in seconds; three times this without a line means it is gone.
pub const HEARTBEAT_SECONDS: u64 = 5;

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
mod join;
mod publication;
mod relay;
mod report;
mod secrets;

pub use apply::{ApplyError, Held, Incoming};
pub use frame::{Begin, Commit, Delete, Frame, Heartbeat, Lane, Put, SourceAge, Track, WatchRequest, decode, encode};
pub use join::{Certificate, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};
pub use publication::{publication, read_whole, whole};
pub use relay::{ControllerInfo, Downstream, RelayAnswer, RelayReport, Told};
pub use report::{Content, DrainingEndpoint, ListenerState, Load, ObjectProblem, Probed, Report, ReportAnswer};
pub use secrets::{KeyRing, Phase, RingKey, SECRETS_PATH, SecretsFrame, SecretsRequest};

/// Where proxies and people watch.
pub const WATCH_PATH: &str = "/v1/watch";

/// The longest line that is accepted, in bytes: a value at its limit, twice escaped, with room to spare.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// How often the sender of a stream says that it is alive, in seconds.
pub const HEARTBEAT_SECONDS: u64 = 1;

/// Without a line for this long, in seconds, the sender is gone.
pub const SILENCE_SECONDS: u64 = 4;

/// How often a proxy reports although nothing happened, in seconds.
pub const REPORT_SECONDS: u64 = 5;

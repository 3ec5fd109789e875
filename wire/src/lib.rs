//! The protocol between controllers and proxies: messages and codec of the watch stream, the reports and the relay. Nothing else.
//!
//! The answer to `POST /v1/watch` with a [`WatchRequest`] is an endless response of JSON lines, each a [`Frame`]:
//!
//! ```text
//! begin ─ (put | delete)* ─ track? ─ commit ─ … ─ heartbeat ─ … ─ begin ─ …
//! ```
//!
//! The receiver collects the lines between `begin` and `commit`, applies them to its state, and accepts the result only if its digests are
//! those of the `commit`. Unknown fields and frames are ignored; the formats of past releases stay readable (golden files in the tests).

mod apply;
mod findings;
mod frame;
mod join;
mod publication;
mod relay;
mod report;
mod secrets;

pub use apply::{ApplyError, Incoming, ReceivedState};
pub use findings::{Finding, Findings};
pub use frame::{Begin, Commit, Delete, Frame, Heartbeat, Lane, Put, SourceAge, Track, WatchRequest, decode, encode};
pub use join::{Certificate, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};
pub use publication::{publication, read_whole, whole};
pub use relay::{ControllerInfo, Downstream, RelayAnswer, RelayReport, RelayedEvent};
pub use report::{Content, DrainingEndpoint, ListenerState, Load, ObjectProblem, Probed, Report, ReportAnswer};
pub use secrets::{KeyRing, Phase, RingKey, SECRETS_PATH, SecretsFrame, SecretsRequest};

/// Where proxies, followers and people watch.
pub const WATCH_PATH: &str = "/v1/watch";

/// Maximum length of a line in bytes: a value at its limit, escaped twice, with a reserve.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// Interval of the heartbeats of a stream's sender, in seconds.
pub const HEARTBEAT_SECONDS: u64 = 1;

/// Seconds without a line after which the sender counts as lost.
pub const SILENCE_SECONDS: u64 = 4;

/// Interval of a proxy's reports when nothing changes, in seconds.
pub const REPORT_SECONDS: u64 = 5;

//! The controller's API, over HTTP/1.1 and HTTP/2: what proxies follow, what the command line asks, what probes see.

mod operate;
mod probes;
mod report;
mod resources;
mod wait;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::controller::Handle;
use crate::controller::handle::Gone;

pub use operate::{ApproveAnswer, ApproveRequest, HoldAnswer, HoldRequest};
pub use resources::ExportedEntry;
// The shapes of the answers, for whoever asks.
pub use crate::controller::disk::ConfigRecord;
pub use crate::controller::events::Event;
pub use crate::controller::hold::{Action, Mark, date};
pub use crate::controller::operator::Audit;
pub use crate::controller::view::{EntryInfo, HeldInfo, ObjectDiff, ProxyInfo, SourceInfo, StatusInfo};
pub use wait::{For, WaitAnswer, WaitOutcome};

/// Everything that a handler needs.
#[derive(Debug, Clone)]
pub struct Api {
    handle: Handle,
    streams: Arc<watch::Streams>,
    stop: CancellationToken,
}

/// The API's router; streams end with `stop`.
pub fn router(handle: Handle, stop: CancellationToken) -> Router {
    Router::new()
        .route("/v1/watch", post(watch::watch).get(watch::look))
        .route("/v1/proxies", get(resources::proxies))
        .route("/v1/proxies/{name}/report", post(report::report))
        .route("/v1/entries", get(resources::entries))
        .route("/v1/status", get(resources::status))
        .route("/v1/history", get(resources::history))
        .route("/v1/events", get(resources::events))
        .route("/v1/hold", post(operate::hold))
        .route("/v1/approve", post(operate::approve))
        .route("/v1/audit", get(operate::audit))
        .route("/v1/diff", get(operate::diff))
        .route("/v1/export", get(resources::export))
        .route("/v1/wait", get(wait::wait))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/version", get(probes::version))
        .fallback(missing)
        .with_state(Api { handle, streams: Arc::default(), stop })
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    pub error: String,
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, axum::Json(ErrorBody { error: error.into() })).into_response()
}

impl IntoResponse for Gone {
    fn into_response(self) -> Response {
        refuse(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

async fn missing(uri: axum::http::Uri) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("nothing at {}; the API is below /v1/, beside /livez, /readyz, /metrics and /version", uri.path()))
}

//! The controller's API, over HTTP/1.1 and HTTP/2: what proxies follow, what the command line asks, what probes see.

mod admit;
mod asked;
mod controllers;
mod enrol;
mod forward;
mod operate;
mod probes;
mod report;
mod resources;
mod secrets;
mod serve;
mod wait;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch as watch_channel};
use tokio_util::sync::CancellationToken;
use waypost_wire::{JOIN_PATH, KeyRing, RENEW_PATH, SECRETS_PATH};

use crate::controller::handle::Handle;
use crate::controller::message::Stopped;
use crate::trust::Trust;

pub use admit::{Caller, Refusals};
pub use controllers::{StepDownAnswer, StepDownRequest};
pub(crate) use forward::UNHEARD;
pub use operate::{ApproveAnswer, ApproveRequest, HoldAnswer, HoldRequest};
pub use resources::{EventsAnswer, ExportedEntry, ExportedStore};
pub use serve::serve;
// The shapes of the answers, for whoever asks.
pub use crate::controller::answers::shapes::Event;
pub use crate::controller::answers::shapes::{
    EndpointHealth, EntryInfo, HeldInfo, ObjectDiff, OtherController, ProxyInfo, SourceInfo, StatusInfo, UnhealthyBackend,
};
pub use crate::controller::rules::pins::{Action, Mark, date};
pub use crate::controller::stored::config::ConfigRecord;
pub use crate::controller::stored::operator::Audit;
pub use crate::trust::{TokenAnswer, TokenRequest};
pub use wait::{For, WaitAnswer, WaitOutcome};

/// Everything that a handler needs.
#[derive(Debug, Clone)]
pub struct Api {
    handle: Handle,
    /// Tells this run of the controller from others.
    run: Arc<str>,
    streams: Arc<watch::Streams>,
    client: reqwest::Client,
    trust: Option<Arc<Trust>>,
    ring: Option<watch_channel::Receiver<KeyRing>>,
    refusals: Arc<Refusals>,
    stop: CancellationToken,
}

/// What an API over TLS has.
#[derive(Debug, Clone)]
pub struct Secured {
    /// Our certificate, and who is let in.
    pub trust: Arc<Trust>,
    /// The keys that proxies share.
    pub ring: watch_channel::Receiver<KeyRing>,
}

/// The API's router; streams end with `stop`, and other controllers are asked through `client`. If it is `secured`, who asks has
/// to show a certificate or a token; who is refused is told to `refusals`.
pub fn router(handle: Handle, client: reqwest::Client, secured: Option<Secured>, refusals: Arc<Refusals>, stop: CancellationToken) -> Router {
    let (trust, ring) = secured.map(|secured| (secured.trust, secured.ring)).unzip();
    let run = format!("{:016x}", fastrand::u64(..)).into();
    let api = Api { handle, run, streams: Arc::default(), client, trust, ring, refusals, stop };
    // What only the leader knows.
    let answers = Router::new()
        .route("/v1/proxies", get(resources::proxies))
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
        .route("/v1/step-down", post(controllers::step_down))
        .route("/v1/tokens", post(enrol::tokens))
        .route(JOIN_PATH, post(enrol::join))
        .layer(axum::middleware::from_fn_with_state(api.clone(), forward::forward));
    // What every controller answers for itself.
    answers
        .route("/v1/watch", post(watch::watch).get(watch::look))
        .route("/v1/proxies/{name}/report", post(report::report))
        .route("/v1/proxies/{name}/held", post(report::held))
        .route(RENEW_PATH, post(enrol::renew))
        .route(SECRETS_PATH, post(secrets::secrets))
        .route("/v1/controller", get(controllers::controller))
        .route("/v1/replica", post(controllers::replica))
        .route("/v1/relay", post(controllers::relay).layer(axum::extract::DefaultBodyLimit::max(controllers::LARGEST_RELAY)))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/version", get(probes::version))
        .fallback(missing)
        .layer(axum::middleware::from_fn_with_state(api.clone(), admit::admit))
        .with_state(api)
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    pub error: String,
}

/// An endless answer of JSON lines, as they come; whoever reads slowly slows the sender.
fn lines(receiver: mpsc::Receiver<Bytes>) -> Response {
    let body = unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (Ok::<_, Infallible>(piece), receiver)) });
    ([(header::CONTENT_TYPE, "application/jsonl"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response()
}

fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, axum::Json(ErrorBody { error: error.into() })).into_response()
}

impl IntoResponse for Stopped {
    fn into_response(self) -> Response {
        refuse(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

async fn missing(uri: axum::http::Uri) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("nothing at {}; the API is below /v1/, beside /livez, /readyz, /metrics and /version", uri.path()))
}

//! The controller's API, over HTTP/1.1 and HTTP/2, for proxies, other controllers, the command line and probes.

mod admit;
mod asked;
mod caller;
mod connections;
mod context;
mod controllers;
mod enrol;
mod forward;
mod operate;
mod probes;
mod refusals;
mod report;
mod resources;
mod secrets;
mod serve;
mod streams;
mod wait;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use waypost_wire::{JOIN_PATH, RENEW_PATH, SECRETS_PATH};

use crate::controller::handle::Handle;

pub use caller::Caller;
use context::refuse;
pub use context::{Api, ErrorBody, Secured};
pub use controllers::{StepDownAnswer, StepDownRequest};
pub(crate) use forward::LEADER_FAILURE_HEADER;
pub use operate::{ApproveAnswer, ApproveRequest, PinAnswer, PinRequest};
pub use refusals::Refusals;
pub use resources::{EventsAnswer, ExportedEntry, ExportedStore};
pub use serve::serve;
// The types of answers, for clients.
pub use crate::controller::answers::shapes::Event;
pub use crate::controller::answers::shapes::{
    EndpointHealth, EntryInfo, HeldInfo, ObjectDiff, OtherController, ProxyInfo, SourceInfo, StatusInfo, UnhealthyBackend,
};
pub use crate::controller::rules::pins::{Action, PinRecord, date};
pub use crate::controller::stored::config::ConfigRecord;
pub use crate::controller::stored::operator::Audit;
pub use crate::trust::{TokenAnswer, TokenRequest};
pub use wait::{For, WaitAnswer, WaitOutcome};

/// The API's router. Streams end with `stop`; requests are forwarded through `client`. If it is `secured`, callers need a certificate
/// or a token, and refusals are recorded by `refusals`.
pub fn router(handle: Handle, client: reqwest::Client, secured: Option<Secured>, refusals: Arc<Refusals>, stop: CancellationToken) -> Router {
    let (trust, ring) = secured.map(|secured| (secured.trust, secured.ring)).unzip();
    let run = format!("{:016x}", fastrand::u64(..)).into();
    let api = Api { handle, run, streams: Arc::default(), client, trust, ring, refusals, stop };
    // Requests that only the leader can answer.
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
    // Requests that every controller answers itself.
    answers
        .route("/v1/watch", post(watch::watch).get(watch::look))
        .route("/v1/proxies/{name}/report", post(report::report))
        .route("/v1/proxies/{name}/held", post(report::upload))
        .route(RENEW_PATH, post(enrol::renew))
        .route(SECRETS_PATH, post(secrets::secrets))
        .route("/v1/controller", get(controllers::controller))
        .route("/v1/replica", post(controllers::replica))
        .route("/v1/relay", post(controllers::relay).layer(axum::extract::DefaultBodyLimit::max(controllers::MAX_RELAY_BYTES)))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/version", get(probes::version))
        .fallback(missing)
        .layer(axum::middleware::from_fn_with_state(api.clone(), admit::admit))
        .with_state(api)
}

async fn missing(uri: axum::http::Uri) -> Response {
    refuse(StatusCode::NOT_FOUND, format!("nothing at {}; the API is below /v1/, beside /livez, /readyz, /metrics and /version", uri.path()))
}

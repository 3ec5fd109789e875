//! Reports of proxies, and their uploads of the published state for a controller that has lost it.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Report, ReportAnswer, read_whole};

use super::asked::JsonBody;
use super::caller::Caller;
use super::context::{Api, refuse};
use super::controllers::MAX_RELAY_BYTES;
use super::forward::pass_on;
use crate::controller::message::{Input, Query};
use crate::controller::rules::election::Role;

/// Time limit for the upload of a proxy's state.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn report(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    JsonBody(report): JsonBody<Report>,
) -> Response {
    if let Err(refused) = check(&api, &caller, &name).await {
        return refused;
    }
    let recall = is_asked(&api, &report).await;
    let confirms = report.probed.as_ref().is_some_and(|probed| probed.number > 0 || probed.version == Version::default());
    if let Err(stopped) = api.handle.send(Input::Reported { name: name.clone(), report: Box::new(report) }).await {
        return stopped.into_response();
    }
    // The answer confirms the results of health checks that this controller has; the next report builds on them.
    let probed = if confirms { api.handle.ask(|to| Query::FindingsNumber(name, to)).await.unwrap_or_default() } else { None };
    if recall || probed.is_some() { Json(ReportAnswer { recall, probed }).into_response() } else { StatusCode::NO_CONTENT.into_response() }
}

/// Whether this controller or the leader has lost the state that this proxy has. A proxy that serves nothing has no state.
async fn is_asked(api: &Api, report: &Report) -> bool {
    let highest = report.highest.filter(|_| report.applied.is_some());
    let has_more = highest.zip(api.handle.offers_wanted_above()).is_some_and(|(highest, above)| highest > above);
    has_more && api.handle.ask(Query::RecoveryState).await.is_ok_and(|state| state.cluster == report.cluster)
}

/// A proxy's upload of its state, which the answer to its report asked for. A follower forwards it to the leader.
pub(super) async fn upload(State(api): State<Api>, Extension(caller): Extension<Caller>, Path(name): Path<String>, request: Request) -> Response {
    if let Err(refused) = check(&api, &caller, &name).await {
        return refused;
    }
    if api.handle.offers_wanted_above().is_none() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let Some(_turn) = api.handle.offers().turn() else { return refuse(StatusCode::SERVICE_UNAVAILABLE, "another proxy tells what it holds; try again") };
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(UPLOAD_TIMEOUT, to_bytes(body, MAX_RELAY_BYTES)).await {
        Ok(Ok(body)) => body,
        _ => return refuse(StatusCode::BAD_REQUEST, "what a proxy holds is too large, or did not arrive in time"),
    };
    let role = api.handle.roles().borrow().clone();
    match role {
        Role::Following { leader: Some(leader) } => return pass_on(&api, &leader.url, &parts, body).await,
        Role::Following { leader: None } => return refuse(StatusCode::SERVICE_UNAVAILABLE, "nobody leads just now; try again"),
        Role::Leading { .. } | Role::Caretaking { .. } => {}
    }
    let uploaded = match tokio::task::spawn_blocking(move || read_whole(&body)).await {
        Ok(Ok(snapshot)) => fits(&api, snapshot).await,
        Ok(Err(why)) => Err(format!("what proxy {name} holds is not whole: {why}")),
        Err(error) => Err(error.to_string()),
    };
    match uploaded {
        Ok(snapshot) => {
            tracing::info!("proxy {name} told version {} of what was published before", snapshot.version);
            api.handle.offers().take(snapshot);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => api.refuse_caller(&caller, StatusCode::BAD_REQUEST, why, "what a proxy holds").await,
    }
}

/// Accepts only a snapshot of this cluster from an epoch below this leader's. A proxy that had seen a later epoch reported that when it
/// connected, and the leader takes a higher epoch first.
async fn fits(api: &Api, snapshot: Snapshot) -> Result<Snapshot, String> {
    let ours = api.handle.ask(Query::RecoveryState).await.map_err(|stopped| stopped.to_string())?.cluster;
    let epoch = api.handle.roles().borrow().epoch();
    if ours.as_ref() != Some(&snapshot.cluster) || epoch.is_none_or(|epoch| snapshot.version.epoch >= epoch) {
        return Err(format!("version {} of cluster {} was not published in ours before we led", snapshot.version, snapshot.cluster));
    }
    Ok(snapshot)
}

/// Checks that the caller is that proxy.
async fn check(api: &Api, caller: &Caller, name: &str) -> Result<(), Response> {
    waypost_model::key::check_name("proxy", name).map_err(|message| refuse(StatusCode::BAD_REQUEST, message))?;
    match caller.check_proxy(name) {
        Ok(()) => Ok(()),
        Err(why) => Err(api.refuse_caller(caller, StatusCode::FORBIDDEN, why, "a report").await),
    }
}

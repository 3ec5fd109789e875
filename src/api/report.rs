//! What proxies report, and what they hold, for a controller that has lost it.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use waypost_model::snapshot::Snapshot;
use waypost_wire::{Report, ReportAnswer, read_whole};

use super::asked::JsonBody;
use super::caller::Caller;
use super::context::{Api, refuse};
use super::controllers::LARGEST_RELAY;
use super::forward::pass_on;
use crate::controller::message::{Input, Query};
use crate::controller::rules::election::Role;

/// All that a proxy holds arrives in this time.
const PATIENCE: Duration = Duration::from_secs(10);

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
    match api.handle.tell(Input::Reported { name, report: Box::new(report) }).await {
        Ok(()) if recall => Json(ReportAnswer { recall: true }).into_response(),
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(gone) => gone.into_response(),
    }
}

/// Whether we, or the leader, have lost what this proxy has. One that serves nothing has nothing to tell.
async fn is_asked(api: &Api, report: &Report) -> bool {
    let seen = report.highest.filter(|_| report.applied.is_some());
    let has_more = seen.zip(api.handle.offers_wanted_above()).is_some_and(|(seen, above)| seen > above);
    has_more && api.handle.ask(Query::RecoveryState).await.is_ok_and(|seen| seen.cluster == report.cluster)
}

/// What a proxy holds, as it was asked for in the answer to its report. Whoever follows passes it on.
pub(super) async fn held(State(api): State<Api>, Extension(caller): Extension<Caller>, Path(name): Path<String>, request: Request) -> Response {
    if let Err(refused) = check(&api, &caller, &name).await {
        return refused;
    }
    if api.handle.offers_wanted_above().is_none() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let Some(_turn) = api.handle.offers().turn() else { return refuse(StatusCode::SERVICE_UNAVAILABLE, "another proxy tells what it holds; try again") };
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(PATIENCE, to_bytes(body, LARGEST_RELAY)).await {
        Ok(Ok(body)) => body,
        _ => return refuse(StatusCode::BAD_REQUEST, "what a proxy holds is too large, or did not arrive in time"),
    };
    let role = api.handle.roles().borrow().clone();
    match role {
        Role::Following { leader: Some(leader) } => return pass_on(&api, &leader.url, &parts, body).await,
        Role::Following { leader: None } => return refuse(StatusCode::SERVICE_UNAVAILABLE, "nobody leads just now; try again"),
        Role::Leading { .. } | Role::Caretaking { .. } => {}
    }
    let told = match tokio::task::spawn_blocking(move || read_whole(&body)).await {
        Ok(Ok(snapshot)) => fits(&api, snapshot).await,
        Ok(Err(why)) => Err(format!("what proxy {name} holds is not whole: {why}")),
        Err(error) => Err(error.to_string()),
    };
    match told {
        Ok(snapshot) => {
            tracing::info!("proxy {name} told version {} of what was published before", snapshot.version);
            api.handle.offers().take(snapshot);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => api.refuse_caller(&caller, StatusCode::BAD_REQUEST, why, "what a proxy holds").await,
    }
}

/// Only what was published in our cluster, before we lead, is of use. Of a later epoch its proxy has told when it came, and we lead above
/// that first.
async fn fits(api: &Api, snapshot: Snapshot) -> Result<Snapshot, String> {
    let ours = api.handle.ask(Query::RecoveryState).await.map_err(|stopped| stopped.to_string())?.cluster;
    let epoch = api.handle.roles().borrow().epoch();
    if ours.as_ref() != Some(&snapshot.cluster) || epoch.is_none_or(|epoch| snapshot.version.epoch >= epoch) {
        return Err(format!("version {} of cluster {} was not published in ours before we led", snapshot.version, snapshot.cluster));
    }
    Ok(snapshot)
}

/// Whether the caller is that proxy.
async fn check(api: &Api, caller: &Caller, name: &str) -> Result<(), Response> {
    waypost_model::key::check_name("proxy", name).map_err(|message| refuse(StatusCode::BAD_REQUEST, message))?;
    match caller.check_proxy(name) {
        Ok(()) => Ok(()),
        Err(why) => Err(api.refuse_caller(caller, StatusCode::FORBIDDEN, why, "a report").await),
    }
}

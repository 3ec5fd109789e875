//! What proxies report, and what they hold, for a controller that has lost it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use waypost_wire::{Report, ReportAnswer, read_whole};

use super::admit::Caller;
use super::asked::Asked;
use super::{Api, refuse};
use crate::controller::step::Input;

pub(super) async fn report(State(api): State<Api>, Extension(caller): Extension<Caller>, Path(name): Path<String>, Asked(report): Asked<Report>) -> Response {
    if let Err(refused) = check(&api, &caller, &name).await {
        return refused;
    }
    match api.handle.tell(Input::Reported { name, report: Box::new(report) }).await {
        Ok(()) if api.handle.recall().is_wanted() => Json(ReportAnswer { recall: true }).into_response(),
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(gone) => gone.into_response(),
    }
}

/// What a proxy holds, as it was asked for in the answer to its report.
pub(super) async fn held(State(api): State<Api>, Extension(caller): Extension<Caller>, Path(name): Path<String>, body: Bytes) -> Response {
    if let Err(refused) = check(&api, &caller, &name).await {
        return refused;
    }
    if !api.handle.recall().is_wanted() {
        return refuse(StatusCode::CONFLICT, "nobody asks for that now");
    }
    match read_whole(&body) {
        Ok(snapshot) => {
            api.handle.recall().take(snapshot);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(why) => api.refuse_caller(&caller, StatusCode::BAD_REQUEST, format!("what proxy {name} holds is not whole: {why}"), "what a proxy holds").await,
    }
}

/// Whether the caller is that proxy.
async fn check(api: &Api, caller: &Caller, name: &str) -> Result<(), Response> {
    waypost_model::key::check_name("proxy", name).map_err(|message| refuse(StatusCode::BAD_REQUEST, message))?;
    match caller.check_proxy(name) {
        Ok(()) => Ok(()),
        Err(why) => Err(api.refuse_caller(caller, StatusCode::FORBIDDEN, why, "a report").await),
    }
}

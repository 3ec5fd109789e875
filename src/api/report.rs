//! What proxies report.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use waypost_wire::Report;

use super::admit::Caller;
use super::asked::Asked;
use super::{Api, refuse};
use crate::controller::step::Input;

pub(super) async fn report(State(api): State<Api>, Extension(caller): Extension<Caller>, Path(name): Path<String>, Asked(report): Asked<Report>) -> Response {
    if let Err(message) = waypost_model::key::check_name("proxy", &name) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    if let Err(why) = caller.check_proxy(&name) {
        return api.refuse_caller(&caller, StatusCode::FORBIDDEN, why, "a report").await;
    }
    match api.handle.tell(Input::Reported { name, report: Box::new(report) }).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(gone) => gone.into_response(),
    }
}

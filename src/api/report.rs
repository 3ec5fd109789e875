//! What proxies report.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, extract::rejection::JsonRejection};
use waypost_wire::Report;

use super::{Api, refuse};
use crate::controller::step::Input;

pub(super) async fn report(State(api): State<Api>, Path(name): Path<String>, body: Result<Json<Report>, JsonRejection>) -> Response {
    let report = match body {
        Ok(Json(report)) => report,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.body_text()),
    };
    if let Err(message) = waypost_model::key::check_name("proxy", &name) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    match api.handle.tell(Input::Reported { name, report: Box::new(report) }).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(gone) => gone.into_response(),
    }
}

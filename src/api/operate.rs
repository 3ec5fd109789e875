//! What operators ask for: to hold the config or let it go, and what was done and changed.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::{Api, refuse};
use crate::controller::hold::Action;
use crate::controller::operator::Audit;

/// An operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRequest {
    /// What is asked for.
    #[serde(flatten)]
    pub action: Action,
    /// By whom.
    pub by: String,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldAnswer {
    /// One sentence.
    pub message: String,
}

pub(super) async fn hold(State(api): State<Api>, body: Result<Json<HoldRequest>, JsonRejection>) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.body_text()),
    };
    match api.handle.operate(request.action, request.by).await {
        Ok(message) => Json(HoldAnswer { message }).into_response(),
        Err(message) => refuse(StatusCode::CONFLICT, message),
    }
}

pub(super) async fn audit(State(api): State<Api>) -> Json<Vec<Audit>> {
    Json(api.handle.audit())
}

#[derive(Debug, Deserialize)]
pub(super) struct Between {
    /// The number of a config of the history.
    from: u64,
    /// Another one; what is published if absent.
    to: Option<u64>,
}

pub(super) async fn diff(State(api): State<Api>, Params(between): Params<Between>) -> Response {
    match api.handle.diff(between.from, between.to).await {
        Ok(all) => Json(all).into_response(),
        Err(message) => refuse(StatusCode::NOT_FOUND, message),
    }
}

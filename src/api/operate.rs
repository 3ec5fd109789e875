//! Operators' requests: pins, approvals, the audit and differences between configs.

use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use waypost_model::key::{Place, place};

use super::asked::JsonBody;
use super::caller::Asker;
use super::context::{Api, refuse};
use crate::controller::rules::pins::Action;
use crate::controller::stored::operator::Audit;

/// An operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// The action.
    #[serde(flatten)]
    pub action: Action,
    /// The operator's name.
    pub by: String,
}

/// The answer to an operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinAnswer {
    /// What was done, in one sentence.
    pub message: String,
}

pub(super) async fn hold(State(api): State<Api>, Extension(asker): Extension<Asker>, JsonBody(request): JsonBody<PinRequest>) -> Response {
    let by = asker.0.unwrap_or(request.by);
    if let Err(message) = request.action.check().and_then(|()| check_by(&by)) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    match api.handle.operate(request.action, by.clone()).await {
        Ok(message) if api.handle.is_confirmed().await => Json(PinAnswer { message }).into_response(),
        Ok(message) => Json(PinAnswer { message: format!("{message}; {UNCONFIRMED}") }).into_response(),
        Err(error) => refuse_operator(&api, by, error.to_string()).await,
    }
}

/// Records an event for a request that was not carried out.
async fn refuse_operator(api: &Api, by: String, message: String) -> Response {
    api.refusals.record(by, message.clone()).await;
    refuse(StatusCode::CONFLICT, message)
}

/// The warning for an action that no follower has confirmed.
const UNCONFIRMED: &str = "no other controller has said yet that it knows";

/// Checks a name for the audit: short, and on one line.
pub(super) fn check_by(by: &str) -> Result<(), String> {
    let fits = !by.is_empty() && by.len() <= 128 && !by.contains(char::is_control);
    if fits { Ok(()) } else { Err("the name of who asks has 1 to 128 characters on one line; correct --by".to_owned()) }
}

/// The request to approve removals that the guard holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ApproveRequest {
    /// Keys of resources, as typed.
    pub keys: Vec<String>,
    /// Approve all held removals; there are no keys then.
    pub all: bool,
    /// Also approve later removals of these keys: a deletion is announced before it is made.
    pub later: bool,
    /// The operator's name.
    pub by: String,
}

/// The approved removals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApproveAnswer {
    /// `kind/name` of each.
    pub approved: Vec<String>,
    /// A warning for the caller, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

pub(super) async fn approve(State(api): State<Api>, Extension(asker): Extension<Asker>, JsonBody(request): JsonBody<ApproveRequest>) -> Response {
    if request.keys.is_empty() != request.all {
        return refuse(StatusCode::BAD_REQUEST, r#"name what is to go, such as {"keys":["routes/shop"]}, or say {"all":true}, and not both"#.to_owned());
    }
    let resource = |key: &String| {
        let relative = api.handle.relative(key)?;
        match place(&relative, false) {
            Place::Resource { .. } => Ok(relative),
            _ => Err(format!("{key:?} names no resource that can be held")),
        }
    };
    let keys = match request.keys.iter().map(resource).collect::<Result<Vec<_>, String>>() {
        Ok(keys) => keys,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let by = asker.0.unwrap_or(request.by);
    if let Err(message) = check_by(&by) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    match api.handle.approve(keys, request.later, by.clone()).await {
        Ok((approved, _)) if approved.is_empty() && !request.later => {
            let asked = if request.keys.is_empty() { "nothing".to_owned() } else { format!("nothing of {}", request.keys.join(", ")) };
            refuse_operator(&api, by, format!("{asked} is held; `waypost status` lists what is")).await
        }
        Ok((approved, unwritten)) => {
            let unconfirmed = (!api.handle.is_confirmed().await).then_some(UNCONFIRMED);
            let note = unwritten.or(unconfirmed).map(str::to_owned);
            Json(ApproveAnswer { approved, note }).into_response()
        }
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

pub(super) async fn audit(State(api): State<Api>) -> Json<Vec<Audit>> {
    Json(api.handle.audit())
}

#[derive(Debug, Deserialize)]
pub(super) struct Between {
    /// The number of a config of the history.
    from: u64,
    /// The config to compare it with; the published one if absent.
    to: Option<u64>,
}

pub(super) async fn diff(State(api): State<Api>, Params(between): Params<Between>) -> Response {
    match api.handle.diff(between.from, between.to).await {
        Ok(all) => Json(all).into_response(),
        Err(message) => refuse(StatusCode::NOT_FOUND, message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_never_asks_for_more() {
        let pin: PinRequest = serde_json::from_str(r#"{"action":"pin","seconds":60,"by":"ann"}"#).unwrap();
        assert_eq!(pin.action, Action::Pin { config: None, seconds: Some(60) });
        assert!(serde_json::from_str::<PinRequest>(r#"{"action":"freeze","by":"ann"}"#).is_ok());
        for text in [r#"{"action":"pin","second":60,"by":"ann"}"#, r#"{"action":"pin","for":"60s","by":"ann"}"#] {
            assert!(serde_json::from_str::<PinRequest>(text).is_err(), "{text}");
        }
        for text in [r#"{"key":["routes/shop"],"by":"ann"}"#, r#"{"keys":[],"prefix":"routes/","by":"ann"}"#] {
            assert!(serde_json::from_str::<ApproveRequest>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<crate::trust::TokenRequest>(r#"{"join":"proxy","names":"p7","seconds":60}"#).is_err());
    }
}

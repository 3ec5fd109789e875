//! Forwarding: a follower forwards requests to the leader, so that any controller answers every request.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;
use waypost_wire::JOIN_PATH;

use super::caller::{Asker, CALLER_HEADER, FORWARDED_HEADER};
use super::context::{Api, refuse};
use crate::controller::rules::election::Role;

/// Maximum length of a request in bytes.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Maximum length of a request of an unauthenticated caller in bytes, and the time limit for its arrival.
const MAX_JOIN_BYTES: usize = 16 * 1024;
const JOIN_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The header that says why the leader did not answer.
pub(crate) const LEADER_FAILURE_HEADER: HeaderName = HeaderName::from_static("waypost-unheard");
/// Time limit for the leader's answer.
const LEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// The same for requests that this controller can answer with its own state.
const LEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operator's request waits for the next leader during a hand-over.
const HANDOVER_TIME: Duration = Duration::from_secs(3);
const LEADER_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why the leader did not answer, for an answer of this controller's.
#[derive(Debug, Clone)]
pub(super) struct LeaderFailure(pub(super) String);

/// Forwards a request to the leader, unless this controller leads. If the leader cannot be reached, reads are answered from this
/// controller's state and say so; operations and waits fail.
pub(super) async fn forward(State(api): State<Api>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let reading = request.method() == Method::GET && path != "/v1/wait";
    // A program that joins is not authenticated yet.
    let (largest, patience) = if path == JOIN_PATH { (MAX_JOIN_BYTES, JOIN_BODY_TIMEOUT) } else { (MAX_REQUEST_BYTES, LEADER_TIMEOUT) };
    let forwarded = request.headers().contains_key(&FORWARDED_HEADER);
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(patience, to_bytes(body, largest)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the question is too large"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the question did not arrive in time"),
    };
    let deadline = Instant::now() + HANDOVER_TIME;
    let mut answer = None;
    let mut leader_failure = "no controller leads just now".to_owned();
    loop {
        let role = api.handle.roles().borrow().clone();
        let leader = match role {
            Role::Following { leader } => leader.filter(|_| !forwarded),
            Role::Leading { .. } | Role::Caretaking { .. } => return next.run(Request::from_parts(parts, Body::from(body))).await,
        };
        if let Some(leader) = leader {
            match ask(&api, &leader.url, &parts, body.clone()).await {
                Ok(response) if response.status() != StatusCode::SERVICE_UNAVAILABLE => return response,
                Ok(response) => {
                    leader_failure = format!("{} leads no more", leader.holder.name);
                    answer = Some(response);
                }
                Err(Unanswered { sent: true, reason }) if !reading => {
                    let message = format!(
                        "{} did not answer: {reason}; whether it was done is not known, `waypost status` and `waypost history --audit` say",
                        leader.holder.name
                    );
                    return refuse(StatusCode::BAD_GATEWAY, message);
                }
                Err(Unanswered { reason, .. }) => {
                    leader_failure = format!("{} leads and cannot be reached: {reason}", leader.holder.name);
                    answer = Some(refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{leader_failure}; try again")));
                }
            }
        }
        if reading {
            return answer_instead(Request::from_parts(parts, Body::from(body)), next, leader_failure).await;
        }
        if forwarded || Instant::now() >= deadline {
            let nobody = "no controller leads just now; try again, and if the store is down start one with `waypost controller --store-down`";
            return answer.unwrap_or_else(|| refuse(StatusCode::SERVICE_UNAVAILABLE, nobody));
        }
        tokio::time::sleep(LEADER_RETRY_PAUSE).await;
    }
}

/// This controller's own answer, marked as not the leader's.
async fn answer_instead(mut request: Request, next: Next, leader_failure: String) -> Response {
    let value = HeaderValue::from_str(&leader_failure).unwrap_or_else(|_| HeaderValue::from_static("the leader cannot be reached"));
    request.extensions_mut().insert(LeaderFailure(leader_failure));
    let mut response = next.run(request).await;
    response.headers_mut().insert(LEADER_FAILURE_HEADER, value);
    response
}

/// Why there is no answer, and whether the request may have arrived nevertheless.
struct Unanswered {
    reason: String,
    sent: bool,
}

impl From<reqwest::Error> for Unanswered {
    fn from(error: reqwest::Error) -> Self {
        Self { sent: !error.is_connect(), reason: error.to_string() }
    }
}

/// Forwards the state that a proxy uploads.
pub(super) async fn pass_on(api: &Api, leader: &str, parts: &axum::http::request::Parts, body: bytes::Bytes) -> Response {
    match tokio::time::timeout(LEADER_READ_TIMEOUT, ask(api, leader, parts, body)).await {
        Ok(Ok(response)) => response,
        Err(_) => refuse(StatusCode::SERVICE_UNAVAILABLE, "whoever leads does not answer; try again"),
        Ok(Err(Unanswered { reason, .. })) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("whoever leads cannot be reached: {reason}; try again")),
    }
}

async fn ask(api: &Api, leader: &str, parts: &axum::http::request::Parts, body: bytes::Bytes) -> Result<Response, Unanswered> {
    let path = parts.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
    let url = url::Url::parse(leader).and_then(|url| url.join(path)).map_err(|error| Unanswered { reason: error.to_string(), sent: false })?;
    let mut request = api.client.request(parts.method.clone(), url).header(FORWARDED_HEADER, "1").body(body);
    if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    if let Some(Asker(Some(by))) = parts.extensions.get::<Asker>() {
        request = request.header(CALLER_HEADER, by);
    }
    let patience = if parts.method == Method::GET { LEADER_READ_TIMEOUT } else { LEADER_TIMEOUT };
    let sending = request.send();
    // The caller sets the time limit of a wait.
    let answer = if parts.uri.path() == "/v1/wait" {
        sending.await
    } else {
        tokio::time::timeout(patience, sending).await.map_err(|_| Unanswered { reason: "no answer in time".to_owned(), sent: true })?
    };
    let answer = answer?;
    let status = answer.status();
    let headers: Vec<_> =
        [header::CONTENT_TYPE, LEADER_FAILURE_HEADER].into_iter().filter_map(|name| Some((name.clone(), answer.headers().get(name)?.clone()))).collect();
    let bytes = answer.bytes().await?;
    let mut response = (status, bytes).into_response();
    response.headers_mut().extend(headers);
    Ok(response)
}

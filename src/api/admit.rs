//! Authorization of requests. In clear text, which is for loopback and trusted networks, every request is allowed; over TLS,
//! programs authenticate with certificates and people with tokens.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use waypost_trust::{Claims, Identity, Role};
use waypost_wire::{JOIN_PATH, RENEW_PATH, SECRETS_PATH, WATCH_PATH};

use super::caller::{Asker, CALLER_HEADER, Caller, FORWARDED_HEADER, NO_CERTIFICATE};
use super::context::{Api, refuse};
use crate::trust::{Signer, now};

/// Maximum length of a path in an event, in characters.
const MAX_EVENT_PATH_CHARS: usize = 64;

/// The credential that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The certificate of a proxy or controller.
    Program,
    /// The certificate of a controller.
    Controller,
    /// A token with at least this role.
    Operator(Role),
}

fn need(method: &Method, path: &str) -> Need {
    match path {
        "/livez" | "/readyz" | "/version" | JOIN_PATH => Need::Nothing,
        RENEW_PATH | SECRETS_PATH => Need::Program,
        WATCH_PATH if method == Method::POST => Need::Program,
        "/v1/replica" | "/v1/relay" => Need::Controller,
        "/v1/approve" => Need::Operator(Role::Write),
        _ if path.starts_with("/v1/proxies/") => Need::Program,
        _ if [Method::GET, Method::HEAD].contains(method) => Need::Operator(Role::Read),
        _ => Need::Operator(Role::Operate),
    }
}

/// A refusal: its status and reason.
type Refused = (StatusCode, String);

/// Decides whether the request is allowed; returns the identity of the caller.
fn decide(need: Need, caller: &Caller, headers: &HeaderMap, signer: &Signer) -> Result<Asker, Refused> {
    let identity = match caller {
        Caller::Plain => return Ok(Asker::default()),
        Caller::Tls { identity, .. } => identity.as_ref(),
    };
    match (need, identity) {
        (Need::Nothing, _) => Ok(Asker::default()),
        // A controller forwards the request of a caller that it has admitted, or sends its own.
        (_, Some(controller @ Identity::Controller(_))) => {
            let by = headers.get(&CALLER_HEADER).and_then(|by| by.to_str().ok());
            Ok(Asker(Some(by.map_or_else(|| controller.to_string(), str::to_owned))))
        }
        (Need::Program, Some(proxy @ Identity::Proxy(_))) => Ok(Asker(Some(proxy.to_string()))),
        (Need::Program, None) => Err((StatusCode::UNAUTHORIZED, NO_CERTIFICATE.to_owned())),
        (Need::Controller, _) => Err((StatusCode::FORBIDDEN, "only controllers may ask for this".to_owned())),
        (Need::Operator(role), _) => operator(role, headers, signer).map(|name| Asker(Some(name))),
    }
}

fn operator(needed: Role, headers: &HeaderMap, signer: &Signer) -> Result<String, Refused> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = given.and_then(|value| value.strip_prefix("Bearer ")) else {
        let message = format!("this needs a token with the role {needed}; give one with WAYPOST_TOKEN or --token-file (`waypost token` makes them)");
        return Err((StatusCode::UNAUTHORIZED, message));
    };
    match signer.check(token, now()).map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))? {
        Claims::Operator { name, role, .. } if role >= needed => Ok(name),
        Claims::Operator { name, role, .. } => Err((StatusCode::FORBIDDEN, format!("{name}'s token has the role {role}, and this needs {needed}"))),
        Claims::Join { .. } => Err((StatusCode::FORBIDDEN, "the token lets a program join, and nothing else".to_owned())),
    }
}

/// The middleware that refuses requests without the needed credential.
pub(super) async fn admit(State(api): State<Api>, ConnectInfo(caller): ConnectInfo<Caller>, mut request: Request, next: Next) -> Response {
    let asker = match &api.trust {
        Some(trust) => decide(need(request.method(), request.uri().path()), &caller, request.headers(), &trust.signer),
        None => Ok(Asker::default()),
    };
    match asker {
        Ok(asker) => {
            if !caller.passes_on() {
                request.headers_mut().remove(&FORWARDED_HEADER);
            }
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err((status, why)) => api.refuse_caller(&caller, status, why, request.uri().path()).await,
    }
}

impl Api {
    /// Refuses the caller and records an event.
    pub(super) async fn refuse_caller(&self, caller: &Caller, status: StatusCode, why: String, path: &str) -> Response {
        let path: String = path.chars().take(MAX_EVENT_PATH_CHARS).collect();
        self.refusals.record(caller.describe(), format!("{path}: {why}")).await;
        let mut response = refuse(status, why);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"waypost\""));
        }
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

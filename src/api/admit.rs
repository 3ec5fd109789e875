//! Who may ask for what. In clear text, which is for loopback and trusted networks, everybody may everything; over TLS,
//! programs show their certificates and people their tokens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use waypost_trust::{Claims, Identity, Role};
use waypost_wire::{JOIN_PATH, RENEW_PATH, SECRETS_PATH, WATCH_PATH};

use super::forward::FORWARDED;
use super::{Api, refuse};
use crate::controller::handle::Handle;
use crate::controller::message::Input;
use crate::trust::{Signer, now};

/// A controller that passes a question on says who asked it.
pub(super) const BY: HeaderName = HeaderName::from_static("waypost-by");
/// The same refusal is told again after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// So many different refusals are told in that time; of one caller, so many.
const DIFFERENT: usize = 128;
const DIFFERENT_OF_ONE: usize = 32;
/// Bytes of a path that are told.
const TOLD: usize = 64;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody who needs no leave.
    Plain,
    /// Somebody behind TLS.
    Tls {
        /// Whose certificate was shown, if one was.
        identity: Option<Identity>,
        /// The address.
        ip: IpAddr,
    },
}

impl Caller {
    /// Whether the caller may speak as the proxy of this name.
    pub(super) fn check_proxy(&self, name: &str) -> Result<(), String> {
        self.check(|identity| identity.may_be_proxy(name), "proxy", name)
    }

    /// Whether the caller may speak as the controller of this name.
    pub(super) fn check_controller(&self, name: &str) -> Result<(), String> {
        self.check(|identity| identity.may_be_controller(name), "controller", name)
    }

    /// Whether the caller may speak as the controller of this name, if one is given, else as that proxy.
    pub(super) fn check_program(&self, controller: Option<&str>, proxy: &str) -> Result<(), String> {
        controller.map_or_else(|| self.check_proxy(proxy), |controller| self.check_controller(controller))
    }

    /// Whether it may pass on what others ask.
    const fn passes_on(&self) -> bool {
        matches!(self, Self::Plain | Self::Tls { identity: Some(Identity::Controller(_)), .. })
    }

    fn check(&self, may: impl Fn(&Identity) -> bool, kind: &str, name: &str) -> Result<(), String> {
        match self {
            Self::Plain => Ok(()),
            Self::Tls { identity: Some(identity), .. } if may(identity) => Ok(()),
            Self::Tls { identity: Some(identity), .. } => Err(format!("the certificate is that of {identity}, which may not speak as {kind} {name}")),
            Self::Tls { identity: None, .. } => Err(NO_CERTIFICATE.to_owned()),
        }
    }

    /// Who it is, for people.
    fn told(&self) -> String {
        match self {
            Self::Plain => "somebody".to_owned(),
            Self::Tls { identity: Some(identity), .. } => identity.to_string(),
            Self::Tls { identity: None, ip } => ip.to_string(),
        }
    }
}

/// The name of who asks, if that is known: it counts, and not what a request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asker(pub(super) Option<String>);

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The certificate of a proxy or controller.
    Program,
    /// That of a controller.
    Controller,
    /// A token with at least this role.
    Operator(Role),
}

const NO_CERTIFICATE: &str = "only a program with a certificate of this cluster may do this; let it join with a token of `waypost token --join proxy`";

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

/// A refusal: its status and why.
type Refused = (StatusCode, String);

/// Decides; returns who asks.
fn decide(need: Need, caller: &Caller, headers: &HeaderMap, signer: &Signer) -> Result<Asker, Refused> {
    let identity = match caller {
        Caller::Plain => return Ok(Asker::default()),
        Caller::Tls { identity, .. } => identity.as_ref(),
    };
    match (need, identity) {
        (Need::Nothing, _) => Ok(Asker::default()),
        // It asks for somebody whom it has let in, or for itself.
        (_, Some(controller @ Identity::Controller(_))) => {
            let by = headers.get(&BY).and_then(|by| by.to_str().ok());
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
        let told = format!("this needs a token with the role {needed}; give one with WAYPOST_TOKEN or --token-file (`waypost token` makes them)");
        return Err((StatusCode::UNAUTHORIZED, told));
    };
    match signer.check(token, now()).map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))? {
        Claims::Operator { name, role, .. } if role >= needed => Ok(name),
        Claims::Operator { name, role, .. } => Err((StatusCode::FORBIDDEN, format!("{name}'s token has the role {role}, and this needs {needed}"))),
        Claims::Join { .. } => Err((StatusCode::FORBIDDEN, "the token lets a program join, and nothing else".to_owned())),
    }
}

/// Lets requests in, or not.
pub(super) async fn admit(State(api): State<Api>, ConnectInfo(caller): ConnectInfo<Caller>, mut request: Request, next: Next) -> Response {
    let asker = match &api.trust {
        Some(trust) => decide(need(request.method(), request.uri().path()), &caller, request.headers(), &trust.signer),
        None => Ok(Asker::default()),
    };
    match asker {
        Ok(asker) => {
            if !caller.passes_on() {
                request.headers_mut().remove(&FORWARDED);
            }
            request.extensions_mut().insert(caller);
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err((status, why)) => api.refuse_caller(&caller, status, why, request.uri().path()).await,
    }
}

impl Api {
    /// A refusal that is told as an event, too.
    pub(super) async fn refuse_caller(&self, caller: &Caller, status: StatusCode, why: String, path: &str) -> Response {
        let path: String = path.chars().take(TOLD).collect();
        self.refusals.tell(caller.told(), format!("{path}: {why}")).await;
        let mut response = refuse(status, why);
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"waypost\""));
        }
        response
    }
}

/// Tells refusals as events: the same one once in a while, and only so many different ones, whoever knocks.
#[derive(Debug)]
pub struct Refusals {
    handle: Handle,
    told: Mutex<HashMap<(String, String), Instant>>,
}

impl Refusals {
    /// As events of this controller.
    pub fn new(handle: Handle) -> Self {
        Self { handle, told: Mutex::default() }
    }

    /// Tells that `about` was refused, and why.
    pub async fn tell(&self, about: String, why: String) {
        if !self.is_new(&about, &why) {
            return;
        }
        if self.handle.tell(Input::Event { reason: "Refused", about, message: why }).await.is_err() {
            tracing::debug!("the controller stopped before its API did");
        }
    }

    fn is_new(&self, about: &str, why: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < AGAIN);
        let of_one = told.keys().filter(|(known, _)| known == about).count();
        if told.len() >= DIFFERENT || of_one >= DIFFERENT_OF_ONE || told.contains_key(&(about.to_owned(), why.to_owned())) {
            return false;
        }
        told.insert((about.to_owned(), why.to_owned()), now);
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

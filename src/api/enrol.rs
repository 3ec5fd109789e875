//! Enrolment: a program's first certificate in exchange for a token, renewals of certificates, and tokens.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde_json::value::to_raw_value;
use waypost_model::object::Digest;
use waypost_trust::{Claims, Identity, Issued, Joining, PublicKey};
use waypost_wire::{Certificate, JOIN_PATH, JoinRequest, RENEW_PATH, RenewRequest};

use super::asked::JsonBody;
use super::caller::{Asker, Caller};
use super::context::{Api, refuse};
use crate::controller::message::Query;
use crate::trust::{TokenRequest, Trust, now};

const NO_TLS: &str = "this controller talks in clear text and needs neither certificates nor tokens; start it with --tls, or on an address beyond loopback";
const CERTIFICATES_FROM_FILES: &str = "the certificates of this cluster come from files; give the program --tls-cert, --tls-key and --tls-ca";

fn certificate(issued: Issued) -> Response {
    let Issued { chain, authority, from, until } = issued;
    Json(Certificate { chain, authority, from, until, keys: None }).into_response()
}

/// A program joins.
pub(super) async fn join(State(api): State<Api>, Extension(caller): Extension<Caller>, JsonBody(request): JsonBody<JoinRequest>) -> Response {
    let Some(trust) = api.trust.clone() else { return refuse(StatusCode::CONFLICT, NO_TLS) };
    match let_in(&api, &trust, &request).await {
        Ok(response) => response,
        Err((status, why)) => api.refuse_caller(&caller, status, why, JOIN_PATH).await,
    }
}

async fn let_in(api: &Api, trust: &Trust, request: &JoinRequest) -> Result<Response, (StatusCode, String)> {
    let token = trust.signer.check(&request.token, now()).map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))?;
    let Claims::Join { joining, name: bound, .. } = token else {
        return Err((StatusCode::FORBIDDEN, "the token is an operator's and lets no program in; `waypost token --join proxy` makes one that does".to_owned()));
    };
    let kind = joining.to_string();
    waypost_model::key::check_name(&kind, &request.name).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
    let name_conflict = || {
        let message = format!(
            "there is a {kind} {} already; choose another --name, or let it in again with `waypost token --join {kind} --name {}`",
            request.name, request.name
        );
        (StatusCode::CONFLICT, message)
    };
    let program = format!("{kind} {}", request.name);
    let key = Some(&request.public_key).filter(|key| !key.is_empty()).map(|key| Digest::of(key.as_bytes()));
    match &bound {
        Some(bound) if *bound != request.name => {
            return Err((StatusCode::FORBIDDEN, format!("the token lets in {kind} {bound} only, and {} is who asks", request.name)));
        }
        None if is_taken(api, joining, &request.name, (&program, key)).await => return Err(name_conflict()),
        _ => {}
    }
    let response = issue(trust, joining, request)?;
    let joins = crate::controller::stored::programs::Joining { program, key, bound: bound.is_some() };
    // Of two concurrent requests for one name, one was first.
    if !api.handle.joined(joins).await.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))? {
        return Err(name_conflict());
    }
    tracing::info!("{kind} {} joins", request.name);
    Ok(response)
}

/// Whether another program has or had that name. A repeated request with the same key is the same program whose answer was lost.
async fn is_taken(api: &Api, joining: Joining, name: &str, (program, key): (&str, Option<Digest>)) -> bool {
    if let Some(same) = api.handle.has_joined(program, key) {
        return !same;
    }
    match joining {
        Joining::Proxy => api.handle.ask(Query::Proxies).await.is_ok_and(|all| all.iter().any(|proxy| proxy.name == name)),
        Joining::Controller => api.handle.me().0 == name || api.handle.ask(Query::Peers).await.is_ok_and(|all| all.contains_key(name)),
    }
}

fn issue(trust: &Trust, joining: Joining, request: &JoinRequest) -> Result<Response, (StatusCode, String)> {
    let failed = |why: String| (StatusCode::INTERNAL_SERVER_ERROR, why);
    match joining {
        Joining::Proxy => {
            let key = PublicKey::try_from(request.public_key.clone()).map_err(|why| (StatusCode::BAD_REQUEST, why.to_owned()))?;
            let issued = trust.issue(&Identity::Proxy(request.name.clone()), &key).ok_or_else(|| (StatusCode::CONFLICT, CERTIFICATES_FROM_FILES.to_owned()))?;
            issued.map(certificate).map_err(|error| failed(error.to_string()))
        }
        Joining::Controller => {
            let authority = trust.authority().ok_or_else(|| (StatusCode::CONFLICT, CERTIFICATES_FROM_FILES.to_owned()))?;
            let keys = to_raw_value(authority).map_err(|error| failed(error.to_string()))?;
            Ok(Json(Certificate { keys: Some(keys), ..Certificate::default() }).into_response())
        }
    }
}

/// Renews a program's certificate, for the name in its present one.
pub(super) async fn renew(State(api): State<Api>, Extension(caller): Extension<Caller>, JsonBody(request): JsonBody<RenewRequest>) -> Response {
    let (Some(trust), Caller::Tls { identity: Some(identity), .. }) = (&api.trust, &caller) else { return refuse(StatusCode::CONFLICT, NO_TLS) };
    let key = match PublicKey::try_from(request.public_key) {
        Ok(key) => key,
        Err(why) => return api.refuse_caller(&caller, StatusCode::BAD_REQUEST, why.to_owned(), RENEW_PATH).await,
    };
    match trust.issue(identity, &key) {
        Some(Ok(issued)) => certificate(issued),
        Some(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        None => refuse(StatusCode::CONFLICT, CERTIFICATES_FROM_FILES),
    }
}

/// Makes a token for an operator.
pub(super) async fn tokens(State(api): State<Api>, Extension(asker): Extension<Asker>, JsonBody(request): JsonBody<TokenRequest>) -> Response {
    let Some(trust) = &api.trust else { return refuse(StatusCode::CONFLICT, NO_TLS) };
    let made = match trust.signer.make(&request, now()) {
        Ok(made) => made,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    let by = asker.0.unwrap_or_else(|| "somebody".to_owned());
    match api.handle.record(by, request.describe()).await {
        Ok(()) => Json(made).into_response(),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

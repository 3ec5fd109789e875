//! What a request gets: a rule's answer, an endpoint's, or the reason why there is none.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use waypost_model::path::{PathError, Paths};
use waypost_model::resource::{PathMatch, PathNormalization, PathRewrite, Scheme};

use crate::http::answer::Refusal;
use crate::http::body::{Counted, ResponseBody};
use crate::http::discard::discard;
use crate::http::headers::Addressed;
use crate::http::serve::Connection;
use crate::http::{answer, forward, headers};
use crate::table::{self, Action, Candidate, CompiledRule, RedirectTo, Table};
use crate::tail::Record;

/// Answers one request.
pub(crate) async fn answer(connection: &Arc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let shared = &connection.core.shared;
    let counted = Counted::begin(&shared.metrics, connection.busy());
    let table = shared.active.pin();
    let mut record = shared.tail.wanted().then(|| {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        Record::begin(&shared.tail, request.method(), host, request.uri().path(), connection.client.address)
    });
    let mut upgraded = None;
    let head = request.method() == Method::HEAD;
    let mut request = Some(request);
    let mut response = match routed(connection, &table, &mut request, &mut record, &mut upgraded).await {
        Ok(response) => response,
        Err(refusal) => *refusal,
    };
    if let Some(untaken) = request {
        discard(untaken.into_body());
    }
    let status = response.status();
    shared.metrics.response(status.as_u16());
    if let Some(record) = &mut record {
        record.status(status.as_u16());
        if head || status == StatusCode::SWITCHING_PROTOCOLS {
            record.whole();
        }
    }
    if shared.version_header
        && let Ok(version) = HeaderValue::try_from(&*table.version_text)
    {
        response.headers_mut().insert("waypost-version", version);
    }
    if let Some(fresh) = &shared.age_header {
        let age = fresh.borrow().age().map_or_else(|| HeaderValue::from_static("unknown"), |age| HeaderValue::from(age.as_secs()));
        response.headers_mut().insert("waypost-age", age);
    }
    if connection.ending() && status != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    match upgraded {
        Some(start) => start(counted),
        None => response.body_mut().accompany(counted, record),
    }
    response
}

/// Begins an agreed tunnel once the response is on its way.
pub(crate) type StartTunnel = Box<dyn FnOnce(Counted) + Send>;

async fn routed(
    connection: &Arc<Connection>,
    table: &Table,
    taken: &mut Option<Request<Incoming>>,
    record: &mut Option<Box<Record>>,
    upgraded: &mut Option<StartTunnel>,
) -> Result<Response<ResponseBody>, Refusal> {
    let Some(request) = taken.as_mut() else { return Err(answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the request was taken already")) };
    if request.method() == Method::CONNECT {
        return Err(answer::refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here"));
    }
    if headers::size(request) > connection.core.shared.max_head_bytes {
        return Err(answer::refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is larger than --max-head-bytes allows"));
    }
    let host = headers::host(request.uri(), request.headers(), request.version()).map_err(|reason| answer::refuse(StatusCode::BAD_REQUEST, reason))?;
    headers::framing(request.version(), request.method(), request.headers()).map_err(|(status, reason)| answer::refuse(status, reason))?;
    let host_text = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = headers::host_name(host_text);
    let listener = table.listener_of(&connection.listener);
    if let Some(record) = record {
        record.came(&listener.name, &table.version_text);
    }
    let paths = match listener.paths {
        PathNormalization::Standard => Paths::of(request.uri().path()).map_err(|error| answer::refuse(StatusCode::BAD_REQUEST, error.to_string()))?,
        PathNormalization::None => Paths::as_received(request.uri().path()),
    };
    let find = |path: &str| {
        let (query, method, headers) = (request.uri().query(), request.method(), request.headers());
        table.find(&table::Request { listener: &listener.name, explicit_only: listener.explicit_only, host: &name, path, query, method, headers })
    };
    let found = find(&paths.matched);
    if let Some(read) = &paths.with_slashes
        && !is_same(found, find(read))
    {
        return Err(answer::refuse(StatusCode::BAD_REQUEST, PathError::Ambiguous.to_string()));
    }
    let Candidate { rule, found: matched, .. } = found.ok_or_else(|| answer::refuse(StatusCode::NOT_FOUND, no_route(&name, &paths.matched)))?;
    if let Some(record) = record {
        record.routed(&rule.route);
    }
    let resolved = match paths.sent_on {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    let trusted = listener.trusted.iter().any(|network| network.contains(connection.client.address));
    let answered = match &rule.action {
        Action::Redirect(to) => {
            let from = headers::addressed(request.headers(), host_text, trusted);
            Ok(redirect((to, &matched.path), &from, resolved.as_deref(), request.uri()))
        }
        Action::Fixed { status, body, content_type } => Ok(answer::with_body(*status, content_type.clone(), body.clone())),
        Action::Forward { .. } => {
            let upgrade = prepare(request, (rule, &matched.path), connection, (host.as_ref(), resolved.as_deref()), trusted);
            let forwarded = match upgrade {
                Ok(upgrade) => forward::Job { connection, table, rule, upgrade }.run(taken, record, upgraded).await,
                Err(refusal) => Err(refusal),
            };
            // What an endpoint answered has been changed already.
            return forwarded.map_err(|refusal| Box::new(finish(rule, *refusal)));
        }
    };
    answered.map(|response| finish(rule, response))
}

/// Whether two lookups found the same rule.
fn is_same(one: Option<&Candidate>, other: Option<&Candidate>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.rule.is_same_rule(&other.rule),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn no_route(host: &str, path: &str) -> String {
    let host = if host.is_empty() { "a request without a host".to_owned() } else { format!("host {host}") };
    format!("no route for {host} and path {path}")
}

/// What a rule says of responses holds for every answer to a request that matched it, also for those of the proxy.
fn finish(rule: &CompiledRule, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    rule.response_headers.apply(response.headers_mut());
    response
}

/// Makes the client's request the endpoint's; `resolved` is its path where that had dot segments. Returns the protocols that
/// the client may switch to.
fn prepare(
    request: &mut Request<Incoming>,
    (rule, matched): (&CompiledRule, &PathMatch),
    connection: &Connection,
    (host, resolved): (Option<&HeaderValue>, Option<&str>),
    trusted: bool,
) -> Result<Option<HeaderValue>, Refusal> {
    let received = request.version();
    let bad_path = || answer::refuse(StatusCode::BAD_REQUEST, "the path cannot be rewritten");
    let path = target(request.uri(), resolved, rule.rewrite_path.as_ref(), matched).ok_or_else(bad_path)?;
    *request.uri_mut() = http::Uri::from(path);
    *request.version_mut() = http::Version::HTTP_11;
    let map = request.headers_mut();
    let wanted = headers::strip_hop_by_hop(map).filter(|_| received == http::Version::HTTP_11);
    let upgrade = wanted.as_ref().and_then(|wanted| rule.allowed_upgrade(wanted));
    if wanted.is_some() && upgrade.is_none() {
        connection.core.shared.metrics.upgrades_dropped.inc();
    }
    headers::drop_twins(map, &rule.request_headers);
    headers::clean_trailer_names(map);
    headers::forward(map, &connection.client, host, trusted);
    headers::via(map, received);
    if let Some(host) = rule.rewrite_host.as_ref().or(host) {
        map.insert(header::HOST, host.clone());
    }
    rule.request_headers.apply(map);
    if let Some(protocol) = &upgrade {
        map.insert(header::UPGRADE, protocol.clone());
        map.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Ok(upgrade)
}

/// The path and query that the endpoint sees.
fn target(uri: &http::Uri, resolved: Option<&str>, rewrite: Option<&PathRewrite>, matched: &PathMatch) -> Option<PathAndQuery> {
    let path = match (rewrite, resolved) {
        (None, None) => return Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))),
        (None, Some(resolved)) => resolved.to_owned(),
        (Some(change), resolved) => table::rewritten(change, matched, resolved.unwrap_or(uri.path())),
    };
    PathAndQuery::try_from(with_query(path, uri.query())).ok()
}

fn with_query(path: String, query: Option<&str>) -> String {
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

fn redirect((to, matched): (&RedirectTo, &PathMatch), from: &Addressed<'_>, resolved: Option<&str>, uri: &http::Uri) -> Response<ResponseBody> {
    let (host, port) = headers::split_port(from.authority);
    let port = port.or(from.port);
    let scheme = match to.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) => "http",
        None => from.scheme,
    };
    let own = if scheme == "https" { 443 } else { 80 };
    let port = to.port.or(if to.scheme.is_some() { None } else { port }).filter(|port| *port != own);
    let host = to.host.as_deref().unwrap_or(host);
    let path = resolved.unwrap_or(uri.path());
    let path = to.path.as_ref().map_or_else(|| path.to_owned(), |change| table::rewritten(change, matched, path));
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let location = format!("{scheme}://{host}{port}{}", with_query(path, uri.query()));
    let mut response = answer::plain(to.status, format!("see {location}"));
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(to: &RedirectTo, authority: &str, uri: &str) -> String {
        let response = redirect((to, &PathMatch::Prefix(String::new())), &Addressed { scheme: "http", authority, port: None }, None, &uri.parse().unwrap());
        response.headers()["location"].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let to = |scheme, host: Option<&str>, port, path| RedirectTo { status: StatusCode::FOUND, scheme, host: host.map(str::to_owned), port, path };
        assert_eq!(location(&to(Some(Scheme::Https), None, None, None), "a.com:8080", "/x?y=1"), "https://a.com/x?y=1");
        assert_eq!(location(&to(None, Some("b.com"), None, None), "a.com:8080", "/x"), "http://b.com:8080/x");
        assert_eq!(location(&to(None, None, Some(80), None), "a.com:8080", "/x"), "http://a.com/x");
        assert_eq!(location(&to(None, None, None, Some(PathRewrite::Full("/z".to_owned()))), "[::1]:81", "/x?q"), "http://[::1]:81/z?q");
        for (host, wanted) in
            [("[::1]:8080", "https://[::1]:8443/"), ("[::1]", "https://[::1]:8443/"), ("[::1]:", "https://[::1]:8443/"), ("a:", "https://a:8443/")]
        {
            assert_eq!(location(&to(Some(Scheme::Https), None, Some(8443), None), host, "/"), wanted);
        }
        let behind_tls = Addressed { scheme: "https", authority: "a.com:443", port: Some(8443) };
        let response = redirect(
            (&to(None, None, None, Some(PathRewrite::Full("/z".to_owned()))), &PathMatch::Prefix(String::new())),
            &behind_tls,
            None,
            &"/x".parse().unwrap(),
        );
        assert_eq!(response.headers()["location"], "https://a.com/z");
    }
}

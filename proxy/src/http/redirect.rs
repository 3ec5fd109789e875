//! Redirects: where the client asked, as it or a trusted proxy in front says, and where it is sent.

use bytes::Bytes;
use waypost_http1::{Name, is_host};
use waypost_model::resource::{PathMatch, Scheme};

use crate::http::answer::Answer;
use crate::http::head::Head;
use crate::table::{RedirectTo, rewritten};

/// How the client addressed a request.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    /// `http` or `https`.
    scheme: &'static str,
    /// The host, with its port if it had one.
    authority: &'a str,
    /// The port that a trusted proxy in front names, for hosts that it passes on without theirs.
    port: Option<u16>,
}

/// How the client addressed a request: as a trusted proxy in front says (the first of several speaks of the client), else as it came here, by `scheme`.
pub(crate) fn addressed<'a>(head: &'a Head, scheme: &'static str, trusted: bool) -> Addressed<'a> {
    let host = head.host().unwrap_or_default();
    if !trusted {
        return Addressed { scheme, authority: host, port: None };
    }
    let first = |name: Name| head.value(name).and_then(|list| list.split(',').next()).map(str::trim);
    let forwarded = head.value(Name::Forwarded).unwrap_or_default();
    let proto = first(Name::XForwardedProto).or_else(|| parameter(forwarded, "proto")).unwrap_or(scheme);
    let named = first(Name::XForwardedHost).or_else(|| parameter(forwarded, "host"));
    let is_usable = |host: &&str| !host.is_empty() && is_host(host.as_bytes());
    let is_secure = proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss");
    // The ordinary ports are left out: many say 80 behind TLS.
    let port = first(Name::XForwardedPort).and_then(|port| port.parse().ok()).filter(|port| !matches!(port, 80 | 443));
    Addressed { scheme: if is_secure { "https" } else { "http" }, authority: named.filter(is_usable).unwrap_or(host), port }
}

/// A parameter of the first element of a Forwarded header (RFC 7239, 4), without its quotes.
pub(crate) fn parameter<'a>(forwarded: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = forwarded.split(',').next()?.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// A host and its port. An empty port is none (RFC 3986, 3.2.3).
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// The redirect of a request with this path and query, which matched `matched`. One that would lead to where the request was sent is refused: the
/// client would follow it for ever.
pub(crate) fn redirect(to: &RedirectTo, matched: &PathMatch, from: &Addressed<'_>, (path, query): (&str, Option<&str>)) -> Answer {
    let (host, port) = split_port(from.authority);
    let port = port.or(from.port);
    let own = (from.scheme, host, port.unwrap_or(if from.scheme == "https" { 443 } else { 80 }), path);
    let scheme = match to.scheme {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http) => "http",
        None => from.scheme,
    };
    let usual = if scheme == "https" { 443 } else { 80 };
    let port = to.port.or(if to.scheme.is_some() { None } else { port }).filter(|port| *port != usual);
    let host = to.host.as_deref().unwrap_or(host);
    let path = to.path.as_ref().map_or_else(|| path.to_owned(), |change| rewritten(change, matched, path));
    if host.is_empty() {
        return *Answer::refusal(400, "a redirect to a URL needs the host of this one, and the request names none");
    }
    let next = (scheme, host, port.unwrap_or(usual), path.as_str());
    if next.0 == own.0 && next.1.eq_ignore_ascii_case(own.1) && (next.2, next.3) == (own.2, own.3) {
        return *Answer::refusal(500, "the redirect of this route leads to where the request was sent");
    }
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = Answer::of(to.status.as_u16(), String::new(), Bytes::new());
    answer.fields.push(("location", format!("{scheme}://{host}{port}{path}{query}")));
    answer
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use waypost_model::resource::PathRewrite;

    use super::*;

    fn location(to: &RedirectTo, from: &Addressed<'_>, path: &str) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        redirect(to, &PathMatch::Prefix(String::new()), from, (path, query)).fields[0].1.clone()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        let to = |scheme, host: Option<&str>, port, path| RedirectTo { status: StatusCode::FOUND, scheme, host: host.map(str::to_owned), port, path };
        let at = |authority| Addressed { scheme: "http", authority, port: None };
        assert_eq!(location(&to(Some(Scheme::Https), None, None, None), &at("a.com:8080"), "/x?y=1"), "https://a.com/x?y=1");
        assert_eq!(location(&to(None, Some("b.com"), None, None), &at("a.com:8080"), "/x"), "http://b.com:8080/x");
        assert_eq!(location(&to(None, None, Some(80), None), &at("a.com:8080"), "/x"), "http://a.com/x");
        assert_eq!(location(&to(None, None, None, Some(PathRewrite::Full("/z".to_owned()))), &at("[::1]:81"), "/x?q"), "http://[::1]:81/z?q");
        for (host, wanted) in
            [("[::1]:8080", "https://[::1]:8443/"), ("[::1]", "https://[::1]:8443/"), ("[::1]:", "https://[::1]:8443/"), ("a:", "https://a:8443/")]
        {
            assert_eq!(location(&to(Some(Scheme::Https), None, Some(8443), None), &at(host), "/"), wanted);
        }
        let behind_tls = Addressed { scheme: "https", authority: "a.com:443", port: Some(8443) };
        assert_eq!(location(&to(None, None, None, Some(PathRewrite::Full("/z".to_owned()))), &behind_tls, "/x"), "https://a.com/z");
    }
}

//! What a proxy must do to headers: hop-by-hop fields end here (RFC 9110, 7.6.1), and the endpoint learns for whom
//! the request is.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Version, uri};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Takes the fields away that are meant for this connection only. Returns the protocol that both sides want to
/// switch to, if the client asks for that.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let found = headers.keys().any(|name| {
        *name == header::CONNECTION
            || *name == header::UPGRADE
            || *name == header::TE
            || *name == header::TRANSFER_ENCODING
            || *name == header::PROXY_AUTHENTICATE
            || *name == header::PROXY_AUTHORIZATION
            || *name == KEEP_ALIVE
            || *name == PROXY_CONNECTION
    });
    if !found {
        return None;
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // Of the two the encoding counts (RFC 9112, 6.3); a length beside it must not travel on.
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = connection_options(headers).filter_map(|option| HeaderName::try_from(option).ok()).collect();
    let upgrade = if named.contains(&header::UPGRADE) { joined(headers, &header::UPGRADE) } else { None };
    let trailers =
        headers.get_all(header::TE).iter().any(|te| te.to_str().is_ok_and(|te| te.split(',').any(|part| part.trim().eq_ignore_ascii_case("trailers"))));
    for name in named.iter().filter(|name| !is_end_to_end(name)) {
        headers.remove(name);
    }
    for name in [
        &header::CONNECTION,
        &header::UPGRADE,
        &header::TE,
        &header::TRANSFER_ENCODING,
        &header::PROXY_AUTHENTICATE,
        &header::PROXY_AUTHORIZATION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Fields that a Connection header may not take away, because what they mean is decided here.
fn is_end_to_end(name: &HeaderName) -> bool {
    [&header::HOST, &header::CONTENT_LENGTH, &header::FORWARDED, &X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST, &X_FORWARDED_PORT].contains(&name)
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

/// What is known of a client's connection, as header values.
#[derive(Debug)]
pub(crate) struct Client {
    /// The peer's address.
    pub(crate) address: IpAddr,
    address_text: HeaderValue,
    port: HeaderValue,
    /// The last host, and the Forwarded element that says so: a connection rarely asks for more than one.
    forwarded: Mutex<Option<(HeaderValue, HeaderValue)>>,
}

impl Client {
    /// The client behind a connection that was accepted on `local`.
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let address = peer.ip().to_canonical();
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { address, address_text: value(address.to_string()), port: value(local.port().to_string()), forwarded: Mutex::default() }
    }

    /// This hop as an element of Forwarded (RFC 7239).
    fn forwarded(&self, host: Option<&HeaderValue>) -> Option<HeaderValue> {
        let mut last = self.forwarded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, element)) = last.as_ref().filter(|(known, _)| Some(known) == host) {
            return Some(element.clone());
        }
        let element = HeaderValue::try_from(self.element(host.and_then(|host| host.to_str().ok()).unwrap_or_default())).ok()?;
        // Copied: the value itself would keep the whole buffer that it was read into.
        *last = host.and_then(|host| Some((HeaderValue::from_bytes(host.as_bytes()).ok()?, element.clone())));
        Some(element)
    }

    fn element(&self, host: &str) -> String {
        let node = match self.address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        match host {
            "" => format!("for={node};proto=http"),
            host if host.contains(':') => format!("for={node};host=\"{host}\";proto=http"),
            host => format!("for={node};host={host};proto=http"),
        }
    }
}

/// Tells the endpoint for whom the request is. What a peer that is not trusted said about that is replaced.
pub(crate) fn forward(headers: &mut HeaderMap, client: &Client, host: Option<&HeaderValue>, trusted: bool) {
    // Room for what is added, so that the map grows once.
    headers.reserve(8);
    let own = client.forwarded(host);
    if trusted {
        append(headers, &X_FORWARDED_FOR, &client.address_text);
        if let Some(value) = own.filter(|_| headers.contains_key(header::FORWARDED)) {
            append(headers, &header::FORWARDED, &value);
        }
        or_insert(headers, &X_FORWARDED_PROTO, || Some(HeaderValue::from_static("http")));
        or_insert(headers, &X_FORWARDED_HOST, || host.cloned());
        or_insert(headers, &X_FORWARDED_PORT, || Some(client.port.clone()));
        return;
    }
    forget_claims(headers);
    headers.insert(&X_FORWARDED_FOR, client.address_text.clone());
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(&X_FORWARDED_PORT, client.port.clone());
    if let Some(host) = host {
        headers.insert(&X_FORWARDED_HOST, host.clone());
    }
    if let Some(value) = own {
        headers.insert(header::FORWARDED, value);
    }
}

/// Takes away everything that a stranger says about where the request comes from: Forwarded, X-Real-IP, and every
/// X-Forwarded field there is, for frameworks act upon X-Forwarded-Prefix, -Ssl, -User and others as well.
fn forget_claims(headers: &mut HeaderMap) {
    // Servers in the manner of CGI take `_` for `-`.
    let same = |text: &str, wanted: &str| text.bytes().map(|byte| if byte == b'_' { b'-' } else { byte }).eq(wanted.bytes());
    let claims = |name: &HeaderName| {
        let text = name.as_str();
        text.get(.."x-forwarded".len()).is_some_and(|start| same(start, "x-forwarded")) || *name == header::FORWARDED || same(text, X_REAL_IP.as_str())
    };
    while let Some(name) = headers.keys().find(|name| claims(name)).cloned() {
        headers.remove(name);
    }
}

fn append(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    headers.append(name, value.clone());
    if let Some(joined) = joined(headers, name) {
        headers.insert(name, joined);
    }
}

/// All fields of a name as one list (RFC 9110, 5.3).
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    if values.is_empty() { None } else { HeaderValue::from_bytes(&values.join(&b", "[..])).ok() }
}

/// How the client addressed a request.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The host, with its port if it had one.
    pub(crate) authority: &'a str,
    /// The port that a trusted proxy in front names, for hosts that it passes on without theirs.
    pub(crate) port: Option<u16>,
}

/// The port that a proxy in front was asked on. The ordinary ones are left out: many say 80 behind TLS.
fn trusted_port(headers: &HeaderMap) -> Option<u16> {
    let port = headers.get(&X_FORWARDED_PORT)?.to_str().ok()?.split(',').next()?.trim().parse().ok()?;
    (!matches!(port, 80 | 443)).then_some(port)
}

/// How the client addressed a request: as a trusted proxy in front says (the first of several speaks of the client), else as it
/// came here.
pub(crate) fn addressed<'a>(headers: &'a HeaderMap, host: &'a str, trusted: bool) -> Addressed<'a> {
    if !trusted {
        return Addressed { scheme: "http", authority: host, port: None };
    }
    let first = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).and_then(|list| list.split(',').next()).map(str::trim);
    let forwarded = headers.get(header::FORWARDED).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let proto = first(&X_FORWARDED_PROTO).or_else(|| parameter(forwarded, "proto")).unwrap_or("http");
    let named = first(&X_FORWARDED_HOST).or_else(|| parameter(forwarded, "host"));
    let is_usable = |host: &&str| !host.is_empty() && is_host(host.as_bytes());
    let is_secure = proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss");
    Addressed { scheme: if is_secure { "https" } else { "http" }, authority: named.filter(is_usable).unwrap_or(host), port: trusted_port(headers) }
}

/// A parameter of the first element of a Forwarded header (RFC 7239, 4), without its quotes.
fn parameter<'a>(forwarded: &'a str, name: &str) -> Option<&'a str> {
    let pairs = forwarded.split(',').next()?.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name))?;
    Some(value.trim().trim_matches('"'))
}

/// A host and its port. An empty port is none (RFC 3986, 3.2.3).
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Fields that decide where a message ends, where it goes, or who it is from. Trailers and fields with `_` for `-` cannot be them.
fn is_decisive(name: &str) -> bool {
    const NAMES: [&str; 34] = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "forwarded",
        "host",
        "keep-alive",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-http-method-override",
        "x-real-ip",
    ];
    NAMES.contains(&name) || name.starts_with("x-forwarded") || name.starts_with("if-")
}

/// Whether a field may travel behind a body (RFC 9110, 6.5.1), where `decided` says of more names that they may not.
fn may_trail(name: &str, decided: &dyn Fn(&str) -> bool) -> bool {
    let dashed = name.replace('_', "-");
    !is_decisive(&dashed) && !decided(name) && !decided(&dashed)
}

/// Takes the fields out of trailers that only count in a head.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, decided: &dyn Fn(&str) -> bool) {
    let names: Vec<HeaderName> = trailers.keys().filter(|name| !may_trail(name.as_str(), decided)).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Takes the same names out of the field that announces trailers.
pub(crate) fn clean_trailer_names(headers: &mut HeaderMap) {
    let Some(announced) = joined(headers, &header::TRAILER) else { return };
    let names = announced.to_str().unwrap_or_default().split(',').map(str::trim);
    let left: Vec<&str> = names.filter(|name| may_trail(&name.to_ascii_lowercase(), &|_| false)).collect();
    headers.remove(header::TRAILER);
    if let Some(left) = HeaderValue::try_from(left.join(", ")).ok().filter(|left| !left.is_empty()) {
        headers.insert(header::TRAILER, left);
    }
}

/// Drops fields that differ only by `_` for `-` from one that decides something, or that the rule sets or removes: servers in the
/// manner of CGI take one for the other.
pub(crate) fn drop_twins(headers: &mut HeaderMap, changes: &crate::table::HeaderChanges) {
    let is_twin = |name: &&HeaderName| {
        let name = name.as_str();
        name.contains('_') && {
            let dashed = name.replace('_', "-");
            is_decisive(&dashed) || changes.decides(&dashed)
        }
    };
    let twins: Vec<HeaderName> = headers.keys().filter(is_twin).cloned().collect();
    for name in twins {
        headers.remove(name);
    }
}

fn or_insert(headers: &mut HeaderMap, name: &HeaderName, value: impl FnOnce() -> Option<HeaderValue>) {
    if !headers.contains_key(name)
        && let Some(value) = value()
    {
        headers.insert(name, value);
    }
}

/// Says that the message passed here (RFC 9110, 7.6.3); `received` is the version it came in.
pub(crate) fn via(headers: &mut HeaderMap, received: Version) {
    let value = HeaderValue::from_static(if received == Version::HTTP_10 { "1.0 waypost" } else { "1.1 waypost" });
    headers.append(header::VIA, value);
}

/// The host that a request is for, as it came: that of an absolute URI, else the one Host field.
///
/// # Errors
/// Why the request cannot be understood.
pub(crate) fn host(uri: &uri::Uri, headers: &HeaderMap, version: Version) -> Result<Option<HeaderValue>, &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host header");
    }
    if first.is_none() && version == Version::HTTP_11 {
        return Err("no Host header");
    }
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err("the target has no path; a bare host is for CONNECT alone (RFC 9112, 3.2.3)");
    }
    let host = match uri.authority() {
        Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
        None => first.cloned(),
    };
    match host {
        Some(host) if !is_host(host.as_bytes()) => Err("the host is not a name or address, with a port or without"),
        host => Ok(host),
    }
}

/// Bytes of a request's head, with one space behind each colon.
pub(crate) fn size<T>(request: &http::Request<T>) -> usize {
    const LINE: usize = " / HTTP/1.1\r\n".len() - "/".len();
    let uri = request.uri();
    let origin = uri.path_and_query().map_or(1, |path| path.as_str().len());
    let before = uri.authority().map_or(0, |authority| authority.as_str().len() + uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len()));
    let fields: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
    request.method().as_str().len() + LINE + before + origin + fields + "\r\n".len()
}

/// `name`, `name:port`, `[IPv6]` or `[IPv6]:port`, or nothing at all: whatever else a Host may hold would have to be
/// understood alike by everybody who reads it.
fn is_host(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let labels = name.strip_suffix('.').unwrap_or(name);
            let is_name = !labels.split('.').any(str::is_empty) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            (name.is_empty() || is_name, port)
        }
    };
    name && (port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())))
}

/// Whether the request's framing is understood.
///
/// # Errors
/// The status and reason to answer with.
pub(crate) fn framing(version: Version, method: &http::Method, headers: &HeaderMap) -> Result<(), (http::StatusCode, &'static str)> {
    use http::{Method, StatusCode};
    crate::http::forward::check_coding(headers).map_err(|reason| (StatusCode::NOT_IMPLEMENTED, reason))?;
    let has_body = [Method::POST, Method::PUT, Method::PATCH].contains(method);
    if version == Version::HTTP_10 && has_body && !headers.contains_key(header::CONTENT_LENGTH) {
        return Err((StatusCode::LENGTH_REQUIRED, "a request body of HTTP/1.0 needs a Content-Length"));
    }
    Ok(())
}

/// A host without its port, in the spelling of a route's hostnames.
pub(crate) fn host_name(host: &str) -> std::borrow::Cow<'_, str> {
    let (name, _) = split_port(host);
    if let Some(address) = name.strip_prefix('[').and_then(|_| waypost_model::value::host_address(name)) {
        return address.to_string().into();
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())).fold(
            HeaderMap::new(),
            |mut map, (name, value)| {
                map.append(name, value);
                map
            },
        )
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_end_here() {
        let mut headers = map(&[
            ("connection", "close, X-Private, Host"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("te", "trailers, deflate"),
            ("host", "a"),
            ("x-kept", "1"),
            ("proxy-connection", "x"),
        ]);
        assert_eq!(strip_hop_by_hop(&mut headers), None);
        assert_eq!(headers, map(&[("host", "a"), ("x-kept", "1"), ("te", "trailers")]));
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        assert_eq!(strip_hop_by_hop(&mut headers).unwrap(), "websocket");
        assert!(headers.is_empty());
        assert_eq!(strip_hop_by_hop(&mut map(&[("upgrade", "h2c")])), None, "an upgrade that Connection does not name is none");
    }

    #[test]
    fn what_a_stranger_says_about_the_client_is_replaced_and_a_trusted_peer_is_continued() {
        let client = Client::new("[::ffff:10.0.0.9]:5000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        let host = HeaderValue::from_static("shop.example.com:80");
        let said = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-proto", "https"), ("forwarded", "for=1.1.1.1"), ("x-real-ip", "1.1.1.1")];
        let more = [
            ("x-forwarded-prefix", "/evil"),
            ("x-forwarded-user", "admin"),
            ("x-forwarded-ssl", "on"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x_real-ip", "1.1.1.1"),
        ];
        let mut headers = map(&[said.as_slice(), &more].concat());
        forward(&mut headers, &client, Some(&host), false);
        assert_eq!(
            headers,
            map(&[
                ("x-forwarded-for", "10.0.0.9"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-port", "80"),
                ("x-forwarded-host", "shop.example.com:80"),
                ("forwarded", "for=10.0.0.9;host=\"shop.example.com:80\";proto=http")
            ])
        );
        let mut headers = map(&[]);
        forward(&mut headers, &client, None, false);
        assert_eq!(headers["forwarded"], "for=10.0.0.9;proto=http", "of HTTP/1.0 without a host");
        let mut headers = map(&said);
        forward(&mut headers, &client, Some(&host), true);
        assert_eq!(headers["x-forwarded-for"], "1.1.1.1, 10.0.0.9");
        assert_eq!(headers["x-forwarded-proto"], "https");
        assert_eq!(headers["forwarded"], "for=1.1.1.1, for=10.0.0.9;host=\"shop.example.com:80\";proto=http");
    }

    #[test]
    fn a_request_has_exactly_one_host() {
        let uri: uri::Uri = "/x".parse().unwrap();
        assert!(host(&uri, &map(&[("host", "a"), ("host", "a")]), Version::HTTP_11).is_err());
        assert!(host(&uri, &map(&[]), Version::HTTP_11).is_err());
        assert_eq!(host(&uri, &map(&[]), Version::HTTP_10).unwrap(), None);
        let absolute: uri::Uri = "http://b:81/x".parse().unwrap();
        assert_eq!(host(&absolute, &map(&[("host", "a")]), Version::HTTP_11).unwrap().unwrap(), "b:81");
        for good in ["a", "a.b-c_d:80", "[::1]", "[::1]:80", "1.2.3.4:80", ""] {
            assert!(host(&uri, &map(&[("host", good)]), Version::HTTP_11).is_ok(), "{good}");
        }
        for bad in ["shop,for=6.6.6.6", "a b", "u@a", "a:b", "a:123456", "[::1", "[x]", "a/b", "a\"", "::1"] {
            assert!(host(&uri, &map(&[("host", bad)]), Version::HTTP_11).is_err(), "{bad}");
        }
        for (text, name) in [("Shop.example.com:80", "shop.example.com"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("a.", "a")] {
            assert_eq!(host_name(text), name);
        }
    }
}

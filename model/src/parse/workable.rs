//! Refuses values that are well formed and cannot work: they would produce invalid HTTP, or wait for requests that no client sends. They
//! are refused only when they are written; objects of other releases are read without these checks.

use std::collections::BTreeSet;

use crate::limits::MAX_PATH_BYTES;
use crate::path::check_escapes;
use crate::problem::Problem;
use crate::resource::{
    Backend, Endpoint, Filter, FixedResponse, HeaderMatch, HeaderModifier, PathMatch, PathRewrite, Redirect, Route, RouteMatch, Rule, StringMatch,
};
use crate::value::{Hostname, PreciseHostname};

/// Refuses a route if a part of it cannot work.
pub(super) fn check(route: &Route) -> Result<(), Problem> {
    for (rule_at, rule) in route.rules.iter().enumerate() {
        check_combination(&rule.filters).map_err(|(at, message)| Problem { field: format!("rules[{rule_at}].filters[{at}]"), ..Problem::whole(message) })?;
        for (at, filter) in rule.filters.iter().enumerate() {
            check_filter(filter, rule, route).map_err(|message| Problem { field: format!("rules[{rule_at}].filters[{at}]"), ..Problem::whole(message) })?;
        }
        for (match_at, found) in rule.matches.iter().enumerate() {
            check_match(found)
                .map_err(|(field, message)| Problem { field: format!("rules[{rule_at}].matches[{match_at}]{field}"), ..Problem::whole(message) })?;
        }
    }
    Ok(())
}

/// Bytes of a zone's name.
const MAX_ZONE_BYTES: usize = 253;

/// Refuses an endpoint with a zone that no log line should carry.
pub(super) fn check_endpoint(endpoint: Endpoint) -> Result<Endpoint, Problem> {
    match endpoint.zone.as_ref().map(String::len) {
        Some(length) if length > MAX_ZONE_BYTES => {
            Err(Problem { field: "zone".to_owned(), ..Problem::whole(format!("the zone has {length} bytes; at most {MAX_ZONE_BYTES} are accepted")) })
        }
        _ => Ok(endpoint),
    }
}

/// Refuses a backend whose probes no endpoint could answer.
pub(super) fn check_backend(backend: Backend) -> Result<Backend, Problem> {
    let refused = |field: &str, message: String| Err(Problem { field: format!("healthCheck.{field}"), ..Problem::whole(message) });
    let Some(check) = &backend.health_check else { return Ok(backend) };
    if let Some(host) = check.host.as_ref().filter(|host| !is_host_field(host)) {
        return refused("host", format!("{host:?} is no value of the header \"host\"; write a host name, with a port or without"));
    }
    let length = check.path.len();
    if length > MAX_PATH_BYTES {
        return refused("path", format!("the path has {length} bytes; at most {MAX_PATH_BYTES} are accepted"));
    }
    match check_escapes(&check.path) {
        Err(message) => refused("path", message),
        Ok(()) => Ok(backend),
    }
}

/// Refuses filters of which one would have no effect, or another one than it says, with the number of the one to change.
fn check_combination(filters: &[Filter]) -> Result<(), (usize, String)> {
    let same = |one: &Filter, other: &Filter| std::mem::discriminant(one) == std::mem::discriminant(other);
    for (at, filter) in filters.iter().enumerate() {
        if let Some(first) = filters.iter().take(at).position(|other| same(filter, other)) {
            return Err((at, format!("a rule has at most one filter of this type; write what it says into filters[{first}]")));
        }
    }
    let answers = filters.iter().any(Filter::answers);
    match filters.iter().position(|filter| matches!(filter, Filter::UrlRewrite(_))) {
        Some(at) if answers => Err((at, "a rule that answers itself sends nothing on; take the URLRewrite out".to_owned())),
        _ => Ok(()),
    }
}

/// Refuses a match that no request fulfils, with the field below the match.
fn check_match(found: &RouteMatch) -> Result<(), (String, String)> {
    if found.method.as_ref().is_some_and(|method| method.as_str() == "CONNECT") {
        return Err((".method".to_owned(), "CONNECT asks for a tunnel, which no rule can give: such requests are refused; take it out".to_owned()));
    }
    let mut names = BTreeSet::new();
    for (at, header) in found.headers.iter().enumerate() {
        let is_repeated = !names.insert(header.name.as_str());
        check_header_match(header, is_repeated).map_err(|message| (format!(".headers[{at}]"), message))?;
    }
    names.clear();
    match found.query_params.iter().enumerate().find(|(_, query)| !names.insert(query.name.as_str())) {
        Some((at, query)) => {
            let name = &query.name;
            Err((
                format!(".queryParams[{at}]"),
                format!("the match has two conditions on the query parameter {name:?}, of which the first value counts; keep one"),
            ))
        }
        None => Ok(()),
    }
}

fn check_filter(filter: &Filter, rule: &Rule, route: &Route) -> Result<(), String> {
    match filter {
        Filter::RequestHeaderModifier(changes) => check_headers(changes).and_then(|()| check_host(changes)),
        Filter::ResponseHeaderModifier(changes) => check_headers(changes),
        Filter::RequestRedirect(redirect) => check_redirect(redirect, rule, &route.hostnames),
        Filter::UrlRewrite(rewrite) if rewrite.hostname.is_none() && rewrite.path.is_none() => {
            Err("the rewrite changes nothing; write hostname or path".to_owned())
        }
        Filter::UrlRewrite(_) => Ok(()),
        Filter::FixedResponse(fixed) => check_body(fixed),
    }
}

/// Fields that a message has at most once, so that adding a second one would make it invalid (RFC 9110, 5.3) or make browsers ignore it
/// (Fetch, CORS check; RFC 6797, 8.1; RFC 7034, 2.1).
const SINGLETON_FIELDS: [&str; 24] = [
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "age",
    "authorization",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "from",
    "host",
    "if-modified-since",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "referer",
    "retry-after",
    "server",
    "strict-transport-security",
    "user-agent",
    "x-frame-options",
];

fn check_headers(changes: &HeaderModifier) -> Result<(), String> {
    match changes.add.iter().map(|pair| pair.name.as_str()).find(|name| SINGLETON_FIELDS.contains(name)) {
        Some(name) => Err(format!("a message has at most one header {name:?}, and \"add\" could make it two; write it under \"set\"")),
        None => check_contradictions(changes),
    }
}

/// A header that is set twice, or set and removed: only one of the two would have an effect.
fn check_contradictions(changes: &HeaderModifier) -> Result<(), String> {
    let mut written = BTreeSet::new();
    if let Some(pair) = changes.set.iter().find(|pair| !written.insert(pair.name.as_str())) {
        return Err(format!("the header {:?} is set twice; keep one value", pair.name.as_str()));
    }
    written.extend(changes.add.iter().map(|pair| pair.name.as_str()));
    match changes.remove.iter().find(|name| written.contains(name.as_str())) {
        Some(name) => Err(format!("the header {:?} is set or added, and removed; keep one of both", name.as_str())),
        None => Ok(()),
    }
}

/// A request has exactly one `Host`, and its value is a host (RFC 9112, 3.2).
fn check_host(changes: &HeaderModifier) -> Result<(), String> {
    if changes.remove.iter().any(|name| name.as_str() == "host") {
        return Err("a request needs the header \"host\" (RFC 9112, 3.2); write another host under \"set\"".to_owned());
    }
    let mut hosts = changes.set.iter().filter(|pair| pair.name.as_str() == "host").map(|pair| pair.value.as_str());
    match hosts.find(|value| !is_host_field(value)) {
        Some(value) => Err(format!("{value:?} is no value of the header \"host\"; write a host name, with a port or without")),
        None => Ok(()),
    }
}

/// Whether a text is a valid value of a `Host` header: a host with or without a port.
fn is_host_field(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bare_address = host.contains(':') && !host.starts_with('[');
    !bare_address && port.is_none_or(|port| port.parse::<u16>().is_ok()) && PreciseHostname::try_from(host.to_owned()).is_ok()
}

/// A redirect must not lead back to the same URL.
fn check_redirect(redirect: &Redirect, rule: &Rule, hostnames: &[Hostname]) -> Result<(), String> {
    let same_host = redirect.hostname.as_ref().is_none_or(|to| hostnames.iter().any(|from| from.as_str() == to.in_uri()));
    if redirect.scheme.is_some() || redirect.port.is_some() || !same_host {
        return Ok(());
    }
    let host = redirect.hostname.as_ref().map_or_else(String::new, |host| format!("{:?} and ", host.in_uri()));
    match &redirect.path {
        None if redirect.hostname.is_none() => {
            Err("the redirect leads to where the request came from, for ever; write scheme, hostname, port or path".to_owned())
        }
        None => Err(format!("the redirect leads from {host}any path to the same place, for ever; write scheme, port or path, or take that hostname out")),
        Some(path) if is_kept_by(rule, path) => {
            let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = path;
            Err(format!("the redirect leads from {host}{path:?} to {path:?}, for ever; write another path, or scheme, hostname or port"))
        }
        Some(_) => Ok(()),
    }
}

/// Whether one of the rule's matches has paths that are rewritten to themselves.
fn is_kept_by(rule: &Rule, rewrite: &PathRewrite) -> bool {
    let any = [RouteMatch::default()];
    let matches = if rule.matches.is_empty() { any.as_slice() } else { &rule.matches };
    matches.iter().any(|found| is_kept(&found.path, rewrite))
}

/// Whether a path that matches is rewritten to itself.
fn is_kept(wanted: &PathMatch, rewrite: &PathRewrite) -> bool {
    match (wanted, rewrite) {
        (PathMatch::Exact(path), PathRewrite::Full(to) | PathRewrite::Prefix(to)) => path == to,
        (PathMatch::Prefix(prefix), PathRewrite::Prefix(to)) => prefix == to.trim_end_matches('/'),
        (PathMatch::Prefix(_) | PathMatch::Pattern(_), _) => false,
    }
}

/// Responses with these statuses have no body (RFC 9110, 15.3.5, 15.3.6, 15.4.5).
fn check_body(fixed: &FixedResponse) -> Result<(), String> {
    let status = fixed.status_code.get();
    let has_body = !fixed.body.is_empty();
    if matches!(status, 204 | 205 | 304) && has_body {
        return Err(format!("a response with the status {status} has no body; take the body out, or write another status"));
    }
    Ok(())
}

/// Field values are received without the blanks around them (RFC 9110, 5.5).
fn check_header_match(header: &HeaderMatch, is_repeated: bool) -> Result<(), String> {
    match &header.value {
        _ if is_repeated => Err(format!("the match has two conditions on the header {:?}, which has one value; keep one", header.name.as_str())),
        StringMatch::Exact(value) if value.trim_matches([' ', '\t']) != value => {
            Err(format!("the value {value:?} can never match: values come without blanks around them; write {:?}", value.trim()))
        }
        StringMatch::Exact(value) if value.contains(|c: char| c.is_control() && c != '\t') => {
            Err(format!("the value {value:?} can never match: no header has control characters"))
        }
        StringMatch::Exact(_) | StringMatch::Pattern(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::key::{Kind, ResourceKey};
    use crate::limits::Limits;
    use crate::parse::parse;

    fn rule(matches: &str, filter: &str, rest: &str) -> String {
        let value = format!(r#"{{"rules":[{{"matches":[{matches}],"filters":[{filter}]{rest}}}]}}"#);
        parse(&ResourceKey::new(Kind::Route, "r"), value.as_bytes(), &Limits::default()).map_or_else(|problem| problem.to_string(), |_| "accepted".to_owned())
    }

    #[test]
    fn header_filters_that_would_make_an_invalid_message_are_refused() {
        const TO: &str = r#","backendRefs":[{"name":"b"}]"#;
        for (change, answer) in [
            (r#"{"add":[{"name":"Host","value":"a"}]}"#, "write it under \"set\""),
            (r#"{"add":[{"name":"content-type","value":"a/b"}]}"#, "write it under \"set\""),
            (r#"{"remove":["HOST"]}"#, "needs the header \"host\""),
            (r#"{"set":[{"name":"host","value":"a b"}]}"#, "is no value of the header"),
            (r#"{"set":[{"name":"host","value":"2001:db8::1"}]}"#, "is no value of the header"),
            (r#"{"set":[{"name":"host","value":"a:99999"}]}"#, "is no value of the header"),
            (r#"{"set":[{"name":"host","value":"*.example.com"}]}"#, "is no value of the header"),
            (r#"{"set":[{"name":"host","value":"[2001:db8::1]:80"}]}"#, "accepted"),
            (r#"{"set":[{"name":"host","value":"inner.example"}]}"#, "accepted"),
            (r#"{"add":[{"name":"set-cookie","value":"a=b"},{"name":"via","value":"x"}]}"#, "accepted"),
            (r#"{"add":[{"name":"Access-Control-Allow-Origin","value":"*"}]}"#, "write it under \"set\""),
            (r#"{"set":[{"name":"x-a","value":"1"},{"name":"X-A","value":"2"}]}"#, "is set twice"),
            (r#"{"set":[{"name":"x-a","value":"1"}],"remove":["x-A"]}"#, "keep one of both"),
            (r#"{"add":[{"name":"x-a","value":"1"}],"remove":["x-a"]}"#, "keep one of both"),
            (r#"{"set":[{"name":"x-a","value":"1"}],"add":[{"name":"x-a","value":"2"}],"remove":["x-b"]}"#, "accepted"),
        ] {
            let message = rule("", &format!(r#"{{"type":"RequestHeaderModifier","requestHeaderModifier":{change}}}"#), TO);
            assert!(message.contains(answer), "{change}: {message}");
        }
    }

    #[test]
    fn a_filter_stands_once_in_a_rule_and_a_rule_that_answers_itself_rewrites_nothing() {
        const SET: &str = r#"{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"x","value":"1"}]}}"#;
        const REWRITE: &str = r#"{"type":"URLRewrite","urlRewrite":{"hostname":"a.example"}}"#;
        const REDIRECT: &str = r#"{"type":"RequestRedirect","requestRedirect":{"scheme":"https"}}"#;
        const TO: &str = r#","backendRefs":[{"name":"b"}]"#;
        for (filters, rest, answer) in [
            (format!("{SET},{SET}"), TO, "rules[0].filters[1]: a rule has at most one filter of this type; write what it says into filters[0]"),
            (format!("{REWRITE},{SET},{REWRITE}"), TO, "filters[2]: a rule has at most one"),
            (format!("{REDIRECT},{REWRITE}"), "", "filters[1]: a rule that answers itself sends nothing on"),
            (format!("{REWRITE},{SET}"), TO, "accepted"),
        ] {
            let message = rule("", &filters, rest);
            assert!(message.contains(answer), "{filters}: {message}");
        }
    }

    #[test]
    fn probes_that_no_endpoint_could_answer_and_long_zones_are_refused() {
        let message = |kind: Kind, name: &str, value: &str| {
            parse(&ResourceKey::new(kind, name), value.as_bytes(), &Limits::default()).map_or_else(|problem| problem.to_string(), |_| "accepted".to_owned())
        };
        for (check, answer) in [
            (r#"{"host":"a:b:[[:x"}"#, "healthCheck.host: \"a:b:[[:x\" is no value of the header"),
            (r#"{"path":"/%zz"}"#, "begins no escape"),
            (r#"{"host":"shop.example.com:80","path":"/a%20b?c=1"}"#, "accepted"),
        ] {
            let found = message(Kind::Backend, "b", &format!("{{\"healthCheck\":{check}}}"));
            assert!(found.contains(answer), "{check}: {found}");
        }
        let zone = |length: usize| message(Kind::Endpoint, "b/1", &format!("{{\"address\":\"10.0.0.1:80\",\"zone\":\"{}\"}}", "z".repeat(length)));
        assert!(zone(253) == "accepted" && zone(254).contains("zone: the zone has 254 bytes"), "{}", zone(254));
    }

    #[test]
    fn redirects_that_lead_nowhere_else_are_refused() {
        let exact = r#"{"path":{"type":"Exact","value":"/a"}}"#;
        for (matches, redirect, answer) in [
            ("", "{}", "for ever"),
            ("", r#"{"statusCode":301}"#, "for ever"),
            (exact, r#"{"path":{"type":"ReplaceFullPath","replaceFullPath":"/a"}}"#, "for ever"),
            (exact, r#"{"path":{"type":"ReplaceFullPath","replaceFullPath":"/b"}}"#, "accepted"),
            (exact, r#"{"scheme":"https","path":{"type":"ReplaceFullPath","replaceFullPath":"/a"}}"#, "accepted"),
            (r#"{"path":{"value":"/a"}}"#, r#"{"path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/a"}}"#, "for ever"),
            ("", r#"{"path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/"}}"#, "for ever"),
            (r#"{"path":{"value":"/a"}}"#, r#"{"path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/b"}}"#, "accepted"),
            ("", r#"{"hostname":"*.example.com"}"#, "is a wildcard"),
            ("", r#"{"hostname":"2001:db8::1"}"#, "accepted"),
            ("", r#"{"path":{"type":"ReplaceFullPath","replaceFullPath":"/a/../b"}}"#, "dot segments"),
            ("", r#"{"path":{"type":"ReplaceFullPath","replaceFullPath":"/a%"}}"#, "begins no escape"),
        ] {
            let message = rule(matches, &format!(r#"{{"type":"RequestRedirect","requestRedirect":{redirect}}}"#), "");
            assert!(message.contains(answer), "{redirect}: {message}");
        }
    }

    #[test]
    fn a_redirect_to_a_hostname_of_its_own_route_is_refused_unless_something_else_changes() {
        for (redirect, answer) in [
            (r#"{"hostname":"a.example"}"#, "for ever"),
            (r#"{"hostname":"a.example","path":{"type":"ReplaceFullPath","replaceFullPath":"/x"}}"#, "accepted"),
            (r#"{"hostname":"a.example","port":8443}"#, "accepted"),
            (r#"{"hostname":"b.example"}"#, "accepted"),
        ] {
            let value = format!(r#"{{"hostnames":["a.example"],"rules":[{{"filters":[{{"type":"RequestRedirect","requestRedirect":{redirect}}}]}}]}}"#);
            let parsed = parse(&ResourceKey::new(Kind::Route, "r"), value.as_bytes(), &Limits::default());
            let message = parsed.map_or_else(|problem| problem.to_string(), |_| "accepted".to_owned());
            assert!(message.contains(answer), "{redirect}: {message}");
        }
    }

    #[test]
    fn responses_without_a_body_and_matches_that_no_header_has_are_refused() {
        let message = rule("", r#"{"type":"FixedResponse","fixedResponse":{"statusCode":204,"body":"x"}}"#, "");
        assert!(message.contains("has no body"), "{message}");
        for value in [" a", "a\\t", "a\\nb"] {
            let matches = format!(r#"{{"headers":[{{"name":"x","value":"{value}"}}]}}"#);
            let message = rule(&matches, "", r#","backendRefs":[{"name":"b"}]"#);
            assert!(message.contains("can never match"), "{value}: {message}");
        }
        let query = r#"{"queryParams":[{"name":"q","value":"a"},{"name":"q","value":"b"}]}"#;
        assert!(rule(query, "", r#","backendRefs":[{"name":"b"}]"#).contains("two conditions on the query parameter"));
        assert!(rule(r#"{"method":"CONNECT"}"#, "", r#","backendRefs":[{"name":"b"}]"#).contains("CONNECT asks for a tunnel"));
        let twice = r#"{"headers":[{"name":"X","value":"a"},{"name":"x","value":"b"}]}"#;
        assert!(rule(twice, "", r#","backendRefs":[{"name":"b"}]"#).contains("two conditions on the header"));
    }
}

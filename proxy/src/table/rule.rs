//! A rule in its compiled form: filters as header values, backends with their shares.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use waypost_model::duration::Duration as Written;
use waypost_model::resource::{Filter, HeaderModifier, PathMatch, PathRewrite, Redirect, Rule, Scheme};
use waypost_model::value::{PreciseHostname, UpgradeProtocol};

/// One rule of one route, shared by all its matches: it may be large, and have many of them.
#[derive(Debug)]
pub struct CompiledRule {
    /// The route that it belongs to.
    pub route: Arc<str>,
    /// Its number in the route.
    pub number: usize,
    /// The listeners that serve it; if empty, all except those with `explicitOnly`.
    pub listeners: Arc<BTreeSet<Arc<str>>>,
    /// Changes of the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes of the response's headers.
    pub response_headers: HeaderChanges,
    /// The host to send to the endpoint, if it changes.
    pub rewrite_host: Option<HeaderValue>,
    /// The path to send to the endpoint, if it changes.
    pub rewrite_path: Option<PathRewrite>,
    /// How requests are answered.
    pub action: Action,
    /// From the first byte of the request to the last of the response.
    pub request_timeout: Option<Duration>,
    /// To the first byte of the response; the backend's if `None`.
    pub first_byte: Option<Written>,
    /// Between two pieces of a body; the backend's if `None`.
    pub idle: Option<Written>,
    /// Protocols that the connection may switch to.
    pub upgrades: Vec<UpgradeProtocol>,
}

impl CompiledRule {
    /// Whether both are compiled from the same rule of a route, possibly for different matches.
    pub fn is_same_rule(&self, other: &Self) -> bool {
        self.route == other.route && self.number == other.number
    }

    /// Whether the connection may switch to a protocol.
    pub fn allows_upgrade(&self, protocol: &str) -> bool {
        self.upgrades.iter().any(|allowed| allowed.as_str().eq_ignore_ascii_case(protocol))
    }
}

/// How a request is answered.
#[derive(Debug)]
pub enum Action {
    /// By one of these backends.
    Forward {
        /// The backends.
        targets: Vec<Target>,
    },
    /// By a redirect.
    Redirect(RedirectTo),
    /// By a response of the proxy.
    Fixed {
        /// Its status.
        status: StatusCode,
        /// Its body.
        body: bytes::Bytes,
        /// The body's type.
        content_type: HeaderValue,
    },
}

/// A backend and its share.
#[derive(Debug)]
pub struct Target {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Its share.
    pub weight: u64,
}

/// Headers to set, add and remove.
#[derive(Debug, Default)]
pub struct HeaderChanges {
    /// Replace the headers of the same name.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Are added.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Are removed.
    pub remove: Vec<HeaderName>,
}

impl HeaderChanges {
    fn extend(&mut self, changes: &HeaderModifier) -> Result<(), String> {
        let pair = |pair: &waypost_model::resource::HeaderPair| Ok::<_, String>((name(pair.name.as_str())?, value(pair.value.as_str())?));
        for set in &changes.set {
            self.set.push(pair(set)?);
        }
        for add in &changes.add {
            self.add.push(pair(add)?);
        }
        for remove in &changes.remove {
            self.remove.push(name(remove.as_str())?);
        }
        Ok(())
    }

    /// Names and values of the fields that are set and added.
    pub(crate) fn new_fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.set.iter().chain(&self.add).map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
    }

    /// Whether a field of this name, in any case, is set or removed.
    pub fn decides(&self, name: &[u8]) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        set.chain(&self.remove).any(|decided| decided.as_str().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The path of a request that matched `matched`, changed.
pub(crate) fn rewritten(change: &PathRewrite, matched: &PathMatch, path: &str) -> String {
    match (change, matched) {
        (PathRewrite::Full(full), _) => full.clone(),
        (PathRewrite::Prefix(with), PathMatch::Exact(_) | PathMatch::Pattern(_)) => with.clone(),
        (PathRewrite::Prefix(with), PathMatch::Prefix(prefix)) => {
            let rest = waypost_model::path::after_segments(path, waypost_model::path::segments(prefix));
            let joined = format!("{}{rest}", with.trim_end_matches('/'));
            if joined.starts_with('/') { joined } else { format!("/{joined}") }
        }
    }
}

/// The target of a redirect.
#[derive(Debug)]
pub struct RedirectTo {
    /// Its status.
    pub status: StatusCode,
    /// The scheme, if it changes.
    pub scheme: Option<Scheme>,
    /// The host, if it changes; IPv6 in brackets.
    pub host: Option<String>,
    /// The port, if it changes.
    pub port: Option<u16>,
    /// The path, if it changes.
    pub path: Option<PathRewrite>,
}

fn name(text: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(text).map_err(|error| format!("{text:?}: {error}"))
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text).map_err(|error| format!("{text:?}: {error}"))
}

/// Compiles one rule.
pub(super) fn compile((route, number): (&Arc<str>, usize), listeners: &Arc<BTreeSet<Arc<str>>>, rule: &Rule) -> Result<CompiledRule, String> {
    let mut compiled = CompiledRule {
        route: route.clone(),
        number,
        listeners: listeners.clone(),
        request_headers: HeaderChanges::default(),
        response_headers: HeaderChanges::default(),
        rewrite_host: None,
        rewrite_path: None,
        action: forward(rule),
        request_timeout: rule.timeouts.request.and_then(Written::enabled),
        first_byte: rule.timeouts.first_byte,
        idle: rule.timeouts.idle,
        upgrades: rule.upgrades.clone(),
    };
    for filter in &rule.filters {
        match filter {
            Filter::RequestHeaderModifier(changes) => compiled.request_headers.extend(changes)?,
            Filter::ResponseHeaderModifier(changes) => compiled.response_headers.extend(changes)?,
            Filter::UrlRewrite(rewrite) => {
                compiled.rewrite_host = rewrite.hostname.as_ref().map(|host| value(&host.in_uri())).transpose()?;
                compiled.rewrite_path = rewrite.path.clone();
            }
            Filter::RequestRedirect(redirect) => compiled.action = Action::Redirect(redirect_to(redirect)?),
            Filter::FixedResponse(fixed) => {
                let default = "text/plain; charset=utf-8";
                compiled.action = Action::Fixed {
                    status: StatusCode::from_u16(fixed.status_code.get()).map_err(|error| error.to_string())?,
                    body: fixed.body.clone().into(),
                    content_type: value(fixed.content_type.as_ref().map_or(default, |it| it.as_str()))?,
                };
            }
        }
    }
    Ok(compiled)
}

fn forward(rule: &Rule) -> Action {
    let target = |target: &waypost_model::resource::BackendRef| Target { backend: target.name.as_str().into(), weight: u64::from(target.weight.get()) };
    let targets: Vec<Target> = rule.backend_refs.iter().map(target).collect();
    Action::Forward { targets }
}

fn redirect_to(redirect: &Redirect) -> Result<RedirectTo, String> {
    Ok(RedirectTo {
        status: StatusCode::from_u16(redirect.status_code.get()).map_err(|error| error.to_string())?,
        scheme: redirect.scheme,
        host: redirect.hostname.as_ref().map(PreciseHostname::in_uri),
        port: redirect.port.map(std::num::NonZero::get),
        path: redirect.path.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        let cases = [
            ("/foo", "/foo/bar", "/xyz", "/xyz/bar"),
            ("/foo", "/foo/bar", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo", "/foo/", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/foo/bar", "/", "/bar"),
            ("", "/a", "/x", "/x/a"),
            ("/foo", "//foo//bar", "/xyz", "/xyz//bar"),
            ("/caf%C3%A9", "/caf%c3%a9/b", "/x", "/x/b"),
        ];
        for (prefix, path, with, wanted) in cases {
            let (change, matched) = (PathRewrite::Prefix(with.to_owned()), PathMatch::Prefix(prefix.to_owned()));
            assert_eq!(rewritten(&change, &matched, path), wanted, "{prefix} {path} {with}");
        }
    }
}

//! The matches of one hostname in their order, with an index if there are many.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};
use waypost_model::order::MatchRank;
use waypost_model::resource::{PathMatch, RouteMatch};

use super::CompiledRule;
use super::index::Index;

/// The parts of a request that select its rule.
#[derive(Debug)]
pub struct Request<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// Whether the listener serves only routes that name it.
    pub explicit_only: bool,
    /// The host, lower case, without a port.
    pub host: &'a str,
    /// The path in its matched form (`waypost_model::path`).
    pub path: &'a str,
    /// The query as it was sent.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// One match of one rule.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its rank in the order of matches.
    pub rank: MatchRank,
    /// The conditions on the request.
    pub found: Arc<RouteMatch>,
    /// The rule that applies.
    pub rule: Arc<CompiledRule>,
}

/// Minimum number of matches for an index of paths; fewer are compared one after the other.
const INDEXED: usize = 16;

/// All matches of one hostname.
#[derive(Debug, Default)]
pub struct Host {
    /// In the order of their ranks: exact paths, then patterns, then prefixes.
    candidates: Vec<Candidate>,
    index: Option<Box<Index>>,
}

impl Host {
    /// A host with these matches.
    pub fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(|a, b| a.rank.cmp(&b.rank));
        let index = (candidates.len() >= INDEXED).then(|| Box::new(Index::of(&candidates)));
        Self { candidates, index }
    }

    /// Its matches.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The rule of the first match that the request fulfils.
    pub fn find(&self, request: &Request<'_>) -> Option<&Arc<CompiledRule>> {
        let found = match &self.index {
            None => self.candidates.iter().find(|candidate| path_holds(&candidate.found.path, request.path) && candidate.holds(request)),
            Some(index) => index.find(&self.candidates, request).and_then(|at| self.candidates.get(at)),
        };
        found.map(|candidate| &candidate.rule)
    }
}

pub(super) fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Pattern(pattern) => pattern.is_match(path),
    }
}

impl Candidate {
    /// Whether the request fulfils all conditions except the path.
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        let served = if self.rule.listeners.is_empty() { !request.explicit_only } else { self.rule.listeners.iter().any(|name| **name == *request.listener) };
        served
            && self.found.method.as_ref().is_none_or(|method| method.as_str() == request.method.as_str())
            && self.found.headers.iter().all(|wanted| header_holds(wanted, request.headers))
            && self.found.query_params.iter().all(|wanted| query_value(request.query, &wanted.name).is_some_and(|value| wanted.value.is_match(&value)))
    }
}

fn header_holds(wanted: &waypost_model::resource::HeaderMatch, headers: &HeaderMap) -> bool {
    header_value(headers, wanted.name.as_str()).is_some_and(|value| wanted.value.is_match(&value))
}

/// The value of a header; several fields of the same name are joined to one list.
pub(super) fn header_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, str>> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first) };
    Some([first, second].into_iter().chain(values).collect::<Vec<_>>().join(", ").into())
}

/// The first value of a query parameter, decoded.
fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_slash_or_the_end() {
        let prefix = PathMatch::Prefix("/api".to_owned());
        for (path, holds) in [("/api", true), ("/api/x", true), ("/apix", false), ("/", false)] {
            assert_eq!(path_holds(&prefix, path), holds, "{path}");
        }
    }

    #[test]
    fn query_parameters_are_decoded() {
        assert_eq!(query_value(Some("a=1&b=x%20y&b=2"), "b"), Some("x y".to_owned()));
        assert_eq!(query_value(None, "b"), None);
    }
}

//! The matches of one hostname, in their order, with an index once there are many.

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, Method};
use waypost_model::order::MatchRank;
use waypost_model::resource::{PathMatch, RouteMatch};

use super::CompiledRule;

/// What of a request decides its rule.
#[derive(Debug)]
pub struct Request<'a> {
    /// The listener's name.
    pub listener: &'a str,
    /// Whether the listener serves only routes that name it.
    pub explicit_only: bool,
    /// The host, lower case, without a port.
    pub host: &'a str,
    /// The path as it was sent.
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
    /// Its place in the order.
    pub rank: MatchRank,
    /// What must hold.
    pub found: Arc<RouteMatch>,
    /// What happens then.
    pub rule: Arc<CompiledRule>,
}

/// From this many matches on, exact paths and prefixes are looked up instead of compared.
const INDEXED: usize = 16;

/// All matches of one hostname.
#[derive(Debug, Default)]
pub struct Host {
    /// In the order of their ranks: exact paths, then patterns, then prefixes.
    candidates: Vec<Candidate>,
    index: Option<Box<Index>>,
}

#[derive(Debug, Default)]
struct Index {
    exact: HashMap<Box<str>, Vec<usize>>,
    patterns: Vec<usize>,
    prefixes: HashMap<Box<str>, Vec<usize>>,
}

impl Host {
    /// A host of these matches.
    pub fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(|a, b| a.rank.cmp(&b.rank));
        let index = (candidates.len() >= INDEXED).then(|| Box::new(Index::of(&candidates)));
        Self { candidates, index }
    }

    /// Its matches.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The rule of the first match that holds.
    pub fn find(&self, request: &Request<'_>) -> Option<&Arc<CompiledRule>> {
        let Some(index) = &self.index else {
            return self
                .candidates
                .iter()
                .find(|candidate| path_holds(&candidate.found.path, request.path) && candidate.holds(request))
                .map(|candidate| &candidate.rule);
        };
        let holding = |at: &usize| self.candidates.get(*at).filter(|candidate| candidate.holds(request));
        let exact = index.exact.get(request.path).and_then(|all| all.iter().find_map(holding));
        let pattern = || index.patterns.iter().filter_map(holding).find(|candidate| path_holds(&candidate.found.path, request.path));
        let prefix = || prefixes(request.path).filter_map(|prefix| index.prefixes.get(prefix)).find_map(|all| all.iter().find_map(holding));
        exact.or_else(pattern).or_else(prefix).map(|candidate| &candidate.rule)
    }
}

impl Index {
    fn of(candidates: &[Candidate]) -> Self {
        let mut index = Self::default();
        for (at, candidate) in candidates.iter().enumerate() {
            match &candidate.found.path {
                PathMatch::Exact(path) => index.exact.entry(path.as_str().into()).or_default().push(at),
                PathMatch::Pattern(_) => index.patterns.push(at),
                PathMatch::Prefix(prefix) => index.prefixes.entry(prefix.as_str().into()).or_default().push(at),
            }
        }
        index
    }
}

/// Every prefix of a path that ends before a `/` or at its end, longest first, the empty one last.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let inner = path.rmatch_indices('/').filter_map(|(at, _)| path.get(..at));
    std::iter::once(path).chain(inner)
}

fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Pattern(pattern) => pattern.is_match(path),
    }
}

impl Candidate {
    /// Whether everything but the path holds.
    fn holds(&self, request: &Request<'_>) -> bool {
        let served = if self.rule.listeners.is_empty() { !request.explicit_only } else { self.rule.listeners.iter().any(|name| **name == *request.listener) };
        served
            && self.found.method.as_ref().is_none_or(|method| method.as_str() == request.method.as_str())
            && self.found.headers.iter().all(|wanted| header_holds(wanted, request.headers))
            && self.found.query_params.iter().all(|wanted| query_value(request.query, &wanted.name).is_some_and(|value| wanted.value.is_match(&value)))
    }
}

fn header_holds(wanted: &waypost_model::resource::HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(wanted.name.as_str()).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(one), None) => wanted.value.is_match(&one),
        (Some(first), Some(second)) => {
            let joined = [first, second].into_iter().chain(values).collect::<Vec<_>>().join(", ");
            wanted.value.is_match(&joined)
        }
    }
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
        assert_eq!(prefixes("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
    }

    #[test]
    fn query_parameters_are_decoded() {
        assert_eq!(query_value(Some("a=1&b=x%20y&b=2"), "b"), Some("x y".to_owned()));
        assert_eq!(query_value(None, "b"), None);
    }
}

//! Which of two matches takes a request: the one documented order, for verdicts and for the proxy's table.
//!
//! More specific hostname (a name before a longer wildcard before a shorter one before none), then the path (exact,
//! regular expression, prefix; longer first), then more conditions, then the order of the stores, then the name, then
//! the place within the route.

use std::cmp::Reverse;

use crate::resource::{PathMatch, RouteMatch, Rule};
use crate::value::Hostname;

/// The rank of a hostname; greater is more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRank {
    /// Every host.
    Any,
    /// A wildcard, by the length of its suffix.
    Wildcard(usize),
    /// One name.
    Exact,
}

impl HostRank {
    /// The rank of one hostname, or of none.
    pub fn of(hostname: Option<&Hostname>) -> Self {
        match hostname {
            None => Self::Any,
            Some(hostname) => hostname.wildcard_suffix().map_or(Self::Exact, |suffix| Self::Wildcard(suffix.len())),
        }
    }
}

/// The rank of a match below one hostname; smaller comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatchRank {
    path_type: u8,
    path_length: Reverse<usize>,
    conditions: Reverse<usize>,
    order: usize,
    name: String,
    place: (usize, usize),
}

impl MatchRank {
    /// The rank of match number `place.1` in rule number `place.0` of the route `name` from store `order`.
    pub fn of(found: &RouteMatch, order: usize, name: &str, place: (usize, usize)) -> Self {
        let path_type = match found.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Pattern(_) => 1,
            PathMatch::Prefix(_) => 2,
        };
        Self { path_type, path_length: Reverse(found.path.length()), conditions: Reverse(found.conditions()), order, name: name.to_owned(), place }
    }
}

/// All regular expressions of a rule.
pub fn patterns(rule: &Rule) -> impl Iterator<Item = &crate::resource::Pattern> {
    rule.matches.iter().flat_map(|found| {
        let path = match &found.path {
            PathMatch::Pattern(pattern) => Some(pattern),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let headers = found.headers.iter().filter_map(|header| header.value.pattern());
        let queries = found.query_params.iter().filter_map(|query| query.value.pattern());
        path.into_iter().chain(headers).chain(queries)
    })
}

/// What a match claims, as text: two matches with the same claim exclude each other.
pub fn claim(listener: &str, hostname: Option<&Hostname>, found: &RouteMatch) -> String {
    let mut sorted = found.clone();
    sorted.headers.sort_by(|a, b| a.name.cmp(&b.name));
    sorted.query_params.sort_by(|a, b| a.name.cmp(&b.name));
    let shape = serde_json::to_string(&sorted).unwrap_or_default();
    format!("{listener} {} {shape}", hostname.map_or("*", Hostname::as_str))
}

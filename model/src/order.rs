//! The precedence of matches: one documented order decides which of two matches takes a request, in verdicts and in the proxy's table.
//!
//! It is the order of the Gateway API (HTTPRouteRule, matches): the more specific hostname (a name before a longer wildcard before a
//! shorter one before none), then the path (exact, regular expression, prefix; longer first), then a method, then more headers, then more
//! query parameters, then the order of the stores, then the route's name, then the position within the route.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::object::Digest;
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
    has_method: Reverse<bool>,
    headers: Reverse<usize>,
    query_params: Reverse<usize>,
    order: usize,
    name: Arc<str>,
    place: (usize, usize),
}

impl MatchRank {
    /// The rank of match number `place.1` in rule number `place.0` of the route `name` from store `order`.
    pub fn of(found: &RouteMatch, order: usize, name: &Arc<str>, place: (usize, usize)) -> Self {
        let path_type = match found.path {
            PathMatch::Exact(_) => 0,
            PathMatch::Pattern(_) => 1,
            PathMatch::Prefix(_) => 2,
        };
        Self {
            path_type,
            path_length: Reverse(found.path.length()),
            has_method: Reverse(found.method.is_some()),
            headers: Reverse(found.headers.len()),
            query_params: Reverse(found.query_params.len()),
            order,
            name: name.clone(),
            place,
        }
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

/// The claim of a match on the requests to one hostname and listener: two matches with the same claim exclude each other. It is a digest,
/// because a route may have thousands of claims and each would repeat the match as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim([u8; 16]);

/// The digest of a match's conditions, independent of their order.
#[derive(Debug, Clone, Copy)]
pub struct Conditions(Digest);

impl Conditions {
    /// The conditions of a match.
    pub fn of(found: &RouteMatch) -> Self {
        let mut sorted = found.clone();
        sorted.headers.sort_by(|a, b| a.name.cmp(&b.name));
        sorted.query_params.sort_by(|a, b| a.name.cmp(&b.name));
        Self(Digest::of(&serde_json::to_vec(&sorted).unwrap_or_default()))
    }

    /// The claim of these conditions on the requests to a hostname and a listener; `None` stands for all.
    pub fn on(&self, listener: Option<&str>, hostname: Option<&Hostname>) -> Claim {
        let (listener, hostname) = (listener.unwrap_or("*"), hostname.map_or("*", Hostname::as_str));
        let digest = Digest::of_all([self.0.bytes().as_slice(), listener.as_bytes(), b" ", hostname.as_bytes()]);
        let mut claim = [0; 16];
        claim.iter_mut().zip(digest.bytes()).for_each(|(to, from)| *to = *from);
        Claim(claim)
    }
}

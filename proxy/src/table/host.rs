//! The matches of one hostname in their order, with an index if there are many.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use waypost_http1::Field;
use waypost_model::limits::{MATCH_STEPS, MAX_QUERY_PARAMETERS};
use waypost_model::order::MatchRank;
use waypost_model::resource::{PathMatch, RouteMatch, Work};

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
    pub method: &'a str,
    /// The headers.
    pub fields: Fields<'a>,
    /// What all lookups of the request may cost.
    pub work: &'a Work,
}

/// The headers of a request.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    fields: &'a [Field],
}

impl<'a> Fields<'a> {
    /// The fields of a head, which has these bytes.
    pub const fn new(bytes: &'a [u8], fields: &'a [Field]) -> Self {
        Self { bytes, fields }
    }

    /// Names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let bytes = self.bytes;
        self.fields.iter().map(move |field| (field.name_at.of(bytes), field.value(bytes)))
    }
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
const MIN_INDEXED_MATCHES: usize = 16;

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
        let index = (candidates.len() >= MIN_INDEXED_MATCHES).then(|| Box::new(Index::of(&candidates)));
        Self { candidates, index }
    }

    /// Its matches.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The first match that the request fulfils.
    pub fn find(&self, request: &Request<'_>) -> Option<&Candidate> {
        let values = Values::of(request);
        match &self.index {
            None => self.candidates.iter().find(|candidate| path_holds(&candidate.found.path, request) && candidate.holds(&values)),
            Some(index) => index.find(&self.candidates, &values).and_then(|at| self.candidates.get(at)),
        }
    }
}

pub(super) fn path_holds(wanted: &PathMatch, request: &Request<'_>) -> bool {
    match wanted {
        PathMatch::Exact(exact) => exact == request.path,
        PathMatch::Prefix(prefix) => request.path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Pattern(pattern) => pattern.is_match(request.path, request.work),
    }
}

impl Candidate {
    /// Whether the request fulfils all conditions except the path.
    pub(super) fn holds(&self, values: &Values<'_>) -> bool {
        let request = values.request;
        if request.work.take(MATCH_STEPS) < MATCH_STEPS {
            return false;
        }
        let served = if self.rule.listeners.is_empty() { !request.explicit_only } else { self.rule.listeners.contains(request.listener) };
        served
            && self.found.method.as_ref().is_none_or(|method| method.as_str() == request.method)
            && self
                .found
                .headers
                .iter()
                .all(|wanted| values.headers().get(wanted.name.as_str()).is_some_and(|value| wanted.value.is_match(value, request.work)))
            && self
                .found
                .query_params
                .iter()
                .all(|wanted| values.query().get(wanted.name.as_str()).is_some_and(|value| wanted.value.is_match(value, request.work)))
    }
}

/// The values of a request that conditions are compared with. Each is read once in a lookup, however many matches have a condition on it.
pub(super) struct Values<'a> {
    pub(super) request: &'a Request<'a>,
    query: OnceCell<HashMap<Cow<'a, str>, Cow<'a, str>>>,
    headers: OnceCell<HashMap<String, Cow<'a, str>>>,
}

impl<'a> Values<'a> {
    fn of(request: &'a Request<'a>) -> Self {
        Self { request, query: OnceCell::new(), headers: OnceCell::new() }
    }

    /// The first value of each query parameter, decoded. A request with more than are looked at is not decided: a rule for one of the others would not see it.
    pub(super) fn query(&self) -> &HashMap<Cow<'a, str>, Cow<'a, str>> {
        self.query.get_or_init(|| {
            let mut values = HashMap::new();
            let mut pairs = url::form_urlencoded::parse(self.request.query.unwrap_or_default().as_bytes());
            for (name, value) in pairs.by_ref().take(MAX_QUERY_PARAMETERS) {
                values.entry(name).or_insert(value);
            }
            if pairs.next().is_some() {
                self.request.work.exhaust();
            }
            values
        })
    }

    /// The value of each header, by its name in lower case; several fields of the same name are joined to one list.
    pub(super) fn headers(&self) -> &HashMap<String, Cow<'a, str>> {
        self.headers.get_or_init(|| {
            let mut values: HashMap<String, Cow<'a, str>> = HashMap::new();
            for (name, value) in self.request.fields.iter() {
                let (name, value) = (String::from_utf8_lossy(name).to_ascii_lowercase(), String::from_utf8_lossy(value));
                match values.entry(name) {
                    Entry::Vacant(entry) => drop(entry.insert(value)),
                    Entry::Occupied(mut entry) => entry.get_mut().to_mut().extend([", ", &value]),
                }
            }
            values
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_slash_or_the_end() {
        let prefix = PathMatch::Prefix("/api".to_owned());
        for (path, holds) in [("/api", true), ("/api/x", true), ("/apix", false), ("/", false)] {
            let work = Work::new(0);
            let request =
                Request { listener: "web", explicit_only: false, host: "h", path, query: None, method: "GET", fields: Fields::new(b"", &[]), work: &work };
            assert_eq!(path_holds(&prefix, &request), holds, "{path}");
        }
    }

    #[test]
    fn the_first_value_of_a_query_parameter_counts_and_is_decoded_and_headers_of_one_name_are_one_list() {
        let long = "z".repeat(1_000);
        let head = format!("GET / HTTP/1.1\r\nX: 1\r\nx: 2\r\ny: {long}\r\n\r\n");
        let mut read = Vec::new();
        waypost_http1::parse_request(head.as_bytes(), waypost_http1::Limits { bytes: 9_999, fields: 9 }, &mut read).unwrap();
        let fields = Fields::new(head.as_bytes(), &read);
        let work = Work::new(0);
        let request = |query| Request { listener: "web", explicit_only: false, host: "h", path: "/", query, method: "GET", fields, work: &work };
        let (with, without) = (request(Some("a=1&b=x%20y&b=2")), request(None));
        assert_eq!(Values::of(&with).query().get("b").map(AsRef::as_ref), Some("x y"));
        assert!(Values::of(&without).query().is_empty());
        let values = Values::of(&with);
        assert_eq!((values.headers()["x"].as_ref(), values.headers()["y"].len(), values.headers().get("z")), ("1, 2", 1_000, None));
    }
}

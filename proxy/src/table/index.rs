//! An index of a hostname's matches, so that a lookup does not compare all of them: their number is bounded only by the controller's
//! limits, and a lookup must take microseconds at these limits as well.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use waypost_model::resource::{PathMatch, StringMatch};

use super::host::{Candidate, Values, path_holds};

/// The matches of one hostname by path. Numbers are positions in the list of candidates, which is in the order of ranks.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Sorted by path.
    exact: Vec<Group>,
    patterns: Vec<usize>,
    /// Sorted by path, segment by segment: the paths below a prefix follow it.
    prefixes: Vec<Prefix>,
}

/// Matches with the same path.
#[derive(Debug)]
struct Group {
    /// One of the matches, whose path is that of the group.
    path_of: usize,
    /// The matches that are compared one after the other.
    listed: Vec<usize>,
    by_condition: Option<Box<ByCondition>>,
}

#[derive(Debug)]
struct Prefix {
    group: Group,
    /// The next shorter prefix above it.
    parent: Option<usize>,
}

/// Matches by one header, query parameter or method that each of them requires. The keys are hashes, because the texts would be repeated for each
/// hostname; the conditions of a match that is found are compared afterwards.
#[derive(Debug)]
struct ByCondition {
    hasher: RandomState,
    /// Hashes of names, and of names with their values.
    names: HashSet<u64>,
    members: HashMap<u64, Vec<usize>>,
    /// Whether any match may be found by a header, or a query parameter: else these are not read.
    uses_headers: bool,
    uses_query: bool,
}

/// Maximum number of matches with the same path that are compared one after the other.
const MAX_SAME_PATH_MATCHES: usize = 16;

impl Index {
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        let (mut exact, mut prefixes) = (Vec::new(), Vec::new());
        let mut index = Self::default();
        for (at, candidate) in candidates.iter().enumerate() {
            match &candidate.found.path {
                PathMatch::Exact(_) => exact.push(at),
                PathMatch::Pattern(_) => index.patterns.push(at),
                PathMatch::Prefix(_) => prefixes.push(at),
            }
        }
        index.exact = groups(candidates, exact, |a, b| a.cmp(b));
        let mut above: Vec<usize> = Vec::new();
        for (number, group) in groups(candidates, prefixes, by_segments).into_iter().enumerate() {
            let path = path_of(candidates, group.path_of);
            let is_above =
                |prefixes: &[Prefix], number: &usize| prefixes.get(*number).is_some_and(|prefix| is_below(path_of(candidates, prefix.group.path_of), path));
            while above.last().is_some_and(|last| !is_above(&index.prefixes, last)) {
                above.pop();
            }
            index.prefixes.push(Prefix { group, parent: above.last().copied() });
            above.push(number);
        }
        index
    }

    /// The first match that the request fulfils.
    pub(super) fn find(&self, candidates: &[Candidate], values: &Values<'_>) -> Option<usize> {
        self.find_exact(candidates, values).or_else(|| self.find_pattern(candidates, values)).or_else(|| self.find_prefix(candidates, values))
    }

    fn find_exact(&self, candidates: &[Candidate], values: &Values<'_>) -> Option<usize> {
        let at = self.exact.binary_search_by(|group| path_of(candidates, group.path_of).cmp(values.request.path)).ok()?;
        self.exact.get(at)?.find(candidates, values)
    }

    fn find_pattern(&self, candidates: &[Candidate], values: &Values<'_>) -> Option<usize> {
        let holds = |candidate: &Candidate| path_holds(&candidate.found.path, values.request) && candidate.holds(values);
        self.patterns.iter().copied().find(|at| candidates.get(*at).is_some_and(holds))
    }

    /// The last prefix that does not sort after the path is either its longest prefix, or lies below that one.
    fn find_prefix(&self, candidates: &[Candidate], values: &Values<'_>) -> Option<usize> {
        let path = |prefix: &Prefix| path_of(candidates, prefix.group.path_of);
        let behind = self.prefixes.partition_point(|prefix| by_segments(path(prefix), values.request.path) != Ordering::Greater);
        let mut next = behind.checked_sub(1);
        let common = next.and_then(|at| self.prefixes.get(at)).map_or(0, |last| common_length(path(last), values.request.path));
        while let Some(prefix) = next.and_then(|at| self.prefixes.get(at)) {
            let length = path(prefix).len();
            let is_prefix = length <= common && values.request.path.as_bytes().get(length).is_none_or(|byte| *byte == b'/');
            if is_prefix && let Some(found) = prefix.group.find(candidates, values) {
                return Some(found);
            }
            next = prefix.parent;
        }
        None
    }
}

impl Group {
    fn of(candidates: &[Candidate], members: Vec<usize>) -> Option<Self> {
        let path_of = *members.first()?;
        if members.len() <= MAX_SAME_PATH_MATCHES {
            return Some(Self { path_of, listed: members, by_condition: None });
        }
        let hasher = RandomState::new();
        let conditions = |at: &usize| candidates.get(*at).map(|candidate| exact_conditions(candidate, &hasher)).unwrap_or_default();
        let mut frequency: HashMap<u64, usize> = HashMap::new();
        for (_, condition) in members.iter().flat_map(conditions) {
            *frequency.entry(condition).or_default() += 1;
        }
        let (mut names, mut by_condition, mut listed) = (HashSet::new(), HashMap::<u64, Vec<usize>>::new(), Vec::new());
        let (mut uses_headers, mut uses_query) = (false, false);
        for at in members {
            let rarest = conditions(&at).into_iter().min_by_key(|(_, condition)| frequency.get(condition).copied().unwrap_or_default());
            match rarest {
                Some((name, condition)) => {
                    uses_headers |= candidates.get(at).is_some_and(|candidate| !candidate.found.headers.is_empty());
                    uses_query |= candidates.get(at).is_some_and(|candidate| !candidate.found.query_params.is_empty());
                    names.insert(name);
                    by_condition.entry(condition).or_default().push(at);
                }
                None => listed.push(at),
            }
        }
        if by_condition.is_empty() {
            return Some(Self { path_of, listed, by_condition: None });
        }
        Some(Self { path_of, listed, by_condition: Some(Box::new(ByCondition { hasher, names, members: by_condition, uses_headers, uses_query })) })
    }

    fn find(&self, candidates: &[Candidate], values: &Values<'_>) -> Option<usize> {
        let holds = |at: &usize| candidates.get(*at).is_some_and(|candidate| candidate.holds(values));
        let listed = self.listed.iter().copied().find(holds);
        let Some(by_condition) = &self.by_condition else { return listed };
        let met = by_condition.met_by(values).filter_map(|members| members.iter().copied().take_while(|at| listed.is_none_or(|best| *at < best)).find(holds));
        met.chain(listed).min()
    }
}

impl ByCondition {
    /// The matches of each condition that the request fulfils.
    fn met_by<'a>(&'a self, values: &'a Values<'_>) -> impl Iterator<Item = &'a Vec<usize>> {
        let is_used = |kind: u8, name: &str| self.names.contains(&self.hasher.hash_one((kind, name)));
        let of = |kind: u8, name: &str, value: &str| self.members.get(&self.hasher.hash_one((kind, name, value)));
        let fields = self.uses_headers.then(|| values.headers()).into_iter().flatten();
        let headers = fields.filter(move |(name, _)| is_used(HEADER, name)).filter_map(move |(name, value)| of(HEADER, name, value));
        let pairs = self.uses_query.then(|| values.query()).into_iter().flatten();
        let queries = pairs.filter(move |(name, _)| is_used(QUERY, name)).filter_map(move |(name, value)| of(QUERY, name, value));
        headers.chain(queries).chain(of(METHOD, "", values.request.method))
    }
}

/// What the hashes of conditions begin with: the name of a header, of a query parameter, or the method.
const HEADER: u8 = 0;
const QUERY: u8 = 1;
const METHOD: u8 = 2;

/// The hashes of the names, and of the names with values, that a match requires.
fn exact_conditions(candidate: &Candidate, hasher: &RandomState) -> Vec<(u64, u64)> {
    let hashes = |kind: u8, name: &str, value: &str| (hasher.hash_one((kind, name)), hasher.hash_one((kind, name, value)));
    let exact = |value: &'_ StringMatch| match value {
        StringMatch::Exact(value) => Some(value.clone()),
        StringMatch::Pattern(_) => None,
    };
    let found = &candidate.found;
    let headers = found.headers.iter().filter_map(|header| Some(hashes(HEADER, header.name.as_str(), &exact(&header.value)?)));
    let queries = found.query_params.iter().filter_map(|query| Some(hashes(QUERY, &query.name, &exact(&query.value)?)));
    headers.chain(queries).chain(found.method.iter().map(|method| hashes(METHOD, "", method.as_str()))).collect()
}

/// The path of a match that is not a pattern.
fn path_of(candidates: &[Candidate], at: usize) -> &str {
    match candidates.get(at).map(|candidate| &candidate.found.path) {
        Some(PathMatch::Exact(path) | PathMatch::Prefix(path)) => path,
        Some(PathMatch::Pattern(_)) | None => "",
    }
}

/// Groups matches by path, in this order of paths; within a group in the order of ranks.
fn groups(candidates: &[Candidate], mut members: Vec<usize>, order: impl Fn(&str, &str) -> Ordering) -> Vec<Group> {
    // The sort is stable, so matches with the same path stay in the order of ranks.
    members.sort_by(|a, b| order(path_of(candidates, *a), path_of(candidates, *b)));
    let same_path = |a: &usize, b: &usize| path_of(candidates, *a) == path_of(candidates, *b);
    members.chunk_by(same_path).filter_map(|members| Group::of(candidates, members.to_vec())).collect()
}

/// Whether `path` is `prefix` or lies below it.
fn is_below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An order of paths in which `/` comes before every other byte.
fn by_segments(a: &str, b: &str) -> Ordering {
    let common = common_length(a, b);
    let next = |text: &str| text.as_bytes().get(common).map(|byte| (*byte != b'/', *byte));
    next(a).cmp(&next(b))
}

/// The length of the common prefix of two texts in bytes.
fn common_length(a: &str, b: &str) -> usize {
    const CHUNK: usize = 32;
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let whole = a.chunks_exact(CHUNK).zip(b.chunks_exact(CHUNK)).take_while(|(a, b)| a == b).count() * CHUNK;
    let (a, b) = (a.get(whole..).unwrap_or_default(), b.get(whole..).unwrap_or_default());
    whole + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_prefix_follows_it() {
        let mut paths = ["/a-b", "/a/b", "/a", "", "/a/b/c", "/a/b-c", "/b"];
        paths.sort_by(|a, b| by_segments(a, b));
        assert_eq!(paths, ["", "/a", "/a/b", "/a/b/c", "/a/b-c", "/a-b", "/b"]);
    }

    #[test]
    fn common_beginnings_are_measured_over_chunks() {
        for length in [0, 1, 31, 32, 33, 100] {
            let same = "x".repeat(length);
            assert_eq!(common_length(&format!("{same}a"), &format!("{same}b")), length);
            assert_eq!(common_length(&same, &format!("{same}b")), length);
        }
    }
}

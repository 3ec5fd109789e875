//! How large the entries are, counted as they come and go: how far each limit is used is known without reading them all.

use std::collections::BTreeMap;

use super::entry::Entry;
use crate::limits::Limits;
use crate::resource::Resource;

/// How many entries have each size.
#[derive(Debug, Default)]
struct Sizes(BTreeMap<usize, usize>);

impl Sizes {
    fn count(&mut self, size: usize, comes: bool) {
        let count = self.0.entry(size).or_default();
        *count = if comes { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.0.remove(&size);
        }
    }

    fn largest(&self) -> usize {
        self.0.last_key_value().map_or(0, |(size, _)| *size)
    }
}

/// The sizes of all entries.
#[derive(Debug, Default)]
pub(super) struct Usage {
    value_bytes: Sizes,
    object_bytes: Sizes,
    rules: Sizes,
    hostnames: Sizes,
    matches: Sizes,
}

impl Usage {
    /// An entry comes, or goes.
    pub(super) fn count(&mut self, entry: &Entry, comes: bool) {
        self.value_bytes.count(entry.written.value.len(), comes);
        let Some(good) = &entry.good else { return };
        self.object_bytes.count(good.object.bytes().len(), comes);
        if let Resource::Route(route) = &good.resource {
            self.rules.count(route.rules.len(), comes);
            self.hostnames.count(route.hostnames.len(), comes);
            self.matches.count(route.rules.iter().map(|rule| rule.matches.len()).max().unwrap_or_default(), comes);
        }
    }

    /// The largest sizes, in place of the limits that bound them.
    pub(super) fn largest(&self) -> Limits {
        Limits {
            value_bytes: self.value_bytes.largest(),
            object_bytes: self.object_bytes.largest(),
            rules_per_route: self.rules.largest(),
            hostnames_per_route: self.hostnames.largest(),
            matches_per_rule: self.matches.largest(),
            ..Limits::nothing()
        }
    }
}

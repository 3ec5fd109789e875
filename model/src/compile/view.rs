//! The view of each entry for people: its value and its verdict.

use std::ops::Bound;

use super::Compiler;
use super::entry::{Entry, EntryId, EntryView, Source};
use super::index::Index;
use crate::key::{Place, ResourceKey, place};
use crate::problem::Problem;
use crate::verdict::{Condition, ConditionType, Verdict};

/// Why an entry is not accepted.
pub(super) enum Refusal<'a> {
    UnknownKey(&'a str),
    Invalid(&'a Problem),
    NotInActiveTree,
    OverLimit(&'a ResourceKey),
}

impl Compiler {
    /// The view of one entry.
    pub fn view(&self, id: &EntryId) -> Option<EntryView> {
        let entry = self.sources.get(id.source)?.entries.get(&id.key)?;
        let resource = match &entry.place {
            Place::Folder => return None,
            Place::Resource { resource, .. } => Some(resource.clone()),
            Place::Current | Place::Unknown(_) => None,
        };
        let in_snapshot = match &resource {
            Some(resource) => {
                let chosen = self.active_key(resource) == id.key && self.effective(resource).is_some_and(|(source, _)| source == id.source);
                chosen && self.index.has(resource) && !self.index.is_waiting(resource)
            }
            None => entry.place == Place::Current && entry.problem.is_none(),
        };
        Some(EntryView {
            id: id.clone(),
            resource,
            written: entry.written.clone(),
            verdict: self.verdict(id, entry),
            problem: entry.problem.clone(),
            last_good: self.last_good(entry).map(|written| written.revision),
            in_snapshot,
        })
    }

    /// The views of all entries except folders, in the order of stores and keys.
    pub fn views(&self) -> impl Iterator<Item = EntryView> + '_ {
        self.views_below("")
    }

    /// The views of the entries whose keys begin with `prefix`, in the order of stores and keys.
    pub fn views_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = EntryView> + 'a {
        self.views_after(prefix, None)
    }

    /// The same of those that come after an entry.
    pub fn views_after<'a>(&'a self, prefix: &'a str, after: Option<&'a EntryId>) -> impl Iterator<Item = EntryView> + 'a {
        let first = after.map_or(0, |after| after.source);
        let keys = move |number: usize, source: &'a Source| {
            let from = match after.filter(|after| after.source == number) {
                Some(after) => Bound::Excluded(after.key.as_str()),
                None => Bound::Included(prefix),
            };
            source.entries.range::<str, _>((from, Bound::Unbounded)).map(|(key, _)| key).take_while(move |key| key.starts_with(prefix))
        };
        let sources = self.sources.iter().enumerate().skip(first);
        let ids = sources.flat_map(move |(number, source)| keys(number, source).map(move |key| EntryId { source: number, key: key.clone() }));
        ids.filter_map(|id| self.view(&id))
    }

    /// The entry that is served for a resource: the active one of the first store that has it.
    pub fn entry_of(&self, resource: &ResourceKey) -> Option<EntryId> {
        self.ids_of(resource).into_iter().next()
    }

    /// The entry at a key below the root, of the first store that has it. A resource of the active tree is also found under its key at the
    /// root.
    pub fn entry_at(&self, key: &str) -> Option<EntryId> {
        let exact = self.sources.iter().position(|source| source.entries.contains_key(key)).map(|source| EntryId { source, key: key.to_owned() });
        exact.or_else(|| match place(key, false) {
            Place::Resource { tree: None, resource } => self.entry_of(&resource),
            _ => None,
        })
    }

    /// Why the entry is not accepted, if it is not.
    pub(super) fn refusal<'a>(&self, id: &EntryId, entry: &'a Entry) -> Option<Refusal<'a>> {
        if let Place::Unknown(message) = &entry.place {
            return Some(Refusal::UnknownKey(message));
        }
        if let Some(problem) = &entry.problem {
            return Some(Refusal::Invalid(problem));
        }
        let Place::Resource { resource, .. } = &entry.place else { return None };
        if self.active_key(resource) != id.key {
            return Some(Refusal::NotInActiveTree);
        }
        self.index.is_waiting(resource).then_some(Refusal::OverLimit(resource))
    }

    /// The condition of an entry that is not accepted.
    fn refused(&self, refusal: Refusal<'_>) -> Condition {
        let (reason, message) = match refusal {
            Refusal::UnknownKey(message) => ("UnknownKey", message.to_owned()),
            Refusal::Invalid(problem) => ("Invalid", problem.to_string()),
            Refusal::NotInActiveTree => {
                let active = self.active_tree().map_or("the root".to_owned(), |tree| format!("trees/{tree}/"));
                ("NotInActiveTree", format!("the active config is {active}; write current to switch"))
            }
            Refusal::OverLimit(resource) => ("OverLimit", Index::room_message(resource, &self.limits)),
        };
        Condition::no(ConditionType::Accepted, reason, message)
    }

    fn verdict(&self, id: &EntryId, entry: &Entry) -> Verdict {
        use ConditionType::{Accepted, Programmed};
        if let Some(refusal) = self.refusal(id, entry) {
            return Verdict { conditions: vec![self.refused(refusal)] };
        }
        let Place::Resource { resource, .. } = &entry.place else {
            return Verdict {
                conditions: vec![Condition::yes(Accepted, "Accepted", format!("the tree {} is active", self.active_tree().unwrap_or("at the root")))],
            };
        };
        let mut conditions = Vec::new();
        let winner = self.effective(resource).map_or(id.source, |(source, _)| source);
        if winner != id.source {
            conditions.push(Condition::yes(Accepted, "Accepted", "the value is valid"));
            conditions.push(Condition::no(Programmed, "Shadowed", format!("shadowed by {resource} of store {}, which comes first", winner + 1)));
            return Verdict { conditions };
        }
        self.index.conditions(resource, &mut conditions);
        Verdict { conditions }
    }
}

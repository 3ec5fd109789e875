//! The whole tree: entries of every store in, lanes and verdicts out. Only what changed is parsed again.

mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::index::Index;
use crate::key::{Kind, Place, ResourceKey, place};
use crate::lane::{Change, Lane};
use crate::limits::Limits;
use crate::object::Object;
use crate::parse::parse;
use crate::problem::Problem;
use crate::resource::Resource;
use crate::verdict::{Condition, ConditionType, Verdict};

/// A value and the store's revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The author's bytes.
    pub value: Arc<[u8]>,
    /// The store's revision of the entry.
    pub revision: u64,
}

/// An entry as a store has it. Keys are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInput {
    /// The key below the root, without a leading slash.
    pub key: String,
    /// What was written.
    pub written: Written,
    /// Why the store's adapter could not read it, if it could not.
    pub unreadable: Option<String>,
}

/// One change of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// The entry is now this.
    Put(EntryInput),
    /// The entry at this key is gone.
    Delete(String),
}

impl EntryChange {
    /// The key below the root.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// Names one entry of one store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The store's number, in the order in which the stores were given.
    pub source: usize,
    /// The key below the root.
    pub key: String,
}

/// The last value of an entry that was accepted.
#[derive(Debug, Clone)]
struct Good {
    written: Written,
    resource: Resource,
    object: Arc<Object>,
}

#[derive(Debug, Clone)]
struct Entry {
    place: Place,
    written: Written,
    /// Why the current value is refused.
    problem: Option<Problem>,
    /// What serves: the current value, or the last one that was accepted.
    good: Option<Good>,
}

#[derive(Debug, Default)]
struct Source {
    /// Whether its entries are complete: it was reset, or restored from disk.
    complete: bool,
    entries: BTreeMap<String, Entry>,
}

/// An entry as it is saved: enough to serve it again, and to keep its last good value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedEntry {
    /// The entry.
    pub input: EntryInput,
    /// The last good value, where it is not the current one.
    pub last_good: Option<Written>,
}

/// What people see of an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryView {
    /// Which entry.
    pub id: EntryId,
    /// The resource it names, if it names one.
    pub resource: Option<ResourceKey>,
    /// The current value.
    pub written: Written,
    /// The answer to it.
    pub verdict: Verdict,
    /// What is wrong with the current value, in parts.
    pub problem: Option<Problem>,
    /// The revision that serves although the current value was refused.
    pub last_good: Option<u64>,
    /// Whether the entry, or its last good value, is part of the snapshot.
    pub in_snapshot: bool,
}

/// What a commit changed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Entries whose verdict may differ from before.
    pub touched: BTreeSet<EntryId>,
    /// Whether C changed.
    pub config: bool,
    /// Whether M changed.
    pub membership: bool,
}

/// The state of all entries, and the lanes compiled from them.
#[derive(Debug)]
pub struct Compiler {
    limits: Limits,
    sources: Vec<Source>,
    active_tree: Option<String>,
    index: Index,
    config: Lane,
    membership: Lane,
    dirty: BTreeSet<ResourceKey>,
    current_dirty: bool,
    touched: BTreeSet<EntryId>,
}

impl Compiler {
    /// A compiler for so many stores, without any entries.
    pub fn new(stores: usize, limits: Limits) -> Self {
        Self {
            limits,
            sources: (0..stores).map(|_| Source::default()).collect(),
            active_tree: None,
            index: Index::default(),
            config: Lane::default(),
            membership: Lane::default(),
            dirty: BTreeSet::new(),
            current_dirty: false,
            touched: BTreeSet::new(),
        }
    }

    /// The config lane (C) as of the last commit.
    pub const fn config(&self) -> &Lane {
        &self.config
    }

    /// The membership lane (M) as of the last commit.
    pub const fn membership(&self) -> &Lane {
        &self.membership
    }

    /// The limits in force.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tree that `current` names.
    pub fn active_tree(&self) -> Option<&str> {
        self.active_tree.as_deref()
    }

    /// Whether every store has delivered its entries, now or before a restart.
    pub fn complete(&self) -> bool {
        self.sources.iter().all(|source| source.complete)
    }

    /// How many entries a store has.
    pub fn entries_of(&self, source: usize) -> usize {
        self.sources.get(source).map_or(0, |source| source.entries.len())
    }

    /// Takes in what was saved before a restart.
    pub fn restore(&mut self, source: usize, saved: Vec<SavedEntry>) {
        for SavedEntry { input, last_good } in saved {
            if let Some(written) = last_good {
                self.put(source, EntryInput { written, key: input.key.clone(), unreadable: None });
            }
            self.put(source, input);
        }
        if let Some(source) = self.sources.get_mut(source) {
            source.complete = true;
        }
    }

    /// All entries of a store, to be saved.
    pub fn save(&self, source: usize) -> Vec<SavedEntry> {
        let saved = |(key, entry): (&String, &Entry)| SavedEntry {
            input: EntryInput { key: key.clone(), written: entry.written.clone(), unreadable: None },
            last_good: entry.problem.as_ref().and(entry.good.as_ref()).map(|good| good.written.clone()),
        };
        self.sources.get(source).map(|source| source.entries.iter().map(saved).collect()).unwrap_or_default()
    }

    /// Replaces all entries of a store. Entries that did not change are not parsed again. Returns how many entries
    /// differ from what was known.
    pub fn reset(&mut self, source: usize, entries: Vec<EntryInput>) -> usize {
        let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let known = self.sources.get(source).map(|source| &source.entries);
        let gone: Vec<String> = known.into_iter().flat_map(BTreeMap::keys).filter(|key| !keys.contains(key.as_str())).cloned().collect();
        let mut changed = gone.len();
        gone.into_iter().for_each(|key| self.delete(source, &key));
        for entry in entries {
            changed += usize::from(self.put(source, entry));
        }
        if let Some(source) = self.sources.get_mut(source) {
            source.complete = true;
        }
        changed
    }

    /// Applies changes of a store.
    pub fn change(&mut self, source: usize, changes: Vec<EntryChange>) {
        for change in changes {
            match change {
                EntryChange::Put(entry) => {
                    self.put(source, entry);
                }
                EntryChange::Delete(key) => self.delete(source, &key),
            }
        }
    }

    /// Returns whether the entry differs from what was known.
    fn put(&mut self, source: usize, input: EntryInput) -> bool {
        let EntryInput { key, written, unreadable } = input;
        let limit = self.limits.entries;
        let Some(state) = self.sources.get_mut(source) else { return false };
        let before = state.entries.remove(&key);
        if let Some(same) = before.as_ref().filter(|entry| entry.written == written && unreadable.is_none()) {
            state.entries.insert(key, same.clone());
            return false;
        }
        let place = place(&key, written.value.is_empty());
        let mut entry = Entry { place, written, problem: None, good: before.and_then(|entry| entry.good) };
        if let Some(reason) = unreadable {
            entry.problem = Some(Problem::whole(reason));
        } else if state.entries.len() >= limit {
            entry.problem = Some(Problem::whole(format!("the store has more than {limit} entries (setting entries)")));
        } else {
            interpret(&mut entry, source, &self.limits);
        }
        self.mark(source, &key, &entry.place);
        if let Some(state) = self.sources.get_mut(source) {
            state.entries.insert(key, entry);
        }
        true
    }

    fn delete(&mut self, source: usize, key: &str) {
        if let Some(entry) = self.sources.get_mut(source).and_then(|source| source.entries.remove(key)) {
            self.mark(source, key, &entry.place);
        }
    }

    fn mark(&mut self, source: usize, key: &str, place: &Place) {
        self.touched.insert(EntryId { source, key: key.to_owned() });
        match place {
            Place::Current => self.current_dirty = true,
            Place::Resource { tree, resource } => {
                // The first or last key of a tree decides whether `current` may name it.
                self.current_dirty |= tree.is_some();
                self.dirty.insert(resource.clone());
            }
            Place::Folder | Place::Unknown(_) => {}
        }
    }

    /// Compiles everything that was marked since the last commit.
    pub fn commit(&mut self) -> Outcome {
        if std::mem::take(&mut self.current_dirty) {
            self.choose_tree();
        }
        let mut changes = (Vec::new(), Vec::new());
        let dirty = std::mem::take(&mut self.dirty);
        let freed = self.index.waiting_for_room();
        for resource in dirty.into_iter().chain(freed) {
            let change = self.install(&resource);
            let lane = if resource.kind.is_membership() { &mut changes.1 } else { &mut changes.0 };
            lane.extend(change);
        }
        let affected = self.index.take_affected();
        let ids: Vec<EntryId> = affected.iter().flat_map(|resource| self.ids_of(resource)).collect();
        self.touched.extend(ids);
        let outcome = Outcome { touched: std::mem::take(&mut self.touched), config: !changes.0.is_empty(), membership: !changes.1.is_empty() };
        if outcome.config {
            self.config = self.config.with(changes.0);
        }
        if outcome.membership {
            self.membership = self.membership.with(changes.1);
        }
        outcome
    }

    /// Installs what now stands for a resource; returns the change of its lane, if any.
    fn install(&mut self, resource: &ResourceKey) -> Option<Change> {
        let found = self.effective(resource).map(|(_, good)| (good.object.clone(), good.resource.clone()));
        let found = found.filter(|(_, parsed)| self.index.has_room(resource, parsed, &self.limits));
        match found {
            Some((object, parsed)) => self.index.put(resource, &object, &parsed).then_some(Change::Put(object)),
            None => self.index.remove(resource).map(|object| Change::Delete(object.path().to_owned())),
        }
    }

    /// The entry that stands for a resource: that of the first store that has one.
    fn effective(&self, resource: &ResourceKey) -> Option<(usize, &Good)> {
        let key = self.active_key(resource);
        self.sources.iter().enumerate().find_map(|(number, source)| source.entries.get(&key)?.good.as_ref().map(|good| (number, good)))
    }

    /// The key below the root under which the active entry of a resource stands.
    fn active_key(&self, resource: &ResourceKey) -> String {
        match &self.active_tree {
            Some(tree) if !resource.kind.is_membership() => format!("trees/{tree}/{resource}"),
            _ => resource.to_string(),
        }
    }

    fn ids_of(&self, resource: &ResourceKey) -> Vec<EntryId> {
        let key = self.active_key(resource);
        let having = self.sources.iter().enumerate().filter(|(_, source)| source.entries.contains_key(&key));
        having.map(|(number, _)| EntryId { source: number, key: key.clone() }).collect()
    }

    /// Reads `current` of the first store that has it. A tree without keys is refused, and the last one stays.
    fn choose_tree(&mut self) {
        let holder = self.sources.iter().position(|source| source.entries.contains_key("current"));
        let wanted = holder.and_then(|number| self.sources.get(number)?.entries.get("current")).map(|entry| tree_name(&entry.written.value));
        let next = match wanted {
            None => None,
            Some(Ok(tree)) if self.tree_has_keys(&tree) => Some(tree),
            Some(bad) => {
                let message = match bad {
                    Ok(tree) => format!("there is no key under trees/{tree}/; write the tree first, then current"),
                    Err(message) => message,
                };
                self.set_current_problem(holder, Some(Problem::whole(message)));
                return;
            }
        };
        self.set_current_problem(holder, None);
        if next != self.active_tree {
            self.active_tree = next;
            let all = self.sources.iter().enumerate().flat_map(|(number, source)| source.entries.iter().map(move |(key, entry)| (number, key, entry)));
            for (source, key, entry) in all {
                if let Place::Resource { resource, .. } = &entry.place {
                    self.touched.insert(EntryId { source, key: key.clone() });
                    self.dirty.insert(resource.clone());
                }
            }
            self.dirty.extend(self.index.config_resources());
        }
    }

    fn set_current_problem(&mut self, holder: Option<usize>, problem: Option<Problem>) {
        if let Some(entry) = holder.and_then(|number| self.sources.get_mut(number)?.entries.get_mut("current")) {
            entry.problem = problem;
        }
        self.touched.extend(holder.map(|source| EntryId { source, key: "current".to_owned() }));
    }

    fn tree_has_keys(&self, tree: &str) -> bool {
        let prefix = format!("trees/{tree}/");
        let has = |source: &Source| {
            let mut below = source.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
            below.any(|(_, entry)| matches!(entry.place, Place::Resource { .. }))
        };
        self.sources.iter().any(has)
    }

    /// What people see of one entry.
    pub fn view(&self, id: &EntryId) -> Option<EntryView> {
        let entry = self.sources.get(id.source)?.entries.get(&id.key)?;
        let resource = match &entry.place {
            Place::Folder => return None,
            Place::Resource { resource, .. } => Some(resource.clone()),
            Place::Current | Place::Unknown(_) => None,
        };
        let in_snapshot = resource.as_ref().is_some_and(|resource| {
            self.active_key(resource) == id.key && self.effective(resource).is_some_and(|(source, _)| source == id.source) && self.index.has(resource)
        });
        Some(EntryView {
            id: id.clone(),
            resource,
            written: entry.written.clone(),
            verdict: self.verdict(id, entry),
            problem: entry.problem.clone(),
            last_good: entry.problem.as_ref().and(entry.good.as_ref()).map(|good| good.written.revision),
            in_snapshot,
        })
    }

    /// All entries that are not folders, in the order of stores and keys.
    pub fn views(&self) -> impl Iterator<Item = EntryView> + '_ {
        self.ids().filter_map(|id| self.view(&id))
    }

    fn ids(&self) -> impl Iterator<Item = EntryId> + '_ {
        let of = |(number, source): (usize, &Source)| source.entries.keys().map(|key| EntryId { source: number, key: key.clone() }).collect::<Vec<_>>();
        self.sources.iter().enumerate().flat_map(of)
    }

    fn verdict(&self, id: &EntryId, entry: &Entry) -> Verdict {
        use ConditionType::{Accepted, Programmed};
        let refused = |reason: &str, message: String| Verdict { conditions: vec![Condition::no(Accepted, reason, message)] };
        if let Place::Unknown(message) = &entry.place {
            return refused("UnknownKey", message.clone());
        }
        if let Some(problem) = &entry.problem {
            return refused("Invalid", problem.to_string());
        }
        let Place::Resource { resource, .. } = &entry.place else {
            return Verdict {
                conditions: vec![Condition::yes(Accepted, "Accepted", format!("the tree {} is active", self.active_tree.as_deref().unwrap_or("at the root")))],
            };
        };
        if self.active_key(resource) != id.key {
            let active = self.active_tree.as_deref().map_or("the root".to_owned(), |tree| format!("trees/{tree}/"));
            return refused("NotInActiveTree", format!("the active config is {active}; write current to switch"));
        }
        if !self.index.has(resource) {
            return refused("OverLimit", Index::room_message(resource, &self.limits));
        }
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

/// The tree that the value of `current` names.
fn tree_name(value: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(value);
    let name = text.trim().trim_matches('"');
    crate::key::check_name("tree", name).map(|()| name.to_owned())
}

/// Parses an entry's value; on success it becomes what serves.
fn interpret(entry: &mut Entry, source: usize, limits: &Limits) {
    let Place::Resource { resource, .. } = &entry.place else { return };
    match parse(resource, &entry.written.value, limits) {
        Ok(parsed) => {
            let object = Object::compile(&resource.name, source, &parsed);
            entry.good = Some(Good { written: entry.written.clone(), resource: parsed, object });
        }
        Err(problem) => entry.problem = Some(problem),
    }
}

/// The backend that an entry is about, for messages: a backend's own name, an endpoint's first part.
pub fn backend_of(resource: &ResourceKey) -> Option<&str> {
    match resource.kind {
        Kind::Backend => Some(&resource.name),
        Kind::Endpoint => resource.endpoint_parts().map(|(backend, _)| backend),
        Kind::Listener | Kind::Route => None,
    }
}

#[cfg(test)]
mod tests;

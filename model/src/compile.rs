//! Compiles the entries of all stores into lanes and verdicts. Only changed entries are parsed again.

mod entry;
mod index;
mod usage;
mod view;

use std::collections::{BTreeMap, BTreeSet};

pub use crate::compile::entry::{Departed, EntryChange, EntryId, EntryInput, EntryView, Origin, Outcome, SavedEntry, Written};
use crate::compile::entry::{Entry, Good, Source};
use crate::compile::index::Index;
use crate::compile::usage::Usage;
use crate::key::{Place, ResourceKey, place};
use crate::lane::{Change, Lane};
use crate::limits::Limits;
use crate::object::Object;
use crate::parse::parse;
use crate::problem::Problem;
use crate::value::Address;

/// What the last accepted value of `current` names.
#[derive(Debug, Clone)]
struct Active {
    tree: String,
    written: Written,
}

/// The state of all entries, and the lanes compiled from them.
#[derive(Debug)]
pub struct Compiler {
    limits: Limits,
    sources: Vec<Source>,
    active: Option<Active>,
    index: Index,
    config: Lane,
    membership: Lane,
    dirty: BTreeSet<ResourceKey>,
    current_dirty: bool,
    touched: BTreeSet<EntryId>,
    /// Entries that are not accepted, as of the last commit.
    rejected: BTreeSet<EntryId>,
    usage: Usage,
}

impl Compiler {
    /// A compiler for this number of stores, without any entries.
    pub fn new(stores: usize, limits: Limits) -> Self {
        Self {
            limits,
            sources: (0..stores).map(|_| Source::default()).collect(),
            active: None,
            index: Index::default(),
            config: Lane::default(),
            membership: Lane::default(),
            dirty: BTreeSet::new(),
            current_dirty: false,
            touched: BTreeSet::new(),
            rejected: BTreeSet::new(),
            usage: Usage::default(),
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

    /// Whether an endpoint of any backend has this address.
    pub fn is_registered(&self, address: &Address) -> bool {
        self.index.is_registered(address)
    }

    /// The limits in force.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tree that `current` names.
    pub fn active_tree(&self) -> Option<&str> {
        self.active.as_ref().map(|active| active.tree.as_str())
    }

    /// Whether every store has delivered its entries, in this run or before a restart.
    pub fn complete(&self) -> bool {
        self.sources.iter().all(|source| source.complete)
    }

    /// The number of entries of a store.
    pub fn entries_of(&self, source: usize) -> usize {
        self.sources.get(source).map_or(0, |source| source.entries.len())
    }

    /// Whether a store has any resource below the root, accepted or not. Folders do not count: they may remain when all resources were
    /// deleted.
    pub fn has_any(&self, source: usize) -> bool {
        let counts = |entry: &Entry| matches!(entry.place, Place::Resource { .. });
        self.sources.get(source).is_some_and(|source| source.entries.values().any(counts))
    }

    /// The highest use of each limit, over all entries.
    pub fn most_used(&self) -> Limits {
        Limits {
            routes_per_host: self.index.most_routes_per_host(),
            patterns_per_host: self.index.most_patterns_per_host(),
            endpoints_per_backend: self.index.most_endpoints(),
            ..self.usage.largest()
        }
    }

    /// The entries that are not accepted, as of the last commit.
    pub const fn rejected(&self) -> &BTreeSet<EntryId> {
        &self.rejected
    }

    /// All entries of listeners, routes and backends.
    pub fn config_entries(&self) -> BTreeSet<EntryId> {
        let config = |entry: &Entry| matches!(&entry.place, Place::Resource { resource, .. } if !resource.kind.is_membership());
        let of = |(source, state): (usize, &Source)| {
            state.entries.iter().filter(|(_, entry)| config(entry)).map(move |(key, _)| EntryId { source, key: key.clone() }).collect::<Vec<_>>()
        };
        self.sources.iter().enumerate().flat_map(of).collect()
    }

    /// Restores the entries that were saved before a restart.
    pub fn restore(&mut self, source: usize, saved: Vec<SavedEntry>) {
        for SavedEntry { input, last_good } in saved {
            if let Some(written) = last_good {
                if input.key == CURRENT_KEY {
                    self.active = tree_name(&written.value).ok().map(|tree| Active { tree, written: written.clone() });
                }
                self.put(source, EntryInput { written, key: input.key.clone(), unreadable: None });
            }
            self.put(source, input);
        }
        if let Some(source) = self.sources.get_mut(source) {
            source.complete = true;
        }
    }

    /// All entries of a store except folders, in the form in which they are saved.
    pub fn save(&self, source: usize) -> Vec<SavedEntry> {
        let saved = |(key, entry): (&String, &Entry)| SavedEntry {
            input: EntryInput { key: key.clone(), written: entry.written.clone(), unreadable: entry.unreadable.clone() },
            last_good: self.last_good(entry).cloned(),
        };
        let source = self.sources.get(source);
        source.into_iter().flat_map(|source| &source.entries).filter(|(_, entry)| entry.place != Place::Folder).map(saved).collect()
    }

    /// The entries of a store whose current value is refused and whose last good value is served.
    pub fn last_goods(&self, source: usize) -> Vec<SavedEntry> {
        let one = |id: &EntryId| {
            let entry = self.sources.get(id.source)?.entries.get(&id.key)?;
            let input = EntryInput { key: id.key.clone(), written: entry.written.clone(), unreadable: entry.unreadable.clone() };
            self.last_good(entry).map(|good| SavedEntry { input, last_good: Some(good.clone()) })
        };
        let (first, after) = (EntryId { source, key: String::new() }, EntryId { source: source + 1, key: String::new() });
        self.rejected.range(first..after).filter_map(one).collect()
    }

    /// Takes over the entries that another controller has of a store. If this controller has none of the store yet, it takes all of them;
    /// otherwise only the last good values of entries that it refuses and never accepted.
    pub fn adopt(&mut self, source: usize, saved: Vec<SavedEntry>) {
        if self.sources.get(source).is_some_and(|source| !source.complete) {
            self.restore(source, saved);
            return;
        }
        for SavedEntry { input, last_good } in saved {
            let current = self.sources.get(source).and_then(|source| source.entries.get(&input.key));
            let Some(entry) = current.filter(|entry| entry.problem.is_some() && entry.good.is_none()) else { continue };
            let (Some(good), Place::Resource { .. }) = (last_good, &entry.place) else { continue };
            let now = EntryInput { key: input.key.clone(), written: entry.written.clone(), unreadable: entry.unreadable.clone() };
            self.put(source, EntryInput { written: good, unreadable: None, ..now.clone() });
            self.put(source, now);
        }
    }

    /// The value that is served instead of the entry's current one, if the current one is refused.
    fn last_good<'a>(&'a self, entry: &'a Entry) -> Option<&'a Written> {
        entry.problem.as_ref()?;
        match entry.place {
            Place::Current => self.active.as_ref().map(|active| &active.written),
            _ => entry.good.as_ref().map(|good| &good.written),
        }
    }

    /// Replaces all entries of a store. Unchanged entries are not parsed again.
    pub fn reset(&mut self, source: usize, entries: Vec<EntryInput>) {
        let keys: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let before = self.sources.get(source).map(|source| &source.entries);
        let deleted: Vec<String> = before.into_iter().flat_map(BTreeMap::keys).filter(|key| !keys.contains(key.as_str())).cloned().collect();
        deleted.into_iter().for_each(|key| self.delete(source, &key));
        for entry in entries {
            self.put(source, entry);
        }
        if let Some(source) = self.sources.get_mut(source) {
            source.complete = true;
        }
    }

    /// Applies changes of a store.
    pub fn change(&mut self, source: usize, changes: Vec<EntryChange>) {
        for change in changes {
            match change {
                EntryChange::Put(entry) => self.put(source, entry),
                EntryChange::Delete(key) => self.delete(source, &key),
            }
        }
    }

    fn put(&mut self, source: usize, input: EntryInput) {
        let EntryInput { key, written, unreadable } = input;
        let limit = self.limits.entries;
        let Some(state) = self.sources.get_mut(source) else { return };
        if state.entries.get(&key).is_some_and(|entry| entry.written == written && entry.unreadable == unreadable) {
            return;
        }
        let before = state.entries.remove(&key);
        before.iter().for_each(|entry| self.usage.count(entry, false));
        state.over.remove(&key);
        let place = place(&key, written.value.is_empty());
        let mut entry = Entry { place, written, unreadable, problem: None, good: before.and_then(|entry| entry.good) };
        if state.entries.len() - state.over.len() >= limit {
            entry.problem = Some(Problem::whole(format!("the store has more than {limit} entries (setting entries)")));
            state.over.insert(key.clone());
        } else {
            interpret(&mut entry, source, &self.limits);
        }
        self.mark(source, &key, &entry.place);
        self.usage.count(&entry, true);
        if let Some(state) = self.sources.get_mut(source) {
            state.entries.insert(key, entry);
        }
    }

    fn delete(&mut self, source: usize, key: &str) {
        let Some(state) = self.sources.get_mut(source) else { return };
        state.over.remove(key);
        if let Some(entry) = state.entries.remove(key) {
            self.usage.count(&entry, false);
            self.mark(source, key, &entry.place);
            self.admit_one(source);
        }
    }

    /// Accepts one of the entries over the limit, after another entry was deleted.
    fn admit_one(&mut self, source: usize) {
        let Some(state) = self.sources.get_mut(source) else { return };
        if state.entries.len() - state.over.len() >= self.limits.entries {
            return;
        }
        let Some((key, mut entry)) = state.over.pop_first().and_then(|key| state.entries.remove_entry(&key)) else { return };
        entry.problem = None;
        self.usage.count(&entry, false);
        interpret(&mut entry, source, &self.limits);
        self.usage.count(&entry, true);
        let place = entry.place.clone();
        state.entries.insert(key.clone(), entry);
        self.mark(source, &key, &place);
    }

    fn mark(&mut self, source: usize, key: &str, place: &Place) {
        self.touched.insert(EntryId { source, key: key.to_owned() });
        match place {
            Place::Current => self.current_dirty = true,
            Place::Resource { tree, resource } => {
                // The first key of a tree, or the removal of its last one, decides whether `current` may name the tree.
                self.current_dirty |= tree.is_some();
                self.dirty.insert(resource.clone());
            }
            Place::Folder | Place::Unknown(_) => {}
        }
    }

    /// Compiles everything that was marked as changed since the last commit.
    pub fn commit(&mut self) -> Outcome {
        if std::mem::take(&mut self.current_dirty) {
            self.choose_tree();
        }
        let mut changes = (Vec::new(), Vec::new());
        let mut dirty = std::mem::take(&mut self.dirty);
        let waited = self.index.waiting_for_room();
        dirty.extend(waited.iter().cloned());
        // A second pass for resources that found no room before the first pass made some.
        for pass in [dirty, BTreeSet::new()] {
            let pass = if pass.is_empty() && self.index.made_room() { self.index.waiting_for_room() } else { pass };
            for resource in self.by_need_of_room(pass) {
                let change = self.install(&resource);
                let lane = if resource.kind.is_membership() { &mut changes.1 } else { &mut changes.0 };
                lane.extend(change);
            }
        }
        let mut affected = self.index.take_affected();
        affected.extend(self.index.waiting().symmetric_difference(&waited).cloned());
        let ids: Vec<EntryId> = affected.iter().flat_map(|resource| self.ids_of(resource)).collect();
        self.touched.extend(ids);
        self.note_rejected();
        let all = changes.0.iter().chain(&changes.1);
        let came = all.filter(|change| matches!(change, Change::Put(_))).map(|change| change.path().to_owned()).collect();
        let departed = self.index.take_departed();
        let outcome = Outcome { came, departed, touched: std::mem::take(&mut self.touched), config: !changes.0.is_empty(), membership: !changes.1.is_empty() };
        if outcome.config {
            self.config = self.config.with(changes.0);
        }
        if outcome.membership {
            self.membership = self.membership.with(changes.1);
        }
        outcome
    }

    /// Brings up to date which entries are not accepted: that of an entry only changes if it was touched.
    fn note_rejected(&mut self) {
        for id in &self.touched {
            let entry = self.sources.get(id.source).and_then(|source| source.entries.get(&id.key));
            if entry.is_some_and(|entry| entry.place != Place::Folder && self.refusal(id, entry).is_some()) {
                self.rejected.insert(id.clone());
            } else {
                self.rejected.remove(id);
            }
        }
    }

    /// Orders resources for installation: removals first, because they make room for the others.
    fn by_need_of_room(&self, dirty: BTreeSet<ResourceKey>) -> Vec<ResourceKey> {
        let (coming, going): (Vec<_>, Vec<_>) = dirty.into_iter().partition(|resource| self.effective(resource).is_some());
        [going, coming].concat()
    }

    /// Installs the effective entry of a resource; returns the change of its lane, if any. A resource without room waits, and the object
    /// that was installed under its name before stays.
    fn install(&mut self, resource: &ResourceKey) -> Option<Change> {
        let found = self.effective(resource).map(|(source, good)| (source, good.object.clone(), good.resource.clone(), good.written.clone()));
        let Some((source, object, parsed, written)) = found else {
            return self.index.remove(resource).map(|object| Change::Delete(object.path().to_owned()));
        };
        if !self.index.has_room(resource, &parsed, &self.limits) {
            return None;
        }
        let origin = Origin { id: EntryId { source, key: self.active_key(resource) }, written };
        self.index.put(resource, &object, &parsed, origin).then_some(Change::Put(object))
    }

    /// The entry that is served for a resource: that of the first store that has an accepted one.
    fn effective(&self, resource: &ResourceKey) -> Option<(usize, &Good)> {
        let key = self.active_key(resource);
        self.sources.iter().enumerate().find_map(|(number, source)| source.entries.get(&key)?.good.as_ref().map(|good| (number, good)))
    }

    /// The key below the root of a resource's active entry.
    pub fn active_key(&self, resource: &ResourceKey) -> String {
        match self.active_tree() {
            Some(tree) if !resource.kind.is_membership() => format!("trees/{tree}/{resource}"),
            _ => resource.to_string(),
        }
    }

    fn ids_of(&self, resource: &ResourceKey) -> Vec<EntryId> {
        let key = self.active_key(resource);
        let having = self.sources.iter().enumerate().filter(|(_, source)| source.entries.contains_key(&key));
        having.map(|(number, _)| EntryId { source: number, key: key.clone() }).collect()
    }

    /// Reads `current` of the first store that has it. A tree without keys is refused, and the tree that was active before stays.
    fn choose_tree(&mut self) {
        let holder = self.sources.iter().position(|source| source.entries.contains_key(CURRENT_KEY));
        let wanted = holder.and_then(|number| self.sources.get(number)?.entries.get(CURRENT_KEY)).map(|entry| (named_tree(entry), entry.written.clone()));
        let next = match wanted {
            None => None,
            Some((Ok(tree), written)) if self.tree_has_keys(&tree) => Some(Active { tree, written }),
            Some((bad, _)) => {
                let message = match bad {
                    Ok(tree) => format!("there is no key under trees/{tree}/; write the tree first, then current"),
                    Err(message) => message,
                };
                self.set_current_problem(holder, Some(Problem::whole(message)));
                return;
            }
        };
        self.set_current_problem(holder, None);
        let before = std::mem::replace(&mut self.active, next);
        if before.as_ref().map(|active| active.tree.as_str()) != self.active_tree() {
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
        if let Some(entry) = holder.and_then(|number| self.sources.get_mut(number)?.entries.get_mut(CURRENT_KEY)) {
            entry.problem = problem;
        }
        self.touched.extend(holder.map(|source| EntryId { source, key: CURRENT_KEY.to_owned() }));
    }

    fn tree_has_keys(&self, tree: &str) -> bool {
        let prefix = format!("trees/{tree}/");
        let has = |source: &Source| {
            let mut below = source.entries.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
            below.any(|(_, entry)| matches!(entry.place, Place::Resource { .. }))
        };
        self.sources.iter().any(has)
    }
}

/// The key whose value names the active tree.
pub const CURRENT_KEY: &str = "current";

/// The tree that an entry at `current` names.
fn named_tree(entry: &Entry) -> Result<String, String> {
    match &entry.unreadable {
        Some(reason) => Err(reason.clone()),
        None => tree_name(&entry.written.value),
    }
}

/// The tree that a value of `current` names.
fn tree_name(value: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(value);
    let name = text.trim().trim_matches('"');
    crate::key::check_name("tree", name).map(|()| name.to_owned())
}

/// Parses an entry's value; an accepted value becomes the one that is served.
fn interpret(entry: &mut Entry, source: usize, limits: &Limits) {
    if let Some(reason) = &entry.unreadable {
        entry.problem = Some(Problem::whole(reason.clone()));
        return;
    }
    let Place::Resource { resource, .. } = &entry.place else { return };
    match parse(resource, &entry.written.value, limits) {
        Ok(parsed) => {
            let object = Object::compile(&resource.name, source, &parsed);
            let (bytes, most) = (object.bytes().len(), limits.object_bytes);
            if bytes > most {
                entry.problem = Some(Problem::whole(format!("the value compiles to {bytes} bytes; at most {most} are accepted (setting objectBytes)")));
                return;
            }
            entry.good = Some(Good { written: entry.written.clone(), resource: parsed, object });
        }
        Err(problem) => entry.problem = Some(problem),
    }
}

#[cfg(test)]
mod tests;

//! Objects that are published although the stores do not have them: held removals, and the pin.

use std::collections::BTreeSet;

use waypost_model::key::{Place, place};

use super::State;
use super::desired::Basis;
use crate::controller::message::{Now, Output};
use crate::controller::rules::guard::{Judgement, Removal};
use crate::controller::rules::objects::object_path;

/// Maximum number of events for removals that give way at once.
const MAX_GIVE_WAY_EVENTS: usize = 100;

impl State {
    /// The held removals changed: publishes the lanes anew.
    pub(super) fn guarded(&mut self, now: Now) -> Output {
        self.note_held(now);
        self.refresh();
        let mut output = self.publish(true, true, now);
        (output.changed, output.entries_changed) = (true, true);
        output
    }

    /// Gives up removals whose place is taken by a written entry.
    pub(super) fn give_way(&mut self, now: Now) {
        let compiler = &self.compiler;
        let given_up = self.guard.give_way((compiler.config(), compiler.membership()), &|address| compiler.is_registered(address));
        for (path, reason) in given_up.iter().take(MAX_GIVE_WAY_EVENTS) {
            self.events.add(now.date, "GaveWay", path, format!("it left its store and was held; that is over, because {reason}"));
        }
    }

    /// Adds an event for each new reason of a held removal.
    pub(super) fn note_held(&mut self, now: Now) {
        let held = self.guard.removals().filter_map(|removal| match &removal.judgement {
            Judgement::Held { why } => Some(why.clone()),
            _ => None,
        });
        let reasons: BTreeSet<String> = held.collect();
        for why in reasons.difference(&self.announced_reasons) {
            self.events.add(now.date, "Held", "guard", format!("{why}; it serves on until `waypost approve`, see `waypost status`"));
        }
        self.announced_reasons = reasons;
    }

    /// The stores were confirmed: releases removals that waited for that.
    pub(super) fn confirm(&mut self, now: Now) -> Output {
        let oldest = self.sources.iter().map(|source| source.confirmed.unwrap_or_default()).min().unwrap_or_default();
        if self.guard.confirmed(oldest) { self.guarded(now) } else { Output::default() }
    }

    /// The held removals that these keys name, or all if there are no keys, as paths with the exact keys. With `later`, a key names only itself.
    pub fn approvable(&self, keys: &[String], later: bool) -> Vec<(String, String)> {
        let both = |removal: &Removal| (removal.object.path().to_owned(), removal.origin.id.key.clone());
        if keys.is_empty() {
            return self.guard.removals().map(both).collect();
        }
        let named = keys.iter().filter_map(|key| {
            let Place::Resource { tree, resource } = place(key, false) else { return None };
            // The same name in another tree is another resource. A person who types the bare name of a held one means that.
            let exact = tree.is_some() || later;
            self.guard.held_at(&object_path(&resource)).filter(|removal| !exact || removal.origin.id.key == *key).map(both)
        });
        named.collect()
    }

    pub(super) fn approve(&mut self, keys: &[String], later: bool, by: &str, now: Now) -> Output {
        let named: BTreeSet<String> = self.approvable(keys, later).into_iter().map(|(path, _)| path).collect();
        let announced = |key: &String| match place(key, false) {
            Place::Resource { resource, .. } if self.compiler.active_key(&resource) == *key => Some(object_path(&resource)),
            _ => None,
        };
        let announced: Vec<String> = keys.iter().filter(|_| later).filter_map(announced).collect();
        let inherits = self.role.epoch() != Some(self.snapshot.version.epoch);
        let went = self.guard.approve(&|path| named.contains(path), &announced, inherits, now.since_start);
        if !went.is_empty() {
            self.events.add(
                now.date,
                "Approved",
                "guard",
                format!("{by} let {} go: {}", went.len(), went.iter().take(5).cloned().collect::<Vec<_>>().join(", ")),
            );
        }
        self.operated |= !went.is_empty();
        self.derive(Basis::Approved(&went));
        let output = if went.is_empty() { Output::default() } else { self.guarded(now) };
        Output { approved: went, ..output }
    }

    /// The tree of the last removal of a store, if it is not the active one.
    pub fn tree_of_held(&self, source: usize) -> Option<String> {
        let of = self.guard.removals().filter(|removal| removal.origin.id.source == source);
        let trees = of.filter_map(|removal| match place(&removal.origin.id.key, false) {
            Place::Resource { tree, .. } => Some((removal.at, tree?)),
            _ => None,
        });
        let (_, tree) = trees.max()?;
        Some(tree).filter(|tree| self.compiler.active_tree() != Some(tree.as_str()))
    }
}

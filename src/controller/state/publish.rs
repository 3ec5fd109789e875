//! Publishes the compiled, guarded and pinned lanes when their windows allow it, and only in a role that may publish.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_model::compile::Departed;
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};

use super::State;
use super::lead::PROXY_RETURN_TIME;
use crate::controller::message::{Now, Output};
use crate::controller::rules::election::Role;
use crate::controller::rules::guard::{DistrustedStore, is_distrusted};
use crate::controller::rules::health::unhealthy_endpoints;

/// The changes that a publication may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// Only operators' requests.
    Operated,
    /// Only the judgement of endpoints' probers.
    Probed,
    /// None: the last snapshot is published once more, under our epoch.
    Again,
}

impl State {
    /// The epoch under which we may publish now, and the scope. Changes that may not be published now are remembered.
    pub(super) fn publishes(&mut self, now: Now) -> Option<(u64, Scope)> {
        // Another controller publishes under our epoch: the election will find a higher one for us.
        let contested = self.contested.is_some() && self.contested == self.role.epoch();
        let ready = self.compiler.complete() && self.cluster.is_some() && !contested;
        let found = match self.role {
            Role::Leading { epoch, until } if self.recovered && now.since_start < until && self.sources.iter().all(|source| source.settled) => {
                Some((epoch, Scope::All))
            }
            // A lease that ran out before we read the stores: we do not know which snapshot was published last.
            Role::Caretaking { epoch, named: false } if self.snapshot.version.epoch < epoch => None,
            Role::Caretaking { epoch, .. } if self.operated => Some((epoch, Scope::Operated)),
            // Without the store's word, the last snapshot is published once more under our epoch. A version that a proxy saw after our disk was
            // written last is not taken back unasked.
            Role::Caretaking { epoch, .. } if self.snapshot.version.epoch < epoch => {
                (now.since_start >= PROXY_RETURN_TIME && !self.proxies.have_seen_more(self.snapshot.version)).then_some((epoch, Scope::Again))
            }
            Role::Caretaking { epoch, .. } if self.health.waits() => Some((epoch, Scope::Probed)),
            _ => None,
        };
        let found = found.filter(|_| ready);
        self.operated &= !matches!(found, Some((_, Scope::All | Scope::Operated)));
        self.suppressed |= found.is_none_or(|(_, scope)| scope != Scope::All);
        found
    }

    /// Compiles new entries, notes the changes, and publishes what the windows allow. When a store is read for the `first` time since the start, or
    /// is restored from disk, its entries were not written just now: its held removals are compared with its content.
    pub(super) fn compiled(&mut self, first: Option<usize>, doubted: Option<DistrustedStore<'_>>, now: Now) -> Output {
        let mut outcome = self.compiler.commit();
        if first.is_some() {
            outcome.came.retain(|path| self.guard.source_of(path) != first);
        }
        // An endpoint that took no requests is not missed.
        if outcome.departed.iter().any(|removal| removal.object.kind() == "endpoint") {
            let unhealthy = unhealthy_endpoints(&self.snapshot);
            let missed = |removal: &Departed| is_distrusted(doubted, removal.origin.id.source) || !unhealthy.contains(removal.object.name());
            outcome.departed.retain(|removal| removal.object.kind() != "endpoint" || missed(removal));
        }
        let leads = matches!(self.role, Role::Leading { .. }) && self.recovered && first.is_none();
        for listener in outcome.came.iter().filter(|path| leads && self.snapshot.config.get(path).is_none()).filter_map(|path| path.strip_prefix("listener/")) {
            self.proxies.watch_listener(listener);
        }
        outcome.departed.retain(|removal| removal.object.kind() != "listener" || !self.proxies.never_bound(removal.object.name()));
        let lanes = (self.compiler.config(), self.compiler.membership());
        let at: Vec<u64> = self.sources.iter().map(|source| source.at.0).collect();
        self.guard.take(&outcome.came, outcome.departed, (lanes, &at), doubted, (now.since_start, now.date));
        if let Some(source) = first.filter(|source| self.sources.get(*source).is_some_and(|state| state.live)) {
            self.guard.reconcile(source, lanes);
        }
        self.give_way(now);
        self.note_held(now);
        let before = self.lanes.1.clone();
        self.refresh();
        // A route that is held from now on is marked in membership.
        let members_differ = outcome.membership || self.lanes.1 != before;
        for id in &outcome.touched {
            self.track(id, now);
        }
        self.unpublished.extend(outcome.touched.iter().cloned());
        let due = (outcome.config && self.windows.0.changed(now.since_start), members_differ && self.windows.1.changed(now.since_start));
        let mut output = self.publish(due.0, due.1, now);
        self.note_missing_listener(now);
        output.entries_changed = !outcome.touched.is_empty();
        output.doubted |= doubted.is_some();
        output.changed |= output.entries_changed;
        output.verdicts = outcome.touched;
        output
    }

    /// Publishes the lanes that are due, if their content is new.
    pub(super) fn publish(&mut self, config: bool, membership: bool, now: Now) -> Output {
        let mut output = Output::default();
        let Some((epoch, scope)) = self.publishes(now) else { return output };
        let empty = self.snapshot.version.sequence == 0;
        let first = empty || self.snapshot.version.epoch != epoch;
        if first {
            output.doubted = self.recovered_from_proxy;
            self.inherit(now);
        }
        // Changes that waited until we might publish are published together.
        let all = scope == Scope::All && (first || std::mem::take(&mut self.suppressed));
        let fresh = matches!(scope, Scope::All | Scope::Operated);
        let lane = |due: bool, new: &Lane, old: &Lane| if all || empty || due && fresh { new.clone() } else { old.clone() };
        let version = if first { Version { epoch, sequence: 1 } } else { self.snapshot.version.next() };
        let desired_membership = self.desired_membership();
        // A route and its mark as held are published together: a held route without its mark would take requests of written routes.
        let together = (config || membership) && held_marks(&desired_membership) != held_marks(self.health.base());
        let config = lane(config || together, self.desired_config(), &self.snapshot.config);
        let membership = lane(membership || together, &desired_membership, self.health.base());
        let panicking = self.panicking();
        let membership = self.health.overlay(&config, membership, version);
        self.note_panics(&panicking, now);
        let next = Snapshot { cluster: self.cluster.clone().unwrap_or_default(), version, config, membership };
        if first || !next.same_content(&self.snapshot) {
            output.config_published = next.config != self.snapshot.config;
            self.replace(next, now, &mut output);
        }
        self.settle(now);
        output
    }

    pub(super) fn replace(&mut self, next: Snapshot, now: Now, output: &mut Output) {
        let next = Arc::new(next);
        self.proxies.published(&next);
        (self.snapshot, self.published) = (next.clone(), now.since_start);
        output.publish = Some(next);
        output.changed = true;
    }

    /// Says which key to write while there is no listener at all.
    pub(super) fn note_missing_listener(&mut self, now: Now) {
        let missing = self.compiler.complete() && self.lanes.0.of_kind("listener").next().is_none();
        if missing && !self.missing_listener_announced {
            let message = "no listener is written; write listeners/web below the root, such as: waypost put listeners/web '{\"address\":\"0.0.0.0:80\",\"protocol\":\"HTTP\"}'";
            self.events.add(now.date, "NoListener", "listeners/", message);
        }
        self.missing_listener_announced = missing;
    }
}

/// The routes that a membership marks as held.
fn held_marks(membership: &Lane) -> BTreeSet<&str> {
    membership.of_kind("held").map(|mark| mark.path()).collect()
}

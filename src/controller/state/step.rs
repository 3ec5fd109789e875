//! One step: passes an input to the part of the state that handles it.

use std::time::Duration;

use waypost_model::key::{Kind, ResourceKey};
use waypost_wire::{ObjectProblem, Report};

use super::{SWEEP_INTERVAL, State};
use crate::controller::message::{Input, Now, Output};
use crate::controller::rules::election::Role;
use crate::controller::state::claims::CLAIM_MEMORY;
use crate::controller::state::proxies::counts;

/// Deleted entries are remembered for this long, for callers that wait until no proxy serves them.
const REMEMBER_DELETED_FOR: Duration = Duration::from_secs(60);

impl State {
    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Output {
        let output = self.take_input(input, now);
        Output { woken: std::mem::take(&mut self.woken), ..output }
    }

    fn take_input(&mut self, input: Input, now: Now) -> Output {
        match input {
            Input::Store { source, event, generation } => self.store(source, event, generation, now),
            Input::StoreFailed { source, error } => self.store_failed(source, error, now),
            Input::OtherSpelling { source, found } => {
                if let Some(state) = self.sources.get_mut(source) {
                    state.other_spelling = found;
                }
                Output::default()
            }
            Input::Cluster(id) => {
                self.proxies.belong_to(&id);
                self.cluster = Some(id);
                self.publish(true, true, now)
            }
            Input::Peers(peers) => {
                (self.peers, self.met_peers) = (peers, true);
                Output { changed: true, ..Output::default() }
            }
            Input::Role(role) => self.take_role(role, now),
            Input::Recovered(epoch) => self.recovered(epoch, now),
            Input::Relayed(snapshot) => self.relayed(&snapshot, now),
            Input::RecoveredFromProxy(snapshot) => {
                let output = self.relayed(&snapshot, now);
                self.recovered_from_proxy |= output.publish.is_some();
                output
            }
            Input::Replica(replica) => self.replicated(*replica, now),
            Input::Downstream { controller, proxies, version, content, events, newer_actions } => {
                self.pass_events(&controller, events, now);
                self.follower(&controller, version, content, now);
                let mut output = self.downstream(&controller, proxies, version, now);
                output.saw = output.saw.max(newer_actions.and_then(|epoch| self.claimed_by_actions(&controller, epoch, now)));
                output
            }
            Input::ProxyOpened { name, highest, cluster } => self.opened(&name, highest, cluster.as_deref(), now),
            Input::Event { reason, about, message } => {
                self.events.add(now.date, reason, about, message);
                Output::default()
            }
            Input::ProxyClosed(name) => {
                if self.proxies.closed(&name, now.since_start) {
                    self.events.add(now.date, "ProxyDisconnected", &name, "the proxy's stream ended; it serves on");
                }
                let mut output = self.gather(now);
                output.absorb(self.prober_gone(&name, now));
                output.changed = true;
                output
            }
            Input::Reported { name, report } => self.reported(&name, *report, now),
            Input::Tick => self.tick(now),
            Input::Approve { keys, later, by } => self.approve(&keys, later, &by, now),
            Input::Pin { pin, by } => self.set_pin(pin.map(|pin| *pin), &by, now),
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Now) -> Output {
        if self.sweep(now) {
            let mut output = self.gather(now);
            if matches!(self.role, Role::Caretaking { .. }) {
                // Changes that waited for proxies to come back are published now.
                output.absorb(self.publish(false, false, now));
            }
            return output;
        }
        let leads = self.role.epoch().is_some();
        if let Some((pin, _)) = self.pin.as_ref().filter(|(_, until)| leads && until.is_some_and(|until| until <= now.since_start)) {
            let over = Some(pin.mark.clone());
            return Output { over, ..self.set_pin(None, "its time being over", now) };
        }
        if self.guard.tick(self.compiler.config(), self.compiler.membership(), now.since_start) {
            return self.guarded(now);
        }
        let due = (self.windows.0.tick(now.since_start), self.windows.1.tick(now.since_start));
        self.publish(due.0, due.1, now)
    }

    /// Forgets outdated state, if it is time for that.
    pub(super) fn sweep(&mut self, now: Now) -> bool {
        if now.since_start < self.swept + SWEEP_INTERVAL {
            return false;
        }
        self.swept = now.since_start;
        self.proxies.sweep(now.since_start);
        self.claims.retain(|_, (_, at)| now.since_start.saturating_sub(*at) < CLAIM_MEMORY);
        self.tracks.retain(|_, track| !track.deleted || now.since_start.saturating_sub(track.read_at) < REMEMBER_DELETED_FOR);
        self.arriving.retain(|(_, id)| self.tracks.contains_key(id));
        self.unpublished.retain(|id| self.tracks.contains_key(id));
        true
    }

    pub(super) fn reported(&mut self, name: &str, report: Report, now: Now) -> Output {
        let (refused, problems) = (report.refused.clone(), report.problems.clone());
        let counted = counts(&report);
        let drifted = self.proxies.has_drifted(name);
        let (before, changed) = self.proxies.reported(name, report, now.since_start);
        if !drifted && self.proxies.has_drifted(name) {
            self.events.add(now.date, "Drift", name, "the proxy serves other content than was published under its version");
        }
        if let Some(reason) = refused.filter(|reason| before.refused.as_ref() != Some(reason)) {
            self.events.add(now.date, "ProxyRefused", name, reason);
        }
        let ended = before.problems.iter().filter(|problem| !problems.contains(problem));
        ended.chain(&problems).filter_map(key_of).for_each(|key| self.woken.add(&key));
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            self.events.add(now.date, "ProxyProblem", name, format!("{}/{}: {}", problem.kind, problem.name, problem.message));
        }
        self.mark_live(now);
        let mut output = if counts(&before) == counted { Output::default() } else { self.gather(now) };
        let before = before.probed.map(|probed| probed.version).unwrap_or_default();
        output.absorb(self.probed(name, changed, before, now));
        output.changed = true;
        output
    }
}

/// The key below the root of the resource that a proxy has a problem with, if it has one.
fn key_of(problem: &ObjectProblem) -> Option<String> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.singular() == problem.kind)?;
    Some(ResourceKey { kind, name: problem.name.clone() }.to_string())
}

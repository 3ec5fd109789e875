//! Which endpoints can take requests: what the proxies report is judged, and what they agree on is published.

use std::collections::{BTreeMap, BTreeSet};

use waypost_wire::Probed;

use super::{Now, Output, State};

impl State {
    /// A proxy said what it found out of what it probes.
    pub(super) fn probed(&mut self, prober: &str, before: Option<&Probed>, said: Option<&Probed>, now: Now) -> Output {
        if self.role.epoch().is_none() {
            return Output::default();
        }
        let mut output = if before.is_some() == said.is_some() { Output::default() } else { self.gather(now) };
        let Some(said) = said else { return output };
        let names = self.health.differing(prober, before.unwrap_or(&Probed::default()), said);
        output.absorb(self.judge(&names, now));
        output
    }

    /// Proxies came or went: others may probe now.
    pub(super) fn gather(&mut self, now: Now) -> Output {
        if self.role.epoch().is_none() {
            return Output::default();
        }
        let mut members: BTreeMap<String, Option<String>> = self.proxies.probers(now.since_start).map(|(name, zone)| (name.clone(), zone.cloned())).collect();
        if now.since_start < self.unmet {
            // Those who probed before we led are on their way to us.
            for (name, zone) in self.health.fleet() {
                members.entry(name.clone()).or_insert_with(|| zone.clone());
            }
        }
        if self.health.set_fleet(members) && self.health.is_used() { self.publish_health(now) } else { Output::default() }
    }

    /// Judges endpoints by what their probers say now.
    fn judge(&mut self, names: &BTreeSet<String>, now: Now) -> Output {
        if names.is_empty() {
            return Output::default();
        }
        let proxies = &self.proxies;
        let met = now.since_start >= self.unmet;
        let turns = self.health.judge(names, &|prober| proxies.probed(prober, now.since_start), met, now.date);
        let mut panics = BTreeSet::new();
        for turn in &turns {
            let reason = if turn.healthy { "EndpointHealthy" } else { "EndpointUnhealthy" };
            self.events.add(now.date, reason, &turn.endpoint, turn.told.clone());
            panics.extend(turn.endpoint.split_once('/').map(|(backend, _)| backend.to_owned()));
        }
        for name in panics {
            let health = self.health.backend(&name);
            if health.panics {
                let told = format!("{} of {} endpoints are unhealthy, so all are used as if they were not", health.out.len(), health.endpoints);
                self.events.add(now.date, "BackendPanics", &name, told);
            }
        }
        if turns.is_empty() { Output::default() } else { self.publish_health(now) }
    }

    fn publish_health(&mut self, now: Now) -> Output {
        let due = self.windows.1.changed(now.since_start);
        let mut output = if due { self.publish(false, true, now) } else { Output::default() };
        output.changed = true;
        output
    }
}

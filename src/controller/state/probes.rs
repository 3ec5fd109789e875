//! Judges the reports of proxies on endpoints, and publishes the judgement of the majority.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use waypost_model::snapshot::Version;

use super::State;
use crate::controller::message::{Now, Output};

impl State {
    /// A proxy reported new findings on these endpoints; its earlier ones were as of version `before`.
    pub(super) fn probed(&mut self, prober: &str, mut names: BTreeSet<String>, before: Version, now: Now) -> Output {
        if self.role.epoch().is_none() {
            return Output::default();
        }
        if let Some(findings) = self.proxies.probed(prober, now.since_start) {
            // It reports anew, in parts or after a restart: its findings count once all of them have come.
            if findings.version() < before {
                self.health.await_all(prober);
            }
            names.extend(self.health.take_report(prober, findings.version()));
        }
        self.judge(&names, now)
    }

    /// Proxies connected or left: others may probe now.
    pub(super) fn gather(&mut self, now: Now) -> Output {
        if self.role.epoch().is_none() {
            return Output::default();
        }
        let mut members: BTreeMap<String, Option<String>> = self.proxies.probers(now.since_start).map(|(name, zone)| (name.clone(), zone.cloned())).collect();
        if now.since_start < self.proxies_expected_until {
            // Proxies that probed before we led are on their way to us.
            for (name, zone) in self.health.fleet() {
                members.entry(name.clone()).or_insert_with(|| zone.clone());
            }
        }
        let moved = self.health.set_fleet(members);
        let all_met = self.proxies_expected_until > Duration::ZERO && now.since_start >= self.proxies_expected_until;
        if all_met {
            self.proxies_expected_until = Duration::ZERO;
        }
        let mut output = if moved && self.health.is_used() { self.publish_health(now) } else { Output::default() };
        if moved || all_met {
            // Other proxies vote now, so every endpoint is judged again, even if no finding has changed.
            let names = self.health.names();
            output.absorb(self.judge(&names, now));
        }
        output
    }

    /// A proxy that probed has left: its endpoints are judged by the reports of the others, although these have not changed.
    pub(super) fn prober_gone(&mut self, name: &str, now: Now) -> Output {
        if self.role.epoch().is_none() {
            return Output::default();
        }
        let names = self.health.probed_by(name);
        self.judge(&names, now)
    }

    /// Judges endpoints by the present findings of their probers.
    fn judge(&mut self, names: &BTreeSet<String>, now: Now) -> Output {
        if names.is_empty() {
            return Output::default();
        }
        let proxies = &self.proxies;
        let met = now.since_start >= self.proxies_expected_until;
        let turns = self.health.judge(names, &|prober| proxies.probed(prober, now.since_start), met, now.date);
        for turn in &turns {
            let reason = if turn.healthy { "EndpointHealthy" } else { "EndpointUnhealthy" };
            self.events.add(now.date, reason, &turn.endpoint, turn.message.clone());
        }
        if turns.is_empty() { Output::default() } else { self.publish_health(now) }
    }

    /// Notes which backends have too few healthy endpoints from this publication on.
    pub(super) fn note_panics(&mut self, before: &BTreeSet<String>, now: Now) {
        for (name, health) in self.health.troubled().iter().filter(|(name, health)| health.panics && !before.contains(*name)) {
            let message = format!("{} of {} endpoints are unhealthy, so all are used as if they were not", health.unhealthy, health.endpoints);
            self.events.add(now.date, "BackendPanics", name, message);
        }
    }

    /// Backends of which all endpoints are used because too few are healthy.
    pub(super) fn panicking(&self) -> BTreeSet<String> {
        self.health.troubled().iter().filter(|(_, health)| health.panics).map(|(name, _)| name.clone()).collect()
    }

    fn publish_health(&mut self, now: Now) -> Output {
        let due = self.windows.1.changed(now.since_start);
        let mut output = if due { self.publish(false, true, now) } else { Output::default() };
        output.changed = true;
        output
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use waypost_wire::{Probed, Report};

    use super::super::tests::Script;
    use super::*;
    use crate::controller::message::Input;

    const WEB: (&str, &str) = ("listeners/web", r#"{"address":"127.0.0.1:80"}"#);

    fn say(script: &mut Script, name: &str, fails: bool) {
        let version = script.state.snapshot.version;
        let failing = fails.then(|| ("shop/a".to_owned(), "no answer".to_owned())).into_iter().collect();
        let report = Report { applied: Some(version), probed: Some(Probed { version, failing, ..Probed::default() }), ..Report::default() };
        script.after(1, Input::Reported { name: name.to_owned(), report: Box::new(report) });
    }

    #[test]
    fn the_findings_of_a_prober_reach_the_leader_through_a_follower_change_by_change() {
        let mut leader = Script::leading(1);
        leader.reset(
            0,
            0,
            1,
            &[WEB, ("backends/shop", r#"{"healthCheck":{"type":"TCP"}}"#), ("endpoints/shop/a", "10.0.0.1:80"), ("endpoints/shop/b", "10.0.0.2:80")],
        );
        let mut follower = Script::new(1);
        follower.after(1, Input::ProxyOpened { name: "p".to_owned(), highest: Version::default(), cluster: None });
        let mut reports: HashMap<String, Report> = HashMap::new();
        let mut report_to = |leader: &mut Script, probed: Probed| {
            let version = leader.state.snapshot.version;
            let report = Report { applied: Some(version), run_id: "r".to_owned(), probed: Some(Probed { version, ..probed }), ..Report::default() };
            follower.after(1, Input::Reported { name: "p".to_owned(), report: Box::new(report) });
            let proxies = follower.state.proxies.downstream(&reports, follower.now);
            let report = proxies[0].report.clone().unwrap();
            let probed = report.probed.clone().unwrap();
            reports.insert("p".to_owned(), Report { probed: Some(Probed { version, number: probed.number, ..Probed::default() }), ..report });
            leader.after(1, Input::Downstream { controller: "f".to_owned(), proxies, version: None, content: None, events: Vec::new(), newer_actions: None });
            leader.after(1_000, Input::Tick);
            let out = ["a", "b"].map(|id| leader.state.health.out(&format!("shop/{id}")).is_some());
            (probed, out)
        };
        let failing = |names: &[&str]| names.iter().map(|name| (format!("shop/{name}"), "refused".to_owned())).collect::<BTreeMap<_, _>>();
        report_to(&mut leader, Probed { number: 2, ..Probed::default() });
        assert_eq!(report_to(&mut leader, Probed { number: 2, since: Some(2), ..Probed::default() }).1, [false, false]);
        let (probed, out) = report_to(&mut leader, Probed { number: 3, since: Some(2), failing: failing(&["a"]), ..Probed::default() });
        assert_eq!((probed.since, out), (Some(2), [true, false]));
        let (probed, out) = report_to(&mut leader, Probed { number: 4, since: Some(3), failing: failing(&["b"]), ..Probed::default() });
        assert_eq!((probed.since, probed.failing.len(), out), (Some(3), 1, [true, true]));
        let recovered = BTreeSet::from(["shop/a".to_owned()]);
        let (probed, out) = report_to(&mut leader, Probed { number: 5, since: Some(4), recovered, ..Probed::default() });
        assert_eq!((probed.recovered.len(), out), (1, [false, true]));
        // A proxy of release 0.1 counts nothing.
        assert_eq!(report_to(&mut leader, Probed { failing: failing(&["a"]), ..Probed::default() }).1, [true, false]);
        assert_eq!(report_to(&mut leader, Probed { failing: failing(&["b"]), ..Probed::default() }).1, [false, true]);
    }

    #[test]
    fn a_prober_that_reports_anew_counts_for_every_endpoint_once_all_parts_have_come() {
        let mut script = Script::leading(1);
        script.reset(
            0,
            0,
            1,
            &[WEB, ("backends/shop", r#"{"healthCheck":{"type":"TCP"}}"#), ("endpoints/shop/a", "10.0.0.1:80"), ("endpoints/shop/b", "10.0.0.2:80")],
        );
        script.after(1, Input::ProxyOpened { name: "p".to_owned(), highest: Version::default(), cluster: None });
        let report = |script: &mut Script, probed: Probed| {
            let version = script.state.snapshot.version;
            let report = Report { applied: Some(version), run_id: "r".to_owned(), probed: Some(probed), ..Report::default() };
            script.after(1, Input::Reported { name: "p".to_owned(), report: Box::new(report) });
            script.after(1_000, Input::Tick);
            ["a", "b"].map(|id| script.state.health.out(&format!("shop/{id}")).is_some())
        };
        let failing = |names: &[&str]| names.iter().map(|name| (format!("shop/{name}"), "refused".to_owned())).collect::<BTreeMap<_, _>>();
        let version = script.state.snapshot.version;
        report(&mut script, Probed { version, number: 1, ..Probed::default() });
        script.after(1_000, Input::Tick);
        let version = script.state.snapshot.version;
        assert_eq!(report(&mut script, Probed { version, number: 2, since: Some(1), failing: failing(&["a"]), ..Probed::default() }), [true, false]);
        // a recovers and b fails while the link is down; then everything is told in two parts.
        let version = script.state.snapshot.version;
        assert_eq!(report(&mut script, Probed { number: 4, ..Probed::default() }), [true, false]);
        assert_eq!(report(&mut script, Probed { number: 5, since: Some(4), failing: failing(&["b"]), more: true, ..Probed::default() }), [true, false]);
        assert_eq!(report(&mut script, Probed { version, number: 6, since: Some(5), ..Probed::default() }), [false, true]);
    }

    #[test]
    fn a_proxy_that_refuses_the_config_probes_nothing_for_others() {
        let mut script = Script::leading(1);
        script.reset(0, 0, 1, &[WEB, ("backends/shop", r#"{"healthCheck":{"type":"TCP"}}"#), ("endpoints/shop/a", "10.0.0.1:80")]);
        for name in ["p0", "p1", "p2"] {
            script.after(1, Input::ProxyOpened { name: name.to_owned(), highest: Version::default(), cluster: None });
            say(&mut script, name, false);
        }
        let probers = |script: &Script| script.state.health.probers("shop/a").unwrap().map(str::to_owned).collect::<Vec<_>>();
        script.after(1_000, Input::Tick);
        assert_eq!(probers(&script).len(), 3);
        let refuse = |script: &mut Script, name: &str, reason: Option<&str>| {
            let probed = Some(Probed::default());
            let report = Report { applied: Some(Version::default()), refused: reason.map(str::to_owned), probed, ..Report::default() };
            script.after(1, Input::Reported { name: name.to_owned(), report: Box::new(report) });
        };
        for name in ["p1", "p2"] {
            refuse(&mut script, name, Some("config crashed this proxy"));
        }
        script.after(1_000, Input::Tick);
        assert_eq!(probers(&script), ["p0"]);
        say(&mut script, "p0", true);
        script.after(1_000, Input::Tick);
        assert!(script.state.snapshot.membership.get("health/shop/a").is_some(), "the one that is left decides");
        refuse(&mut script, "p1", None);
        script.after(1_000, Input::Tick);
        assert_eq!(probers(&script).len(), 2);
    }

    #[test]
    fn an_endpoint_is_judged_anew_by_the_remaining_probers_when_one_leaves() {
        for closed in [true, false] {
            let mut script = Script::leading(1);
            script.reset(0, 0, 1, &[WEB, ("backends/shop", r#"{"healthCheck":{"type":"TCP"}}"#), ("endpoints/shop/a", "10.0.0.1:80")]);
            for name in ["p0", "p1"] {
                script.after(1, Input::ProxyOpened { name: name.to_owned(), highest: Version::default(), cluster: None });
                say(&mut script, name, false);
            }
            script.after(1_000, Input::Tick);
            for (name, fails) in [("p0", false), ("p1", false), ("p0", true)] {
                say(&mut script, name, fails);
            }
            assert!(script.state.health.out("shop/a").is_none(), "one of two");
            if closed {
                script.after(1, Input::ProxyClosed("p1".to_owned()));
            } else {
                // It is cut off, and its stream hangs.
                for _ in 0..4 {
                    script.after(7_000, Input::Tick);
                    say(&mut script, "p0", true);
                }
            }
            script.after(1_000, Input::Tick);
            assert!(script.state.health.out("shop/a").is_some(), "closed: {closed}");
            assert!(script.state.snapshot.membership.get("health/shop/a").is_some());
        }
    }
}

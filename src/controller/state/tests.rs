//! A script of inputs, and its effects as lines of text. The order of the lines is part of the contract.

use std::fmt::Write as _;

use waypost_adapter::{AdapterError, Change, Entry, ErrorKind, Event as StoreEvent, Revision};
use waypost_wire::Report;

use super::*;
use crate::controller::message::Input;

pub(super) const ROUTE: &str = r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;

/// A controller and its clock.
pub(super) struct Script {
    pub(super) state: State,
    pub(super) now: Duration,
    next_event: u64,
    pub(super) log: String,
}

impl Script {
    pub(super) fn new(stores: usize) -> Self {
        let names = (0..stores).map(|number| format!("store{number}")).collect();
        let mut state = State::new(names, Limits::default(), Thresholds::default(), Some("c".to_owned()));
        state.sources.iter_mut().for_each(|source| source.counts_up = true);
        Self { state, now: Duration::from_secs(1), next_event: 0, log: String::new() }
    }

    /// One that leads under epoch 3.
    pub(super) fn leading(stores: usize) -> Self {
        let mut script = Self::new(stores);
        script.role(0, Role::Leading { epoch: 3, until: Duration::MAX });
        (script.next_event, script.log) = (script.state.events.next(), String::new());
        script
    }

    pub(super) fn role(&mut self, millis: u64, role: Role) -> Output {
        let epoch = role.epoch();
        let output = self.after(millis, Input::Role(role));
        // No other controller knows more.
        let recovered = self.after(0, Input::Recovered(epoch.unwrap_or_default()));
        Output { publish: recovered.publish.or(output.publish), relist: output.relist, ..output }
    }

    /// After so many milliseconds this happens.
    pub(super) fn after(&mut self, millis: u64, input: Input) -> Output {
        self.now += Duration::from_millis(millis);
        let output = self.state.step(input, Now { since_start: self.now, date: 0 });
        let at = self.now.as_millis() - 1_000;
        if let Some(snapshot) = &output.publish {
            let names = |lane: &Lane| {
                let names: std::collections::BTreeSet<_> = lane.objects().map(|object| object.path().to_owned()).collect();
                names.into_iter().collect::<Vec<_>>().join(" ")
            };
            writeln!(self.log, "{at}: publish {}: {} | {}", snapshot.version, names(&snapshot.config), names(&snapshot.membership)).unwrap();
        }
        for event in self.state.events.since(self.next_event) {
            self.next_event = event.number + 1;
            writeln!(self.log, "{at}: {} {}: {}", event.reason, event.about, event.message).unwrap();
        }
        output
    }

    pub(super) fn reset(&mut self, millis: u64, source: usize, at: u64, entries: &[(&str, &str)]) -> Output {
        let entries = entries.iter().map(|(key, value)| Entry::new(key.as_bytes().to_vec(), value.as_bytes().to_vec(), at)).collect();
        self.after(millis, Input::Store { source, event: StoreEvent::Reset { entries, at: Revision(at), drift: 0 }, generation: self.state.generation() })
    }

    pub(super) fn put(&mut self, millis: u64, at: u64, key: &str, value: &str) -> Output {
        let change = Change::Put(Entry::new(key.as_bytes().to_vec(), value.as_bytes().to_vec(), at));
        self.after(
            millis,
            Input::Store { source: 0, event: StoreEvent::Changes { changes: vec![change], at: Revision(at) }, generation: self.state.generation() },
        )
    }

    pub(super) fn delete(&mut self, millis: u64, at: u64, key: &str) -> Output {
        let change = Change::Delete(waypost_adapter::Key::from(key.to_owned()));
        self.after(
            millis,
            Input::Store { source: 0, event: StoreEvent::Changes { changes: vec![change], at: Revision(at) }, generation: self.state.generation() },
        )
    }

    fn produces(self, wanted: &str) {
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect::<Vec<_>>();
        assert_eq!(lines(&self.log), lines(wanted));
    }
}

#[test]
fn the_first_change_is_published_at_once_and_further_ones_wait_for_their_window() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("listeners/web", r#"{"address":"127.0.0.1:80"}"#)]);
    script.put(100, 2, "routes/a", ROUTE);
    script.put(3, 3, "routes/b", ROUTE);
    // Membership has a window of its own.
    script.put(1, 4, "endpoints/shop/1", "10.0.0.1:80");
    assert_eq!(script.state.due(), Duration::from_millis(1_110));
    script.after(6, Input::Tick);
    script.after(50, Input::Tick);
    script.put(1, 5, "routes/b", ROUTE);
    script.delete(50, 6, "routes/b");
    // A removal is judged when no further one has come for a moment.
    script.after(10, Input::Tick);
    assert_eq!(script.state.due(), Duration::from_millis(1_711));
    script.after(490, Input::Tick);
    script.produces(
        "0: publish 3.1: listener/web |
         0: StoreRead store0: 1 entries at revision 1
         100: publish 3.2: listener/web route/a |
         104: publish 3.3: listener/web route/a | endpoint/shop/1
         110: publish 3.4: listener/web route/a route/b | endpoint/shop/1
         211: publish 3.5: listener/web route/a route/b | endpoint/shop/1 held/route/b
         211: Deleted routes/b: the entry is gone
         711: publish 3.6: listener/web route/a | endpoint/shop/1",
    );
}

#[test]
fn a_bad_value_is_reported_and_the_last_good_one_stays() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("listeners/web", r#"{"address":"127.0.0.1:80"}"#), ("routes/a", ROUTE)]);
    let output = script.put(100, 2, "routes/a", "{");
    assert!(output.publish.is_none() && output.entries_changed, "nothing to publish, something to keep on disk");
    assert_eq!(output.verdicts.len(), 1);
    script.produces(
        "0: publish 3.1: listener/web route/a |
         0: StoreRead store0: 2 entries at revision 1
         100: Rejected routes/a: revision 2: 1:1 the value ends in the middle of an object; add what closes it; revision 1 still serves",
    );
}

#[test]
fn nothing_is_published_before_every_store_was_read_or_restored() {
    let mut script = Script::leading(2);
    assert!(script.reset(0, 0, 1, &[("routes/a", ROUTE)]).publish.is_none());
    let failed = AdapterError::new(ErrorKind::Unreachable, "h:1", "no answer", "start it");
    script.after(10, Input::StoreFailed { source: 1, error: failed.clone() });
    script.after(10, Input::StoreFailed { source: 1, error: failed });
    assert!(!script.state.is_ready());
    script.reset(10, 1, 7, &[("routes/a", ROUTE), ("routes/b", ROUTE)]);
    let published = script.state.snapshot.clone();
    assert_eq!(published.config.objects().count(), 2, "the first store's routes/a wins");
    assert!(script.log.contains("StoreLost store1: h:1: no answer; start it; nothing is published yet"), "{}", script.log);
    assert_eq!(script.log.matches("StoreLost").count(), 1, "the same trouble is told once");
    assert!(script.log.contains("StoreBack store1"), "{}", script.log);
}

#[test]
fn nothing_is_published_before_the_cluster_is_known() {
    let mut script = Script::new(1);
    script.state = State::new(vec!["s".to_owned()], Limits::default(), Thresholds::default(), None);
    script.role(0, Role::Leading { epoch: 3, until: Duration::MAX });
    assert!(script.reset(0, 0, 1, &[("routes/a", ROUTE)]).publish.is_none());
    let published = script.after(5, Input::Cluster("c".to_owned())).publish.expect("now it is");
    assert_eq!((published.cluster.as_str(), published.version.to_string().as_str()), ("c", "3.1"));
}

#[test]
fn the_election_hears_of_an_epoch_that_a_proxy_saw_and_not_of_a_foreign_one() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("routes/a", ROUTE)]);
    let opened = |cluster: &str, epoch| Input::ProxyOpened { name: "p".to_owned(), highest: Version { epoch, sequence: 9 }, cluster: Some(cluster.to_owned()) };
    assert_eq!(script.after(1, opened("other", 20)).saw, None);
    assert_eq!(script.after(1, opened("c", 2)).saw, None, "older than ours");
    assert_eq!(script.after(1, opened("c", 5)).saw, Some(5));
    let most = crate::controller::rules::election::MAX_CLAIMED_EPOCH;
    assert_eq!(script.after(5_000, opened("c", most - 1)).saw, Some(most - 1));
    assert_eq!(script.after(5_000, opened("c", most)).saw, None, "the epoch above it has to be believed by others");
    assert!(script.role(1, Role::Leading { epoch: 6, until: Duration::MAX }).publish.is_none(), "the store is read anew first");
    let output = script.reset(1, 0, 1, &[("routes/a", ROUTE)]);
    assert_eq!(output.publish.expect("published again").version, Version { epoch: 6, sequence: 1 });
}

#[test]
fn a_proxy_that_claims_higher_and_higher_epochs_is_not_believed_each_time() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("routes/a", ROUTE)]);
    let claim = |name: &str, epoch| Input::ProxyOpened { name: name.to_owned(), highest: Version { epoch, sequence: 9 }, cluster: Some("c".to_owned()) };
    assert_eq!(script.after(1, claim("p", 5)).saw, Some(5));
    for epoch in 6..100 {
        assert_eq!(script.after(10, claim("p", epoch)).saw, None);
    }
    assert_eq!(script.after(1, claim("p", 5)).saw, Some(5), "what it claimed before is no news");
    assert_eq!(script.after(1, claim("q", 7)).saw, Some(7), "another one is believed");
    assert_eq!(script.after(5_000, claim("p", 100)).saw, Some(100));
    assert!(script.log.contains("EpochClaims p: it claims to have seen epoch 6"));
    for number in 0..100 {
        let saw = script.after(10, claim(&format!("new-{number}"), 200 + number)).saw;
        assert_eq!(saw.is_some(), number < 2, "and no more under other names: {number}");
    }
}

#[test]
fn a_follower_with_operators_actions_of_a_higher_epoch_makes_the_leader_take_a_higher_one() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("routes/a", ROUTE)]);
    let report =
        |newer_actions| Input::Downstream { controller: "f".to_owned(), proxies: Vec::new(), version: None, content: None, events: Vec::new(), newer_actions };
    assert_eq!(script.after(1, report(None)).saw, None);
    assert_eq!(script.after(1, report(Some(2))).saw, None, "our next action will be newer");
    assert_eq!(script.after(1, report(Some(5))).saw, Some(5));
    assert_eq!(script.after(1, report(Some(crate::controller::rules::election::MAX_CLAIMED_EPOCH))).saw, None);
}

#[test]
fn an_entry_is_live_when_every_proxy_that_follows_serves_its_version() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[("listeners/web", r#"{"address":"127.0.0.1:80"}"#)]);
    for name in ["p", "q"] {
        script.after(0, Input::ProxyOpened { name: name.to_owned(), highest: Version::default(), cluster: None });
    }
    script.put(100, 2, "routes/a", ROUTE);
    let report = |name: &str, sequence| Input::Reported {
        name: name.to_owned(),
        report: Box::new(Report { applied: Some(Version { epoch: 3, sequence }), ..Report::default() }),
    };
    let id = EntryId { source: 0, key: "routes/a".to_owned() };
    let live = |script: &Script| script.state.tracks.get(&id).and_then(|track| track.live);
    script.after(2, report("p", 2));
    assert_eq!(live(&script), None, "q still serves what was before");
    script.after(2, report("q", 2));
    assert_eq!(live(&script), Some(Duration::from_millis(1_104)));
}

#[test]
fn a_store_that_empties_takes_nothing_with_it_until_that_is_approved() {
    let mut script = Script::leading(1);
    let all = [("listeners/web", r#"{"address":"127.0.0.1:80"}"#), ("routes/a", ROUTE), ("endpoints/shop/1", "10.0.0.1:80")];
    script.reset(0, 0, 5, &all);
    script.reset(100, 0, 6, &[]);
    script.after(60_000, Input::Tick);
    let status: Vec<&str> = script.state.guard.removals().map(|removal| removal.object.path()).collect();
    assert_eq!(status, ["endpoint/shop/1", "listener/web", "route/a"]);
    let approved = script.after(10, Input::Approve { keys: vec!["routes/a".to_owned()], later: false, by: "alice".to_owned() }).approved;
    assert_eq!(approved, ["route/a"]);
    script.reset(10, 0, 7, &all);
    assert_eq!(script.state.guard.removals().count(), 0, "what comes back is held no longer");
    script.produces(
        "0: publish 3.1: listener/web route/a | endpoint/shop/1
         0: StoreRead store0: 3 entries at revision 5
         100: publish 3.2: listener/web route/a | endpoint/shop/1 held/listener/web held/route/a suspect/shop/1
         100: Held guard: the store became empty: its last 3 entries went; it serves on until `waypost approve`, see `waypost status`
         100: Deleted endpoints/shop/1: the entry is gone
         100: Deleted listeners/web: the entry is gone
         100: Deleted routes/a: the entry is gone
         60110: publish 3.3: listener/web | endpoint/shop/1 held/listener/web suspect/shop/1
         60110: Approved guard: alice let 1 go: route/a
         60120: publish 3.4: listener/web route/a | endpoint/shop/1",
    );
}

#[test]
fn the_same_name_in_another_tree_is_another_thing_to_let_go() {
    const WEB: &str = r#"{"address":"127.0.0.1:80"}"#;
    let mut script = Script::leading(1);
    script.reset(0, 0, 5, &[("current", "v2"), ("trees/v2/listeners/web", WEB), ("trees/v1/listeners/web", WEB)]);
    let approve = |key: &str, later| Input::Approve { keys: vec![key.to_owned()], later, by: "alice".to_owned() };
    script.after(1, approve("trees/v1/listeners/web", true));
    script.delete(10, 6, "trees/v2/listeners/web");
    script.after(1_000, Input::Tick);
    let held = |script: &Script| script.state.guard.removals().map(|removal| removal.object.path().to_owned()).collect::<Vec<_>>();
    assert_eq!(held(&script), ["listener/web"], "nobody announced that");
    for key in ["trees/v1/listeners/web", "listeners/web"] {
        assert!(script.after(1, approve(key, true)).approved.is_empty(), "{key} is deleted, and is not what is held");
    }
    assert!(script.after(1, approve("trees/v1/listeners/web", false)).approved.is_empty());
    assert_eq!(held(&script), ["listener/web"]);
    assert_eq!(script.after(1, approve("listeners/web", false)).approved, ["listener/web"], "by its bare name");
}

#[test]
fn a_store_that_goes_back_changes_nothing_until_that_is_approved() {
    let mut script = Script::leading(1);
    let other = r#"{"hostnames":["h"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;
    script.reset(0, 0, 50, &[("routes/a", ROUTE), ("routes/b", ROUTE)]);
    let before = script.state.snapshot.config.digest();
    script.reset(100, 0, 20, &[("routes/a", other)]);
    script.after(60_000, Input::Tick);
    assert_eq!(script.state.snapshot.config.digest(), before, "neither what changed nor what went");
    script.put(10, 51, "routes/a", other);
    script.after(10, Input::Approve { keys: Vec::new(), later: false, by: "bob".to_owned() });
    assert_eq!(script.state.snapshot.config.len(), 1);
    assert_ne!(script.state.snapshot.config.digest(), before);
}

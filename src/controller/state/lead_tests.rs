//! Leading and following, step by step.

use waypost_adapter::AdapterError;
use waypost_model::compile::{EntryInput, Written};
use waypost_wire::Content;

use super::tests::{ROUTE, Script};
use super::*;
use crate::controller::message::Input;
use crate::controller::rules::election::Record;
use crate::controller::rules::pins::Reason;

pub(super) const WEB: (&str, &str) = ("listeners/web", r#"{"address":"127.0.0.1:80"}"#);

pub(super) const OTHER: &str = r#"{"hostnames":["h"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;
pub(super) const THIRD: &str = r#"{"hostnames":["i"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;

pub(super) fn leading(epoch: u64) -> Role {
    Role::Leading { epoch, until: Duration::MAX }
}

/// The publication of a leader that has read these entries.
pub(super) fn published_by(epoch: u64, entries: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut script = Script::new(1);
    script.role(0, leading(epoch));
    script.reset(0, 0, 1, entries);
    script.state.snapshot.clone()
}

/// The leader's replica, as its followers get it.
pub(super) fn replica(of: &Script, at: u64) -> Input {
    let (removals, expected) = of.state.removals_for_followers();
    Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), at)]), removals, expected, entries: Vec::new() }))
}

fn version(script: &Script) -> String {
    script.state.snapshot.version.to_string()
}

#[test]
fn a_follower_publishes_nothing_of_its_own_and_relays_what_is_newer() {
    let mut script = Script::new(1);
    assert!(script.reset(0, 0, 1, &[("routes/a", ROUTE)]).publish.is_none());
    let (old, new) = (published_by(4, &[WEB]), published_by(5, &[WEB, ("routes/b", ROUTE)]));
    assert_eq!(script.after(1, Input::Relayed(new.clone())).publish.unwrap().version, new.version);
    assert!(script.after(1, Input::Relayed(old)).publish.is_none(), "a deposed leader's");
    let foreign = Snapshot { cluster: "other".to_owned(), version: Version { epoch: 9, sequence: 1 }, ..Snapshot::default() };
    assert!(script.after(1, Input::Relayed(Arc::new(foreign))).publish.is_none());
    assert!(script.put(1, 2, "routes/c", ROUTE).publish.is_none());
    assert_eq!(version(&script), "5.1");
}

#[test]
fn a_lease_that_is_renewed_only_after_it_ran_out_begins_with_reading_the_stores_anew() {
    let mut script = Script::new(1);
    script.reset(0, 0, 1, &[WEB]);
    script.role(1, Role::Caretaking { epoch: 6, named: false });
    let output = script.role(1, leading(6));
    assert!(output.relist && output.publish.is_none());
    assert!(script.reset(1, 0, 2, &[WEB]).publish.is_some());
    assert!(!script.role(1, leading(6)).relist, "once for an epoch");
}

#[test]
fn a_new_leader_reads_its_stores_before_it_publishes_and_holds_missing_objects_until_they_are_judged() {
    let mut script = Script::new(1);
    script.reset(0, 0, 5, &[WEB, ("routes/a", ROUTE)]);
    script.after(1, Input::Relayed(published_by(5, &[WEB, ("routes/a", ROUTE), ("endpoints/shop/1", "10.0.0.1:80")])));
    let output = script.role(1, leading(6));
    assert!(output.relist && output.publish.is_none());
    assert!(script.put(1, 6, "routes/b", ROUTE).publish.is_none(), "an old watch is not enough");
    let published = script.reset(1, 0, 7, &[WEB, ("routes/b", ROUTE)]).publish.unwrap();
    assert_eq!(published.version.to_string(), "6.1");
    for path in ["listener/web", "route/a", "route/b"] {
        assert!(published.config.get(path).is_some(), "{path}");
    }
    assert!(published.membership.get("suspect/shop/1").is_some(), "an endpoint that it never saw itself");
    script.after(600, Input::Tick);
    assert!(script.state.snapshot.config.get("route/a").is_none(), "one route is few");
    assert!(script.state.snapshot.membership.get("endpoint/shop/1").is_some(), "a last endpoint is confirmed first");
}

#[test]
fn a_leader_that_lost_the_published_snapshot_holds_everything_that_the_stores_do_not_have() {
    for (lost, routes) in [(true, 3), (false, 2)] {
        let mut script = Script::new(1);
        script.after(1, Input::Role(leading(6)));
        let before = published_by(5, &[WEB, ("routes/a", ROUTE), ("routes/b", ROUTE), ("routes/c", ROUTE)]);
        script.after(1, if lost { Input::RecoveredFromProxy(before) } else { Input::Relayed(before) });
        script.after(1, Input::Recovered(6));
        script.reset(1, 0, 7, &[WEB, ("routes/b", ROUTE), ("routes/c", ROUTE)]);
        script.after(2_000, Input::Tick);
        assert_eq!(script.state.snapshot.config.of_kind("route").count(), routes, "of a route nobody knows how it went: {lost}");
        // That is over with the first publication.
        script.after(1, Input::Approve { keys: Vec::new(), later: false, by: "alice".to_owned() });
        script.reset(1, 0, 8, &[WEB, ("routes/c", ROUTE)]);
        script.after(2_000, Input::Tick);
        assert_eq!(script.state.snapshot.config.of_kind("route").count(), 1);
    }
}

#[test]
fn a_successor_holds_the_removals_that_the_leader_held_and_not_those_that_it_approved() {
    let mut before = Script::leading(1);
    let all = [WEB, ("routes/a", ROUTE), ("endpoints/shop/1", "10.0.0.1:80")];
    before.reset(0, 0, 5, &all);
    before.reset(10, 0, 6, &[]);
    before.after(10, Input::Approve { keys: vec!["routes/a".to_owned()], later: false, by: "alice".to_owned() });
    let (removals, expected) = before.state.removals_for_followers();
    assert_eq!(removals.len(), 2);
    let mut script = Script::new(1);
    script.reset(0, 0, 6, &[]);
    script.after(1, Input::Relayed(before.state.snapshot.clone()));
    script.after(1, Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), 6)]), removals, expected, entries: Vec::new() })));
    script.role(1, leading(4));
    script.reset(1, 0, 6, &[]);
    script.after(60_000, Input::Tick);
    let held: Vec<_> = script.state.guard.removals().map(|removal| (removal.object.path(), removal.origin.written.value.clone())).collect();
    assert_eq!(held.iter().map(|(path, _)| *path).collect::<Vec<_>>(), ["endpoint/shop/1", "listener/web"]);
    assert_eq!(held[0].1.as_ref(), b"10.0.0.1:80", "its author's bytes");
    assert_eq!(script.state.snapshot.config.digest(), before.state.snapshot.config.digest());
}

#[test]
fn a_store_that_is_older_than_what_the_leader_saw_changes_nothing_by_itself() {
    let mut script = Script::new(1);
    let other = r#"{"hostnames":["h"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;
    script.after(1, Input::Relayed(published_by(5, &[WEB, ("routes/a", other)])));
    script.after(1, Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), 50)]), ..Replica::default() })));
    script.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    script.role(1, leading(6));
    script.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!(version(&script), "6.1");
    assert_eq!(script.state.snapshot.config.digest(), published_by(1, &[WEB, ("routes/a", other)]).config.digest());
    assert_eq!(script.state.guard.removals().count(), 1);
}

#[test]
fn after_its_lease_a_leader_publishes_only_what_operators_ask_for_until_it_is_renewed() {
    let mut script = Script::new(1);
    script.role(0, Role::Leading { epoch: 3, until: Duration::from_secs(5) });
    script.reset(0, 0, 1, &[WEB]);
    script.role(4_500, Role::Caretaking { epoch: 3, named: false });
    assert!(script.put(1, 2, "routes/a", ROUTE).publish.is_none());
    let lane = script.state.snapshot.config.clone();
    let mark = crate::controller::rules::pins::PinRecord { reason: Reason::Frozen, config: 1, by: "a".to_owned(), at: 0, until: None, digest: None };
    let hold = Pin::new(mark, Lane::default(), 0);
    let published = script.after(1, Input::Pin { pin: Some(Box::new(hold)), by: "a".to_owned() }).publish.unwrap();
    assert!(published.config.is_empty(), "an old config, with the store down");
    let published = script.after(1, Input::Pin { pin: None, by: "a".to_owned() }).publish.unwrap();
    assert_eq!(published.config, lane, "not what came since");
    let published = script.role(1, leading(3)).publish.unwrap();
    assert!(published.config.get("route/a").is_some());
    assert_eq!(published.version.to_string(), "3.4", "nobody else led");
    // A lease that ends without a release is over all the same.
    script.role(1, Role::Leading { epoch: 3, until: script.now + Duration::from_millis(10) });
    assert!(script.put(20, 3, "routes/b", ROUTE).publish.is_none());
    assert!(script.role(1, leading(3)).publish.is_some());
}

#[test]
fn a_controller_that_is_told_to_take_care_publishes_the_last_snapshot_once_more() {
    let mut script = Script::new(1);
    let saved = SavedEntry {
        input: EntryInput { key: "routes/newer".to_owned(), written: Written { value: ROUTE.as_bytes().into(), revision: 9 }, unreadable: None },
        last_good: None,
    };
    let before = published_by(5, &[WEB, ("routes/a", ROUTE)]);
    script.state.restore_published(before.as_ref().clone(), Now::default());
    script.state.restore(0, vec![saved], Now::default());
    assert!(script.role(1, Role::Caretaking { epoch: 6, named: true }).publish.is_none(), "proxies may come that have seen more");
    assert!(script.after(10_000, Input::Tick).publish.is_none());
    let published = script.after(10_000, Input::Tick).publish.unwrap();
    assert_eq!((published.version.to_string(), &published.config), ("6.1".to_owned(), &before.config));
    assert!(script.role(1, Role::Caretaking { epoch: 6, named: true }).publish.is_none());
    let followed = Role::Following { leader: Some(Record::default()) };
    script.role(1, followed);
    assert!(script.after(1, Input::Relayed(published_by(7, &[WEB]))).publish.is_some());
}

#[test]
fn a_version_that_proxies_saw_after_the_last_write_of_the_disk_is_not_taken_back_without_the_store() {
    let mut script = Script::new(1);
    script.reset(0, 0, 1, &[WEB]);
    script.state.restore_published(published_by(5, &[WEB]).as_ref().clone(), Now::default());
    let opened = |cluster: &str| Input::ProxyOpened { name: "p".to_owned(), highest: Version { epoch: 5, sequence: 2 }, cluster: Some(cluster.to_owned()) };
    assert!(script.role(1, Role::Caretaking { epoch: 6, named: true }).publish.is_none());
    script.after(15_000, opened("c"));
    script.after(10_000, Input::Tick);
    assert_eq!(version(&script), "5.1", "others get what we have, as it was");
    script.after(1, opened("other"));
    script.role(1, Role::Following { leader: None });
    assert!(script.role(1, Role::Caretaking { epoch: 7, named: true }).publish.is_some(), "a foreign one saw nothing of ours");
}

#[test]
fn a_removal_that_is_approved_before_a_caretaker_has_published_anything_is_gone() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 5, &[WEB, ("routes/a", ROUTE)]);
    before.reset(10, 0, 6, &[("routes/a", ROUTE)]);
    before.after(1_000, Input::Tick);
    let (published, entries) = (before.state.snapshot.clone(), before.state.compiler.save(0));
    let mut script = Script::new(1);
    script.state.guard.restore(before.state.removals_for_followers().0, script.now);
    script.state.restore_published(published.as_ref().clone(), Now::default());
    script.state.restore(0, entries, Now::default());
    script.role(1, Role::Caretaking { epoch: 6, named: true });
    let published = script.after(1, Input::Approve { keys: vec!["listeners/web".to_owned()], later: false, by: "a".to_owned() }).publish.unwrap();
    script.after(30_000, Input::Tick);
    assert_eq!((published.config.len(), script.state.snapshot.config.len(), script.state.guard.removals().count()), (1, 1, 0));
}

#[test]
fn followers_know_the_removals_that_the_leader_has_announced_over_a_restart() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 5, &[WEB]);
    before.after(1, Input::Approve { keys: vec!["listeners/web".to_owned()], later: true, by: "alice".to_owned() });
    let mut follower = Script::new(1);
    follower.after(1, Input::Relayed(before.state.snapshot.clone()));
    follower.after(1, replica(&before, 5));
    let later = Now { date: 1_000, ..Now::default() };
    assert_eq!(follower.state.announced(later), BTreeMap::from([("listener/web".to_owned(), 300_000)]), "since the leader said so");
}

#[test]
fn an_unpublished_write_before_the_store_went_back_does_not_undo_the_hold_of_a_leader_that_leads_again() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 50, &[WEB, ("routes/a", OTHER)]);
    let digest = script.state.snapshot.config.digest();
    script.role(1, Role::Caretaking { epoch: 3, named: false });
    script.put(1, 51, "routes/a", THIRD);
    script.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    script.role(1, Role::Following { leader: None });
    script.role(1, leading(4));
    script.reset(1, 0, 21, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!((script.state.guard.removals().count(), script.state.snapshot.config.digest()), (1, digest));
}

#[test]
fn a_leader_whose_follower_relays_a_newer_version_hears_of_it() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 5, &[WEB]);
    let tells = |epoch, sequence| Input::Downstream {
        controller: "c2".to_owned(),
        proxies: Vec::new(),
        version: Some(Version { epoch, sequence }),
        content: None,
        events: Vec::new(),
        newer_actions: None,
    };
    assert_eq!(script.after(1, tells(2, 90)).saw, None, "what was published before us");
    assert_eq!(script.after(1, tells(3, 1)).saw, None, "ours");
    assert_eq!(script.after(1, tells(4, 7)).saw, Some(4), "the record of leading came back with a store that was restored");
}

#[test]
fn a_controller_that_is_behind_or_relays_other_content_is_told() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 1, &[WEB]);
    let first = script.state.snapshot.clone();
    let tells = |of: &Snapshot, as_version: Version| Input::Downstream {
        controller: "c2".to_owned(),
        proxies: Vec::new(),
        version: Some(as_version),
        content: Some(Content::of(of)),
        events: Vec::new(),
        newer_actions: None,
    };
    let flags = |script: &Script| {
        let now = Now { since_start: script.now, date: 0 };
        (script.state.is_behind("c2", now), script.state.followers["c2"].drifted)
    };
    script.after(1, tells(&first, first.version));
    assert_eq!(flags(&script), (false, false));
    script.put(5_000, 2, "routes/a", ROUTE);
    let second = script.state.snapshot.clone();
    script.after(3_000, tells(&first, first.version));
    assert_eq!(flags(&script), (true, false));
    script.after(1, tells(&second, second.version));
    assert_eq!(flags(&script), (false, false));
    for _ in 0..2 {
        script.after(1, tells(&first, second.version));
    }
    assert_eq!(flags(&script), (false, true));
    assert_eq!(script.state.events.since(0).filter(|event| event.reason == "Drift" && event.about == "c2").count(), 1);
}

#[test]
fn a_last_good_value_is_taken_over_by_a_controller_that_never_saw_it() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 1, &[WEB, ("routes/a", ROUTE)]);
    before.put(1, 2, "routes/a", "garbage");
    let mut script = Script::new(1);
    script.reset(0, 0, 2, &[WEB, ("routes/a", "garbage")]);
    let entries = vec![("store0".to_owned(), before.state.compiler.last_goods(0))];
    script.after(1, Input::Replica(Box::new(Replica { entries, ..Replica::default() })));
    script.role(1, leading(9));
    script.reset(1, 0, 2, &[WEB, ("routes/a", "garbage")]);
    assert_eq!(script.state.snapshot.config, before.state.snapshot.config);
}

#[test]
fn a_leader_whose_lease_ran_out_before_it_read_its_stores_publishes_nothing() {
    let mut script = Script::new(1);
    script.after(1, Input::Relayed(published_by(5, &[WEB])));
    script.role(1, Role::Leading { epoch: 6, until: Duration::from_millis(1_010) });
    assert!(script.role(10, Role::Caretaking { epoch: 6, named: false }).publish.is_none(), "whoever led before may have published more");
    assert_eq!(version(&script), "5.1");
}

#[test]
fn a_removal_that_the_leader_approved_is_not_restored_by_a_successor_that_had_held_it() {
    let all = [WEB, ("routes/a", ROUTE)];
    let (mut before, mut script) = (Script::leading(1), Script::new(1));
    before.reset(0, 0, 5, &all);
    script.reset(0, 0, 5, &all);
    for one in [&mut before, &mut script] {
        one.reset(10, 0, 6, &[]);
        assert_eq!(one.state.guard.removals().count(), 2, "both hold what went");
    }
    before.after(10, Input::Approve { keys: Vec::new(), later: false, by: "alice".to_owned() });
    let (removals, expected) = before.state.removals_for_followers();
    script.after(1, Input::Relayed(before.state.snapshot.clone()));
    script.after(1, Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), 6)]), removals, expected, entries: Vec::new() })));
    script.role(1, leading(4));
    script.reset(1, 0, 6, &[]);
    script.after(60_000, Input::Tick);
    assert_eq!((script.state.guard.removals().count(), script.state.snapshot.config.len()), (0, 0));
}

#[test]
fn a_pin_is_ended_by_the_present_leader_and_by_no_other_clock() {
    let mut script = Script::new(1);
    script.reset(0, 0, 5, &[WEB]);
    script.after(1, Input::Relayed(published_by(3, &[WEB])));
    let mark = crate::controller::rules::pins::PinRecord { reason: Reason::Pinned, config: 1, by: "a".to_owned(), at: 0, until: Some(9), digest: None };
    let pin = |left| Input::Pin { pin: Some(Box::new(Pin { mark: mark.clone(), lane: Lane::default(), left: Some(left) })), by: "a".to_owned() };
    script.after(1, pin(Duration::from_secs(1)));
    script.after(2_000, Input::Tick);
    assert!(script.state.pin().is_some() && script.state.due() > script.now, "nobody has ended it");
    // The leader sends the pin anew, with the time that is left: nothing else changes.
    let next_event = script.state.events.next();
    script.after(1, pin(Duration::from_secs(5)));
    assert_eq!((script.state.events.next(), script.state.pin_left(Now { since_start: script.now, date: 0 })), (next_event, Some(Duration::from_secs(5))));
    script.role(1, leading(4));
    assert!(script.after(1_000, Input::Tick).over.is_none());
    assert_eq!(script.after(4_000, Input::Tick).over, Some(mark));
    assert!(script.state.pin().is_none());
}

#[test]
fn a_removal_that_a_leader_approved_while_the_config_was_pinned_is_not_held_by_its_successor() {
    let all = [WEB, ("routes/a", ROUTE)];
    // The leader has seen the removal, or died before.
    for (read_to, held_count) in [(6, 0), (5, 1)] {
        let (mut before, mut script) = (Script::leading(1), Script::new(1));
        before.reset(0, 0, 5, &all);
        script.reset(0, 0, 5, &all);
        let mark = crate::controller::rules::pins::PinRecord { reason: Reason::Frozen, config: 1, by: "a".to_owned(), at: 0, until: None, digest: None };
        let hold = Pin::new(mark, before.state.snapshot.config.clone(), 0);
        for one in [&mut before, &mut script] {
            one.after(1, Input::Pin { pin: Some(Box::new(hold.clone())), by: "a".to_owned() });
            one.delete(1, 6, "listeners/web");
            one.after(1_000, Input::Tick);
            assert_eq!(one.state.guard.removals().count(), 1, "a listener");
        }
        before.after(10, Input::Approve { keys: vec!["listeners/web".to_owned()], later: false, by: "alice".to_owned() });
        script.after(1, Input::Relayed(before.state.snapshot.clone()));
        script.after(1, replica(&before, read_to));
        script.role(1, leading(4));
        script.reset(1, 0, 6, &all[1..]);
        script.after(60_000, Input::Tick);
        assert_eq!(script.state.guard.removals().count(), held_count, "read to {read_to}");
        let held = script.state.snapshot.config.get("listener/web").is_some();
        script.after(1, Input::Pin { pin: None, by: "a".to_owned() });
        let after = script.state.snapshot.config.get("listener/web").is_some();
        assert_eq!((held, after), (true, held_count > 0), "it went when the config went on; read to {read_to}");
    }
}

#[test]
fn a_controller_that_was_just_elected_reports_the_removals_that_the_previous_leader_held() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 5, &[WEB]);
    before.reset(10, 0, 6, &[]);
    let mut script = Script::new(1);
    script.after(1, Input::Relayed(before.state.snapshot.clone()));
    script.after(1, replica(&before, 6));
    script.role(1, leading(4));
    assert_eq!(script.state.removals_for_followers().0.len(), 1, "before it has read the store");
    script.reset(1, 0, 6, &[]);
    assert_eq!(script.state.removals_for_followers().0.len(), 1);
}

#[test]
fn a_leader_that_hears_of_another_under_its_epoch_publishes_nothing_before_it_has_a_higher_one() {
    let mut script = Script::new(1);
    script.reset(0, 0, 1, &[WEB]);
    script.after(1, Input::Role(leading(10)));
    let output = script.after(1, Input::Relayed(published_by(10, &[WEB, ("routes/a", ROUTE)])));
    assert_eq!((output.saw, output.publish.is_none()), (Some(10), true));
    script.after(1, Input::Recovered(10));
    assert!(script.reset(1, 0, 2, &[WEB]).publish.is_none());
    script.after(1, Input::Role(leading(12)));
    assert!(script.after(1, Input::Relayed(published_by(10, &[WEB, ("routes/a", ROUTE)]))).publish.is_some());
    script.after(1, Input::Recovered(12));
    let published = script.reset(1, 0, 2, &[WEB]).publish.unwrap();
    assert_eq!(published.version.to_string(), "12.1");
    assert!(published.config.get("route/a").is_some(), "what the other one published is judged first");
}

#[test]
fn a_new_leader_waits_for_a_store_that_cannot_be_read_before_it_goes_on_with_what_it_knows() {
    let failed = || Input::StoreFailed { source: 0, error: AdapterError::new(waypost_adapter::ErrorKind::Unreachable, "h:1", "no answer", "start it") };
    let mut script = Script::new(1);
    script.reset(0, 0, 5, &[WEB]);
    script.role(1, leading(4));
    assert!(script.after(1, failed()).publish.is_none(), "its watch may be behind what was published");
    assert!(script.after(5_000, failed()).publish.is_some());
}

#[test]
fn without_the_record_of_leading_only_approved_removals_are_released() {
    let mut script = Script::leading(1);
    script.reset(0, 0, 5, &[WEB, ("routes/a", ROUTE), ("endpoints/shop/1", "10.0.0.1:80")]);
    script.reset(10, 0, 6, &[]);
    script.role(1, Role::Caretaking { epoch: 3, named: false });
    script.put(1, 7, "routes/b", ROUTE);
    for key in ["routes/a", "endpoints/shop/1"] {
        script.after(1, Input::Approve { keys: vec![key.to_owned()], later: false, by: "alice".to_owned() });
    }
    let paths: Vec<_> = script.state.snapshot.config.objects().chain(script.state.snapshot.membership.objects()).map(|object| object.path()).collect();
    assert_eq!(paths, ["listener/web", "held/listener/web"]);
    script.role(1, leading(3));
    assert!(script.state.snapshot.config.get("route/b").is_some());
}

#[test]
fn a_value_that_only_a_dead_leader_had_read_is_exported_under_its_old_key() {
    let mut script = Script::new(1);
    let tree = [("trees/v2/listeners/web", WEB.1), ("trees/v2/routes/a", ROUTE), ("current", "v2")];
    script.after(1, Input::Relayed(published_by(5, &tree)));
    script.reset(0, 0, 9, &[("trees/v2/routes/a", ROUTE), ("current", "v2")]);
    script.role(1, leading(6));
    script.reset(1, 0, 9, &[("trees/v2/routes/a", ROUTE), ("current", "v2")]);
    let removals: Vec<_> = script.state.guard.removals().map(|removal| removal.origin.id.key.as_str()).collect();
    assert_eq!(removals, ["trees/v2/listeners/web"]);
}

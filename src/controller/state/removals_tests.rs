//! Held removals over restarts and changes of leader.

use waypost_adapter::{Change, Event as StoreEvent};
use waypost_model::compile::{EntryInput, Written};

use super::lead_tests::{OTHER, THIRD, WEB, leading, published_by, replica};
use super::tests::{ROUTE, Script};
use super::*;
use crate::controller::message::Input;
use crate::controller::rules::guard::Judgement;

/// A leader whose store was restored from a backup: it holds the former form of `routes/a`.
fn restored_from_a_backup() -> Script {
    let mut script = Script::leading(1);
    script.reset(0, 0, 50, &[WEB, ("routes/a", OTHER)]);
    script.reset(10, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!(script.state.guard.removals().count(), 1);
    script
}

/// There are too few entries to be held for their number alone.
#[test]
fn a_small_store_that_becomes_empty_is_not_believed_whether_at_once_or_key_by_key() {
    let few = [WEB, ("routes/a", ROUTE), ("endpoints/shop/a", "10.0.0.1:80")];
    let folders = [("routes/", ""), ("endpoints/", ""), ("endpoints/shop/", "")];
    for way in ["at once", "listed", "key by key", "folders stay"] {
        let mut script = Script::leading(1);
        script.reset(0, 0, 1, &few);
        let served = script.state.snapshot.clone();
        match way {
            "at once" => {
                let changes = few.iter().map(|(key, _)| Change::Delete(waypost_adapter::Key::from((*key).to_owned()))).collect();
                script.after(1, Input::Store { source: 0, event: StoreEvent::Changes { changes, at: Revision(2) }, generation: 0 });
            }
            "listed" => drop(script.reset(1, 0, 2, &[])),
            "folders stay" => drop(script.reset(1, 0, 2, &folders)),
            _ => {
                for (at, (key, _)) in (2..).zip(few) {
                    script.delete(1, at, key);
                    script.after(700, Input::Tick);
                    script.after(10_000, Input::Store { source: 0, event: StoreEvent::Idle { at: Revision(at) }, generation: 0 });
                }
            }
        }
        script.after(20_000, Input::Tick);
        script.after(20_000, Input::Store { source: 0, event: StoreEvent::Idle { at: Revision(9) }, generation: 0 });
        script.after(1, Input::Tick);
        let held = script
            .state
            .guard
            .removals()
            .filter(|removal| matches!(&removal.judgement, Judgement::Held { why } if why.contains("the store became empty") || why == "a listener went"));
        assert_eq!(held.count(), 3, "{way}");
        assert_eq!(script.state.snapshot.config.digest(), served.config.digest(), "{way}");
        // A key that is written names only itself.
        script.put(1, 10, "routes/a", ROUTE);
        assert_eq!(script.state.guard.removals().count(), 2, "{way}");
    }
}

#[test]
fn a_store_that_becomes_empty_says_nothing_about_another_one() {
    let mut script = Script::leading(2);
    script.reset(0, 0, 1, &[WEB, ("routes/a", ROUTE), ("routes/b", ROUTE)]);
    script.reset(0, 1, 1, &[("routes/c", ROUTE)]);
    script.delete(1, 2, "routes/a");
    script.after(700, Input::Tick);
    assert_eq!(script.state.guard.removals().count(), 0, "it went as it was meant to");
    script.reset(1, 1, 2, &[]);
    let held: Vec<&str> = script.state.guard.removals().map(|removal| removal.object.path()).collect();
    assert_eq!(held, ["route/c"]);
}

/// The leader's disk was lost, and a proxy offered its snapshot.
#[test]
fn a_leader_that_knows_nothing_of_an_empty_store_holds_the_published_objects_of_it() {
    let mut script = Script::new(1);
    script.after(1, Input::Role(leading(4)));
    script.reset(1, 0, 9, &[]);
    let published = published_by(3, &[WEB, ("routes/a", ROUTE)]);
    script.after(1, Input::Relayed(published.clone()));
    script.after(1, Input::Recovered(4));
    script.after(60_000, Input::Tick);
    let held = script.state.guard.removals().filter(|removal| matches!(removal.judgement, Judgement::Held { .. }));
    assert_eq!((held.count(), script.state.snapshot.config.digest()), (2, published.config.digest()));
}

#[test]
fn an_empty_store_before_a_full_one_holds_nothing_and_of_two_that_were_emptied_both_are_held() {
    let published = |entries: &[(&str, &str)], other: &[(&str, &str)]| {
        let mut before = Script::leading(2);
        before.reset(0, 0, 1, entries);
        before.reset(0, 1, 1, other);
        before.state.snapshot.clone()
    };
    let all = [WEB, ("routes/a", ROUTE), ("endpoints/shop/a", "10.0.0.1:80")];
    // The first store of before is the second one now.
    let mut moved = Script::new(2);
    moved.after(1, Input::Relayed(published(&all, &[])));
    moved.role(1, leading(4));
    moved.reset(1, 0, 1, &[]);
    moved.reset(1, 1, 1, &all);
    moved.after(60_000, Input::Tick);
    assert_eq!(moved.state.guard.removals().count(), 0);
    let mut wiped = Script::new(2);
    wiped.after(1, Input::Relayed(published(&all, &[("routes/c", ROUTE)])));
    wiped.role(1, leading(4));
    wiped.reset(1, 0, 1, &[]);
    wiped.reset(1, 1, 1, &[]);
    wiped.after(60_000, Input::Tick);
    assert_eq!(wiped.state.guard.removals().filter(|removal| matches!(removal.judgement, Judgement::Held { .. })).count(), 4);
}

#[test]
fn a_store_that_was_restored_from_a_backup_while_no_controller_ran_changes_nothing() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 50, &[WEB, ("routes/a", OTHER), ("routes/b", ROUTE)]);
    let digest = before.state.snapshot.config.digest();
    for (at, held) in [(20, 2), (60, 0)] {
        let mut again = Script::new(1);
        again.state.restore_published(before.state.snapshot.as_ref().clone(), Now::default());
        drop(again.state.restore(0, before.state.compiler.save(0), Now::default()));
        again.state.restore_revision(0, 50);
        again.reset(1, 0, at, &[WEB, ("routes/a", THIRD)]);
        again.role(1, leading(4));
        again.reset(1, 0, at, &[WEB, ("routes/a", THIRD)]);
        again.after(59_000, Input::Tick);
        again.after(1_000, Input::Tick);
        assert_eq!((again.state.guard.removals().count(), again.state.snapshot.config.digest() == digest), (held, held > 0), "at {at}");
    }
}

#[test]
fn a_store_that_a_follower_saw_go_back_is_not_believed_after_its_restart_if_no_leader_has_judged_it() {
    let mut before = Script::new(1);
    let newest = [WEB, ("routes/a", OTHER)];
    before.reset(0, 0, 50, &newest);
    before.after(1, Input::Relayed(published_by(3, &newest)));
    before.after(1, Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), 50)]), ..Replica::default() })));
    before.reset(10, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    let mut again = Script::new(1);
    again.state.guard.restore(before.state.removals_for_followers().0, again.now);
    again.state.restore_published(before.state.snapshot.as_ref().clone(), Now::default());
    drop(again.state.restore(0, before.state.compiler.save(0), Now::default()));
    again.state.restore_revision(0, before.state.known_revision(0));
    again.reset(1, 0, 21, &[WEB, ("routes/a", ROUTE)]);
    again.role(1, leading(4));
    again.reset(1, 0, 22, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!((again.state.guard.removals().count(), again.state.snapshot.config.digest()), (1, before.state.snapshot.config.digest()));
    assert_eq!(again.state.known_revision(0), 22, "it is judged by now");
}

#[test]
fn the_last_content_of_a_store_that_went_back_is_held_if_the_leader_in_between_is_unknown() {
    let mut script = Script::new(1);
    script.reset(0, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    script.after(1, Input::Relayed(published_by(3, &[WEB, ("routes/a", ROUTE)])));
    script.put(1, 50, "routes/a", OTHER);
    script.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    // Epoch 4 may have published what is at 50.
    script.role(1, leading(5));
    script.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    let newest = published_by(4, &[WEB, ("routes/a", OTHER)]).config.digest();
    assert_eq!((script.state.guard.removals().count(), script.state.snapshot.config.digest()), (1, newest));
    // The same for a controller that led before and lost its lease.
    let mut deposed = Script::leading(1);
    deposed.reset(0, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    deposed.role(1, Role::Caretaking { epoch: 3, named: false });
    deposed.put(1, 50, "routes/a", OTHER);
    deposed.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    deposed.role(1, leading(5));
    deposed.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!((deposed.state.guard.removals().count(), deposed.state.snapshot.config.digest()), (1, newest));
}

#[test]
fn a_change_that_is_held_is_held_after_a_restart_and_by_a_successor_until_somebody_writes() {
    let before = restored_from_a_backup();
    let digest = before.state.snapshot.config.digest();
    let old = vec![SavedEntry {
        input: EntryInput { key: "routes/a".to_owned(), written: Written { value: OTHER.as_bytes().into(), revision: 50 }, unreadable: None },
        last_good: None,
    }];
    // The entries on disk may be those of a moment before.
    for entries in [before.state.compiler.save(0), old] {
        let mut again = Script::new(1);
        again.state.guard.restore(before.state.removals_for_followers().0, again.now);
        again.state.restore_published(before.state.snapshot.as_ref().clone(), Now::default());
        again.state.restore(0, entries, Now::default());
        again.role(1, leading(4));
        again.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
        assert_eq!((again.state.guard.removals().count(), again.state.snapshot.config.digest()), (1, digest));
        again.put(1_000, 21, "routes/a", THIRD);
        assert_eq!(again.state.guard.removals().count(), 0);
        assert!(again.state.snapshot.config.get("route/a").unwrap().bytes().contains("\"i\""));
    }
    let mut next = Script::new(1);
    next.reset(0, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    next.after(1, Input::Relayed(before.state.snapshot.clone()));
    next.after(1, replica(&before, 20));
    next.role(1, leading(4));
    next.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!((next.state.guard.removals().count(), next.state.snapshot.config.digest()), (1, digest));
    // The object was deleted meanwhile: the form that was held before stays.
    next.delete(1_000, 22, "routes/a");
    next.after(60_000, Input::Tick);
    assert_eq!(next.state.snapshot.config.digest(), digest);
}

#[test]
fn an_approved_change_is_not_undone_by_a_successor_that_had_held_it() {
    let mut before = restored_from_a_backup();
    let mut next = Script::new(1);
    next.reset(0, 0, 50, &[WEB, ("routes/a", OTHER)]);
    next.reset(10, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    before.after(1, Input::Approve { keys: Vec::new(), later: false, by: "alice".to_owned() });
    next.after(1, Input::Relayed(before.state.snapshot.clone()));
    next.after(1, replica(&before, 20));
    next.role(1, leading(4));
    next.reset(1, 0, 20, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!(next.state.guard.removals().count(), 0);
    assert_eq!(next.state.snapshot.config.digest(), before.state.snapshot.config.digest());
}

#[test]
fn a_follower_that_starts_behind_its_leader_holds_none_of_the_changes_that_it_missed() {
    let saved = SavedEntry {
        input: EntryInput { key: "routes/a".to_owned(), written: Written { value: OTHER.as_bytes().into(), revision: 9 }, unreadable: None },
        last_good: None,
    };
    let mut script = Script::new(1);
    script.state.restore(0, vec![saved], Now::default());
    let leader = published_by(3, &[WEB, ("routes/a", ROUTE)]);
    script.after(1, Input::Relayed(leader.clone()));
    script.after(1, Input::Replica(Box::new(Replica { at: BTreeMap::from([("store0".to_owned(), 5_000)]), ..Replica::default() })));
    script.reset(1, 0, 4_990, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!(script.state.guard.removals().count(), 0);
    script.role(1, leading(4));
    script.reset(1, 0, 5_001, &[WEB, ("routes/a", ROUTE)]);
    assert_eq!((script.state.guard.removals().count(), script.state.snapshot.config.digest()), (0, leader.config.digest()));
}

#[test]
fn a_removal_that_a_leader_has_judged_is_no_reason_to_distrust_the_store_later() {
    let mut before = restored_from_a_backup();
    before.after(1, Input::Approve { keys: Vec::new(), later: false, by: "alice".to_owned() });
    for replica_first in [false, true] {
        let mut next = Script::new(1);
        next.reset(0, 0, 50, &[WEB, ("routes/a", OTHER)]);
        if replica_first {
            next.after(1, replica(&before, 20));
        }
        next.reset(10, 0, 20, &[WEB, ("routes/a", ROUTE)]);
        next.after(1, Input::Relayed(before.state.snapshot.clone()));
        next.after(1, replica(&before, if replica_first { 60 } else { 20 }));
        next.put(3_600_000, 61, "routes/a", THIRD);
        next.role(1, leading(4));
        next.reset(1, 0, 61, &[WEB, ("routes/a", THIRD)]);
        assert_eq!(next.state.guard.removals().count(), 0, "a change like any other; replica first: {replica_first}");
    }
}

#[test]
fn a_leader_that_follows_again_still_has_the_removals_that_it_held() {
    let mut script = Script::new(1);
    script.reset(0, 0, 5, &[WEB]);
    script.after(1, Input::Relayed(published_by(3, &[WEB])));
    let at = BTreeMap::from([("store0".to_owned(), 5)]);
    script.after(1, Input::Replica(Box::new(Replica { at, ..Replica::default() })));
    script.role(1, leading(4));
    script.reset(1, 0, 6, &[]);
    script.after(60_000, Input::Tick);
    let removals = |script: &Script| script.state.removals_for_followers().0.iter().map(|removal| removal.object.path().to_owned()).collect::<Vec<_>>();
    assert_eq!(removals(&script), ["listener/web"]);
    script.role(1, Role::Following { leader: None });
    assert_eq!(removals(&script), ["listener/web"], "until whoever leads now has said what it keeps");
}

#[test]
fn an_announced_removal_that_happened_before_the_leader_died_is_released() {
    let mut before = Script::leading(1);
    before.reset(0, 0, 5, &[WEB]);
    before.after(1, Input::Approve { keys: vec!["listeners/web".to_owned()], later: true, by: "alice".to_owned() });
    let mut next = Script::new(1);
    next.reset(0, 0, 5, &[WEB]);
    next.after(1, Input::Relayed(before.state.snapshot.clone()));
    next.after(1, replica(&before, 5));
    next.delete(1, 6, "listeners/web");
    next.role(1, leading(4));
    next.reset(1, 0, 6, &[]);
    next.after(60_000, Input::Tick);
    assert_eq!((next.state.guard.removals().count(), next.state.snapshot.config.len()), (0, 0));
    // The announcement is used up by the removal.
    next.put(1, 7, "listeners/web", WEB.1);
    next.delete(1_000, 8, "listeners/web");
    next.after(60_000, Input::Tick);
    assert_eq!(next.state.guard.removals().count(), 1);
}

use super::*;
use crate::verdict::Status;

fn input(key: &str, value: &str, revision: u64) -> EntryInput {
    EntryInput { key: key.to_owned(), written: Written { value: value.as_bytes().into(), revision }, unreadable: None }
}

fn put(key: &str, value: &str, revision: u64) -> EntryChange {
    EntryChange::Put(input(key, value, revision))
}

fn delete(key: &str) -> EntryChange {
    EntryChange::Delete(key.to_owned())
}

struct World(Compiler);

impl World {
    fn new() -> Self {
        let mut compiler = Compiler::new(1, Limits::default());
        compiler.reset(0, Vec::new());
        Self(compiler)
    }

    fn apply(&mut self, changes: Vec<EntryChange>) -> Vec<String> {
        self.0.change(0, changes);
        self.0.commit().touched.into_iter().map(|id| id.key).collect()
    }

    fn verdict(&self, key: &str) -> String {
        let view = self.0.view(&EntryId { source: 0, key: key.to_owned() }).unwrap();
        let text = view.verdict.problem().map_or_else(|| format!("ok {}", view.verdict.conditions[0].reason), |c| format!("{}: {}", c.reason, c.message));
        view.last_good.map_or(text.clone(), |revision| format!("{text} (revision {revision} serves)"))
    }

    fn config(&self) -> Vec<String> {
        let mut paths: Vec<String> = self.0.config().objects().map(|object| object.path().to_owned()).collect();
        paths.sort();
        paths
    }
}

const ROUTE: &str = r#"{"hostnames":["a.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;

#[test]
fn a_route_may_come_before_its_backend_and_its_verdict_changes_when_that_arrives() {
    let mut world = World::new();
    world.apply(vec![put("routes/shop", ROUTE, 1)]);
    assert_eq!(
        world.verdict("routes/shop"),
        "BackendNotFound: there is no backend shop; register an endpoint under endpoints/shop/, until then it takes no requests, and a rule without another backend answers 503"
    );
    assert_eq!(world.config(), ["route/shop"]);
    let touched = world.apply(vec![put("endpoints/shop/a", "10.0.0.1:80", 2)]);
    assert_eq!(touched, ["endpoints/shop/a", "routes/shop"]);
    assert_eq!(world.verdict("routes/shop"), "ok Accepted");
    world.apply(vec![delete("endpoints/shop/a")]);
    assert!(world.verdict("routes/shop").starts_with("BackendNotFound"));
}

#[test]
fn a_rejected_entry_keeps_its_last_good_value_also_over_a_restart() {
    let mut world = World::new();
    world.apply(vec![put("routes/shop", ROUTE, 1)]);
    let digest = world.0.config().digest();
    world.apply(vec![put("routes/shop", r#"{"hostname":["a.com"]}"#, 2)]);
    let message = "Invalid: 1:2 unknown field \"hostname\"; did you mean \"hostnames\"? (revision 1 serves)";
    assert_eq!(world.verdict("routes/shop"), message);
    assert_eq!(world.0.config().digest(), digest);

    let mut again = World(Compiler::new(1, Limits::default()));
    again.0.restore(0, world.0.save(0));
    again.0.commit();
    assert!(again.0.complete());
    again.0.reset(0, vec![input("routes/shop", r#"{"hostname":["a.com"]}"#, 2)]);
    again.0.commit();
    assert_eq!(again.verdict("routes/shop"), message);
    assert_eq!(again.0.config().digest(), digest);
    again.apply(vec![delete("routes/shop")]);
    assert!(again.0.config().is_empty());
}

#[test]
fn of_two_routes_with_the_same_match_the_verdict_of_the_loser_names_the_winner() {
    let mut world = World::new();
    world.apply(vec![put("endpoints/shop/a", "10.0.0.1:80", 1), put("routes/b", ROUTE, 2)]);
    assert_eq!(world.verdict("routes/b"), "ok Accepted");
    let touched = world.apply(vec![put("routes/a", ROUTE, 3)]);
    assert_eq!(touched, ["routes/a", "routes/b"]);
    assert_eq!(world.verdict("routes/b"), "Shadowed: shadowed by routes/a, which claims the same match");
    assert_eq!(world.verdict("routes/a"), "ok Accepted");
    world.apply(vec![delete("routes/a")]);
    assert_eq!(world.verdict("routes/b"), "ok Accepted");
    let two = r#"{"hostnames":["a.com"],"rules":[{"matches":[{"path":{"value":"/x"}},{"path":{"value":"/y"}}],"backendRefs":[{"name":"shop"}]}]}"#;
    let one = r#"{"hostnames":["a.com"],"rules":[{"matches":[{"path":{"value":"/x"}}],"backendRefs":[{"name":"shop"}]}]}"#;
    world.apply(vec![put("routes/b", two, 5), put("routes/a", one, 6)]);
    assert_eq!(world.verdict("routes/b"), "ok PartiallyShadowed");
}

#[test]
fn current_switches_the_whole_config_at_once_and_refuses_an_empty_tree() {
    let mut world = World::new();
    world.apply(vec![put("routes/old", ROUTE, 1), put("trees/v2/routes/new", ROUTE, 2), put("endpoints/shop/a", "10.0.0.1:80", 3)]);
    assert_eq!(world.config(), ["route/old"]);
    assert!(world.verdict("trees/v2/routes/new").starts_with("NotInActiveTree"));
    world.apply(vec![put("current", "v2\n", 4)]);
    assert_eq!(world.config(), ["route/new"]);
    assert_eq!(world.verdict("routes/old"), "NotInActiveTree: the active config is trees/v2/; write current to switch");
    world.apply(vec![put("current", "v3", 5)]);
    assert_eq!(world.config(), ["route/new"]);
    assert_eq!(world.verdict("current"), "Invalid: 1:1 there is no key under trees/v3/; write the tree first, then current (revision 4 serves)");
    world.apply(vec![put("trees/v3/routes/third", ROUTE, 6)]);
    assert_eq!(world.config(), ["route/third"]);
    world.apply(vec![delete("current")]);
    assert_eq!(world.config(), ["route/old"]);
    assert_eq!(world.0.membership().len(), 1);
}

#[test]
fn the_first_store_wins_and_the_second_takes_over_when_it_is_gone() {
    let mut compiler = Compiler::new(2, Limits::default());
    compiler.reset(0, vec![input("endpoints/shop/a", "10.0.0.1:80", 1)]);
    assert!(!compiler.complete());
    compiler.reset(1, vec![input("endpoints/shop/a", "10.0.0.2:80", 1)]);
    compiler.commit();
    assert!(compiler.complete());
    let address = |compiler: &Compiler| compiler.membership().get("endpoint/shop/a").unwrap().bytes().to_owned();
    assert!(address(&compiler).contains("10.0.0.1"));
    let loser = compiler.view(&EntryId { source: 1, key: "endpoints/shop/a".to_owned() }).unwrap();
    assert_eq!(loser.verdict.problem().unwrap().reason, "Shadowed");
    compiler.change(0, vec![delete("endpoints/shop/a")]);
    assert!(compiler.commit().membership);
    assert!(address(&compiler).contains("10.0.0.2"));
}

#[test]
fn endpoints_over_the_limit_are_refused_and_move_up_when_there_is_room() {
    let limit = 3usize;
    for extra in [0usize, 1, 9 * limit] {
        let mut compiler = Compiler::new(1, Limits { endpoints_per_backend: limit, ..Limits::default() });
        compiler.reset(0, (0..limit + extra).map(|n| input(&format!("endpoints/shop/{n:02}"), "10.0.0.1:80", 1)).collect());
        compiler.commit();
        assert_eq!(compiler.membership().len(), limit);
        let refused = compiler.views().filter(|view| !view.verdict.accepted()).count();
        assert_eq!(refused, extra);
        compiler.change(0, vec![delete("endpoints/shop/00")]);
        compiler.commit();
        assert_eq!(compiler.membership().len(), (limit + extra - 1).min(limit));
    }
}

#[test]
fn entries_over_the_limit_are_refused() {
    for (entries, refused) in [(5usize, 0usize), (6, 1), (50, 45)] {
        let mut compiler = Compiler::new(1, Limits { entries: 5, ..Limits::default() });
        compiler.reset(0, (0..entries).map(|n| input(&format!("endpoints/shop/{n:02}"), "10.0.0.1:80", 1)).collect());
        compiler.commit();
        let refusals = |compiler: &Compiler| compiler.views().filter(|view| view.verdict.conditions[0].status == Status::False).count();
        assert_eq!(refusals(&compiler), refused);
        compiler.change(0, vec![delete("endpoints/shop/00")]);
        compiler.commit();
        assert_eq!(refusals(&compiler), refused.saturating_sub(1), "what was one too many takes the room");
        assert_eq!(compiler.membership().len(), (entries - 1).min(5));
    }
}

#[test]
fn room_that_is_made_in_the_same_commit_is_used_in_it() {
    let mut compiler = Compiler::new(1, Limits { endpoints_per_backend: 3, ..Limits::default() });
    compiler.reset(0, (5..8).map(|n| input(&format!("endpoints/shop/{n}"), "10.0.0.1:80", 1)).collect());
    compiler.commit();
    compiler.reset(0, (0..3).map(|n| input(&format!("endpoints/shop/{n}"), "10.0.0.1:80", 2)).collect());
    compiler.commit();
    assert_eq!(compiler.membership().len(), 3);
    assert!(compiler.views().all(|view| view.verdict.accepted()));
}

#[test]
fn the_last_good_current_stays_also_over_a_restart() {
    let mut world = World::new();
    world.apply(vec![put("routes/a", ROUTE, 1), put("trees/v2/routes/b", ROUTE, 1), put("current", "v2", 2)]);
    assert_eq!(world.config(), ["route/b"]);
    world.apply(vec![put("current", "v9", 3)]);
    assert_eq!(world.config(), ["route/b"]);
    assert_eq!(world.verdict("current"), "Invalid: 1:1 there is no key under trees/v9/; write the tree first, then current (revision 2 serves)");
    let mut fresh = Compiler::new(1, Limits::default());
    fresh.restore(0, world.0.save(0));
    fresh.commit();
    assert_eq!(fresh.config(), world.0.config());
    assert_eq!(fresh.entry_at("routes/b").unwrap().key, "trees/v2/routes/b", "the plain name means the active tree's");
}

#[test]
fn an_unreadable_entry_keeps_its_last_good_value_over_a_restart() {
    let mut world = World::new();
    world.apply(vec![put("endpoints/shop/10.0.0.5:80", "10.0.0.9:80", 1)]);
    let membership = world.0.membership().digest();
    let unreadable = EntryInput { unreadable: Some("permission denied".to_owned()), ..input("endpoints/shop/10.0.0.5:80", "", 2) };
    world.apply(vec![EntryChange::Put(unreadable)]);
    let mut fresh = Compiler::new(1, Limits::default());
    fresh.restore(0, world.0.save(0));
    fresh.commit();
    assert_eq!(fresh.membership().digest(), membership);
    world.apply(vec![put("endpoints/shop/10.0.0.5:80", "", 2)]);
    assert_eq!(world.verdict("endpoints/shop/10.0.0.5:80"), "ok Accepted", "the same bytes, but readable now");
}

#[test]
fn a_listener_that_serves_only_routes_that_name_it_is_not_shadowed_by_routes_that_name_none() {
    let mut world = World::new();
    let named = r#"{"hostnames":["a.com"],"listeners":["internal"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;
    world.apply(vec![
        put("endpoints/shop/a", "10.0.0.1:80", 1),
        put("listeners/internal", r#"{"address":"0.0.0.0:81","explicitOnly":true}"#, 1),
        put("routes/b", named, 1),
    ]);
    world.apply(vec![put("routes/a", ROUTE, 1)]);
    assert_eq!(world.verdict("routes/b"), "ok Accepted");
    let touched = world.apply(vec![put("listeners/internal", r#"{"address":"0.0.0.0:81"}"#, 2)]);
    assert!(touched.contains(&"routes/b".to_owned()));
    assert_eq!(world.verdict("routes/b"), "Shadowed: shadowed by routes/a, which claims the same match");
    let touched = world.apply(vec![delete("routes/a")]);
    assert!(touched.contains(&"routes/b".to_owned()), "{touched:?}");
    assert_eq!(world.verdict("routes/b"), "ok Accepted");
}

#[test]
fn a_route_that_moves_to_a_full_host_is_refused_and_its_former_value_serves_on() {
    let mut compiler = Compiler::new(1, Limits { routes_per_host: 1, ..Limits::default() });
    let route = |host: &str| format!(r#"{{"hostnames":["{host}"],"rules":[{{"backendRefs":[{{"name":"b"}}]}}]}}"#);
    compiler.reset(0, vec![input("routes/a", &route("h1"), 1), input("routes/b", &route("h2"), 1)]);
    compiler.commit();
    let before = compiler.config().digest();
    compiler.change(0, vec![put("routes/b", &route("h1"), 2)]);
    compiler.commit();
    assert_eq!(compiler.config().digest(), before);
    let view = compiler.view(&EntryId { source: 0, key: "routes/b".to_owned() }).unwrap();
    assert_eq!(view.verdict.conditions[0].reason, "OverLimit");
    compiler.change(0, vec![delete("routes/a")]);
    compiler.commit();
    assert!(compiler.views().all(|view| view.verdict.accepted()));
}

#[test]
fn unknown_keys_and_unreadable_values_hurt_only_themselves() {
    let mut world = World::new();
    let unreadable = EntryInput { unreadable: Some("permission denied".to_owned()), ..input("routes/b", "", 1) };
    world.apply(vec![put("rotues/a", "x", 1), EntryChange::Put(unreadable), put("routes/c", ROUTE, 1), put("", "", 1), put("routes/", "", 1)]);
    assert_eq!(world.verdict("rotues/a"), "UnknownKey: unknown kind \"rotues\"; did you mean \"routes\"?");
    assert_eq!(world.verdict("routes/b"), "Invalid: 1:1 permission denied");
    assert_eq!(world.config(), ["route/c"]);
    assert_eq!(world.0.views().count(), 3);
}

#[test]
fn nothing_is_compiled_anew_when_nothing_changed() {
    let mut world = World::new();
    world.apply(vec![put("routes/a", ROUTE, 1)]);
    world.0.change(0, vec![put("routes/a", ROUTE, 2)]);
    let outcome = world.0.commit();
    assert!(!outcome.config && !outcome.membership);
    world.0.reset(0, vec![input("routes/a", ROUTE, 2)]);
    assert!(world.0.commit().touched.is_empty());
}

mod incremental {
    use super::*;
    use proptest::prelude::*;

    fn step() -> impl Strategy<Value = EntryChange> {
        let keys = prop::sample::select(vec![
            "routes/a",
            "routes/b",
            "endpoints/shop/a",
            "endpoints/shop/b",
            "current",
            "trees/t/routes/a",
            "backends/shop",
            "junk/x",
        ]);
        let values = prop::sample::select(vec![ROUTE, "10.0.0.1:80", "t", "{}", "{\"hostname\":1}", ""]);
        (keys, prop::option::of(values), 0u64..3).prop_map(|(key, value, revision)| value.map_or_else(|| delete(key), |value| put(key, value, revision)))
    }

    proptest! {
        #[test]
        fn compiling_step_by_step_gives_the_same_result_as_compiling_at_once(steps in prop::collection::vec(step(), 0..60)) {
            let mut world = World::new();
            for step in &steps {
                world.apply(vec![step.clone()]);
            }
            // The same entries, each with its last good value, restored into a new compiler.
            let mut fresh = Compiler::new(1, Limits::default());
            fresh.restore(0, world.0.save(0));
            fresh.commit();
            prop_assert_eq!(world.0.active_tree(), fresh.active_tree());
            prop_assert_eq!(world.0.config(), fresh.config());
            prop_assert_eq!(world.0.membership(), fresh.membership());
            let verdicts = |compiler: &Compiler| compiler.views().map(|view| (view.id, view.verdict, view.last_good)).collect::<Vec<_>>();
            prop_assert_eq!(verdicts(&world.0), verdicts(&fresh));
        }

        #[test]
        fn counted_usage_equals_the_result_of_reading_all_entries(steps in prop::collection::vec((0usize..2, step()), 0..60)) {
            let limits = Limits { entries: 4, routes_per_host: 1, endpoints_per_backend: 1, ..Limits::default() };
            let mut compiler = Compiler::new(2, limits);
            for (source, step) in steps {
                compiler.change(source, vec![step]);
                compiler.commit();
                let rejected: Vec<EntryId> = compiler.views().filter(|view| !view.verdict.accepted()).map(|view| view.id).collect();
                prop_assert_eq!(compiler.rejected().iter().cloned().collect::<Vec<_>>(), rejected);
                let saved: Vec<SavedEntry> = (0..2).flat_map(|source| compiler.save(source)).collect();
                let largest = saved.iter().map(|saved| saved.input.written.value.len()).max().unwrap_or_default();
                prop_assert_eq!(compiler.most_used().value_bytes, largest);
                let last_goods: Vec<SavedEntry> = saved.into_iter().filter(|saved| saved.last_good.is_some()).collect();
                prop_assert_eq!((0..2).flat_map(|source| compiler.last_goods(source)).collect::<Vec<_>>(), last_goods);
                let ids: Vec<EntryId> = compiler.views_below("routes/").map(|view| view.id).collect();
                for (number, id) in ids.iter().enumerate() {
                    let after: Vec<EntryId> = compiler.views_after("routes/", Some(id)).map(|view| view.id).collect();
                    prop_assert_eq!(&after, &ids[number + 1..]);
                }
            }
        }
    }
}

#[test]
fn routes_of_one_host_over_the_limit_are_refused_and_move_up_when_there_is_room() {
    let limit = 3usize;
    for extra in [0usize, 1, 9 * limit] {
        let mut compiler = Compiler::new(1, Limits { routes_per_host: limit, ..Limits::default() });
        let route = |n: usize| format!(r#"{{"hostnames":["h"],"rules":[{{"matches":[{{"path":{{"value":"/{n}"}}}}],"backendRefs":[{{"name":"b"}}]}}]}}"#);
        compiler.reset(0, (0..limit + extra).map(|n| input(&format!("routes/{n:02}"), &route(n), 1)).collect());
        compiler.commit();
        assert_eq!(compiler.config().len(), limit);
        let refused = compiler.views().filter(|view| !view.verdict.accepted()).count();
        assert_eq!(refused, extra);
        compiler.change(0, vec![EntryChange::Delete("routes/00".to_owned())]);
        compiler.commit();
        assert_eq!(compiler.config().len(), (limit + extra - 1).min(limit));
    }
}

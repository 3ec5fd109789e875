use waypost_model::compile::{EntryId, Written};

use super::*;
use waypost_model::lane::Change;

/// A store's content, the guard over it, and a clock.
struct World {
    guard: Guard,
    config: Lane,
    membership: Lane,
    now: Duration,
}

fn object(path: &str) -> Arc<Object> {
    let (kind, name) = path.split_once('/').unwrap();
    let spec = match kind {
        "endpoint" => r#"{"address":"10.0.0.1:80"}"#,
        "listener" if name == "secure" => r#"{"address":"0.0.0.0:443","protocol":"HTTPS","tls":{"certificates":["shop"]}}"#,
        "listener" => r#"{"address":"0.0.0.0:80"}"#,
        _ => "{}",
    };
    Object::read(&format!(r#"{{"kind":"{kind}","minLevel":1,"name":"{name}","spec":{spec}}}"#)).unwrap()
}

fn departed(object: Arc<Object>) -> Departed {
    let key = object.path().to_owned();
    Departed { object, origin: Origin { id: EntryId { source: 0, key }, written: Written { value: b"x".as_slice().into(), revision: 1 } }, replaced: false }
}

impl World {
    fn new(routes: usize, backends: &[(&str, usize)]) -> Self {
        let put = |path: String| Change::Put(object(&path));
        let config = Lane::default().with((0..routes).map(|n| put(format!("route/r{n:03}"))).chain([put("listener/web".to_owned())]));
        let endpoints = backends.iter().flat_map(|(name, count)| (0..*count).map(move |n| format!("endpoint/{name}/{n:03}")));
        let membership = Lane::default().with(endpoints.map(put).collect::<Vec<_>>());
        Self { guard: Guard::new(Thresholds::default()), config, membership, now: Duration::from_secs(100) }
    }

    fn remove(&mut self, paths: &[String]) -> &mut Self {
        let mut all = Vec::new();
        for path in paths {
            let lane = if path.starts_with("endpoint/") { &mut self.membership } else { &mut self.config };
            all.extend(lane.get(path).cloned().map(departed));
            *lane = lane.with([Change::Delete(path.clone())]);
        }
        self.guard.take(&[], all, ((&self.config, &self.membership), &[]), None, (self.now, 0));
        self.guard.give_way((&self.config, &self.membership), &|_| false);
        self
    }

    fn add(&mut self, path: &str) -> &mut Self {
        let lane = if path.starts_with("endpoint/") { &mut self.membership } else { &mut self.config };
        *lane = lane.with([Change::Put(object(path))]);
        self.guard.take(&[path.to_owned()], Vec::new(), ((&self.config, &self.membership), &[]), None, (self.now, 0));
        self.guard.give_way((&self.config, &self.membership), &|_| false);
        self
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self.guard.tick(&self.config, &self.membership, self.now);
        self
    }

    /// How many removals are held, by reason.
    fn held(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for removal in self.guard.removals() {
            let message = match &removal.judgement {
                Judgement::Held { why } => why.clone(),
                other => format!("{other:?}"),
            };
            *counts.entry(message).or_default() += 1;
        }
        counts
    }
}

fn routes(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("route/r{n:03}")).collect()
}

fn endpoints(backend: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("endpoint/{backend}/{n:03}")).collect()
}

fn held(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect()
}

#[test]
fn few_routes_go_after_a_moment_and_many_are_held() {
    for (all, removed, reason) in
        [(1, 1, ""), (4, 4, ""), (5, 4, ""), (5, 5, "5 of 5 routes went within a minute"), (500, 100, ""), (500, 101, "101 of 500 routes went within a minute")]
    {
        let mut world = World::new(all, &[]);
        world.remove(&routes(0..removed));
        assert_eq!(world.held(), held(&[("Waiting", removed)]), "nothing goes before it is judged");
        assert_eq!(world.guard.apply(&world.config, &world.membership).0.len(), all + 1);
        world.after(500);
        assert_eq!(world.held(), if reason.is_empty() { held(&[]) } else { held(&[(reason, removed)]) }, "{removed} of {all}");
    }
}

#[test]
fn endpoints_that_drain_or_have_no_weight_are_not_what_is_left_of_a_backend() {
    for idle in [r#"{"address":"10.0.0.9:80","drain":true}"#, r#"{"address":"10.0.0.9:80","weight":0}"#] {
        let mut world = World::new(1, &[("shop", 1)]);
        let idle = |n: usize| Object::read(&format!(r#"{{"kind":"endpoint","minLevel":1,"name":"shop/idle{n}","spec":{idle}}}"#)).unwrap();
        world.membership = world.membership.with((0..8).map(|n| Change::Put(idle(n))));
        world.remove(&endpoints("shop", 0..1)).after(500);
        assert_eq!(world.held(), held(&[("backend shop lost its last endpoint", 1)]), "the last one that takes requests");
        let mut world = World::new(1, &[("shop", 1)]);
        world.membership = world.membership.with([Change::Put(idle(0))]);
        world.remove(&["endpoint/shop/idle0".to_owned()]).after(500);
        assert_eq!(world.held(), held(&[]), "it took none");
    }
}

#[test]
fn deletions_key_by_key_are_judged_together_and_an_object_that_comes_back_is_not_held() {
    let mut world = World::new(20, &[]);
    for n in 0..4 {
        world.remove(&routes(n..n + 1)).after(1_000);
    }
    assert_eq!(world.held(), held(&[]), "four of twenty have gone one after the other");
    world.remove(&routes(4..5)).after(600);
    assert_eq!(world.held(), held(&[("5 of 20 routes went within a minute", 5)]), "the fifth brings the others back");
    let (config, _) = world.guard.apply(&world.config, &world.membership);
    assert_eq!(config.of_kind("route").count(), 20);
}

#[test]
fn a_writer_that_never_rests_is_judged_after_five_seconds() {
    let mut world = World::new(500, &[]);
    for n in 0..40 {
        world.remove(&routes(n..n + 1)).after(200);
    }
    assert!(world.held().get("Waiting").is_none_or(|waiting| *waiting < 40), "{:?}", world.held());
}

#[test]
fn a_listener_is_held_and_a_drained_endpoint_goes() {
    let mut world = World::new(1, &[("shop", 1)]);
    world.remove(&["listener/web".to_owned()]).after(600);
    assert_eq!(world.held(), held(&[("a listener went", 1)]));
    let drained = Object::read(r#"{"kind":"endpoint","minLevel":1,"name":"shop/000","spec":{"address":"10.0.0.1:80","drain":true}}"#).unwrap();
    world.guard.take(&[], vec![departed(drained)], ((&world.config, &world.membership), &[]), None, (world.now, 0));
    world.after(600);
    assert_eq!(world.held(), held(&[("a listener went", 1)]));
}

#[test]
fn a_listener_that_was_renamed_is_not_missed() {
    let mut world = World::new(1, &[]);
    world.remove(&["listener/web".to_owned()]).after(600);
    world.add("listener/front");
    assert_eq!(world.held(), held(&[]));
}

#[test]
fn a_backends_last_endpoint_goes_when_confirmed_if_it_is_a_small_part_of_all() {
    let mut world = World::new(1, &[("shop", 1), ("other", 20)]);
    world.remove(&endpoints("shop", 0..1)).after(600);
    assert_eq!(world.held(), held(&[("Confirming", 1)]));
    let (_, membership) = world.guard.apply(&world.config, &world.membership);
    assert!(membership.get("suspect/shop/000").is_some() && membership.get("endpoint/shop/000").is_some());
    let went = world.now;
    assert!(!world.guard.confirmed(went + Duration::from_secs(9)));
    assert!(world.guard.confirmed(went + Duration::from_secs(10)));
    assert_eq!(world.held(), held(&[]));
    let mut lone = World::new(1, &[("shop", 1)]);
    lone.remove(&endpoints("shop", 0..1)).after(600);
    assert_eq!(lone.held(), held(&[("backend shop lost its last endpoint", 1)]));
}

#[test]
fn many_endpoints_of_several_backends_are_held_and_a_few_go() {
    let mut world = World::new(1, &[("a", 50), ("b", 50)]);
    world.remove(&[endpoints("a", 0..2), endpoints("b", 0..2)].concat()).after(600);
    assert_eq!(world.held(), held(&[]));
    world.remove(&[endpoints("a", 2..6), endpoints("b", 2..6)].concat()).after(600);
    assert_eq!(world.held(), held(&[("12 of 100 endpoints of 2 backends went within a minute", 12)]));
}

#[test]
fn a_backend_has_settings_of_its_own_but_a_store_that_is_not_believed_is_not() {
    let written = |guard: &str| Object::read(&format!(r#"{{"kind":"backend","minLevel":1,"name":"b","spec":{{"guard":{guard}}}}}"#)).unwrap();
    for (guard, removed, held_counts) in [
        ("{}", 8, [("Confirming", 8)].as_slice()),
        (r#"{"percent":90}"#, 8, &[]),
        (r#"{"percent":90}"#, 10, &[("Confirming", 10)]),
        (r#"{"percent":10}"#, 3, &[("Confirming", 3)]),
        (r#"{"percent":10,"least":4}"#, 3, &[]),
        (r#"{"enabled":false}"#, 10, &[]),
    ] {
        let mut world = World::new(1, &[("a", 100), ("b", 10)]);
        world.config = world.config.with([Change::Put(written(guard))]);
        world.remove(&endpoints("b", 0..removed)).after(600);
        assert_eq!(world.held(), held(held_counts), "{guard}, {removed} went");
    }
    let mut world = World::new(1, &[("b", 2)]);
    world.config = world.config.with([Change::Put(written(r#"{"enabled":false}"#))]);
    let all: Vec<Departed> = world.membership.objects().cloned().map(departed).collect();
    let config = world.config.clone();
    world.guard.take(&[], all, ((&config, &Lane::default()), &[]), Some(DistrustedStore { source: 0, why: "the store became empty" }), (world.now, 0));
    assert_eq!(world.held(), held(&[("the store became empty", 2)]));
}

#[test]
fn a_rolling_deploy_that_replaces_every_endpoint_holds_nothing_that_is_added_first() {
    let mut world = World::new(1, &[("shop", 10), ("other", 100)]);
    for n in 0..10 {
        world.add(&format!("endpoint/shop/{:03}", 100 + n)).after(1_500);
        world.remove(&endpoints("shop", n..n + 1)).after(1_500);
        world.guard.confirmed(world.now);
    }
    world.after(15_000);
    world.guard.confirmed(world.now);
    assert_eq!(world.held(), held(&[]));
}

#[test]
fn an_object_that_comes_back_or_is_approved_is_held_no_longer() {
    let mut world = World::new(10, &[]);
    world.remove(&routes(0..6)).after(600);
    world.add("route/r000");
    assert_eq!(world.guard.removals().count(), 5);
    assert_eq!(world.guard.approve(&|path| path == "route/r001", &[], false, world.now), ["route/r001"]);
    assert_eq!(world.guard.approve(&|path| path == "route/none", &[], false, world.now), [""; 0]);
    assert_eq!(world.guard.approve(&|_| true, &[], false, world.now).len(), 4);
    assert_eq!(world.held(), held(&[]));
    world.guard.approve(&|_| false, &["listener/web".to_owned()], false, world.now);
    world.remove(&["listener/web".to_owned()]);
    assert_eq!(world.held(), held(&[]), "its approval came first");
}

#[test]
fn a_store_that_is_not_believed_changes_nothing() {
    let mut world = World::new(2, &[("shop", 1)]);
    let all: Vec<Departed> = world.config.objects().chain(world.membership.objects()).cloned().map(departed).collect();
    let changed = Departed { replaced: true, ..departed(object("route/r000")) };
    world.guard.take(
        &[],
        all.into_iter().chain([changed]).collect(),
        ((&Lane::default(), &Lane::default()), &[]),
        Some(DistrustedStore { source: 0, why: "the store became empty" }),
        (world.now, 0),
    );
    world.after(600);
    assert_eq!(world.held(), held(&[("the store became empty", 4)]));
}

#[test]
fn removals_just_before_a_store_was_found_empty_are_held_with_the_rest() {
    let mut world = World::new(20, &[("a", 2)]);
    world.remove(&routes(0..2)).after(600);
    assert!(world.held().is_empty(), "two of twenty go");
    let all: Vec<Departed> = world.config.of_kind("route").cloned().map(departed).collect();
    world.guard.take(&[], all, ((&Lane::default(), &Lane::default()), &[]), Some(DistrustedStore { source: 0, why: "the store became empty" }), (world.now, 0));
    assert_eq!(world.held(), BTreeMap::from([("the store became empty".to_owned(), 20)]));
}

#[test]
fn removals_from_before_a_restart_are_judged_only_after_their_store_had_time_to_be_read() {
    let mut world = World::new(20, &[]);
    world.remove(&routes(0..3));
    let saved: Vec<Removal> = world.guard.removals().cloned().collect();
    world.guard = Guard::new(Thresholds::default());
    world.guard.restore(saved, world.now);
    world.after(3_000);
    assert_eq!(world.held(), BTreeMap::from([("Waiting".to_owned(), 3)]));
    world.remove(&routes(3..20)).after(600);
    assert_eq!(world.held(), BTreeMap::from([("20 of 20 routes went within a minute".to_owned(), 20)]));
}

#[test]
fn a_policy_stays_while_its_endpoints_or_routes_do_and_is_removed_by_itself_otherwise() {
    let policy = || vec!["backend/shop".to_owned()];
    let mut alone = World::new(10, &[("shop", 4)]);
    alone.add("backend/shop").remove(&policy()).after(600);
    assert!(alone.held().is_empty(), "nobody misses it");
    // Deleted before its endpoints, key by key, or after them.
    for policy_first in [true, false] {
        let mut world = World::new(10, &[("shop", 4)]);
        world.add("backend/shop");
        let parts = if policy_first { [policy(), endpoints("shop", 0..4)] } else { [endpoints("shop", 0..4), policy()] };
        for part in parts {
            world.remove(&part).after(600);
        }
        let held =
            BTreeMap::from([("backend shop lost its last endpoint".to_owned(), 4), ("the policy of backend shop went with what it is about".to_owned(), 1)]);
        assert_eq!(world.held(), held, "policy first: {policy_first}");
        let (config, _) = world.guard.apply(&world.config, &world.membership);
        assert!(config.get("backend/shop").is_some());
    }
    let mut many = World::new(10, &[("shop", 4)]);
    many.add("backend/shop").remove(&[policy(), routes(0..6)].concat()).after(600);
    assert_eq!(many.held().len(), 2, "{:?}", many.held());
    // The last endpoint of a small backend goes once the store has confirmed that, and its policy with it.
    let mut small = World::new(10, &[("shop", 1), ("big", 30)]);
    small.add("backend/shop").remove(&[policy(), endpoints("shop", 0..1)].concat()).after(600);
    assert_eq!(small.held(), BTreeMap::from([("Confirming".to_owned(), 2)]));
    // If the store is distrusted, an older policy is no better.
    let mut flagged = World::new(1, &[]);
    let older = Departed { replaced: true, ..departed(object("backend/shop")) };
    flagged.guard.take(
        &[],
        vec![older],
        ((&flagged.config, &flagged.membership), &[]),
        Some(DistrustedStore { source: 0, why: "the store went back" }),
        (flagged.now, 0),
    );
    assert_eq!(flagged.held().len(), 1);
}

#[test]
fn a_held_endpoint_gives_way_to_whoever_registers_its_address_in_any_spelling() {
    let mut world = World::new(1, &[("pay", 1), ("shop", 20)]);
    world.remove(&endpoints("pay", 0..1)).after(600);
    assert_eq!(world.held(), held(&[("Confirming", 1)]));
    let lanes = (&world.config.clone(), &world.membership.clone());
    for (registered, given_up) in [("10.0.0.2:80", 0), ("[::ffff:10.0.0.1]:80", 1)] {
        let registered = Address::try_from(registered.to_owned()).unwrap().canonical();
        assert_eq!(world.guard.give_way(lanes, &|address| address.canonical() == registered).len(), given_up);
    }
    assert!(world.held().is_empty());
}

#[test]
fn a_held_listener_gives_way_to_one_on_its_port_that_the_same_proxies_could_bind() {
    let listener = |name: &str, spec: &str| Object::read(&format!(r#"{{"kind":"listener","minLevel":1,"name":"{name}","spec":{spec}}}"#)).unwrap();
    for (spec, stays) in [
        (r#"{"address":"127.0.0.1:80"}"#, false),
        (r#"{"address":"127.0.0.1:81"}"#, true),
        (r#"{"address":"[::]:80"}"#, true),
        (r#"{"address":"0.0.0.0:80","proxies":{"tier":"core"}}"#, false),
    ] {
        let mut world = World::new(0, &[]);
        world.remove(&["listener/web".to_owned()]).after(600);
        world.config = world.config.with([Change::Put(listener("next", spec))]);
        world.guard.give_way((&world.config, &world.membership), &|_| false);
        assert_eq!(world.held() == held(&[("a listener went", 1)]), stays, "{spec}");
    }
}

#[test]
fn a_certificate_that_a_listener_names_is_held_and_any_other_goes() {
    let mut world = World::new(1, &[]);
    world.add("listener/secure").add("certificate/shop").add("certificate/spare").after(60_000);
    world.remove(&["certificate/shop".to_owned(), "certificate/spare".to_owned()]).after(5_000);
    let why = |path: &str| match &world.guard.removals.get(path).unwrap().judgement {
        Judgement::Held { why } => why.clone(),
        other => format!("{other:?}"),
    };
    assert_eq!(why("certificate/shop"), "a certificate went that listeners/secure names");
    assert_eq!(why("certificate/spare"), "Released");
    // A store that lost both keeps both.
    let mut world = World::new(1, &[]);
    world.add("listener/secure").add("certificate/shop").after(60_000);
    world.remove(&["certificate/shop".to_owned(), "listener/secure".to_owned()]).after(5_000);
    assert!(world.guard.removals.values().all(|removal| matches!(removal.judgement, Judgement::Held { .. })), "{:?}", world.guard.removals);
}

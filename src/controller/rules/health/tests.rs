use waypost_wire::Probed;

use super::*;

const V1: Version = Version { epoch: 1, sequence: 1 };

/// A publication, and the findings of proxies.
struct World {
    health: Health,
    config: Lane,
    membership: Lane,
    said: BTreeMap<String, Findings>,
    version: Version,
}

fn object(path: &str, spec: &str) -> Change {
    let (kind, name) = path.split_once('/').unwrap();
    Change::Put(Object::read(&format!(r#"{{"kind":"{kind}","minLevel":1,"name":"{name}","spec":{spec}}}"#)).unwrap())
}

impl World {
    /// A backend with a check and three endpoints, and so many proxies.
    fn new(check: &str, proxies: usize) -> Self {
        let config = Lane::default().with([object("backend/shop", &format!(r#"{{"healthCheck":{check}}}"#)), object("route/r", "{}")]);
        let endpoints = ["a", "b", "c"].map(|id| object(&format!("endpoint/shop/{id}"), r#"{"address":"10.0.0.1:80"}"#));
        let membership = Lane::default().with(endpoints);
        let mut this = Self { health: Health::default(), config, membership, said: BTreeMap::new(), version: V1 };
        this.fleet(proxies);
        this.publish();
        this
    }

    fn fleet(&mut self, proxies: usize) -> bool {
        self.health.set_fleet((0..proxies).map(|number| (format!("p{number}"), None)).collect())
    }

    fn publish(&mut self) -> Lane {
        let lane = self.health.overlay(&self.config, self.membership.clone(), self.version);
        self.version = self.version.next();
        lane
    }

    fn probers(&self, endpoint: &str) -> Vec<String> {
        self.health.probers(endpoint).unwrap().map(str::to_owned).collect()
    }

    /// A proxy reports that these endpoints fail and that it cannot tell of those.
    fn say(&mut self, proxy: &str, failing: &[&str], unsure: &[&str]) -> Vec<HealthChange> {
        self.say_why(proxy, failing, "status 503", unsure)
    }

    fn say_why(&mut self, proxy: &str, failing: &[&str], why: &str, unsure: &[&str]) -> Vec<HealthChange> {
        let version = Version { epoch: self.version.epoch, sequence: self.version.sequence - 1 };
        let failing = failing.iter().map(|&name| (name.to_owned(), why.to_owned())).collect();
        let probed = Probed { version, failing, unsure: unsure.iter().map(|&name| name.to_owned()).collect(), ..Probed::default() };
        let mut names = self.said.entry(proxy.to_owned()).or_default().merge(&probed).unwrap();
        names.extend(self.health.take_report(proxy, version));
        self.judge(&names, true)
    }

    fn judge(&mut self, names: &BTreeSet<String>, met: bool) -> Vec<HealthChange> {
        let said = &self.said;
        self.health.judge(names, &|proxy| said.get(proxy), met, 7)
    }

    /// All proxies have nothing but good answers.
    fn all_well(&mut self, proxies: usize) {
        for number in 0..proxies {
            assert!(self.say(&format!("p{number}"), &[], &[]).is_empty());
        }
    }
}

fn paths(lane: &Lane, kind: &str) -> Vec<String> {
    let mut paths: Vec<String> = lane.of_kind(kind).map(|object| object.name().to_owned()).collect();
    paths.sort();
    paths
}

#[test]
fn probers_are_published_only_while_there_is_something_to_probe() {
    let mut world = World::new("{}", 2);
    let lane = world.publish();
    assert_eq!(paths(&lane, "prober"), ["p0", "p1"]);
    assert_eq!(world.probers("shop/a").len(), 2, "three are asked for, two are there");
    world.config = world.config.with([object("backend/shop", "{}")]);
    let lane = world.publish();
    assert_eq!((paths(&lane, "prober").len(), paths(&lane, "health").len(), paths(&lane, "endpoint").len()), (0, 0, 3));
    assert!(world.health.probers("shop/a").is_none());
    assert!(world.fleet(3) && !world.fleet(3));
    let before = lane.digest();
    assert_eq!(world.publish().digest(), before, "who could probe does not matter then");
}

#[test]
fn an_endpoint_turns_with_the_majority_of_its_probers_and_back() {
    let mut world = World::new("{}", 5);
    world.all_well(5);
    let three = world.probers("shop/a");
    assert_eq!(three.len(), 3);
    assert!(world.say(&three[0], &["shop/a"], &[]).is_empty(), "one of three is cut off, perhaps");
    let turns = world.say(&three[1], &["shop/a"], &[]);
    assert_eq!(turns, [HealthChange { endpoint: "shop/a".to_owned(), healthy: false, message: "2 of 3 probers: status 503".to_owned() }]);
    assert_eq!(paths(&world.publish(), "health"), ["shop/a"]);
    assert!(world.say(&three[2], &["shop/a"], &[]).is_empty());
    assert!(world.say(&three[0], &[], &[]).is_empty(), "one good answer of three is not enough either");
    assert!(world.say(&three[1], &[], &[])[0].healthy);
    assert_eq!(paths(&world.publish(), "health"), Vec::<String>::new());
    let other = (0..5).map(|number| format!("p{number}")).find(|name| !three.contains(name)).unwrap();
    assert!(world.say(&other, &["shop/a"], &[]).is_empty());
    assert!(world.health.troubled().is_empty(), "it was not asked");
}

#[test]
fn the_reason_of_an_unhealthy_endpoint_is_the_present_finding_of_its_probers() {
    let mut world = World::new("{}", 3);
    world.all_well(3);
    for proxy in ["p0", "p1"] {
        world.say(proxy, &["shop/a"], &[]);
    }
    assert_eq!(world.health.out("shop/a").unwrap().why, "status 503");
    for proxy in ["p0", "p1"] {
        assert!(world.say_why(proxy, &["shop/a"], "no answer", &[]).is_empty());
    }
    assert_eq!(world.health.out("shop/a").unwrap().why, "no answer");
}

#[test]
fn a_prober_that_cuts_itself_off_empties_nothing_and_two_that_disagree_change_nothing() {
    let mut world = World::new("{}", 3);
    world.all_well(3);
    assert!(world.say("p0", &["shop/a", "shop/b", "shop/c"], &[]).is_empty());
    let mut two = World::new("{}", 2);
    two.all_well(2);
    assert!(two.say("p0", &["shop/a"], &[]).is_empty());
    assert!(!two.say("p1", &["shop/a"], &[])[0].healthy);
    assert!(two.say("p1", &[], &[]).is_empty(), "it stays out until both agree");
}

#[test]
fn a_proxy_that_has_not_heard_of_an_endpoint_does_not_call_it_healthy() {
    let mut world = World::new("{}", 1);
    world.all_well(1);
    world.membership = world.membership.with([object("endpoint/shop/d", r#"{"address":"10.0.0.2:80"}"#)]);
    // It reports the findings of the version before.
    let stale = Probed { version: V1, ..Probed::default() };
    world.publish();
    world.health.out.insert("shop/d".to_owned(), Unhealthy::default());
    let mut names = world.said.get_mut("p0").unwrap().merge(&stale).unwrap();
    names.extend(world.health.take_report("p0", V1));
    assert!(world.judge(&names, true).is_empty());
    assert!(world.say("p0", &[], &["shop/d"]).is_empty(), "it is being probed");
    assert!(world.say("p0", &[], &[])[0].healthy, "now it was");
}

#[test]
fn proxies_that_left_do_not_count_unless_they_may_not_have_found_us_yet() {
    let mut world = World::new("{}", 3);
    world.all_well(3);
    world.said.remove("p1");
    world.said.remove("p2");
    world.said.get_mut("p0").unwrap().note(&"shop/a".into(), Finding::Failing("no answer".to_owned()));
    let names = BTreeSet::from(["shop/a".to_owned()]);
    assert!(world.judge(&names, false).is_empty(), "one of three");
    assert!(!world.judge(&names, true)[0].healthy, "the only one there is");
}

#[test]
fn a_new_leader_goes_on_with_inherited_findings_and_forgets_endpoints_that_do_not_exist() {
    let mut world = World::new("{}", 3);
    world.all_well(3);
    for proxy in ["p0", "p1"] {
        world.say(proxy, &["shop/a", "shop/b"], &[]);
    }
    let membership = world.publish();
    assert_eq!(paths(&membership, "health"), ["shop/a", "shop/b"]);
    let mut next = Health::default();
    next.inherit(&Snapshot { membership: membership.clone(), config: world.config.clone(), ..Snapshot::default() });
    assert_eq!(next.base(), &world.membership, "what was added is taken away again");
    assert_eq!(next.fleet().len(), 3);
    let version = Version { epoch: 2, sequence: 1 };
    assert_eq!(next.overlay(&world.config, world.membership.clone(), version).digest(), membership.digest(), "nothing changes by itself");
    let without = world.membership.with([Change::Delete("endpoint/shop/a".to_owned())]);
    let lane = next.overlay(&world.config, without, version.next());
    assert_eq!((paths(&lane, "health"), paths(&lane, "prober").len()), (vec!["shop/b".to_owned()], 3));
}

#[test]
fn a_backend_of_which_too_little_is_healthy_panics() {
    let mut world = World::new(r#"{"probers":1}"#, 1);
    world.all_well(1);
    world.say("p0", &["shop/a"], &[]);
    assert!(!world.health.backend("shop").panics);
    world.say("p0", &["shop/a", "shop/b"], &[]);
    let shop = |endpoints, unhealthy, panics| BTreeMap::from([("shop".to_owned(), BackendHealth { endpoints, unhealthy, panics })]);
    assert_eq!(world.health.backend("shop"), shop(3, 2, true)["shop"]);
    assert!(world.health.troubled().is_empty(), "that is not published yet");
    world.publish();
    assert_eq!(*world.health.troubled(), shop(3, 2, true));
    // A draining endpoint is not probed, and no longer counts.
    world.membership = world.membership.with([object("endpoint/shop/b", r#"{"address":"10.0.0.1:80","drain":true}"#)]);
    world.publish();
    assert_eq!(*world.health.troubled(), shop(2, 1, false));
    world.say("p0", &[], &[]);
    world.publish();
    assert!(world.health.troubled().is_empty());
}

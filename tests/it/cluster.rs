//! Several controllers as one control plane: what one keeps, all keep; any of them answers; leading is handed over in peace;
//! and with the store and all others dead, one that starts relays the last good state.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use waypost_testkit::Process;
use waypost_testkit::servers::{Etcd, Server as _};

use crate::harness::{Backend, Load, get, info, leader_of, loopback, ok, page, start_proxy_of, text, until, verb, waypost};

struct Cluster {
    folder: tempfile::TempDir,
    store: String,
    apis: Vec<SocketAddr>,
    running: Vec<Option<Process>>,
}

impl Cluster {
    /// So many controllers; `{dir}` in the store's URL is a directory of their own.
    fn start(store: &str, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        let store = store.replace("{dir}", &folder.path().display().to_string());
        let mut cluster = Self { folder, store, apis: (0..count).map(|_| loopback()).collect(), running: Vec::new() };
        for number in 0..count {
            let process = cluster.controller(number, &[]);
            cluster.running.push(Some(process));
        }
        cluster
    }

    fn controller(&self, number: usize, extra: &[&str]) -> Process {
        let state = self.folder.path().join(format!("c{number}"));
        let mut command = Command::new(waypost());
        command.args(["controller", "--store", &self.store, "--state", &state.display().to_string(), "--api", &self.apis[number].to_string()]);
        command.args(["--name", &format!("c{number}"), "--leader-ttl", "3s"]).args(extra);
        let mut process = Process::start(&mut command, &state.with_extension("log"));
        waypost_testkit::process::wait_for_port(self.apis[number], &mut process);
        process
    }

    fn proxy(&self, name: &str, bind: &str) -> Process {
        start_proxy_of(&self.apis, &self.folder.path().join(name), name, bind)
    }

    fn kill(&mut self, number: usize) {
        self.running[number].take().unwrap().kill();
    }

    fn verb(&self, number: usize, arguments: &[&str]) -> Output {
        verb(self.apis[number], arguments)
    }

    fn ok(&self, number: usize, arguments: &[&str]) -> String {
        ok(self.apis[number], arguments)
    }

    fn info(&self, number: usize) -> serde_json::Value {
        info(self.apis[number])
    }

    /// The leader, once all other running controllers follow it.
    fn leader(&self) -> usize {
        let running: Vec<usize> = (0..self.running.len()).filter(|number| self.running[*number].is_some()).collect();
        let named: Vec<_> = running.iter().map(|number| (format!("c{number}"), self.apis[*number])).collect();
        running[leader_of(&named)]
    }

    fn others(&self, leader: usize) -> Vec<usize> {
        (0..self.running.len()).filter(|number| *number != leader && self.running[*number].is_some()).collect()
    }
}

#[test]
fn pins_and_held_removals_outlive_the_leader_that_was_asked_for_them() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 3);
    let leader = cluster.leader();
    let others = cluster.others(leader);
    let _proxy = cluster.proxy("p1", "127.0.0.1");
    let web = loopback();
    cluster.ok(others[0], &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(others[0], &["put", "routes/page", &page("good"), "--wait"]);
    until("the good config in the history", || cluster.ok(others[1], &["history"]).contains("put route/page"));
    let good = cluster.ok(others[1], &["history"]).lines().find(|line| line.contains("put route/page")).unwrap().split(' ').next().unwrap().to_owned();
    cluster.ok(others[0], &["put", "routes/page", &page("bad"), "--wait"]);
    // A follower is asked, and the leader carries the request out.
    cluster.ok(others[0], &["rollback", "--to", &good, "--by", "alice"]);
    until("the good page", || get(web, "page", "/").body == "good");
    // A refused value, whose last good value only the running controllers have.
    std::fs::write(cluster.folder.path().join("waypost/listeners/web"), "garbage").unwrap();
    until("the refusal", || text(&cluster.verb(leader, &["status"]).stdout).contains("Rejected: 1"));
    until("the hold on every controller", || {
        others
            .iter()
            .all(|number| std::fs::read_to_string(cluster.folder.path().join(format!("c{number}/operator.json"))).is_ok_and(|saved| saved.contains("alice")))
    });
    // One of them loses its disk, and comes back empty.
    cluster.kill(others[0]);
    std::fs::remove_dir_all(cluster.folder.path().join(format!("c{}", others[0]))).unwrap();
    let again = cluster.controller(others[0], &[]);
    cluster.running[others[0]] = Some(again);
    assert_eq!(cluster.leader(), leader, "the leader stays");
    until("the hold on the new disk", || {
        std::fs::read_to_string(cluster.folder.path().join(format!("c{}/operator.json", others[0]))).is_ok_and(|saved| saved.contains("alice"))
    });
    // It alone is left.
    cluster.kill(leader);
    cluster.kill(others[1]);
    assert_eq!(cluster.leader(), others[0]);
    until("the proxy", || text(&cluster.verb(others[0], &["status"]).stdout).contains("Proxies:  1 connected"));
    let output = text(&cluster.verb(others[0], &["status"]).stdout);
    assert!(output.contains(&format!("config {good} is pinned by alice")), "{output}");
    assert!(cluster.ok(others[0], &["history", "--audit"]).contains("alice"));
    assert_eq!(get(web, "page", "/").body, "good");
    cluster.ok(others[0], &["unpin"]);
    until("what is written", || get(web, "page", "/").body == "bad");
    // The listener's last good value was never in this one's store.
    assert!(cluster.ok(others[0], &["describe", "listeners/web"]).contains("garbage"));
}

/// A leader that gives an address at which nobody can reach it.
#[test]
fn a_request_to_a_follower_that_cannot_reach_the_leader_is_answered_with_that() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 1);
    cluster.kill(0);
    let leader = cluster.controller(0, &["--advertise", "http://127.0.0.1:1"]);
    cluster.running[0] = Some(leader);
    cluster.leader();
    cluster.apis.push(loopback());
    let follower = cluster.controller(1, &[]);
    cluster.running.push(Some(follower));
    until("it to know who leads", || text(&cluster.verb(1, &["status"]).stdout).contains("NOT HEARD: c0 leads and cannot be reached: "));
    let status = cluster.verb(1, &["status"]);
    let output = text(&status.stdout);
    assert!(!status.status.success() && output.contains("Attention is needed."), "{output}");
    let json: serde_json::Value = serde_json::from_slice(&cluster.verb(1, &["status", "-o", "json"]).stdout).unwrap();
    assert!(json["unheard"].as_str().is_some_and(|why| why.starts_with("c0 leads and cannot be reached")), "{json}");
    let history = cluster.verb(1, &["history"]);
    assert!(history.status.success());
    assert!(text(&history.stderr).starts_with("waypost: c0 leads and cannot be reached: "), "{}", text(&history.stderr));
    // A leader that has just been elected has published nothing for a moment.
    until("the leader to be current", || cluster.verb(0, &["status"]).status.success());
    assert!(text(&cluster.verb(0, &["history"]).stderr).is_empty());
}

/// Events are followed at one controller. That controller and the leader may change meanwhile.
#[test]
fn events_are_followed_over_a_change_of_leader_and_a_restart() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 2);
    let leader = cluster.leader();
    let asked = 1 - leader;
    let log = cluster.folder.path().join("events.log");
    let api = format!("http://{}", cluster.apis[asked]);
    let follow = Process::start(Command::new(waypost()).args(["events", "-f", "--controller", &api]), &log);
    let tells = |key: &str| until(&format!("a word of {key}"), || follow.output().contains(&format!(" {key}: ")));
    let write = |cluster: &Cluster, key: &str| {
        let path = cluster.folder.path().join("waypost").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{\"unknown\":1}").unwrap();
    };
    write(&cluster, "routes/one");
    tells("routes/one");
    cluster.kill(leader);
    until("another leader", || cluster.info(asked)["leads"] == true);
    write(&cluster, "routes/two");
    tells("routes/two");
    cluster.kill(asked);
    cluster.running[asked] = Some(cluster.controller(asked, &[]));
    write(&cluster, "routes/three");
    tells("routes/three");
}

#[test]
fn leading_is_handed_over_within_a_second_and_no_request_fails() {
    let cluster = Cluster::start("file://{dir}/waypost", 2);
    let leader = cluster.leader();
    let _proxy = cluster.proxy("p1", "127.0.0.1");
    let (web, backend) = (loopback(), Backend::named("a"));
    cluster.ok(leader, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(leader, &["put", "endpoints/shop/a", &backend.address.to_string()]);
    cluster.ok(leader, &["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    until("the endpoint", || get(web, "any", "/").status == 200);
    let load = Load::start(web, "any", 4);
    let follower = cluster.others(leader)[0];
    let begun = Instant::now();
    // Asked of the one that follows, it is the leader that lets go.
    let output = cluster.ok(follower, &["controller", "step-down"]);
    assert!(output.starts_with(&format!("c{leader} leads no more")), "{output}");
    while !cluster.info(follower)["epoch"].is_u64() {
        assert!(begun.elapsed() < Duration::from_secs(1), "nobody leads after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    cluster.ok(leader, &["put", "routes/page", &page("next"), "--wait"]);
    assert_eq!(cluster.leader(), follower);
    assert!(took < Duration::from_secs(1), "{took:?}");
    let refused = cluster.verb(follower, &["approve", "--all"]);
    assert!(text(&refused.stderr).contains("nothing is held"), "{}", text(&refused.stderr));
    println!("handed over in {took:?}; {} requests, 0 failed", load.finish());
}

/// Files are written once a second, and the next leader published nothing new.
#[test]
fn a_config_that_was_published_just_before_the_leader_died_is_in_the_history_of_the_next_leader() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 2);
    let leader = cluster.leader();
    let follower = 1 - leader;
    cluster.ok(leader, &["put", "routes/old", &page("old")]);
    until("it in the history", || cluster.ok(leader, &["history"]).contains("put route/old"));
    let before = cluster.info(follower)["version"].clone();
    cluster.ok(leader, &["put", "routes/late", &page("late")]);
    until("it on the other", || cluster.info(follower)["version"] != before);
    cluster.kill(leader);
    until("the other to lead", || cluster.info(follower)["leads"] == true);
    until("it in the history", || cluster.ok(follower, &["history"]).contains("put route/late"));
    // And once more by one that led before.
    cluster.running[leader] = Some(cluster.controller(leader, &[]));
    cluster.leader();
    cluster.ok(follower, &["controller", "step-down", "--by", "ann"]);
    until("the first to lead", || cluster.info(leader)["leads"] == true);
    cluster.ok(leader, &["put", "endpoints/shop/a", "127.0.0.1:9"]);
    until("the audit", || cluster.ok(leader, &["history", "--audit"]).contains("ann"));
    std::thread::sleep(Duration::from_secs(3));
    let history = cluster.ok(leader, &["history"]);
    assert_eq!((history.matches("route/late").count(), history.matches("route/old").count()), (1, 1), "{history}");
}

/// The only controller loses its disk in a night in which everything was deleted: the proxies have it still.
#[test]
fn a_controller_on_an_empty_disk_recovers_the_published_snapshot_from_a_proxy() {
    let server = Etcd::new(1);
    let store = format!("etcd://{}/waypost", server.endpoints()[0]);
    let mut cluster = Cluster::start(&store, 1);
    let (backend, web) = (Backend::named("a"), loopback());
    let mut first = cluster.proxy("p1", "127.0.0.1");
    let _second = cluster.proxy("p2", "127.0.0.2");
    cluster.ok(0, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(0, &["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    cluster.ok(0, &["put", "endpoints/shop/a", &backend.address.to_string(), "--wait"]);
    until("both proxies", || text(&cluster.verb(0, &["wait", "endpoints/shop/a"]).stdout).contains("2/2"));
    let on_second = SocketAddr::from(([127, 0, 0, 2], web.port()));
    until("service", || get(on_second, "any", "/").status == 200);
    let load = Load::start(on_second, "any", 4);
    cluster.kill(0);
    server.ctl(&["del", "--prefix", "waypost/"]).unwrap();
    std::fs::remove_dir_all(cluster.folder.path().join("c0")).unwrap();
    // One of the proxies has only the state on its disk.
    until("it on disk", || std::fs::read_to_string(cluster.folder.path().join("p1/membership.jsonl")).is_ok_and(|held| held.contains("shop/a")));
    first.kill();
    first = cluster.proxy("p1", "127.0.0.1");
    cluster.running[0] = Some(cluster.controller(0, &[]));
    until("what serves to be held", || {
        let status: serde_json::Value = serde_json::from_slice(&cluster.verb(0, &["status", "-o", "json"]).stdout).unwrap_or_default();
        status["held"].as_array().is_some_and(|held| held.len() == 3 && held.iter().all(|one| one["why"].is_string()))
    });
    // Nothing of it is released after a while.
    std::thread::sleep(Duration::from_secs(12));
    for at in [web, on_second] {
        until("service on both", || std::net::TcpStream::connect(at).is_ok() && get(at, "any", "/").status == 200);
    }
    // The authors' bytes are lost; their meaning is not.
    assert!(cluster.ok(0, &["export", "--held", "--to", &store]).starts_with("3 entries are written"));
    until("everything to be current", || cluster.verb(0, &["status"]).status.success());
    println!("{} requests, 0 failed", load.finish());
    drop(first);
}

/// The same with all controllers, where the only proxy has nothing but its disk and knows only the one that does not lead.
#[test]
fn controllers_that_all_lost_their_disks_recover_the_published_snapshot_from_the_disk_of_a_proxy() {
    let server = Etcd::new(1);
    let store = format!("etcd://{}/waypost", server.endpoints()[0]);
    let mut cluster = Cluster::start(&store, 2);
    let (backend, web, first) = (Backend::named("a"), loopback(), cluster.leader());
    let mut proxy = cluster.proxy("p", "127.0.0.1");
    cluster.ok(first, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(first, &["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    cluster.ok(first, &["put", "endpoints/shop/a", &backend.address.to_string(), "--wait"]);
    let version = cluster.info(first)["version"].clone();
    for (file, what) in [("membership.jsonl", "shop/a".to_owned()), ("seen.json", version.to_string())] {
        until("it on disk", || std::fs::read_to_string(cluster.folder.path().join("p").join(file)).is_ok_and(|held| held.contains(&what)));
    }
    (0..2).for_each(|number| cluster.kill(number));
    proxy.kill();
    // A single route, whose removal would otherwise be released as intended.
    server.ctl(&["del", "waypost/routes/shop"]).unwrap();
    for number in 0..2 {
        std::fs::remove_dir_all(cluster.folder.path().join(format!("c{number}"))).unwrap();
    }
    cluster.running[0] = Some(cluster.controller(0, &[]));
    until("the first to lead", || cluster.info(0)["leads"] == true);
    cluster.running[1] = Some(cluster.controller(1, &[]));
    proxy = start_proxy_of(&cluster.apis[1..], &cluster.folder.path().join("p"), "p", "127.0.0.1");
    for number in 0..2 {
        until("what serves to be held", || {
            let status: serde_json::Value = serde_json::from_slice(&cluster.verb(number, &["status", "-o", "json"]).stdout).unwrap_or_default();
            status["held"].as_array().is_some_and(|held| held.len() == 1)
        });
    }
    until("the new leader's word on the proxy", || {
        let epoch = cluster.info(0)["epoch"].to_string();
        text(&cluster.verb(0, &["proxies"]).stdout).contains(&format!("{epoch}."))
    });
    assert_eq!(get(web, "any", "/").status, 200);
    drop(proxy);
}

#[test]
fn a_pin_that_ends_while_nobody_leads_is_over_for_the_next_leader() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 2);
    let leader = cluster.leader();
    let follower = cluster.others(leader)[0];
    cluster.ok(leader, &["put", "routes/page", &page("first")]);
    let pinned = cluster.ok(leader, &["pin", "--for", "2s"]);
    assert!(!pinned.contains("no other controller has said yet"), "{pinned}");
    let audit = cluster.ok(leader, &["history", "--audit"]);
    cluster.kill(leader);
    // The lease is longer than the pin.
    assert!(!audit.contains("its time being over"), "{audit}");
    until("the other one to lead", || cluster.info(follower)["epoch"].is_u64());
    until("the end of the pin in the audit", || cluster.ok(follower, &["history", "--audit"]).contains("its time being over"));
    assert!(cluster.verb(follower, &["unpin"]).status.code() == Some(1), "nothing is pinned any more");
}

#[test]
fn a_freeze_that_only_one_controller_knew_does_not_return_over_a_later_leader_and_its_loss_is_reported() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 2);
    let first = cluster.leader();
    let second = cluster.others(first)[0];
    cluster.ok(first, &["put", "routes/page", &page("first")]);
    until("the follower to have it", || cluster.info(second)["version"] == cluster.info(first)["version"]);
    cluster.kill(second);
    let frozen = cluster.ok(first, &["freeze", "--by", "alice"]);
    assert!(frozen.contains("no other controller has said yet that it knows"), "{frozen}");
    cluster.kill(first);
    let process = cluster.controller(second, &[]);
    cluster.running[second] = Some(process);
    until("the other one to lead", || cluster.info(second)["epoch"].is_u64());
    // From then on its own record of operators' actions counts as newer.
    until("what operators did to be dated", || {
        let saved = std::fs::read(cluster.folder.path().join(format!("c{second}/operator.json"))).map(|bytes| text(&bytes)).unwrap_or_default();
        saved.contains(&format!("\"epoch\":{}", cluster.info(second)["epoch"]))
    });
    let process = cluster.controller(first, &[]);
    cluster.running[first] = Some(process);
    // The controller that had the freeze reports its loss to the leader.
    let lost_hold = |line: &str| ["HoldLost", "alice", &format!("(on c{first})")].iter().all(|word| line.contains(word));
    until("that to be told", || cluster.ok(second, &["events"]).lines().any(lost_hold));
    assert_eq!(cluster.verb(second, &["unfreeze"]).status.code(), Some(1), "nothing is frozen");
}

#[test]
fn with_a_store_that_was_restored_an_older_record_of_leading_comes_back_and_one_leads_above_it() {
    let mut etcd = Etcd::new(1);
    let cluster = Cluster::start(&format!("etcd://{}/waypost", etcd.endpoints()[0]), 2);
    let first = cluster.leader();
    let web = loopback();
    let _proxy = cluster.proxy("p1", "127.0.0.1");
    cluster.ok(first, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(first, &["put", "routes/page", &page("old"), "--wait"]);
    let backup = etcd.backup();
    cluster.ok(first, &["controller", "step-down"]);
    let second = cluster.others(first)[0];
    until("the other one to lead", || cluster.info(second)["epoch"].is_u64());
    cluster.ok(second, &["put", "routes/page", &page("new"), "--wait"]);
    let led = cluster.info(second)["epoch"].as_u64().unwrap();
    let load = Load::start(web, "page", 4);
    etcd.restore(&backup);
    let epochs = || [first, second].map(|number| cluster.info(number)["epoch"].as_u64());
    until("one leader above", || epochs().into_iter().flatten().collect::<Vec<_>>().iter().all(|epoch| *epoch > led) && epochs().iter().flatten().count() == 1);
    until("what was changed to be held", || text(&cluster.verb(first, &["status"]).stdout).contains("the store went back from revision "));
    assert_eq!(get(web, "page", "/").body, "new");
    cluster.ok(first, &["put", "routes/page", &page("newer"), "--wait"]);
    assert_eq!(get(web, "page", "/").body, "newer");
    println!("{} requests, 0 failed", load.finish());
}

#[test]
fn with_the_store_and_all_controllers_dead_one_that_starts_relays_and_obeys() {
    let mut etcd = Etcd::new(1);
    let mut cluster = Cluster::start(&format!("etcd://{}/waypost", etcd.endpoints()[0]), 2);
    let leader = cluster.leader();
    let _proxy = cluster.proxy("p1", "127.0.0.1");
    let web = loopback();
    cluster.ok(leader, &["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    cluster.ok(leader, &["put", "routes/page", &page("good"), "--wait"]);
    until("the good config in the history", || cluster.ok(leader, &["history"]).contains("put route/page"));
    let good = cluster.ok(leader, &["history"]).lines().find(|line| line.contains("put route/page")).unwrap().split(' ').next().unwrap().to_owned();
    cluster.ok(leader, &["put", "routes/page", &page("bad"), "--wait"]);
    let follower = cluster.others(leader)[0];
    let on_disk = || {
        waypost::controller::disk::files::load_published(&cluster.folder.path().join(format!("c{follower}")))
            .unwrap()
            .value
            .is_some_and(|found| found.config.get("route/page").is_some_and(|page| page.bytes().contains("bad")))
    };
    until("what is relayed on the follower's disk", on_disk);
    until("the history on the follower's disk", || cluster.folder.path().join(format!("c{follower}/history")).read_dir().is_ok_and(|files| files.count() >= 2));
    cluster.kill(leader);
    cluster.kill(follower);
    etcd.kill(0);
    // Nobody is asked to lead: the last good state is relayed all the same, also to a proxy without any.
    let started = Instant::now();
    let relay = cluster.controller(follower, &[]);
    cluster.running[follower] = Some(relay);
    let _fresh = cluster.proxy("p2", "127.0.0.2");
    let on_second = SocketAddr::from(([127, 0, 0, 2], web.port()));
    until("the fresh proxy", || std::net::TcpStream::connect(on_second).is_ok() && get(on_second, "page", "/").body == "bad");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(1), "relayed after {took:?}");
    let refused = text(&cluster.verb(follower, &["rollback", "--to", &good]).stderr);
    assert!(refused.contains("no controller leads just now") && refused.contains("waypost controller --store-down"), "{refused}");
    assert_eq!(cluster.verb(follower, &["status"]).status.code(), Some(1));
    // An operator names it.
    cluster.kill(follower);
    let caretaker = cluster.controller(follower, &["--store-down"]);
    cluster.running[follower] = Some(caretaker);
    let begun = Instant::now();
    cluster.ok(follower, &["rollback", "--to", &good, "--by", "bob"]);
    for proxy in [web, on_second] {
        until("the good page", || get(proxy, "page", "/").body == "good");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let output = text(&cluster.verb(follower, &["status"]).stdout);
    assert!(output.contains("without the store: only what operators ask for is published"), "{output}");
    // The store comes back, and leading is won again; the pin stays.
    etcd.start(0);
    until("a record in the store", || {
        text(&cluster.verb(follower, &["status"]).stdout).lines().any(|line| line.starts_with("Leader:") && !line.contains("without the store"))
    });
    let again = cluster.controller(leader, &[]);
    cluster.running[leader] = Some(again);
    assert_eq!(cluster.leader(), follower);
    assert_eq!(get(web, "page", "/").body, "good");
    cluster.ok(leader, &["unpin"]);
    until("what is written", || get(web, "page", "/").body == "bad");
}

#[test]
fn a_proxy_that_serves_other_content_than_was_published_is_reported_until_it_does_not() {
    let run = crate::harness::Box1::on_files();
    run.listener();
    let status = || -> serde_json::Value { serde_json::from_slice(&run.verb(&["status", "-o", "json"]).stdout).unwrap() };
    until("the proxy", || {
        let status_now = status();
        // The age of the stores' confirmation comes with the report after the first heartbeat.
        let fresh = status_now["proxies"][0]["ageSeconds"].as_u64().is_some_and(|age| age < 10);
        run.verb(&["status"]).status.success() && status_now["proxies"][0]["applied"] == status_now["version"] && fresh
    });
    let other = "0".repeat(64);
    until("the status to say it", || {
        let body = format!(r#"{{"applied":{},"content":{{"config":"{other}","membership":"{other}"}}}}"#, status()["version"]);
        let length = body.len();
        let request = format!(
            "POST /v1/proxies/p1/report HTTP/1.1\r\nhost: c\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        assert_eq!(crate::harness::raw(run.api, request.as_bytes()).unwrap().status, 204);
        let output = run.verb(&["status"]);
        output.status.code() == Some(1) && text(&output.stdout).contains("WITH OTHER CONTENT than was published")
    });
    assert!(run.ok(&["events"]).lines().any(|line| line.contains("Drift") && line.contains("p1: the proxy serves other content")));
    // The proxy itself knows better.
    until("everything to be current", || run.verb(&["status"]).status.success());
}

#[test]
fn acknowledged_actions_are_known_to_the_next_leader_at_once_after_a_kill() {
    let mut cluster = Cluster::start("file://{dir}/waypost", 2);
    let first = cluster.leader();
    let other = cluster.others(first)[0];
    cluster.ok(first, &["put", "listeners/web", &format!("{{\"address\":\"{}\"}}", loopback())]);
    cluster.ok(first, &["put", "routes/page", &page("good")]);
    let audit = |cluster: &Cluster, number: usize| cluster.ok(number, &["history", "--audit"]);
    cluster.ok(first, &["freeze", "--by", "alice"]);
    cluster.kill(first);
    let output = text(&cluster.verb(other, &["status"]).stdout);
    assert!(output.contains("frozen at C") && output.contains("by alice"), "a follower knows it already: {output}");
    assert_eq!(cluster.leader(), other);
    let again = cluster.controller(first, &[]);
    cluster.running[first] = Some(again);
    assert_eq!(cluster.leader(), other);
    cluster.ok(other, &["unfreeze", "--by", "bob"]);
    // The held removals as well.
    let held = |cluster: &Cluster, number: usize| text(&cluster.verb(number, &["status"]).stdout).contains("are gone from their store and serve on");
    std::fs::remove_file(cluster.folder.path().join("waypost/listeners/web")).unwrap();
    until("the guard", || held(&cluster, other));
    let approved = cluster.ok(first, &["approve", "--all", "--by", "carol"]);
    assert!(approved.contains("listener/web"), "{approved}");
    cluster.kill(other);
    assert!(audit(&cluster, first).contains("let go: listener/web"), "{}", audit(&cluster, first));
    assert_eq!(cluster.leader(), first);
    cluster.ok(first, &["put", "routes/next", &page("next")]);
    let answer = cluster.ok(first, &["get", "routes/next"]);
    assert!(!held(&cluster, first), "{answer}");
    // The one that had approved and was killed within the second has it on disk.
    let saved = waypost::controller::disk::files::load_guard(&cluster.folder.path().join(format!("c{other}")), std::slice::from_ref(&cluster.store)).unwrap();
    assert!(saved.value.is_empty(), "{saved:?}");
    assert!(std::fs::read_to_string(cluster.folder.path().join(format!("c{other}/operator.json"))).unwrap().contains("carol"));
}

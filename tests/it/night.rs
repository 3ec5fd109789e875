//! Everything in a store is deleted, on each kind of store, under load: everything serves on, the status lists the held removals, and the deleted
//! entries are written back from the controller's copies.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use waypost_adapter::{Adapter, Event};
use waypost_testkit::Process;
use waypost_testkit::mangle::{Mangler, Protocol};
use waypost_testkit::servers::{Consul, Etcd, Server, ZooKeeper};

use crate::harness::{Backend, Load, get, loopback, ok, start_proxy, text, until, verb, waypost};

/// How long everything stays deleted: a minute for the record, less in the ordinary run.
pub(crate) fn night() -> Duration {
    Duration::from_secs(std::env::var("WAYPOST_NIGHT_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(10))
}

struct Site {
    folder: tempfile::TempDir,
    api: std::net::SocketAddr,
    store: String,
    adapter: Arc<dyn Adapter>,
    runtime: tokio::runtime::Runtime,
}

impl Site {
    fn new(store: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store.replace("{dir}", &folder.path().join("waypost").display().to_string());
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        let adapter = waypost::stores::open(&waypost::stores::StoreFlags::from(store.as_str())).unwrap().adapter;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { folder, api: loopback(), store, adapter, runtime }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn controller(&self) -> Process {
        let mut command = Command::new(waypost());
        command.args(["controller", "--store", &self.store, "--state", &self.path("c"), "--api", &self.api.to_string(), "--name", "c1"]);
        let mut process = Process::start(&mut command, Path::new(&self.path("c.log")));
        waypost_testkit::process::wait_for_port(self.api, &mut process);
        process
    }

    fn proxy(&self, name: &str, bind: &str) -> Process {
        start_proxy(self.api, Path::new(&self.path(name)), name, bind)
    }

    fn verb(&self, arguments: &[&str]) -> Output {
        verb(self.api, arguments)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(self.api, arguments)
    }

    /// Deletes every key below the root, like a person who knows nothing of Waypost.
    fn delete_everything(&self) {
        self.runtime.block_on(async {
            let mut source = self.adapter.source("waypost");
            let Event::Reset { mut entries, .. } = source.next().await.unwrap() else { panic!("a listing") };
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.key.clone()));
            for entry in entries {
                self.adapter.delete(&entry.key).await.unwrap();
            }
        });
    }
}

/// Something takes everything away from the store, and may give it back.
struct Disaster<'a> {
    begin: &'a dyn Fn(&Site),
    end: &'a dyn Fn(),
}

impl<'a> Disaster<'a> {
    const fn of(begin: &'a dyn Fn(&Site)) -> Self {
        Self { begin, end: &|| {} }
    }
}

fn night_on(store: String, disaster: &Disaster<'_>) {
    night_in(store, "", disaster);
}

/// The config is in a tree, or at the root.
fn night_in(store: String, tree: &str, disaster: &Disaster<'_>) {
    let site = Site::new(store);
    // Each backend has addresses of its own: one that another backend has as well is not held.
    let origins: Vec<(Backend, Backend)> = (0..3).map(|_| (Backend::named("one"), Backend::named("two"))).collect();
    let web = loopback();
    let mut controller = site.controller();
    let _steady = site.proxy("p1", "127.0.0.1");
    let mut second = site.proxy("p2", "127.0.0.2");
    site.ok(&["put", &format!("{tree}listeners/web"), &format!("{{\"address\":\"{web}\"}}")]);
    site.ok(&["put", &format!("{tree}backends/b0"), r#"{"healthCheck":{"type":"TCP","interval":"200ms","unhealthyThreshold":1}}"#]);
    if let Some(("trees", name)) = tree.trim_end_matches('/').split_once('/') {
        site.ok(&["put", "current", name]);
    }
    for number in 0..30 {
        site.ok(&[
            "put",
            &format!("{tree}routes/r{number}"),
            &format!(r#"{{"hostnames":["h{number}"],"rules":[{{"backendRefs":[{{"name":"b{}"}}]}}]}}"#, number % 3),
        ]);
    }
    for (number, (one, two)) in origins.iter().enumerate() {
        site.ok(&["put", &format!("endpoints/b{number}/one"), &one.address.to_string()]);
        site.ok(&["put", &format!("endpoints/b{number}/two"), &two.address.to_string()]);
    }
    until("both proxies", || text(&site.verb(&["wait", "endpoints/b2/two"]).stdout).contains("2/2"));
    site.ok(&["wait", "routes/r29"]);
    // One endpoint takes no requests: that stays so, with the policy that says how it is checked.
    site.ok(&["put", "endpoints/b0/sick", &loopback().to_string()]);
    until("the sick one to be out", || site.ok(&["events"]).contains("EndpointUnhealthy"));
    let load = Load::start(web, "h7", 8);
    let checked = Load::start(web, "h0", 4);

    (disaster.begin)(&site);
    let deleted = Instant::now();
    until("the guard to hold everything", || site.verb(&["status"]).status.code() == Some(1) && held(&site) >= 38 && is_judged(&site));
    // Endpoints that took no requests are released as intended, unless they were deleted with the last entry of their store.
    let all = held(&site);
    let output = text(&site.verb(&["status"]).stdout);
    let listed = format!("{all} entries are gone from their store and serve on:");
    assert!(all <= 39 && output.contains(&listed) && output.contains("waypost export --held --to "), "{output}");
    // Files are written once a second: changes within the last second before a kill are unknown afterwards. If the entries on disk were older than
    // the rest, the endpoint that took no requests would be held as well.
    let on_disk = || {
        let entries =
            waypost::controller::disk::files::load_entries(Path::new(&site.path("c"))).is_ok_and(|all| all.value.iter().all(|(_, entries)| entries.is_empty()));
        entries && kept_on_disk(&site) == Some(all)
    };
    until("what is held on disk", on_disk);
    controller.kill();
    controller = site.controller();
    until("the same after a restart", || held(&site) == all);
    let on_second = std::net::SocketAddr::from(([127, 0, 0, 2], web.port()));
    // The suspect marks are on the second proxy's disk as well.
    until("the membership on disk", || std::fs::read_to_string(site.path("p2/membership.jsonl")).is_ok_and(|held| held.contains("suspect")));
    second.kill();
    second = site.proxy("p2", "127.0.0.2");
    until("the second proxy", || std::net::TcpStream::connect(on_second).is_ok() && get(on_second, "h3", "/").status == 200);
    while deleted.elapsed() < night() {
        std::thread::sleep(Duration::from_millis(100));
    }
    for number in 0..30 {
        assert_eq!(get(web, &format!("h{number}"), "/").status, 200);
    }
    let written = site.ok(&["export", "--held", "--to", &site.store]);
    let count = if tree.is_empty() { all } else { all + 1 };
    assert!(written.starts_with(&format!("{count} entries are written to ")), "{written}");
    (disaster.end)();
    until("everything to be current", || site.verb(&["status"]).status.success() && held(&site) == 0);
    until("both proxies again", || text(&site.verb(&["wait", "routes/r29"]).stdout).contains("2/2"));
    let sent = load.finish() + checked.finish();
    println!("{}: {sent} requests, 0 failed, {:?} with nothing in the store", site.store, deleted.elapsed());
    drop((second, controller));
}

/// Few enough that nothing would be held for its number: a listener, a route and an endpoint, which go one by one.
fn small_night_on(store: String) {
    let site = Site::new(store);
    let (one, web) = (Backend::named("one"), loopback());
    let controller = site.controller();
    let _proxy = site.proxy("p1", "127.0.0.1");
    site.ok(&["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    site.ok(&["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    site.ok(&["put", "endpoints/shop/one", &one.address.to_string(), "--wait"]);
    until("service", || get(web, "shop", "/").status == 200);
    let load = Load::start(web, "shop", 4);
    for key in ["routes/shop", "endpoints/shop/one", "listeners/web"] {
        site.runtime.block_on(site.adapter.delete(&waypost_adapter::Key::from(format!("waypost/{key}")))).unwrap();
    }
    until("all of it to be held", || held(&site) == 3);
    std::thread::sleep(night());
    assert_eq!((held(&site), get(web, "shop", "/").status), (3, 200));
    assert!(text(&site.verb(&["status"]).stdout).contains("the store became empty"));
    // The served entries are exported, and are in the history.
    let copy = site.path("copy");
    assert!(site.ok(&["export", "--to", &copy]).starts_with("3 entries are written"));
    assert_eq!(std::fs::read_to_string(Path::new(&copy).join("endpoints/shop/one")).unwrap(), one.address.to_string());
    site.ok(&["put", "routes/new", r#"{"hostnames":["new"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    let number = || Some(site.ok(&["history"]).lines().find(|line| line.contains("put route/new"))?.split(' ').next()?.to_owned());
    until("it in the history", || number().is_some());
    let then = site.path("then");
    assert!(site.ok(&["export", "--at", &number().unwrap(), "--to", &then]).starts_with("3 entries are written"));
    assert!(Path::new(&then).join("routes/shop").exists() && !Path::new(&then).join("endpoints").exists(), "endpoints are as they are now");
    assert!(site.ok(&["export", "--held", "--to", &site.store]).starts_with("3 entries are written to "));
    until("everything to be current", || site.verb(&["status"]).status.success() && held(&site) == 0);
    println!("{}: {} requests, 0 failed", site.store, load.finish());
    drop(controller);
}

#[test]
fn a_small_site_is_deleted_in_a_directory_and_serves_on() {
    small_night_on("file://{dir}".to_owned());
}

#[test]
fn a_small_site_is_deleted_in_etcd_and_serves_on() {
    let server = Etcd::new(1);
    small_night_on(format!("etcd://{}/waypost", server.endpoints()[0]));
}

#[test]
fn a_small_site_is_deleted_in_consul_and_serves_on() {
    let server = Consul::new(1);
    small_night_on(format!("consul://{}/waypost", server.endpoints()[0]));
}

#[test]
fn a_small_site_is_deleted_in_zookeeper_and_serves_on() {
    let server = ZooKeeper::new(1);
    small_night_on(format!("zookeeper://{}/waypost", server.endpoints()[0]));
}

const KEY_BY_KEY: Disaster<'static> = Disaster::of(&Site::delete_everything);

/// The number of removals in the controller's file.
fn kept_on_disk(site: &Site) -> Option<usize> {
    let removals = waypost::controller::disk::files::load_guard(Path::new(&site.path("c")), std::slice::from_ref(&site.store));
    removals.ok().map(|removals| removals.value.len())
}

fn status(site: &Site) -> serde_json::Value {
    serde_json::from_slice(&site.verb(&["status", "-o", "json"]).stdout).unwrap_or_default()
}

/// Whether the controller has read and judged every deletion in the store.
fn is_judged(site: &Site) -> bool {
    let left: Vec<serde_json::Value> = serde_json::from_slice(&site.verb(&["get", "-o", "json"]).stdout).unwrap_or_default();
    left.is_empty() && status(site)["judgedCount"] == 0
}

fn held(site: &Site) -> usize {
    status(site)["held"].as_array().map_or(0, |held| held.iter().filter(|one| one["why"].is_string()).count())
}

#[test]
fn everything_is_deleted_in_a_directory_and_serves_on() {
    night_on("file://{dir}".to_owned(), &KEY_BY_KEY);
}

#[test]
fn everything_is_deleted_at_once_in_a_directory_and_serves_on() {
    let begin = |site: &Site| {
        for item in std::fs::read_dir(site.path("waypost")).unwrap() {
            std::fs::remove_dir_all(item.unwrap().path()).unwrap();
        }
    };
    night_on("file://{dir}".to_owned(), &Disaster::of(&begin));
}

#[test]
fn everything_is_deleted_in_etcd_and_serves_on() {
    let server = Etcd::new(1);
    night_on(format!("etcd://{}/waypost", server.endpoints()[0]), &KEY_BY_KEY);
}

#[test]
fn everything_is_deleted_at_once_in_etcd_and_serves_on() {
    let server = Etcd::new(1);
    let begin = |_: &Site| assert_eq!(server.ctl(&["del", "--prefix", "waypost/"]).unwrap().trim(), "39");
    night_on(format!("etcd://{}/waypost", server.endpoints()[0]), &Disaster::of(&begin));
}

#[test]
fn a_whole_tree_is_deleted_in_etcd_with_what_makes_it_current_and_serves_on() {
    let server = Etcd::new(1);
    night_in(format!("etcd://{}/waypost", server.endpoints()[0]), "trees/v2/", &KEY_BY_KEY);
}

#[test]
fn everything_is_deleted_in_consul_and_serves_on() {
    let server = Consul::new(1);
    night_on(format!("consul://{}/waypost", server.endpoints()[0]), &KEY_BY_KEY);
}

#[test]
fn everything_is_deleted_at_once_in_consul_and_serves_on() {
    let server = Consul::new(1);
    let begin = |_: &Site| assert!(server.run(&["kv", "delete", "-recurse", "waypost/"]).is_some());
    night_on(format!("consul://{}/waypost", server.endpoints()[0]), &Disaster::of(&begin));
}

#[test]
fn a_consul_that_answers_an_empty_list_takes_nothing_away() {
    let server = Consul::new(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let between = runtime.block_on(Mangler::before(&server.endpoints()[0], Protocol::BlockingQueries));
    // A blocking query is answered when something changes: the same value again would be no change.
    let change = |flags: &str| {
        let value = server.run(&["kv", "get", "waypost/routes/r0"]).unwrap();
        server.run(&["kv", "put", flags, "waypost/routes/r0", value.trim_end()]).unwrap();
    };
    let begin = |_: &Site| {
        between.empty();
        change("-flags=7");
    };
    let end = || {
        between.calm();
        change("-flags=8");
    };
    night_on(format!("consul://{}/waypost", between.endpoint()), &Disaster { begin: &begin, end: &end });
}

#[test]
fn everything_is_deleted_in_zookeeper_and_serves_on() {
    let server = ZooKeeper::new(1);
    night_on(format!("zookeeper://{}/waypost", server.endpoints()[0]), &KEY_BY_KEY);
}

#[test]
fn everything_is_deleted_at_once_in_zookeeper_and_serves_on() {
    let server = ZooKeeper::new(1);
    let begin = |site: &Site| {
        site.runtime.block_on(async {
            let client = zookeeper_client::Client::connect(&server.endpoints()[0]).await.unwrap();
            let (mut all, mut next) = (Vec::new(), 0);
            all.push("/waypost".to_owned());
            while let Some(path) = all.get(next).cloned() {
                all.extend(client.list_children(&path).await.unwrap().into_iter().map(|name| format!("{path}/{name}")));
                next += 1;
            }
            let mut transaction = client.new_multi_writer();
            all.iter().skip(1).rev().for_each(|path| transaction.add_delete(path, None).unwrap());
            transaction.commit().await.unwrap();
        });
    };
    night_on(format!("zookeeper://{}/waypost", server.endpoints()[0]), &Disaster::of(&begin));
}

#[test]
fn an_etcd_that_was_restored_from_an_older_backup_changes_nothing_by_itself() {
    restored_etcd(false);
}

#[test]
fn an_etcd_that_was_restored_while_no_controller_ran_changes_nothing_by_itself() {
    restored_etcd(true);
}

/// The controller runs while the store is restored, or is dead.
fn restored_etcd(dead: bool) {
    let mut server = Etcd::new(1);
    let site = Site::new(format!("etcd://{}/waypost", server.endpoints()[0]));
    let mut controller = site.controller();
    let mut proxy = site.proxy("p1", "127.0.0.1");
    let _steady = site.proxy("p2", "127.0.0.2");
    let web = loopback();
    let on_second = std::net::SocketAddr::from(([127, 0, 0, 2], web.port()));
    let page = |body: &str| format!(r#"{{"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{body}"}}}}]}}]}}"#);
    site.ok(&["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    site.ok(&["put", "routes/page", &page("old")]);
    site.ok(&["put", "backends/shop", r#"{"timeouts":{"connect":"1s"}}"#]);
    let backup = server.backup();
    for number in 0..5 {
        site.ok(&["put", "routes/page", &page(&format!("new{number}"))]);
    }
    site.ok(&["put", "backends/shop", r#"{"timeouts":{"connect":"2s"}}"#]);
    site.ok(&["wait", "routes/page"]);
    site.ok(&["wait", "backends/shop"]);
    assert_eq!(get(web, "any", "/").body, "new4");
    let load = Load::start(on_second, "any", 4);
    if dead {
        let written = site.runtime.block_on(site.adapter.get(&waypost_adapter::Key::from("waypost/backends/shop"))).unwrap().unwrap().revision;
        let read = || waypost::controller::disk::files::load_numbers(Path::new(&site.path("c")), "revisions.json").unwrap_or_default();
        until("how far the store was read on disk", || read().value.values().any(|at| *at >= written.0));
        controller.kill();
    }
    server.restore(&backup);
    if dead {
        controller = site.controller();
    }
    let restored = Instant::now();
    until("the guard", || held(&site) == 2);
    let output = text(&site.verb(&["status"]).stdout);
    assert!(output.contains("routes/page since ") && output.contains("the store went back from revision "), "{output}");
    assert_eq!(get(web, "any", "/").body, "new4");
    // A held change stays held when the controller starts again, and the same content serves.
    until("what is held on disk", || kept_on_disk(&site) == Some(2));
    controller.kill();
    controller = site.controller();
    proxy.kill();
    proxy = site.proxy("p1", "127.0.0.1");
    until("the proxy from disk", || std::net::TcpStream::connect(web).is_ok());
    until("the store to be read", || text(&site.verb(&["status"]).stdout).contains("Leader:   c1"));
    while restored.elapsed() < night() {
        assert_eq!((get(web, "any", "/").body.as_str(), get(on_second, "any", "/").body.as_str()), ("new4", "new4"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(held(&site) == 2 && site.verb(&["status"]).status.code() == Some(1));
    site.ok(&["export", "--held", "--to", &site.store]);
    until("the store to be current again", || site.verb(&["status"]).status.success());
    site.ok(&["wait", "routes/page"]);
    assert_eq!(get(web, "any", "/").body, "new4");
    assert!(text(&site.runtime.block_on(site.adapter.get(&waypost_adapter::Key::from("waypost/routes/page"))).unwrap().unwrap().value).contains("new4"));
    println!("{}: {} requests, 0 failed, {:?} with an older store", site.store, load.finish(), restored.elapsed());
    drop((controller, proxy));
}

//! Three controllers on one store, under load: the leader is killed, frozen past its lease, and cut off from the store, from the proxies and from the
//! other controllers. Each time a controller leads again in time, no proxy ever goes back, and no request fails.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use waypost_adapter::{Adapter, Key};
use waypost_testkit::Process;
use waypost_testkit::servers::{Consul, Etcd, Server, ZooKeeper};

use crate::harness::{Backend, Load, get, leader_of, text, until, verb, waypost, waypost_proxy};
use crate::lab::{HUB, Lab};

const CONTROLLERS: [&str; 3] = ["c1", "c2", "c3"];
const PROXIES: [&str; 2] = ["p1", "p2"];
const TTL: Duration = Duration::from_secs(6);

/// How many races: 30 for the record, one of each kind in the ordinary run.
fn races() -> usize {
    std::env::var("WAYPOST_RACES").ok().and_then(|races| races.parse().ok()).unwrap_or(FAULTS.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Frozen,
    CutFromStore,
    CutFromProxies,
    CutFromControllers,
}

const FAULTS: [Fault; 5] = [Fault::CutFromControllers, Fault::Killed, Fault::Frozen, Fault::CutFromStore, Fault::CutFromProxies];

struct Site {
    lab: Lab,
    folder: tempfile::TempDir,
    /// The store as the controllers reach it.
    store: String,
    /// Its root.
    root: &'static str,
    adapter: Arc<dyn Adapter>,
    runtime: tokio::runtime::Runtime,
    controllers: Vec<Process>,
}

/// Everything that connects to `HUB:port` comes to `target` on the hub's loopback.
fn gate(target: String) -> u16 {
    let listener = TcpListener::bind((HUB, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&target) else { continue };
            let pairs = [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in pairs {
                drop((from.set_nodelay(true), to.set_nodelay(true)));
                std::thread::spawn(move || {
                    let mut piece = [0; 65_536];
                    while let Ok(count @ 1..) = from.read(&mut piece) {
                        if to.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    drop(to.shutdown(std::net::Shutdown::Both));
                    drop(from.shutdown(std::net::Shutdown::Both));
                });
            }
        }
    });
    port
}

impl Site {
    fn new(lab: Lab, store: String, direct: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, direct) = (store.replace("{dir}", &folder.path().display().to_string()), direct.replace("{dir}", &folder.path().display().to_string()));
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        let adapter = waypost::stores::open(&waypost::stores::StoreFlags::from(direct.as_str())).unwrap().adapter;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut site = Self { lab, folder, store, root: "waypost", adapter, runtime, controllers: Vec::new() };
        for name in CONTROLLERS {
            let controller = site.controller(name);
            site.controllers.push(controller);
        }
        site
    }

    fn api(&self, name: &str) -> SocketAddr {
        format!("{}:7400", self.lab.address(name)).parse().unwrap()
    }

    fn controller(&self, name: &str) -> Process {
        let (state, api, url) = (self.folder.path().join(name), self.api(name).to_string(), format!("http://{}", self.api(name)));
        let mut command = self.lab.on(name, &waypost());
        command.args([
            "controller",
            "--store",
            &self.store,
            "--state",
            &state.display().to_string(),
            "--api",
            &api,
            "--advertise",
            &url,
            "--name",
            name,
            "--insecure",
        ]);
        Process::start(&mut command, &self.folder.path().join(format!("{name}.log")))
    }

    fn proxy(&self, name: &str, first: usize) -> Process {
        let mut command = self.lab.on(name, &waypost_proxy());
        for number in 0..CONTROLLERS.len() {
            command.args(["--controller", &format!("http://{}", self.api(CONTROLLERS[(number + first) % CONTROLLERS.len()]))]);
        }
        let state = self.folder.path().join(name).display().to_string();
        command.args(["--state", &state, "--name", name, "--insecure", "--version-header", "--drain-delay", "0s"]);
        Process::start(&mut command, &self.folder.path().join(format!("{name}.log")))
    }

    fn web(&self, proxy: &str) -> SocketAddr {
        format!("{}:80", self.lab.address(proxy)).parse().unwrap()
    }

    fn write(&self, key: &str, value: &str) {
        let key = Key::from(format!("{}/{key}", self.root));
        self.runtime.block_on(self.adapter.put(&key, value.to_owned().into())).unwrap();
    }

    /// The number of the one controller that leads.
    fn leader(&self) -> usize {
        leader_of(&CONTROLLERS.map(|name| (name.to_owned(), self.api(name))))
    }

    fn verb(&self, controller: &str, arguments: &[&str]) -> std::process::Output {
        verb(self.api(controller), arguments)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in CONTROLLERS.iter().chain(&PROXIES) {
                let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                println!("--- {name}\n{}", log.lines().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
    }
}

/// Asks a proxy again and again under which version it serves: never a lower one than before.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watcher {
    fn start(proxy: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut highest, mut count) = ((0, 0), 0);
            while !stopped.load(Ordering::Relaxed) {
                let version = get(proxy, "any", "/page").header("waypost-version").map(str::to_owned).unwrap_or_default();
                let (epoch, sequence) = version.split_once('.').unwrap_or_else(|| panic!("{proxy} serves under no version"));
                let version: (u64, u64) = (epoch.parse().unwrap(), sequence.parse().unwrap());
                assert!(version >= highest, "{proxy} went back from {highest:?} to {version:?}");
                (highest, count) = (version, count + 1);
                std::thread::sleep(Duration::from_millis(5));
            }
            count
        });
        Self { stop, thread }
    }

    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn page(body: &str) -> String {
    format!(
        r#"{{"rules":[{{"matches":[{{"path":{{"type":"Exact","value":"/page"}}}}],"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{body}"}}}}]}}]}}"#
    )
}

/// Does it to the leader; returns how to undo it.
fn strike(site: &mut Site, fault: Fault, leader: usize) -> Vec<String> {
    let name = CONTROLLERS[leader];
    let cut = match fault {
        Fault::Killed => {
            site.controllers[leader].kill();
            Vec::new()
        }
        Fault::Frozen => {
            site.controllers[leader].freeze();
            Vec::new()
        }
        Fault::CutFromStore => vec![HUB.to_owned()],
        Fault::CutFromProxies => PROXIES.map(|proxy| site.lab.address(proxy)).to_vec(),
        Fault::CutFromControllers => CONTROLLERS.iter().filter(|other| **other != name).map(|other| site.lab.address(other)).collect(),
    };
    cut.iter().for_each(|address| site.lab.cut(name, address));
    cut
}

fn race(site: &mut Site, number: usize, fault: Fault) -> Duration {
    let leader = site.leader();
    let name = CONTROLLERS[leader];
    let cut = strike(site, fault, leader);
    let struck = Instant::now();
    let body = format!("n{number}");
    site.write("routes/page", &page(&body));
    let mut took = Duration::ZERO;
    for proxy in PROXIES {
        until(&format!("{proxy} after {name} was {fault:?}"), || get(site.web(proxy), "any", "/page").body == body);
        took = struck.elapsed();
    }
    // A leader that comes back learns of the new one.
    cut.iter().for_each(|address| site.lab.heal(name, address));
    match fault {
        Fault::Killed => site.controllers[leader] = site.controller(name),
        Fault::Frozen => site.controllers[leader].thaw(),
        _ => {}
    }
    println!("{}: race {number}, {name} was {fault:?}: live everywhere after {took:?}", site.store);
    took
}

fn race_on(lab: Lab, store: String, direct: &str, faults: &[Fault]) {
    let backend = Backend::start(|_, _| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec());
    let endpoint = format!("{HUB}:{}", gate(backend.address.to_string()));
    let mut site = Site::new(lab, store, direct);
    site.leader();
    let proxies: Vec<Process> = PROXIES.iter().enumerate().map(|(number, name)| site.proxy(name, number)).collect();
    site.write("listeners/web", r#"{"address":"0.0.0.0:80"}"#);
    site.write("routes/all", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    site.write("routes/page", &page("first"));
    site.write("endpoints/shop/a", &endpoint);
    let serves = |site: &Site, proxy: &str| TcpStream::connect(site.web(proxy)).is_ok() && get(site.web(proxy), "any", "/page").body == "first";
    PROXIES.iter().for_each(|proxy| until(proxy, || serves(&site, proxy)));
    PROXIES.iter().for_each(|proxy| until(proxy, || get(site.web(proxy), "any", "/").status == 200));
    let loads: Vec<Load> = PROXIES.iter().map(|proxy| Load::start(site.web(proxy), "any", 2)).collect();
    let watchers: Vec<Watcher> = PROXIES.iter().map(|proxy| Watcher::start(site.web(proxy))).collect();
    let count = races();
    let slowest = (0..count).map(|number| race(&mut site, number, faults[number % faults.len()])).max().unwrap();
    // Any controller answers, the leader or a follower.
    site.leader();
    for controller in CONTROLLERS {
        until("everything to be current", || site.verb(controller, &["status"]).status.success());
        let output = text(&site.verb(controller, &["status"]).stdout);
        assert!(output.contains("Proxies:  2 connected of 2 known") && output.matches(": follows").count() == 2, "{controller}: {output}");
    }
    let looked: u64 = watchers.into_iter().map(Watcher::finish).sum();
    let sent: u64 = loads.into_iter().map(Load::finish).sum();
    println!("{}: {count} races, slowest {slowest:?}, {sent} requests, 0 failed, {looked} versions, none went back", site.store);
    assert!(slowest <= TTL + Duration::from_secs(1), "a new leader's word was live everywhere only after {slowest:?}");
    drop(proxies);
}

/// One after the other: each of them measures, and would measure the others.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Runs it in a network of its own.
fn in_lab(name: &'static str, test: impl FnOnce(Lab) + Send + 'static) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let hosts = [CONTROLLERS.as_slice(), &PROXIES].concat();
    let inside = std::thread::spawn(move || test(Lab::enter(name, &hosts)));
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn leaders_on_a_directory_are_killed_and_frozen_and_nothing_goes_back() {
    in_lab("f", |lab| {
        race_on(
            lab,
            "file://{dir}/waypost".to_owned(),
            "file://{dir}/waypost",
            &[Fault::Killed, Fault::Frozen, Fault::CutFromProxies, Fault::CutFromControllers],
        )
    });
}

/// The same on a server, which controllers reach through a gate.
fn race_on_server(name: &'static str, scheme: &'static str, start: fn() -> Box<dyn Server>) {
    in_lab(name, move |lab| {
        let server = start();
        let endpoint = server.endpoints()[0].clone();
        race_on(lab, format!("{scheme}://{HUB}:{}/waypost", gate(endpoint.clone())), &format!("{scheme}://{endpoint}/waypost"), &FAULTS);
    });
}

#[test]
fn leaders_on_etcd_are_killed_frozen_and_cut_off_and_nothing_goes_back() {
    race_on_server("e", "etcd", || Box::new(Etcd::new(1)));
}

#[test]
fn leaders_on_consul_are_killed_frozen_and_cut_off_and_nothing_goes_back() {
    race_on_server("c", "consul", || Box::new(Consul::new(1)));
}

#[test]
fn leaders_on_zookeeper_are_killed_frozen_and_cut_off_and_nothing_goes_back() {
    race_on_server("z", "zookeeper", || Box::new(ZooKeeper::new(1)));
}

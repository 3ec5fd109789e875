//! Endpoints that fail their probes: all proxies take them out together, whether they probe them or not, and no proxy has to rely on its own findings
//! alone.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use waypost_testkit::Process;
use waypost_testkit::servers::{Consul, Etcd, Server as _, ZooKeeper};

use crate::harness::{Backend, Load, get, leader_of, loopback, ok, raw, start_proxy_of, start_proxy_with, text, until, verb, waypost, waypost_proxy};
use crate::lab::{HUB, Lab};

/// The behaviour of an endpoint when it is probed. Other requests are always answered.
const WELL: u8 = 0;
const REFUSES: u8 = 1;
const HANGS: u8 = 2;

/// An endpoint with a health of its own.
struct Patient {
    backend: Backend,
    mode: Arc<AtomicU8>,
    probes: Arc<AtomicU64>,
}

impl Patient {
    fn new(name: &str) -> Self {
        let (mode, probes) = (Arc::new(AtomicU8::new(WELL)), Arc::new(AtomicU64::new(0)));
        let (asked, counter, name) = (mode.clone(), probes.clone(), name.to_owned());
        let backend = Backend::start(move |head, _| {
            let mut status = "200 OK";
            if head.starts_with("GET /healthz ") {
                counter.fetch_add(1, Ordering::Relaxed);
                match asked.load(Ordering::Relaxed) {
                    REFUSES => status = "503 Service Unavailable",
                    HANGS => std::thread::sleep(Duration::from_secs(2)),
                    _ => {}
                }
            }
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len()).into_bytes()
        });
        Self { backend, mode, probes }
    }

    fn becomes(&self, mode: u8) -> Instant {
        self.mode.store(mode, Ordering::Relaxed);
        Instant::now()
    }

    /// Probes in so many intervals.
    fn probes_in(&self, time: Duration) -> u64 {
        let before = self.probes.load(Ordering::Relaxed);
        std::thread::sleep(time);
        self.probes.load(Ordering::Relaxed) - before
    }
}

/// Controllers and proxies around some endpoints.
struct Clinic {
    folder: tempfile::TempDir,
    store: String,
    apis: Vec<SocketAddr>,
    controllers: Vec<Process>,
    proxies: Vec<Process>,
    web: SocketAddr,
    patients: Vec<Patient>,
}

impl Clinic {
    fn open(store: &str, controllers: usize, proxies: usize, check: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("waypost")).unwrap();
        let store = store.replace("{dir}", &folder.path().join("waypost").display().to_string());
        let patients = ["a", "b", "c", "sick"].map(Patient::new).into_iter().collect();
        let apis = (0..controllers).map(|_| loopback()).collect();
        let mut this = Self { folder, store, apis, controllers: Vec::new(), proxies: Vec::new(), web: loopback(), patients };
        for number in 0..controllers {
            let process = this.controller(number);
            this.controllers.push(process);
        }
        let named: Vec<_> = this.apis.iter().enumerate().map(|(number, api)| (format!("c{number}"), *api)).collect();
        leader_of(&named);
        for number in 0..proxies {
            let process = this.proxy(number);
            this.proxies.push(process);
        }
        this.ok(&["put", "listeners/web", &format!("{{\"address\":\"{}\"}}", this.web)]);
        this.ok(&["put", "backends/shop", &format!("{{\"healthCheck\":{check}}}")]);
        this.ok(&["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
        for patient in ["a", "b", "c", "sick"].iter().zip(&this.patients) {
            this.ok(&["put", &format!("endpoints/shop/{}", patient.0), &patient.1.backend.address.to_string()]);
        }
        let all = format!("{proxies}/{proxies}");
        until("all proxies", || proxies == 0 || text(&this.verb(&["wait", "endpoints/shop/sick"]).stdout).contains(&all));
        this
    }

    fn controller(&self, number: usize) -> Process {
        let state = self.folder.path().join(format!("c{number}"));
        let mut command = Command::new(waypost());
        command.args(["controller", "--store", &self.store, "--state", &state.display().to_string(), "--api", &self.apis[number].to_string()]);
        command.args(["--name", &format!("c{number}"), "--leader-ttl", "3s"]);
        let mut process = Process::start(&mut command, &state.with_extension("log"));
        waypost_testkit::process::wait_for_port(self.apis[number], &mut process);
        process
    }

    fn proxy(&self, number: usize) -> Process {
        // Each prefers another controller.
        let apis: Vec<SocketAddr> = (0..self.apis.len()).map(|offset| self.apis[(number + offset) % self.apis.len()]).collect();
        start_proxy_of(&apis, &self.folder.path().join(format!("p{number}")), &format!("p{number}"), &address(number).to_string())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(self.apis[0], arguments)
    }

    fn verb(&self, arguments: &[&str]) -> std::process::Output {
        verb(self.apis[0], arguments)
    }

    fn sick(&self) -> &Patient {
        &self.patients[3]
    }

    /// Where proxy number `number` serves.
    fn at(&self, number: usize) -> SocketAddr {
        SocketAddr::new(address(number), self.web.port())
    }

    /// The health of an endpoint as the controller describes it.
    fn health(&self, id: &str) -> serde_json::Value {
        let output = self.verb(&["describe", &format!("endpoints/shop/{id}"), "-o", "json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_default()["health"].clone()
    }

    fn probers(&self, id: &str) -> usize {
        self.health(id)["probers"].as_array().map_or(0, Vec::len)
    }
}

fn address(number: usize) -> std::net::IpAddr {
    std::net::IpAddr::from([127, 0, 1, u8::try_from(number + 1).unwrap()])
}

/// Asks every proxy again and again, and notes when the sick endpoint answered last.
struct Watcher {
    stop: Arc<AtomicBool>,
    last: Vec<Arc<Mutex<Instant>>>,
    /// When it answered again after the last reset.
    again: Vec<Arc<Mutex<Option<Instant>>>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Watcher {
    fn start(clinic: &Clinic, proxies: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let last: Vec<_> = (0..proxies).map(|_| Arc::new(Mutex::new(Instant::now()))).collect();
        let again: Vec<_> = (0..proxies).map(|_| Arc::new(Mutex::new(None))).collect();
        let watch = |number: usize| {
            let (stop, last, again, at) = (stop.clone(), last[number].clone(), again[number].clone(), clinic.at(number));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = raw(at, b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").unwrap();
                    assert_eq!(answer.status, 200, "{answer:?}");
                    if answer.body == "sick" {
                        *last.lock().unwrap() = Instant::now();
                        again.lock().unwrap().get_or_insert_with(Instant::now);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        };
        let threads = (0..proxies).map(watch).collect();
        Self { stop, last, again, threads }
    }

    /// When it was out on each proxy, once it was out on all of them for so long.
    fn until_out(&self, quiet: Duration) -> Vec<Instant> {
        let out = || self.last.iter().map(|last| *last.lock().unwrap()).collect::<Vec<_>>();
        until("the endpoint to be out on all proxies", || out().iter().all(|last| last.elapsed() > quiet));
        out()
    }

    /// When it was back on each proxy, of all that had it out.
    fn until_again(&self) -> Vec<Instant> {
        self.again.iter().for_each(|again| *again.lock().unwrap() = None);
        let back = || self.again.iter().filter_map(|again| *again.lock().unwrap()).collect::<Vec<_>>();
        until("the endpoint to be back on all proxies", || back().len() == self.again.len());
        back()
    }

    fn until_back(&self) {
        let all = || self.last.iter().all(|last| last.lock().unwrap().elapsed() < Duration::from_millis(500));
        until("the endpoint to be back on all proxies", all);
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no request failed"));
    }
}

#[test]
fn ten_proxies_take_a_failing_endpoint_out_together_and_it_is_probed_no_more_for_that() {
    const PROXIES: usize = 10;
    let (interval, fall) = (Duration::from_millis(500), 3);
    let server = Etcd::new(1);
    let store = format!("etcd://{}/waypost", server.endpoints()[0]);
    let mut clinic = Clinic::open(&store, 3, PROXIES, r#"{"path":"/healthz","interval":"500ms","timeout":"250ms"}"#);
    until("three probers", || clinic.probers("sick") == 3);
    let bound = interval * fall + Duration::from_millis(250);
    let watcher = Watcher::start(&clinic, PROXIES);
    for (mode, why) in [(REFUSES, "status 503"), (HANGS, "no answer within 250ms"), (REFUSES, "status 503"), (HANGS, "no answer within 250ms")] {
        watcher.until_back();
        let failed = clinic.sick().becomes(mode);
        let out = watcher.until_out(Duration::from_secs(1));
        let (first, last) = (*out.iter().min().unwrap(), *out.iter().max().unwrap());
        println!("{why}: out on the first proxy after {:?}, on the last after {:?}", first.saturating_duration_since(failed), last - failed);
        assert!(last - failed <= bound, "{why}: out after {:?}, at most {bound:?}", last - failed);
        assert!(last - first <= bound, "{why}: they disagreed for {:?}", last - first);
        // A prober that had found no good answer meanwhile says so with its next probe.
        until("what it fails with now", || clinic.health("sick")["why"] == *why);
        assert_eq!(clinic.health("sick")["healthy"], false);
        assert!(text(&clinic.verb(&["status"]).stdout).contains("backend shop: 1 of 4 endpoints are unhealthy"));
        let well = clinic.sick().becomes(WELL);
        let back = watcher.until_again();
        let (first, last) = (*back.iter().min().unwrap(), *back.iter().max().unwrap());
        println!("back on the first proxy after {:?}, on the last after {:?}", first - well, last - well);
        // Each proxy is asked every 10 ms, and one in four requests is for that endpoint.
        let (rise, noticed) = (interval * 2 + Duration::from_millis(250), Duration::from_millis(500));
        assert!(last - well <= rise + noticed && last - first <= noticed, "they disagreed for {:?}", last - first);
    }
    watcher.until_back();
    watcher.finish();
    // The endpoint is probed three times in each interval, in every state.
    let three = |clinic: &Clinic, what: &str| {
        let probes = clinic.patients[0].probes_in(interval * 10);
        assert!((27..=33).contains(&probes), "{what}: {probes} probes in 10 intervals");
    };
    three(&clinic, "10 proxies, 1 route");
    for number in 0..30 {
        clinic.ok(&["put", &format!("routes/r{number}"), &format!(r#"{{"hostnames":["h{number}"],"rules":[{{"backendRefs":[{{"name":"shop"}}]}}]}}"#)]);
    }
    clinic.ok(&["wait", "routes/r29"]);
    three(&clinic, "31 routes");
    for mut proxy in clinic.proxies.drain(3..) {
        proxy.kill();
    }
    let left = |clinic: &Clinic| {
        let probers = clinic.health("a")["probers"].clone();
        probers.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|name| ["p0", "p1", "p2"].contains(&name.as_str().unwrap())))
    };
    until("the three that are left to probe", || left(&clinic));
    three(&clinic, "3 proxies");
}

#[test]
fn with_no_controller_every_proxy_probes_for_itself_and_with_one_they_agree_again() {
    let mut clinic = Clinic::open("file://{dir}", 1, 2, r#"{"path":"/healthz","interval":"500ms","timeout":"250ms"}"#);
    until("two probers", || clinic.probers("sick") == 2);
    let watcher = Watcher::start(&clinic, 2);
    watcher.until_back();
    clinic.controllers[0].kill();
    clinic.sick().becomes(REFUSES);
    // Until what they found out together is out of date, it counts.
    watcher.until_out(Duration::from_secs(2));
    let probes = clinic.patients[0].probes_in(Duration::from_secs(2));
    assert!((7..=9).contains(&probes), "each of two proxies, four times: {probes}");
    clinic.sick().becomes(WELL);
    watcher.until_back();
    clinic.sick().becomes(REFUSES);
    watcher.until_out(Duration::from_secs(2));
    clinic.controllers[0] = clinic.controller(0);
    until("the controller to know it", || clinic.health("sick")["healthy"] == false);
    // The endpoint does not come back meanwhile. Under a controller, the findings of single proxies do not count any more.
    watcher.until_out(Duration::from_secs(4));
    clinic.sick().becomes(WELL);
    watcher.until_back();
    watcher.finish();
}

/// Two of three proxies crashed in the newest config and serve the one before: no endpoint is left to them to judge for others,
/// and each of them probes for itself.
#[test]
fn proxies_that_refuse_a_config_take_failing_endpoints_out_all_the_same() {
    const PROXIES: usize = 3;
    let mut clinic = Clinic::open("file://{dir}", 1, PROXIES, r#"{"path":"/healthz","interval":"300ms","timeout":"200ms"}"#);
    until("three probers", || clinic.probers("sick") == PROXIES);
    let path = |clinic: &Clinic, number: usize| clinic.folder.path().join(format!("p{number}/seen.json"));
    let state_of = |clinic: &Clinic, number| serde_json::from_slice(&waypost_disk::read_exact(&path(clinic, number)).unwrap().unwrap()).unwrap();
    let until_on_disk = |clinic: &Clinic| {
        let status: serde_json::Value = serde_json::from_slice(&clinic.verb(&["status", "-o", "json"]).stdout).unwrap();
        let config = status["config"].as_str().unwrap().to_owned();
        let has = |state: serde_json::Value| state["digests"]["stable"].as_str().is_some_and(|digest| digest.starts_with(&config));
        until("the config to be on disk", || (0..PROXIES).all(|number| has(state_of(clinic, number))));
    };
    until_on_disk(&clinic);
    // The highest version may be on disk before its config is.
    let in_ring = |clinic: &Clinic, number: usize| {
        let files = std::fs::read_dir(clinic.folder.path().join(format!("p{number}"))).unwrap().map(|item| item.unwrap().path());
        let configs = files.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl") && !path.ends_with("membership.jsonl"));
        configs.filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| text.contains(r#""kind":"route""#))
    };
    until("the good config in the ring", || (0..PROXIES).all(|number| in_ring(&clinic, number)));
    clinic.ok(&["put", "routes/bad", r#"{"hostnames":["bad"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    until_on_disk(&clinic);
    for number in [1, 2] {
        clinic.proxies[number].kill();
        let mut state: serde_json::Value = state_of(&clinic, number);
        state["quarantined"] = serde_json::json!([state["digests"]["stable"]]);
        waypost_disk::write(&path(&clinic, number), state.to_string().as_bytes()).unwrap();
        clinic.proxies[number] = clinic.proxy(number);
    }
    until("two that refuse it", || text(&clinic.verb(&["status"]).stdout).matches("refused: config").count() == 2);
    until("one prober", || clinic.probers("sick") == 1);
    let watcher = Watcher::start(&clinic, PROXIES);
    for _ in 0..2 {
        watcher.until_back();
        clinic.sick().becomes(REFUSES);
        watcher.until_out(Duration::from_secs(1));
        until("the controller to know it", || clinic.health("sick")["healthy"] == false);
        clinic.sick().becomes(WELL);
    }
    watcher.until_back();
    watcher.finish();
    // The proxies do not refuse the next config: all of them probe for each other again.
    clinic.ok(&["delete", "routes/bad"]);
    clinic.ok(&["put", "routes/good", r#"{"hostnames":["good"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    until("three probers again", || clinic.probers("sick") == PROXIES);
    until("no more probes than that", || (8..=10).contains(&clinic.patients[0].probes_in(Duration::from_millis(900))));
}

/// Where, for what and by whom an endpoint is probed can be written.
#[test]
fn a_check_has_its_own_port_host_and_statuses_and_probers_of_both_zones() {
    let mut clinic = Clinic::open("file://{dir}", 1, 0, "{}");
    for (number, zone) in [(0, "a"), (1, "b"), (2, "b")] {
        let (name, bind) = (format!("p{number}"), address(number).to_string());
        let zone = format!("zone={zone}");
        clinic.proxies.push(start_proxy_with(&clinic.apis, &clinic.folder.path().join(&name), &name, &bind, &["--label", &zone]));
    }
    // One probe port answers for all endpoints, but only requests of the configured form.
    let status = Arc::new(AtomicU64::new(204));
    let answered = status.clone();
    let probe = Backend::start(move |head, _| {
        let asked = head.starts_with("GET /ready?deep=1 ") && head.to_lowercase().contains("\r\nhost: health.internal\r\n");
        let status = if asked { answered.load(Ordering::Relaxed) } else { 500 };
        format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    let check = format!(
        r#"{{"healthCheck":{{"path":"/ready?deep=1","host":"health.internal","port":{},"expectedStatuses":[204],"probers":2,"panicThreshold":0,"interval":"300ms","timeout":"200ms"}}}}"#,
        probe.address.port()
    );
    clinic.ok(&["put", "backends/shop", &check]);
    for (id, zone) in [("a", "a"), ("b", "b")] {
        let patient = &clinic.patients[usize::from(zone == "b")];
        clinic.ok(&["put", &format!("endpoints/shop/{id}"), &format!(r#"{{"address":"{}","zone":"{zone}"}}"#, patient.backend.address)]);
    }
    clinic.ok(&["delete", "endpoints/shop/c"]);
    clinic.ok(&["delete", "endpoints/shop/sick"]);
    let of_both = |id: &str| {
        let probers = clinic.health(id)["probers"].clone();
        let zones: Vec<bool> = probers.as_array().into_iter().flatten().map(|name| name == "p0").collect();
        zones.len() == 2 && zones.contains(&true) && zones.contains(&false)
    };
    until("probers of both zones", || of_both("a") && of_both("b"));
    let served = |status: u16| (0..3).all(|number| get(clinic.at(number), "shop", "/").status == status);
    until("service", || served(200));
    let well = Instant::now();
    while well.elapsed() < Duration::from_secs(2) {
        assert!(served(200), "204 is healthy");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(clinic.patients.iter().all(|patient| patient.probes.load(Ordering::Relaxed) == 0), "no other port is probed");
    status.store(200, Ordering::Relaxed);
    until("200 to be wrong, and no endpoint left", || served(503));
    assert_eq!(clinic.health("a")["why"], "status 200");
    status.store(204, Ordering::Relaxed);
    until("service again", || served(200));
}

#[test]
fn endpoints_that_are_out_go_with_their_keys_and_nothing_is_held() {
    let clinic = Clinic::open("file://{dir}", 1, 2, r#"{"path":"/healthz","interval":"300ms","timeout":"200ms","panicThreshold":20}"#);
    until("two probers", || clinic.probers("sick") == 2);
    let load = Load::start(clinic.at(0), "shop", 4);
    let sick = [(0, "a"), (1, "b"), (3, "sick")];
    for (number, _) in sick {
        clinic.patients[number].becomes(REFUSES);
    }
    until("three of four out", || text(&clinic.verb(&["status"]).stdout).contains("backend shop: 3 of 4 endpoints are unhealthy"));
    for (_, id) in sick {
        std::fs::remove_file(clinic.folder.path().join(format!("waypost/endpoints/shop/{id}"))).unwrap();
    }
    // Three of four would wait for ten seconds, or be held.
    let removed_at = Instant::now();
    until("one endpoint", || clinic.ok(&["get", "endpoints"]).matches("endpoints/shop/").count() == 1);
    let output = text(&clinic.verb(&["status"]).stdout);
    assert!(!output.contains("Held:") && !output.contains("Judged:") && output.contains("Everything is current"), "{output}");
    assert!(removed_at.elapsed() < Duration::from_secs(3), "{:?}", removed_at.elapsed());
    assert_eq!(get(clinic.at(1), "shop", "/").body, "c");
    println!("{} requests, 0 failed", load.finish());
}

/// Probers, endpoints and a network that can be cut between them.
#[test]
fn a_prober_that_is_cut_off_from_the_endpoints_changes_nothing() {
    const PROXIES: [&str; 3] = ["p0", "p1", "p2"];
    let lab = Lab::enter("h", &["p0", "p1", "p2", "e0", "e1"]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("waypost");
    std::fs::create_dir(&dir).unwrap();
    let mut running = Vec::new();
    let log = |name: &str| folder.path().join(format!("{name}.log"));
    let api: SocketAddr = format!("{HUB}:7400").parse().unwrap();
    let mut command = Command::new(waypost());
    command.args(["controller", "--store", &format!("file://{}", dir.display()), "--state", &folder.path().join("c").display().to_string()]);
    let mut controller = Process::start(command.args(["--name", "c0", "--api", &api.to_string(), "--insecure"]), &log("c"));
    waypost_testkit::process::wait_for_port(api, &mut controller);
    running.push(controller);
    let put = |key: &str, value: &str| drop(ok(api, &["put", key, value]));
    put("listeners/web", r#"{"address":"0.0.0.0:80"}"#);
    put("backends/shop", r#"{"healthCheck":{"type":"HTTP","interval":"300ms","timeout":"200ms"}}"#);
    put("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    for host in ["e0", "e1"] {
        let address = format!("{}:9000", lab.address(host));
        running.push(Process::start(lab.on(host, &waypost()).args(["echo", "--listen", &address, "--name", host]), &log(host)));
        put(&format!("endpoints/shop/{host}"), &address);
    }
    for name in PROXIES {
        let mut command = lab.on(name, &waypost_proxy());
        command.args(["--controller", &format!("http://{api}"), "--state", &folder.path().join(name).display().to_string()]);
        running.push(Process::start(command.args(["--name", name, "--insecure", "--drain-delay", "0s"]), &log(name)));
    }
    let status = || text(&verb(api, &["status"]).stdout);
    until("three probers and all well", || {
        let endpoint: serde_json::Value = serde_json::from_slice(&verb(api, &["describe", "endpoints/shop/e0", "-o", "json"]).stdout).unwrap_or_default();
        endpoint["health"]["probers"].as_array().is_some_and(|all| all.len() == 3) && status().contains("Everything is current")
    });
    let web = |name: &str| format!("{}:80", lab.address(name)).parse().unwrap();
    let (one, other) = (Load::start(web("p1"), "shop", 2), Load::start(web("p2"), "shop", 2));
    let ends = ["e0", "e1"].map(|host| lab.address(host));
    ends.iter().for_each(|end| lab.cut("p0", end));
    std::thread::sleep(Duration::from_secs(4));
    let status_now = status();
    assert!(status_now.contains("Everything is current") && !status_now.contains("Health:"), "{status_now}");
    println!("{} requests past the prober that is cut off, 0 failed", one.finish() + other.finish());
    // Two of three are a majority; and as both endpoints are out then, both are used.
    ends.iter().for_each(|end| lab.cut("p1", end));
    until("what the majority says", || status().contains("backend shop: 2 of 2 endpoints are unhealthy; TOO FEW"));
    assert_eq!(get(web("p2"), "shop", "/").status, 200);
    ends.iter().for_each(|end| lab.heal("p1", end));
    until("the majority to be well", || status().contains("Everything is current"));
}

/// Every check of every endpoint fails at once, under load; meanwhile the leader is killed and a proxy restarted.
fn all_red_on(store: &str) {
    let mut clinic = Clinic::open(store, 1, 2, r#"{"path":"/healthz","interval":"300ms","timeout":"200ms"}"#);
    until("two probers", || clinic.probers("sick") == 2);
    until("everything to be current", || clinic.verb(&["status"]).status.success());
    let load = Load::start(clinic.at(0), "shop", 4);
    let red = Instant::now();
    for patient in &clinic.patients {
        patient.becomes(REFUSES);
    }
    let view = |clinic: &Clinic| text(&clinic.verb(&["status"]).stdout);
    until("the status to say it", || view(&clinic).contains("backend shop: 4 of 4 endpoints are unhealthy; TOO FEW, so all are used as if they were healthy"));
    assert_eq!(clinic.verb(&["status"]).status.code(), Some(1));
    let on_disk =
        |clinic: &Clinic| std::fs::read_to_string(clinic.folder.path().join("p1/membership.jsonl")).is_ok_and(|held| held.contains("\"healthy\":false"));
    until("the verdicts on disk", || on_disk(&clinic));
    clinic.controllers[0].kill();
    clinic.proxies[1].kill();
    clinic.proxies[1] = clinic.proxy(1);
    until("the second proxy", || std::net::TcpStream::connect(clinic.at(1)).is_ok());
    assert_eq!(get(clinic.at(1), "shop", "/").status, 200);
    clinic.controllers[0] = clinic.controller(0);
    until("the same after a restart", || view(&clinic).contains("4 of 4 endpoints are unhealthy"));
    while red.elapsed() < crate::night::night() {
        std::thread::sleep(Duration::from_millis(100));
    }
    (0..2).for_each(|number| assert_eq!(get(clinic.at(number), "shop", "/").status, 200));
    assert_eq!(clinic.verb(&["status"]).status.code(), Some(1));
    for patient in &clinic.patients {
        patient.becomes(WELL);
    }
    until("everything to be current", || clinic.verb(&["status"]).status.success() && !view(&clinic).contains("unhealthy"));
    println!("{}: {} requests, 0 failed, every check red for {:?}", clinic.store, load.finish(), red.elapsed());
}

#[test]
fn every_check_is_red_at_once_over_a_directory() {
    all_red_on("file://{dir}");
}

#[test]
fn every_check_is_red_at_once_over_etcd() {
    let server = Etcd::new(1);
    all_red_on(&format!("etcd://{}/waypost", server.endpoints()[0]));
}

#[test]
fn every_check_is_red_at_once_over_consul() {
    let server = Consul::new(1);
    all_red_on(&format!("consul://{}/waypost", server.endpoints()[0]));
}

#[test]
fn every_check_is_red_at_once_over_zookeeper() {
    let server = ZooKeeper::new(1);
    all_red_on(&format!("zookeeper://{}/waypost", server.endpoints()[0]));
}

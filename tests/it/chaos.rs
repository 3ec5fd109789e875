//! Random writes and random faults from a seed: whatever happens, soon after the store is whole again the table is
//! what the store holds, and on the way the versions never went down.
//!
//! `make chaos STORE=etcd` runs a hundred seeds; the ordinary tests run a few. A failure prints the seed and what was
//! done; `WAYPOST_CHAOS_SEED=… WAYPOST_CHAOS_RUNS=1` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use waypost_adapter::{Adapter, Event, Key};
use waypost_model::compile::{Compiler, EntryInput, Written};
use waypost_model::limits::Limits;
use waypost_testkit::mangle::{Mangler, Protocol};
use waypost_testkit::servers::{Consul, Etcd, Server, ZooKeeper};

use crate::harness::{Box1, get, loopback, raw};

/// After the store is whole again, everything is as it says within this time.
const RECOVERY_TIME: Duration = Duration::from_secs(5);
/// After a store has stopped lying, that is found by the next audit, which is once a second here; or by its silence.
const AUDIT_TIME: Duration = Duration::from_secs(10);

/// Within this time after a store was wiped, the controller has read and judged that, and has it on disk.
const JUDGEMENT_TIME: Duration = Duration::from_secs(6);

/// A store, a controller and a proxy over it.
struct Arena {
    server: Option<Box<dyn Server>>,
    /// The mangler between the store and Waypost, if there is one.
    mangler: Option<Mangler>,
    recovery: Duration,
    adapter: Arc<dyn Adapter>,
    run: Box1,
    web: SocketAddr,
    runtime: tokio::runtime::Runtime,
    /// When the store was wiped.
    wiped: Option<Instant>,
    /// Waypost was killed after its store was wiped. If the judgement was not on disk yet, the store is judged again, and its present entries may be
    /// held as well until an operator approves.
    doubtful: bool,
}

/// What is broken at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    StoreKilled,
    StoreFrozen,
    WaypostFrozen,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

fn chaos(store: &str) {
    play(store, false);
}

/// The store's watches lie; everything else is whole.
fn lies(store: &str) {
    play(store, true);
}

fn play(store: &str, lying: bool) {
    if let Ok(wanted) = std::env::var("WAYPOST_CHAOS_STORE") {
        assert!(["file", "etcd", "consul", "zookeeper"].contains(&wanted.as_str()), "there is no store {wanted}: file, etcd, consul or zookeeper");
        if wanted != store {
            return;
        }
    }
    let first = setting("WAYPOST_CHAOS_SEED").unwrap_or(1);
    let runs = setting("WAYPOST_CHAOS_RUNS").unwrap_or(3);
    let mut arena = Arena::new(store, lying);
    let mut slowest = Duration::ZERO;
    for seed in first..first + runs {
        let mut actions = Vec::new();
        match arena.round(seed, &mut actions) {
            Ok(took) => slowest = slowest.max(took),
            Err(why) => panic!("seed {seed} on {store}: {why}\nit was done:\n  {}\n{}", actions.join("\n  "), arena.run.process.output()),
        }
    }
    let harms = arena.mangler.as_ref().map(|mangler| format!(", {} lies", mangler.calm())).unwrap_or_default();
    println!("{store}: {runs} runs from seed {first}{harms}; the slowest was right {slowest:?} after its store was whole");
}

impl Arena {
    fn new(store: &str, lying: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server: Option<Box<dyn Server>> = match store {
            "etcd" => Some(Box::new(Etcd::new(1))),
            "consul" => Some(Box::new(Consul::new(1))),
            "zookeeper" => Some(Box::new(ZooKeeper::new(1))),
            _ => None,
        };
        let protocol = match store {
            "etcd" => Protocol::Grpc,
            "consul" => Protocol::BlockingQueries,
            _ => Protocol::Packets,
        };
        let endpoint = server.as_ref().map(|server| server.endpoints()[0].clone()).unwrap_or_default();
        let mangler = lying.then(|| runtime.block_on(Mangler::before(&endpoint, protocol)));
        let address = mangler.as_ref().map_or(endpoint.clone(), Mangler::endpoint);
        let url = if server.is_some() { format!("{store}://{address}/waypost") } else { "file://{dir}".to_owned() };
        let audit: &[&str] = if lying { &["--store-audit", "1s"] } else { &[] };
        let run = Box1::start(&url, &[&["--version-header", "--drain-deadline", "1s"], audit].concat());
        let url = if server.is_none() { format!("file://{}", run.dir().display()) } else { format!("{store}://{endpoint}/waypost") };
        let adapter = waypost::stores::open(&waypost::stores::StoreFlags::from(url.as_str())).unwrap().adapter;
        let recovery = if lying { AUDIT_TIME } else { RECOVERY_TIME };
        Self { server, mangler, recovery, adapter, run, web: loopback(), runtime, wiped: None, doubtful: false }
    }

    /// One run. Returns how long after the store was whole everything was right.
    fn round(&mut self, seed: u64, log: &mut Vec<String>) -> Result<Duration, String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        self.doubtful = false;
        let watcher = Versions::watch(self.run.admin);
        let mut fault: Option<(Fault, usize)> = None;
        if let Some(mangler) = &self.mangler {
            mangler.harm(seed);
        }
        for step in 0..rng.usize(15..50) {
            if let Some((what, until)) = fault
                && step >= until
            {
                self.mend(what, log);
                fault = None;
            }
            match rng.u8(0..100) {
                _ if self.mangler.is_some() => self.write(&mut rng, seed, step, None, log),
                0..7 if fault.is_none() => fault = self.harm(&mut rng, step, log),
                7..9 if fault.is_none() => {
                    log.push("waypost killed and started again".to_owned());
                    self.doubtful |= self.wiped.is_some_and(|at| at.elapsed() < JUDGEMENT_TIME);
                    watcher.restart(|| {
                        self.run.process.kill();
                        self.run.restart();
                    });
                }
                9..10 if fault.is_none() && self.server.is_some() => {
                    log.push("store wiped".to_owned());
                    self.server.as_mut().unwrap().wipe();
                    self.wiped = Some(Instant::now());
                }
                _ => self.write(&mut rng, seed, step, fault, log),
            }
        }
        if let Some((what, _)) = fault {
            self.mend(what, log);
        }
        if let Some(mangler) = &self.mangler {
            mangler.calm();
        }
        self.last_word(seed);
        let took = self.until_right(seed)?;
        watcher.finish()?;
        Ok(took)
    }

    fn harm(&mut self, rng: &mut fastrand::Rng, step: usize, log: &mut Vec<String>) -> Option<(Fault, usize)> {
        let what = match &self.server {
            None => Fault::WaypostFrozen,
            Some(_) => [Fault::StoreKilled, Fault::StoreFrozen, Fault::WaypostFrozen][rng.usize(0..3)],
        };
        log.push(format!("{what:?}"));
        match (what, &mut self.server) {
            (Fault::StoreKilled, Some(server)) => server.kill(0),
            (Fault::StoreFrozen, Some(server)) => server.freeze(0),
            _ => self.run.process.freeze(),
        }
        Some((what, step + rng.usize(1..8)))
    }

    fn mend(&mut self, what: Fault, log: &mut Vec<String>) {
        log.push(format!("{what:?} no more"));
        match (what, &mut self.server) {
            (Fault::StoreKilled, Some(server)) => server.start(0),
            (Fault::StoreFrozen, Some(server)) => server.thaw(0),
            _ => self.run.process.thaw(),
        }
    }

    /// A write of any kind, good or bad; while the store is away, time passes instead.
    fn write(&mut self, rng: &mut fastrand::Rng, seed: u64, step: usize, fault: Option<(Fault, usize)>, log: &mut Vec<String>) {
        if matches!(fault, Some((Fault::StoreKilled | Fault::StoreFrozen, _))) {
            std::thread::sleep(Duration::from_millis(rng.u64(50..400)));
            return;
        }
        let key = match rng.u8(0..10) {
            0..5 => format!("routes/r{}", rng.u8(0..20)),
            5..9 => format!("endpoints/b{}/e{}", rng.u8(0..5), rng.u8(0..10)),
            _ => format!("backends/b{}", rng.u8(0..5)),
        };
        let value = match (rng.u8(0..10), key.split('/').next().unwrap()) {
            (0..2, _) => None,
            (2, _) => Some("{broken".to_owned()),
            (_, "routes") => Some(format!(r#"{{"hostnames":["r{seed}-{step}"],"rules":[{{"backendRefs":[{{"name":"b{}"}}]}}]}}"#, step % 5)),
            (_, "endpoints") => Some(format!("127.0.0.1:{}", 1 + step)),
            _ => Some(r#"{"balancing":"Random"}"#.to_owned()),
        };
        log.push(format!("{key} {value:?}"));
        let full = Key::from(format!("waypost/{key}"));
        let written = self.runtime.block_on(async {
            match value {
                Some(value) => self.adapter.put(&full, Bytes::from(value)).await.map(drop),
                None => self.adapter.delete(&full).await,
            }
        });
        if let Err(error) = written {
            log.push(format!("  {error}"));
        }
        if rng.bool() {
            std::thread::sleep(Duration::from_millis(rng.u64(0..60)));
        }
    }

    /// Writes that tell this run from the others.
    fn last_word(&self, seed: u64) {
        let listener = format!(r#"{{"address":"{}"}}"#, self.web);
        let route =
            format!(r#"{{"hostnames":["last"],"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{seed}"}}}}]}}]}}"#);
        let end = Instant::now() + Duration::from_secs(30);
        for (key, value) in [("listeners/web", listener), ("routes/last", route)] {
            let key = Key::from(format!("waypost/{key}"));
            while let Err(error) = self.runtime.block_on(self.adapter.put(&key, Bytes::from(value.clone()))) {
                assert!(Instant::now() < end, "the store is not whole again: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn until_right(&self, seed: u64) -> Result<Duration, String> {
        let whole = Instant::now();
        let (expected, unclear) = self.expected();
        loop {
            let wrong = self.wrong(seed, &expected, &unclear);
            match wrong {
                None => return Ok(whole.elapsed()),
                Some(why) if whole.elapsed() > self.recovery => return Err(format!("{:?} after the store was whole: {why}", self.recovery)),
                Some(_) => std::thread::sleep(Duration::from_millis(20)),
            }
            if self.doubtful && self.run.verb(&["approve", "--all"]).status.success() {
                println!("what was judged twice is let go");
            }
        }
    }

    fn wrong(&self, seed: u64, expected: &BTreeMap<String, String>, unclear: &BTreeSet<String>) -> Option<String> {
        let Some((version, published)) = published(self.run.api) else { return Some("the controller publishes nothing".to_owned()) };
        let clear = |objects: &BTreeMap<String, String>| -> BTreeMap<String, String> {
            objects.iter().filter(|(path, _)| !unclear.contains(*path)).map(|(path, digest)| (path.clone(), digest.clone())).collect()
        };
        let (mut published, expected) = (clear(&published), clear(expected));
        // What went and is held serves on; the status lists it.
        for path in held(self.run.api) {
            published.remove(&path.replacen("endpoint/", "suspect/", 1));
            published.remove(&format!("held/{path}"));
            if !expected.contains_key(&path) {
                published.remove(&path);
            }
        }
        if published != expected {
            let missing: Vec<_> = expected.iter().filter(|item| published.get(item.0) != Some(item.1)).map(|item| item.0).collect();
            let extra: Vec<_> = published.keys().filter(|path| !expected.contains_key(*path)).collect();
            return Some(format!("of what the store holds {missing:?} is not published or another, and {extra:?} is too much"));
        }
        let serving = version_of(self.run.admin);
        if serving.map(|(epoch, sequence)| format!("{epoch}.{sequence}")) != Some(version.clone()) {
            return Some(format!("{version} is published, the proxy serves {serving:?}"));
        }
        let answer = TcpStream::connect(self.web).is_ok().then(|| get(self.web, "last", "/"));
        match answer {
            Some(answer) if answer.status == 200 && answer.body == seed.to_string() => None,
            other => Some(format!("the last route answers {other:?}")),
        }
    }

    /// The objects that a consistent read compiles to, by path and digest, and the paths of refused entries, whose last good value may serve or not,
    /// depending on the values that were read before.
    fn expected(&self) -> (BTreeMap<String, String>, BTreeSet<String>) {
        let entries = self.runtime.block_on(async {
            let mut source = self.adapter.source("waypost");
            let end = Instant::now() + Duration::from_secs(30);
            loop {
                match source.next().await {
                    Ok(Event::Reset { entries, .. }) => return entries,
                    Ok(other) => panic!("the first event was {other:?}"),
                    Err(error) => assert!(Instant::now() < end, "{error}"),
                }
            }
        });
        let inputs = entries.into_iter().filter_map(|entry| {
            let written = Written { value: entry.value.as_ref().into(), revision: entry.revision.0 };
            Some(EntryInput { key: entry.key.below("waypost")?, written, unreadable: entry.unreadable })
        });
        let mut compiler = Compiler::new(1, Limits::default());
        compiler.reset(0, inputs.collect());
        compiler.commit();
        let objects = compiler.config().objects().chain(compiler.membership().objects());
        let expected = objects.map(|object| (object.path().to_owned(), object.digest().to_string())).collect();
        let refused = compiler.views().filter(|view| !view.verdict.accepted());
        let singular = |key: &str| key.split_once('/').map(|(kind, name)| format!("{}/{name}", kind.trim_end_matches('s'))).unwrap_or_default();
        (expected, refused.map(|view| singular(&view.id.key)).collect())
    }
}

/// What the controller publishes: the version, and each object's path and digest.
fn published(api: SocketAddr) -> Option<(String, BTreeMap<String, String>)> {
    let mut stream = TcpStream::connect(api).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET /v1/watch HTTP/1.0\r\n\r\n").ok()?;
    let mut objects = BTreeMap::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let Ok(frame) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        match frame["type"].as_str() {
            Some("put") => drop(objects.insert(format!("{}/{}", text(&frame["object"]["kind"]), text(&frame["object"]["name"])), text(&frame["digest"]))),
            Some("commit") => return Some((text(&frame["version"]), objects)),
            _ => {}
        }
    }
    None
}

/// The paths of what the guard holds.
fn held(api: SocketAddr) -> Vec<String> {
    let Ok(answer) = raw(api, b"GET /v1/status HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n") else { return Vec::new() };
    let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let keys = status["held"].as_array().into_iter().flatten().filter_map(|held| held["key"].as_str());
    keys.filter_map(|key| key.split_once('/')).map(|(kind, name)| format!("{}/{name}", kind.trim_end_matches('s'))).collect()
}

/// The version that a proxy serves.
fn version_of(admin: SocketAddr) -> Option<(u64, u64)> {
    let answer = raw(admin, b"GET /readyz?verbose HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").ok()?;
    let (_, rest) = answer.body.split_once("version ")?;
    let (epoch, sequence) = rest.split_once(' ')?.0.split_once('.')?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}

/// Watches a proxy's version, which never goes down while the process lives.
struct Versions {
    stop: Arc<AtomicBool>,
    /// The number of starts of the process so far; locked while the version is read and while the process is restarted.
    life: Arc<Mutex<u64>>,
    thread: std::thread::JoinHandle<Result<(), String>>,
}

impl Versions {
    fn watch(admin: SocketAddr) -> Self {
        let (stop, life) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (stopped, lives) = (stop.clone(), life.clone());
        let thread = std::thread::spawn(move || {
            let (mut highest, mut last_life) = ((0, 0), 0);
            while !stopped.load(Ordering::Relaxed) {
                {
                    let life = lives.lock().unwrap();
                    if last_life != *life {
                        // A process that was started again begins with the versions on its disk.
                        (highest, last_life) = ((0, 0), *life);
                    }
                    if let Some(version) = version_of(admin) {
                        if version < highest {
                            return Err(format!("the proxy went from version {highest:?} back to {version:?}"));
                        }
                        highest = version;
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        });
        Self { stop, life, thread }
    }

    /// Ends a life and begins another.
    fn restart(&self, restart: impl FnOnce()) {
        let mut life = self.life.lock().unwrap();
        *life += 1;
        restart();
    }

    fn finish(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_directory_and_waypost_under_random_faults_end_in_agreement() {
    chaos("file");
}

#[test]
fn etcd_and_waypost_under_random_faults_end_in_agreement() {
    chaos("etcd");
}

#[test]
fn consul_and_waypost_under_random_faults_end_in_agreement() {
    chaos("consul");
}

#[test]
fn zookeeper_and_waypost_under_random_faults_end_in_agreement() {
    chaos("zookeeper");
}

#[test]
fn an_etcd_that_lies_changes_nothing_in_the_end() {
    lies("etcd");
}

#[test]
fn a_consul_that_lies_changes_nothing_in_the_end() {
    lies("consul");
}

#[test]
fn a_zookeeper_that_lies_changes_nothing_in_the_end() {
    lies("zookeeper");
}

//! A control plane of three controllers on etcd, with a fleet of proxies. It measures the time until a change is live everywhere, the cost
//! of a storm of changes, the time until a new proxy has everything, and the recovery of 500 followers that lose their controller together.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waypost_adapter::Adapter;
use waypost_proxy::light::Light;
use waypost_testkit::Process;
use waypost_testkit::servers::{Etcd, Server as _};
use waypost_wire::Lane;

use crate::load::Client;
use crate::product::{Product, cpu_seconds_of_all, loopback, program, resident_mb};
use crate::propagation::{fill, put};
use crate::stats::{percentile, sorted_ms};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Routes in the store
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Proxies; two of them are real
    #[arg(long, default_value_t = 50)]
    proxies: usize,
    /// Single changes to measure
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Seconds of 350 changes a second
    #[arg(long, default_value_t = 60)]
    storm: u64,
    /// Routes of the cold synchronisation
    #[arg(long, default_value_t = 30_000)]
    cold: usize,
    /// Subscribers that lose their controller together
    #[arg(long, default_value_t = 500)]
    subscribers: usize,
}

/// Changes per second in the storm.
const CHANGES_PER_SECOND: u64 = 350;
/// Minimum seconds of a run whose figures are recorded.
const MIN_RECORDED_SECONDS: u64 = 600;
const WRITERS: u64 = 50;
/// Maximum growth of memory that counts as flat.
const MAX_MEMORY_GROWTH: f64 = 1.1;

struct Fleet {
    folder: tempfile::TempDir,
    etcd: Etcd,
    adapter: Arc<dyn Adapter>,
    apis: Vec<SocketAddr>,
    controllers: Vec<Process>,
}

impl Fleet {
    fn start() -> Self {
        let (folder, etcd) = (tempfile::tempdir().expect("a directory"), Etcd::new(1));
        let store = format!("etcd://{}/waypost", etcd.endpoints()[0]);
        let adapter = waypost::stores::open(&waypost::stores::StoreFlags::from(store.as_str())).expect("the store").adapter;
        let apis: Vec<SocketAddr> = (0..3).map(|_| loopback()).collect();
        let controllers = (0..3).map(|number| controller(folder.path(), &store, number, apis[number])).collect();
        Self { folder, etcd, adapter, apis, controllers }
    }

    /// A proxy without listeners that prefers controller number `first`.
    fn light(&self, name: String, first: usize) -> Light {
        let urls = (0..3).map(|number| url(self.apis[(number + first) % 3])).collect();
        Light::start(waypost_proxy::Config::new(name, urls, self.folder.path().join("unused")))
    }

    /// Starts a real proxy.
    fn real(&self, number: usize, web: SocketAddr) -> Process {
        let mut command = Command::new(program("waypost-proxy"));
        for offset in 0..3 {
            command.args(["--controller", url(self.apis[(number + offset) % 3]).as_str()]);
        }
        let (name, bind) = (format!("real-{number}"), format!("127.0.0.{}", number + 1));
        let state = self.folder.path().join(&name).display().to_string();
        command.args(["--state", &state, "--admin", &loopback().to_string(), "--name", &name, "--bind", &bind, "--threads", "1", "--drain-delay", "0s"]);
        let mut process = Process::start(&mut command, &self.folder.path().join(format!("{name}.log")));
        waypost_testkit::process::wait_for_port(SocketAddr::new(bind.parse().expect("an address"), web.port()), &mut process);
        process
    }

    fn cpu(&self) -> Vec<f64> {
        self.controllers.iter().map(|controller| cpu_seconds_of_all(controller.id())).collect()
    }

    fn memory(&self) -> Vec<f64> {
        self.controllers.iter().map(|controller| resident_mb(controller.id())).collect()
    }

    /// Whether a controller leads.
    async fn leads(&self, number: usize) -> bool {
        page(&self.apis[number].to_string(), "/v1/controller").await.contains("\"leads\":true")
    }

    /// The number of reads that etcd has answered.
    async fn reads(&self) -> f64 {
        let text = page(&self.etcd.endpoints()[0], "/metrics").await;
        let ranges = text.lines().filter_map(|line| line.strip_prefix("etcd_mvcc_range_total "));
        ranges.filter_map(|count| count.trim().parse::<f64>().ok()).sum()
    }
}

/// The response of a server, as text.
async fn page(address: &str, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    text
}

fn controller(folder: &Path, store: &str, number: usize, api: SocketAddr) -> Process {
    let mut command = Command::new(program("waypost"));
    let name = format!("c{number}");
    command.args(["controller", "--store", store, "--state", &folder.join(&name).display().to_string(), "--api", &api.to_string(), "--name", &name]);
    let mut process = Process::start(&mut command, &folder.join(format!("{name}.log")));
    waypost_testkit::process::wait_for_port(api, &mut process);
    process
}

fn url(api: SocketAddr) -> url::Url {
    format!("http://{api}").parse().expect("a URL")
}

fn micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()).expect("a date")
}

/// A route whose response is the time at which it was written.
fn stamped(name: &str, at: u64) -> String {
    let filter = format!(r#"{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"@{at}@"}}}}"#);
    format!(r#"{{"hostnames":["{name}.example.com"],"rules":[{{"filters":[{filter}]}}]}}"#)
}

fn stamp(text: &str) -> Option<u64> {
    text.split('@').nth(1)?.parse().ok()
}

/// Waits until a follower has this number of objects in its config.
async fn until_has(light: &Light, objects: usize) {
    let mut arrivals = light.arrivals();
    let has = |arrived: &Option<waypost_proxy::light::Arrived>| {
        arrived.as_ref().is_some_and(|arrived| arrived.received.lanes.get(&Lane::Stable).is_some_and(|lane| lane.len() >= objects))
    };
    let waited = tokio::time::timeout(Duration::from_secs(120), arrivals.wait_for(has)).await;
    assert!(waited.is_ok_and(|found| found.is_ok()), "a follower never had {objects} objects");
}

/// Records the delay from the write of each change to its arrival at a follower.
fn note(light: &Light, into: Arc<Mutex<Vec<Duration>>>) -> tokio::task::JoinHandle<()> {
    let mut arrivals = light.arrivals();
    tokio::spawn(async move {
        let mut before = arrivals.borrow_and_update().clone().map(|arrived| arrived.received);
        while arrivals.changed().await.is_ok() {
            let (Some(arrived), now) = (arrivals.borrow_and_update().clone(), micros()) else { continue };
            let lane = |received: &waypost_wire::ReceivedState| received.lanes.get(&Lane::Stable).cloned().unwrap_or_default();
            let changes = before.as_ref().map(|before| lane(before).changes_to(&lane(&arrived.received))).unwrap_or_default();
            let late = now.saturating_sub(u64::try_from(arrived.at.elapsed().as_micros()).unwrap_or_default());
            let stamps = changes.iter().filter_map(|change| match change {
                waypost_model::lane::Change::Put(object) => stamp(object.bytes()),
                waypost_model::lane::Change::Delete(_) => None,
            });
            into.lock().expect("notes").extend(stamps.map(|at| Duration::from_micros(late.saturating_sub(at))));
            before = Some(arrived.received);
        }
    })
}

/// Writes one change after the other; returns the times from the acknowledgement until the last proxy has it.
async fn single(fleet: &Fleet, lights: &[Light], webs: &[SocketAddr], count: usize) -> Vec<f64> {
    let mut took = Vec::new();
    let mut clients: Vec<Client> = webs.iter().map(|web| Client::new(*web)).collect();
    for number in 0..count {
        let name = format!("single-{}", number % 20);
        let at = micros();
        put(&fleet.adapter, &format!("routes/{name}"), stamped(&name, at)).await;
        let acknowledged = Instant::now();
        let path = format!("route/{name}");
        let everywhere = lights.iter().map(|light| {
            let (mut arrivals, path) = (light.arrivals(), path.clone());
            async move {
                let has = |arrived: &Option<waypost_proxy::light::Arrived>| {
                    let object = arrived.as_ref().and_then(|arrived| arrived.received.lanes.get(&Lane::Stable)?.get(&path).cloned());
                    object.is_some_and(|object| stamp(object.bytes()) == Some(at))
                };
                let at = arrivals.wait_for(has).await.ok().and_then(|arrived| arrived.as_ref().map(|arrived| arrived.at));
                at.expect("a change arrives")
            }
        });
        let mut last = acknowledged;
        for arrival in everywhere {
            last = last.max(tokio::time::timeout(Duration::from_secs(30), arrival).await.expect("a change arrives in time"));
        }
        let request = format!("GET / HTTP/1.1\r\nhost: {name}.example.com\r\n\r\n").into_bytes();
        for client in &mut clients {
            while stamp(&String::from_utf8_lossy(&client.ask(&request).await.expect("an answer").body)) != Some(at) {
                tokio::time::sleep(Duration::from_micros(200)).await;
                last = Instant::now();
            }
        }
        took.push(last.saturating_duration_since(acknowledged));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sorted_ms(took)
}

/// The last written stamp of each route.
type Last = BTreeMap<String, u64>;

/// Writes changes at a steady rate; returns their number, and the last of each route.
async fn storm(fleet: &Fleet, seconds: u64) -> (u64, Last) {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (adapter, done) = (fleet.adapter.clone(), done.clone());
        writers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_micros(WRITERS * 1_000_000 / CHANGES_PER_SECOND));
            let mut last = Last::new();
            while begun.elapsed() < Duration::from_secs(seconds) {
                pace.tick().await;
                // No two writers use the same route.
                let (name, at) = (format!("storm-{}", fastrand::u64(0..10) * WRITERS + writer), micros());
                put(&adapter, &format!("routes/{name}"), stamped(&name, at)).await;
                last.insert(format!("route/{name}"), at);
                done.fetch_add(1, Ordering::Relaxed);
            }
            last
        });
    }
    let mut last = Last::new();
    while let Some(ended) = writers.join_next().await {
        last.extend(ended.expect("a writer"));
    }
    (done.load(Ordering::Relaxed), last)
}

/// The number of followers that do not have the last changes. A follower that receives nothing has no arrivals that could be late.
fn left_behind(lights: &[Light], last: &Last) -> usize {
    let has_all = |light: &&Light| {
        let arrivals = light.arrivals();
        let arrived = arrivals.borrow();
        let lane = arrived.as_ref().and_then(|arrived| arrived.received.lanes.get(&Lane::Stable));
        lane.is_some_and(|lane| last.iter().all(|(path, at)| lane.get(path).is_some_and(|object| stamp(object.bytes()) == Some(*at))))
    };
    lights.iter().filter(|light| !has_all(light)).count()
}

/// The size in bytes of the delta for one change of one route.
async fn delta(fleet: &Fleet) -> usize {
    let mut stream = tokio::net::TcpStream::connect(fleet.apis[0]).await.expect("a connection");
    stream.write_all(b"GET /v1/watch HTTP/1.1\r\nhost: c\r\n\r\n").await.expect("a request");
    let mut all = Vec::new();
    let mut piece = vec![0; 1 << 20];
    // First the complete state, then only heartbeats.
    loop {
        match tokio::time::timeout(Duration::from_millis(700), stream.read(&mut piece)).await {
            Ok(Ok(count @ 1..)) => all.extend_from_slice(&piece[..count]),
            Ok(_) => panic!("the stream ended"),
            Err(_) if all.windows(16).any(|window| window == b"\"type\":\"commit\",") => break,
            Err(_) => {}
        }
    }
    all.clear();
    put(&fleet.adapter, "routes/fill-7", stamped("fill-7", micros())).await;
    while !all.windows(15).any(|window| window == b"\"type\":\"commit\"") {
        let count = stream.read(&mut piece).await.expect("more");
        all.extend_from_slice(&piece[..count]);
    }
    all.len()
}

fn report(what: &str, passed: bool, figures: &str) -> bool {
    println!("{what}: {figures}{}", if passed { "" } else { "  BROKEN" });
    passed
}

pub(crate) async fn run(flags: Flags) -> bool {
    let fleet = Fleet::start();
    let web = loopback();
    put(&fleet.adapter, "listeners/web", format!("{{\"address\":\"{web}\"}}")).await;
    put(&fleet.adapter, "endpoints/shop/a", "127.0.0.1:9".to_owned()).await;
    fill(&fleet.adapter, 0..flags.routes).await;
    let webs: Vec<SocketAddr> = (0..2).map(|number| SocketAddr::from(([127, 0, 0, number + 1], web.port()))).collect();
    let lights: Vec<Light> = (2..flags.proxies).map(|number| fleet.light(format!("light-{number}"), number)).collect();
    for light in &lights {
        until_has(light, flags.routes + 1).await;
    }
    let reals: Vec<Process> = (0..2).map(|number| fleet.real(number, web)).collect();
    for web in &webs {
        Product::until_status(*web, "fill-1.example.com", 502).await;
    }
    let mut passed = one_by_one(&fleet, &lights, &webs, &flags).await;
    passed &= in_a_storm(&fleet, &lights, &flags).await;
    drop((lights, reals));
    passed &= cold(&fleet, &flags).await;
    drop(fleet);
    passed & lost_together(&flags).await
}

async fn one_by_one(fleet: &Fleet, lights: &[Light], webs: &[SocketAddr], flags: &Flags) -> bool {
    let idle = fleet.cpu();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let idle: Vec<String> = fleet.cpu().iter().zip(&idle).map(|(after, before)| format!("{:.1} %", (after - before) * 10.0)).collect();
    println!("CPU of the controllers with {} proxies and nothing to do: {}", flags.proxies, idle.join(", "));
    let took = single(fleet, lights, webs, flags.changes).await;
    let (p50, p99) = (percentile(&took, 0.5), percentile(&took, 0.99));
    report(
        &format!("one change live on {} proxies, {} routes", flags.proxies, flags.routes),
        p50 <= 30.0 && p99 <= 250.0,
        &format!("p50 {p50:.1} ms (at most 30), p99 {p99:.1} ms (at most 250)"),
    )
}

/// A storm, with the memory of the controllers during it.
async fn sampled(fleet: &Fleet, seconds: u64) -> (u64, Last, Vec<Vec<f64>>) {
    let begun = Instant::now();
    let sampling = async {
        let mut samples = Vec::new();
        while begun.elapsed() < Duration::from_secs(seconds) {
            samples.push(fleet.memory());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        samples
    };
    let ((written, last), samples) = tokio::join!(storm(fleet, seconds), sampling);
    (written, last, samples)
}

async fn in_a_storm(fleet: &Fleet, lights: &[Light], flags: &Flags) -> bool {
    let notes = Arc::new(Mutex::new(Vec::new()));
    let noters: Vec<_> = lights.iter().map(|light| note(light, notes.clone())).collect();
    // Memory is compared only after everything has grown to its size: the history takes one config a second, and 50 in all.
    storm(fleet, 60).await;
    notes.lock().expect("notes").clear();
    let (cpu, begun) = (fleet.cpu(), Instant::now());
    let (written, last, samples) = sampled(fleet, flags.storm).await;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu: Vec<String> = fleet.cpu().iter().zip(&cpu).map(|(after, before)| format!("{:.0} %", (after - before) / seconds * 100.0)).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let behind = left_behind(lights, &last);
    noters.iter().for_each(tokio::task::JoinHandle::abort);
    let late = sorted_ms(notes.lock().expect("notes").clone());
    let (p50, p99) = (percentile(&late, 0.5), percentile(&late, 0.99));
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = written as f64 / seconds;
    println!("CPU of the controllers at {rate:.0} changes/s: {}", cpu.join(", "));
    // In a short run, other programs on the machine have more influence.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let wanted = CHANGES_PER_SECOND as f64 * if flags.storm >= MIN_RECORDED_SECONDS { 0.98 } else { 0.85 };
    report(
        &format!("{rate:.0} changes/s for {seconds:.0} s"),
        p99 <= 1_000.0 && rate >= wanted && behind == 0,
        &format!(
            "p50 {p50:.0} ms, p99 {p99:.0} ms (at most 1,000) over {} arrivals; at least {wanted:.0} changes/s; {behind} proxies without the last of {} routes (0)",
            late.len(),
            last.len()
        ),
    ) & is_flat(fleet, samples, flags.storm).await
}

/// Whether memory stays flat. Within a minute the memory that the allocator retains varies by as much as the limit, while a leak grows in
/// every minute: in a short run two more minutes can show that it was the allocator.
async fn is_flat(fleet: &Fleet, mut samples: Vec<Vec<f64>>, seconds: u64) -> bool {
    let tries = if seconds >= MIN_RECORDED_SECONDS { 1 } else { 3 };
    let shown = |all: &[f64]| all.iter().map(|mb| format!("{mb:.0}")).collect::<Vec<_>>().join(", ");
    for left in (0..tries).rev() {
        // Memory that is allocated and freed between two files makes the figure vary, so the minimum of the first third is compared with
        // that of the last.
        let (before, after) = (least(&samples[..samples.len() / 3]), least(&samples[samples.len() * 2 / 3..]));
        let growth = growth(&before, &after, seconds);
        let passed = growth <= MAX_MEMORY_GROWTH;
        report(
            "memory of the controllers",
            passed,
            &format!("{} MB before, {} MB after: {growth:.2} x (at most {MAX_MEMORY_GROWTH})", shown(&before), shown(&after)),
        );
        if passed {
            return true;
        }
        if left > 0 {
            samples = sampled(fleet, seconds).await.2;
        }
    }
    false
}

/// The minimum of each controller.
fn least(samples: &[Vec<f64>]) -> Vec<f64> {
    (0..3).map(|number| samples.iter().map(|sample| sample[number]).fold(f64::MAX, f64::min)).collect()
}

/// The growth of memory: in ten minutes that of the controller that grew most; in one minute that of all three together.
fn growth(before: &[f64], after: &[f64], seconds: u64) -> f64 {
    if seconds >= MIN_RECORDED_SECONDS {
        return before.iter().zip(after).map(|(before, after)| after / before).fold(0.0, f64::max);
    }
    after.iter().sum::<f64>() / before.iter().sum::<f64>()
}

async fn cold(fleet: &Fleet, flags: &Flags) -> bool {
    fill(&fleet.adapter, flags.routes..flags.cold).await;
    let warm = fleet.light("warm".to_owned(), 0);
    until_has(&warm, flags.cold).await;
    let mut took = Vec::new();
    for number in 0..5 {
        let begun = Instant::now();
        let light = fleet.light(format!("cold-{number}"), number);
        until_has(&light, flags.cold).await;
        took.push(begun.elapsed());
    }
    let took = sorted_ms(took);
    let bytes = delta(fleet).await;
    report(
        &format!("cold synchronisation of {} routes", flags.cold),
        took[2] <= 2_000.0,
        &format!("median {:.0} ms, slowest {:.0} ms (at most 2,000)", took[2], took[4]),
    ) & report("the delta of one route", bytes <= 2_048, &format!("{bytes} bytes (at most 2,048)"))
}

/// All followers follow one controller, which is killed.
async fn lost_together(flags: &Flags) -> bool {
    let mut fleet = Fleet::start();
    put(&fleet.adapter, "listeners/web", format!("{{\"address\":\"{}\"}}", loopback())).await;
    put(&fleet.adapter, "endpoints/shop/a", "127.0.0.1:9".to_owned()).await;
    fill(&fleet.adapter, 0..1_000).await;
    let lights: Vec<Light> = (0..flags.subscribers).map(|number| fleet.light(format!("light-{number}"), 0)).collect();
    for light in &lights {
        until_has(light, 1_001).await;
    }
    assert!(fleet.leads(0).await, "the controller that is killed leads");
    let steady = fleet.reads().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let steady = fleet.reads().await - steady;
    let before = fleet.reads().await;
    fleet.controllers[0].kill();
    let begun = Instant::now();
    let name = "after";
    let at = micros();
    put(&fleet.adapter, &format!("routes/{name}"), stamped(name, at)).await;
    for light in &lights {
        until_has(light, 1_002).await;
    }
    let took = begun.elapsed();
    tokio::time::sleep(Duration::from_secs(30).saturating_sub(took)).await;
    let reads = fleet.reads().await - before;
    let versions: BTreeMap<String, usize> = lights.iter().fold(BTreeMap::new(), |mut all, light| {
        let version = light.arrivals().borrow().as_ref().map(|arrived| arrived.received.version.to_string()).unwrap_or_default();
        *all.entry(version).or_default() += 1;
        all
    });
    report(
        &format!("{} subscribers lose their controller, the leader, together", flags.subscribers),
        took <= Duration::from_secs(30),
        &format!("all current after {:.1} s (at most 30), at {versions:?}", took.as_secs_f64()),
    ) & report(
        "reads of the store in those 30 s",
        reads <= steady * 2.0,
        &format!("{reads:.0}, {steady:.0} in the 30 s before: {:.2} x (at most 2)", reads / steady),
    )
}

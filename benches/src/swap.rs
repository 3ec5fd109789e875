//! A thousand snapshot swaps under keep-alive load: no request fails, every response is of exactly one version, and tail latency does not
//! grow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Args;

use crate::load::{Check, Load, Response};
use crate::origin::{Answer, start};
use crate::product::{Product, loopback};
use crate::stats::{median, percentile};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Swaps, in rounds of 100 that take at most 10 s
    #[arg(long, default_value_t = 1_000)]
    swaps: usize,
    /// Requests per second
    #[arg(long, default_value_t = 6_000)]
    rate: u32,
}

const CONNECTIONS: u32 = 32;

/// The config of each version. A version with two configs is a mix.
type Versions = Arc<Mutex<HashMap<String, String>>>;

/// The requests of one connection: every eighth has a body, which must be returned unchanged.
struct Strict {
    get: Arc<[u8]>,
    post: Arc<[u8]>,
    body: Arc<[u8]>,
    number: u32,
    versions: Versions,
}

impl Check for Strict {
    fn next(&mut self) -> Arc<[u8]> {
        self.number += 1;
        if self.number.is_multiple_of(8) { self.post.clone() } else { self.get.clone() }
    }

    /// The config shows in four places: the header that the proxy sent to the endpoint, the one it sent to the client, the endpoint it
    /// chose, and its version.
    fn check(&mut self, response: &Response) -> Result<(), String> {
        if response.status != 200 {
            return Err(format!("status {}: {}", response.status, String::from_utf8_lossy(&response.body)));
        }
        let (config, version) = (response.header("x-config").unwrap_or_default(), response.header("waypost-version").unwrap_or_default());
        let wanted_endpoint = if config.parse::<u64>().unwrap_or(0) % 2 == 0 { "even" } else { "odd" };
        let wanted = format!("{wanted_endpoint} {config} ");
        let rest = response.body.strip_prefix(wanted.as_bytes());
        let rest = rest.ok_or_else(|| format!("a mix: header {config}, body {:?}", String::from_utf8_lossy(&response.body[..response.body.len().min(40)])))?;
        if self.number.is_multiple_of(8) && *rest != *self.body {
            return Err("the body did not come back".to_owned());
        }
        let mut versions = self.versions.lock().expect("versions");
        match versions.get(&version) {
            Some(earlier) if *earlier != config => Err(format!("version {version} was config {earlier} and is config {config}")),
            Some(_) => Ok(()),
            None => {
                versions.insert(version, config);
                Ok(())
            }
        }
    }
}

fn route(config: usize) -> String {
    let backend = if config.is_multiple_of(2) { "even" } else { "odd" };
    let set = |kind: &str, field: &str| format!(r#"{{"type":"{kind}","{field}":{{"set":[{{"name":"x-config","value":"{config}"}}]}}}}"#);
    let (request, response) = (set("RequestHeaderModifier", "requestHeaderModifier"), set("ResponseHeaderModifier", "responseHeaderModifier"));
    format!(r#"{{"rules":[{{"filters":[{request},{response}],"backendRefs":[{{"name":"{backend}"}}]}}]}}"#)
}

/// Runs the measurements; returns whether all of them passed.
pub(crate) async fn run(flags: Flags) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("waypost");
    let write = |key: &str, value: &str| {
        let path = store.join(key);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let new = path.with_extension("new~");
        std::fs::write(&new, value).and_then(|()| std::fs::rename(&new, &path)).expect("a write");
    };
    let web = loopback();
    write("listeners/web", &format!(r#"{{"address":"{web}"}}"#));
    for name in ["even", "odd"] {
        let address = start(([127, 0, 0, 1], 0).into(), Answer::Echo(name)).await;
        write(&format!("endpoints/{name}/a"), &address.to_string());
    }
    write("routes/shop", &route(0));
    let product = Product::start(folder.path(), &format!("file://{}", store.display()), 2, &["--version-header"]);
    Product::until_served(web, "any").await;
    let versions = Versions::default();
    let body: Arc<[u8]> = (0..4_096u32).map(|number| u8::try_from(number % 251).expect("a byte")).collect();
    let post: Arc<[u8]> = [format!("POST /b HTTP/1.1\r\nhost: any\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat().into();
    let get: Arc<[u8]> = b"GET /a HTTP/1.1\r\nhost: any\r\n\r\n"[..].into();
    let strict = |_| Strict { get: get.clone(), post: post.clone(), body: body.clone(), number: 0, versions: versions.clone() };
    let load = Load::start(web, Some(Duration::from_secs(1) * CONNECTIONS / flags.rate), (0..CONNECTIONS).map(strict).collect());
    let mut windows = Vec::new();
    let (mut config, mut swapping) = (0, Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..flags.swaps.div_ceil(100) {
        let quiet = Instant::now();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let begin = Instant::now();
        for _ in 0..100 {
            let next = begin + Duration::from_millis(95) * u32::try_from(config % 100).expect("a number");
            tokio::time::sleep_until(next.into()).await;
            config += 1;
            write("routes/shop", &route(config));
        }
        let end = Instant::now();
        swapping += end - begin;
        windows.push((quiet, begin, end));
        println!("{config} swaps");
    }
    let (memory, metric) = (crate::product::resident_mb(product.proxy.id()), product.metric("waypost_proxy_snapshot_swaps").await);
    let outcome = load.finish();
    report(&flags, &outcome, &windows, swapping, versions.lock().expect("versions").len(), memory, &metric)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn report(
    flags: &Flags,
    outcome: &crate::load::Outcome,
    windows: &[(Instant, Instant, Instant)],
    swapping: Duration,
    versions: usize,
    memory: f64,
    metric: &[(String, f64)],
) -> bool {
    let p99 = |spans: &[(Instant, Instant)]| {
        let inside = |at: &Instant| spans.iter().any(|(from, to)| at >= from && at < to);
        let mut all: Vec<f64> = outcome.latencies.iter().filter(|(at, _)| inside(at)).map(|(_, took)| took.as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        percentile(&all, 0.99)
    };
    let quiet: Vec<(Instant, Instant)> = windows.iter().map(|(quiet, begin, _)| (*quiet, *begin)).collect();
    let busy: Vec<(Instant, Instant)> = windows.iter().map(|(_, begin, end)| (*begin, *end)).collect();
    let rounds = |spans: &[(Instant, Instant)]| median(&spans.iter().map(|span| p99(&[*span])).collect::<Vec<_>>());
    let (quiet_rounds, busy_rounds) = (rounds(&quiet), rounds(&busy));
    let (quiet, busy) = (p99(&quiet), p99(&busy));
    let during = outcome.latencies.iter().filter(|(at, _)| windows.iter().any(|(_, begin, end)| at >= begin && at < end)).count();
    let rate = during as f64 / swapping.as_secs_f64();
    println!("swaps written: {} in {:.1} s; versions that answered: {versions}; {metric:?}", flags.swaps, swapping.as_secs_f64());
    println!("requests: {} in all, {during} while swapping ({rate:.0}/s); failed or mixed: {}", outcome.sent, outcome.failures.len());
    for failure in outcome.failures.iter().take(5) {
        println!("  {failure}");
    }
    println!("p99, from when each request was due: quiet {quiet:.2} ms, swapping {busy:.2} ms, ratio {:.2} (at most 1.5)", busy / quiet);
    println!(
        "  by rounds, median (least to greatest): quiet {:.2} ms ({:.2} to {:.2}), swapping {:.2} ms ({:.2} to {:.2})",
        quiet_rounds.0, quiet_rounds.1, quiet_rounds.2, busy_rounds.0, busy_rounds.1, busy_rounds.2
    );
    println!("the proxy's memory at the end: {memory:.1} MB");
    let full = flags.swaps < 1_000 || (during >= 500_000 && swapping <= Duration::from_secs(100));
    let passed = outcome.failures.is_empty() && rate >= 5_000.0 && versions >= flags.swaps && busy <= 1.5 * quiet && full;
    println!("{}", if passed { "kept" } else { "BROKEN" });
    passed
}

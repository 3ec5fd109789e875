//! CPU time per request compared with nginx and HAProxy; memory; the distribution of connections over cores.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use waypost_testkit::Process;

use crate::load::{Client, Load, Same};
use crate::origin::{Answer, start};
use crate::peers::{family, haproxy, nginx, version};
use crate::product::{Product, cpu_seconds, loopback, resident_mb};
use crate::stats::median;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Interleaved runs of each proxy
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Seconds of each run
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Sizes of the bodies in bytes
    #[arg(long, value_delimiter = ',', default_value = "65,65536")]
    sizes: Vec<usize>,
    /// Parts to measure
    #[arg(long, value_delimiter = ',', default_value = "cpu,memory,spread")]
    parts: Vec<String>,
}

const ROUTE: &str = r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;

fn write(folder: &Path, key: &str, value: &str) {
    let path = folder.join("waypost").join(key);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
    std::fs::write(&path, value).expect("a write");
}

fn store(folder: &Path) -> String {
    format!("file://{}/waypost", folder.display())
}

/// Runs the measurements; returns whether all of them passed.
pub(crate) async fn run(flags: Flags) -> bool {
    let wants = |part: &str| flags.parts.iter().any(|wanted| wanted == part);
    let mut passed = true;
    if wants("cpu") {
        println!("{}; {}", version("/usr/sbin/nginx", "-v"), version("/usr/sbin/haproxy", "-v"));
        println!(
            "CPU time per request, microseconds; {} connections, {} interleaved runs of {} s; median (least to greatest)",
            flags.connections, flags.runs, flags.seconds
        );
        for size in &flags.sizes {
            passed &= cpu(&flags, *size).await;
        }
    }
    if wants("memory") {
        passed &= memory().await;
    }
    if wants("spread") {
        passed &= spread().await;
    }
    passed
}

async fn cpu(flags: &Flags, size: usize) -> bool {
    let body: &'static [u8] = vec![b'x'; size].leak();
    let origin = start(([127, 0, 0, 1], 0).into(), Answer::Fixed(body)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let web = loopback();
    write(folder.path(), "listeners/web", &format!(r#"{{"address":"{web}"}}"#));
    write(folder.path(), "endpoints/shop/a", &origin.to_string());
    write(folder.path(), "routes/shop", ROUTE);
    let product = Product::start(folder.path(), &store(folder.path()), 1, &[]);
    Product::until_served(web, "any").await;
    let (nginx, nginx_web) = nginx::start(folder.path(), origin);
    let (haproxy, haproxy_web) = haproxy::start(folder.path(), origin);
    let all = [("waypost", &product.proxy, web), ("nginx", &nginx, nginx_web), ("haproxy", &haproxy, haproxy_web)];
    for (_, process, web) in &all {
        one(flags, process, *web, 1).await;
    }
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    for round in 0..flags.runs {
        for turn in 0..all.len() {
            let which = (turn + round) % all.len();
            let (_, process, web) = &all[which];
            let (micros, rate) = one(flags, process, *web, flags.seconds).await;
            figures[which].push(micros);
            rates[which].push(rate);
        }
    }
    println!("  {size} byte bodies");
    for (at, (name, _, _)) in all.iter().enumerate() {
        let (middle, least, greatest) = median(&figures[at]);
        println!("    {name:<8} {middle:>7.1} ({least:.1} to {greatest:.1}), {:.0} requests/s", median(&rates[at]).0);
    }
    let ratios: Vec<f64> = (0..flags.runs).map(|round| figures[0][round] / figures[1][round].min(figures[2][round])).collect();
    let (ratio, least, greatest) = median(&ratios);
    let of_medians = median(&figures[0]).0 / median(&figures[1]).0.min(median(&figures[2]).0);
    let passed = of_medians <= 1.25;
    println!(
        "    waypost / the better: {of_medians:.2} of the medians; per round {ratio:.2} ({least:.2} to {greatest:.2}); gate 1.25, goal 1.0: {}",
        if passed { "kept" } else { "BROKEN" }
    );
    passed
}

/// One run: CPU microseconds per request, and requests per second.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
async fn one(flags: &Flags, process: &Process, web: SocketAddr, seconds: u64) -> (f64, f64) {
    let processes = family(process.id());
    let checks = vec![Same::get("any"); flags.connections];
    let before = cpu_seconds(&processes);
    let begun = std::time::Instant::now();
    let load = Load::start(web, None, checks);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let outcome = tokio::task::spawn_blocking(move || load.finish()).await.expect("the load");
    assert!(outcome.failures.is_empty(), "{:?}", &outcome.failures[..outcome.failures.len().min(3)]);
    let used = cpu_seconds(&processes) - before;
    (used * 1e6 / outcome.sent as f64, outcome.sent as f64 / begun.elapsed().as_secs_f64())
}

async fn memory() -> bool {
    const ROUTES: usize = 5_000;
    let folder = tempfile::tempdir().expect("a folder");
    let web = loopback();
    write(folder.path(), "listeners/web", &format!(r#"{{"address":"{web}"}}"#));
    write(
        folder.path(),
        "routes/fixed",
        r#"{"hostnames":["fixed"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200,"body":"ok"}}]}]}"#,
    );
    let product = Product::start(folder.path(), &store(folder.path()), 2, &[]);
    Product::until_served(web, "fixed").await;
    let idle = resident_mb(product.proxy.id());
    // Every backend has an address of its own, all of them on loopback.
    let origin = start(([0, 0, 0, 0], 0).into(), Answer::Fixed(&[b'x'; 65])).await;
    for number in 0..ROUTES {
        write(folder.path(), &format!("endpoints/b{number}/a"), &format!("127.1.{}.{}:{}", number / 250, number % 250 + 1, origin.port()));
        write(folder.path(), &format!("routes/r{number}"), &format!(r#"{{"hostnames":["h{number}"],"rules":[{{"backendRefs":[{{"name":"b{number}"}}]}}]}}"#));
    }
    for number in 0..ROUTES {
        if number % 500 == 499 || number == 0 {
            until_known(&product, web, number).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let loaded = resident_mb(product.proxy.id());
    // Several connections are used, so that the pools of all cores fill.
    let mut clients: Vec<Client> = (0..16).map(|_| Client::new(web)).collect();
    for number in 0..ROUTES {
        let client = &mut clients[number % 16];
        let response = client.ask(format!("GET / HTTP/1.1\r\nhost: h{number}\r\n\r\n").as_bytes()).await.expect("an answer");
        assert_eq!(response.status, 200, "h{number}");
    }
    let used = resident_mb(product.proxy.id());
    let passed = idle <= 12.0 && loaded <= 40.0 && used <= 75.0;
    println!(
        "resident memory, MB: idle {idle:.1} (at most 12), {ROUTES} routes of one backend each {loaded:.1} (at most 40), each used once {used:.1} (at most 75): {}",
        if passed { "kept" } else { "BROKEN" }
    );
    passed
}

/// Waits until a route is in the table of the proxy, that is until its requests are not answered by 404 or 503.
async fn until_known(product: &Product, web: SocketAddr, number: usize) {
    let request = format!("GET / HTTP/1.1\r\nhost: h{number}\r\n\r\n").into_bytes();
    let end = std::time::Instant::now() + Duration::from_secs(120);
    let mut client = Client::new(web);
    while client.ask(&request).await.is_ok_and(|response| response.status == 404 || response.status == 503) {
        assert!(std::time::Instant::now() < end, "h{number} is not known: {}", product.proxy.output());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn spread() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let web = loopback();
    let origin = start(([127, 0, 0, 1], 0).into(), Answer::Fixed(&[b'x'; 65])).await;
    write(folder.path(), "listeners/web", &format!(r#"{{"address":"{web}"}}"#));
    write(folder.path(), "endpoints/shop/a", &origin.to_string());
    write(folder.path(), "routes/shop", ROUTE);
    let product = Product::start(folder.path(), &store(folder.path()), 2, &[]);
    Product::until_served(web, "any").await;
    let load = Load::start(web, Some(Duration::from_millis(50)), vec![Same::get("any"); 64]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cores: Vec<f64> = product.metric("waypost_proxy_core_connections").await.into_iter().map(|(_, value)| value).collect();
    let outcome = tokio::task::spawn_blocking(move || load.finish()).await.expect("the load");
    let (all, most) = (cores.iter().sum::<f64>(), cores.iter().copied().fold(0.0, f64::max));
    let passed = outcome.failures.is_empty() && most / all <= 0.6;
    println!(
        "64 connections on {} cores: {cores:?}, at most {:.0} % on one (at most 60): {}",
        cores.len(),
        100.0 * most / all,
        if passed { "kept" } else { "BROKEN" }
    );
    passed
}

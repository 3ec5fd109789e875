//! Time from a write's acknowledgement until it is served: 200 writes each at 0, 1,000 and 10,000 routes, on every store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use waypost_adapter::{Adapter, Key};
use waypost_testkit::servers::{Consul, Etcd, Server, ZooKeeper};

use crate::load::Client;
use crate::origin::{Answer, start};
use crate::peers::traefik::Traefik;
use crate::product::{Product, loopback};
use crate::stats::{percentile, sorted_ms};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Stores to measure
    #[arg(long, value_delimiter = ',', default_value = "file,etcd,zookeeper,consul")]
    stores: Vec<String>,
    /// Routes in the store before the writes
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000")]
    routes: Vec<usize>,
    /// Writes to measure
    #[arg(long, default_value_t = 200)]
    writes: usize,
    /// Also measure Traefik, on Consul and etcd, at 0 routes (20 writes)
    #[arg(long, env = "PEERS", value_parser = clap::builder::BoolishValueParser::new(), default_value = "false", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    peers: bool,
}

/// A running store.
struct Running {
    url: String,
    endpoint: String,
    adapter: Arc<dyn Adapter>,
    /// The server, which runs until it is dropped.
    _server: Option<Box<dyn Server>>,
}

impl Running {
    /// Writes an entry for a measurement: it returns with the store's own acknowledgement. The adapter's write to Consul returns only after
    /// the entry was read back for its revision, so for Consul this sends the plain request.
    async fn put(&self, key: &str, value: String) {
        if !self.url.starts_with("consul://") {
            return put(&self.adapter, key, value).await;
        }
        let mut client = Client::new(self.endpoint.parse().expect("an address"));
        let request = format!("PUT /v1/kv/waypost/{key} HTTP/1.1\r\nhost: consul\r\ncontent-length: {}\r\n\r\n{value}", value.len());
        let response = client.ask(request.as_bytes()).await.expect("an answer");
        assert_eq!((response.status, response.body.trim_ascii()), (200, b"true".as_slice()), "{key}");
    }
}

fn open(store: &str, folder: &std::path::Path) -> Running {
    let server: Option<Box<dyn Server>> = match store {
        "file" => None,
        "etcd" => Some(Box::new(Etcd::new(1))),
        "consul" => Some(Box::new(Consul::new(1))),
        "zookeeper" => Some(Box::new(ZooKeeper::new(1))),
        other => panic!("unknown store {other}"),
    };
    let endpoint = server.as_ref().map(|server| server.endpoints()[0].clone()).unwrap_or_default();
    let url = if store == "file" { format!("file://{}/waypost", folder.display()) } else { format!("{store}://{endpoint}/waypost") };
    if store == "file" {
        std::fs::create_dir_all(folder.join("waypost")).expect("the store's directory");
    }
    let adapter = waypost::stores::open(&waypost::stores::StoreFlags::from(url.as_str())).expect("the store").adapter;
    Running { url, endpoint, adapter, _server: server }
}

pub(crate) async fn put(adapter: &Arc<dyn Adapter>, key: &str, value: String) {
    adapter.put(&Key::from(format!("waypost/{key}")), Bytes::from(value)).await.unwrap_or_else(|error| panic!("{key}: {error}"));
}

pub(crate) async fn fill(adapter: &Arc<dyn Adapter>, routes: std::ops::Range<usize>) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let (adapter, mine) = (adapter.clone(), routes.clone().filter(move |number| number % 16 == writer));
        writers.spawn(async move {
            for number in mine {
                put(&adapter, &format!("routes/fill-{number}"), route(&format!("fill-{number}.example.com"))).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a writer");
    }
}

pub(crate) fn route(host: &str) -> String {
    format!(r#"{{"hostnames":["{host}"],"rules":[{{"matches":[{{"path":{{"type":"PathPrefix","value":"/"}}}}],"backendRefs":[{{"name":"shop"}}]}}]}}"#)
}

/// Time from a write's acknowledgement until the host is served.
async fn one(running: &Running, client: &mut Client, name: &str) -> Duration {
    let host = format!("{name}.example.com");
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
    assert_ne!(client.ask(&request).await.expect("the proxy answers").status, 200, "{host} is there already");
    running.put(&format!("routes/{name}"), route(&host)).await;
    served(client, &request).await
}

async fn served(client: &mut Client, request: &[u8]) -> Duration {
    let acknowledged = Instant::now();
    loop {
        if client.ask(request).await.expect("the proxy answers").status == 200 {
            return acknowledged.elapsed();
        }
        assert!(acknowledged.elapsed() < Duration::from_secs(30), "not served within 30 s");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// Time from a write's acknowledgement until a plain blocking query has delivered the whole tree.
async fn bare(running: &Running, name: &str, index: &mut String) -> Duration {
    let address: SocketAddr = running.endpoint.parse().expect("an address");
    let (ready, mut began) = tokio::sync::mpsc::channel(1);
    let from = index.clone();
    let query = tokio::spawn(async move {
        let mut client = Client::new(address);
        let request = format!("GET /v1/kv/waypost/?recurse&wait=30s&index={from} HTTP/1.1\r\nhost: consul\r\n\r\n");
        ready.send(()).await.expect("somebody waits");
        let response = client.ask(request.as_bytes()).await.expect("an answer");
        (Instant::now(), response.header("x-consul-index").expect("an index"))
    });
    began.recv().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    running.put(&format!("routes/{name}"), route(&format!("{name}.example.com"))).await;
    let acknowledged = Instant::now();
    let (delivered, next) = query.await.expect("the query");
    *index = next;
    delivered.saturating_duration_since(acknowledged)
}

async fn index_now(running: &Running) -> String {
    let mut client = Client::new(running.endpoint.parse().expect("an address"));
    let response = client.ask(b"GET /v1/kv/waypost/?recurse HTTP/1.1\r\nhost: consul\r\n\r\n").await.expect("a listing");
    response.header("x-consul-index").expect("an index")
}

/// Runs the measurements; returns whether all of them passed.
pub(crate) async fn run(flags: Flags) -> bool {
    println!("write acknowledged -> served, {} writes each, milliseconds", flags.writes);
    println!("{:<10} {:>7} {:>8} {:>8} {:>8}   promise", "store", "routes", "p50", "p99", "max");
    let mut passed = true;
    for store in &flags.stores {
        let folder = tempfile::tempdir().expect("a folder");
        let running = open(store, folder.path());
        let origin = start(([127, 0, 0, 1], 0).into(), Answer::Fixed(b"ok")).await;
        let web = loopback();
        put(&running.adapter, "listeners/web", format!(r#"{{"address":"{web}"}}"#)).await;
        put(&running.adapter, "endpoints/shop/a", origin.to_string()).await;
        put(&running.adapter, "routes/first", route("first.example.com")).await;
        let product = Product::start(folder.path(), &running.url, 1, &[]);
        Product::until_served(web, "first.example.com").await;
        let mut there = 0;
        for routes in &flags.routes {
            fill(&running.adapter, there..*routes).await;
            there = there.max(*routes);
            if there > 0 {
                Product::until_served(web, &format!("fill-{}.example.com", there - 1)).await;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            passed &= measure(store, &running, &product, web, *routes, flags.writes).await;
        }
    }
    if flags.peers {
        peers().await;
    }
    passed
}

async fn measure(store: &str, running: &Running, product: &Product, web: SocketAddr, routes: usize, writes: usize) -> bool {
    let mut client = Client::new(web);
    let (mut times, mut bare_times) = (Vec::new(), Vec::new());
    let compare = store == "consul" && routes >= 10_000;
    for number in 0..writes {
        if compare && number % 20 == 0 {
            // Meanwhile the plain query is the store's only client.
            product.controller.freeze();
            let mut index = index_now(running).await;
            for extra in 0..10 {
                bare_times.push(bare(running, &format!("bare-{number}-{extra}"), &mut index).await);
            }
            product.controller.thaw();
            Product::until_served(web, &format!("bare-{number}-9.example.com")).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        times.push(one(running, &mut client, &format!("bench-{routes}-{number}")).await);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..40))).await;
    }
    let sorted = sorted_ms(times);
    let (p50, p99, max) = (percentile(&sorted, 0.5), percentile(&sorted, 0.99), percentile(&sorted, 1.0));
    let (passed, promise) = if compare {
        let bare = percentile(&sorted_ms(bare_times), 0.5);
        (p50 <= bare + 15.0, format!("p50 at most 15 over a bare blocking query, whose p50 is {bare:.1}: {:+.1}", p50 - bare))
    } else {
        (p50 <= 10.0 && p99 <= 50.0, "p50 at most 10, p99 at most 50".to_owned())
    };
    println!("{store:<10} {routes:>7} {p50:>8.1} {p99:>8.1} {max:>8.1}   {promise}: {}", if passed { "kept" } else { "BROKEN" });
    passed
}

/// The same writes in Traefik's own layout, on the stores that it supports.
async fn peers() {
    for store in ["consul", "etcd"] {
        let folder = tempfile::tempdir().expect("a folder");
        let running = open(store, folder.path());
        let origin = start(([127, 0, 0, 1], 0).into(), Answer::Fixed(b"ok")).await;
        let traefik = Traefik::start(folder.path(), store, &running.endpoint);
        let raw = |key: String, value: String| {
            let adapter = running.adapter.clone();
            async move { adapter.put(&Key::from(format!("traefik/{key}")), Bytes::from(value)).await.expect("a write") }
        };
        raw("http/services/shop/loadBalancer/servers/0/url".to_owned(), format!("http://{origin}")).await;
        let mut times = Vec::new();
        let mut client = Client::new(traefik.web);
        for number in 0..20 {
            let host = format!("t{number}.example.com");
            raw(format!("http/routers/r{number}/service"), "shop".to_owned()).await;
            raw(format!("http/routers/r{number}/rule"), format!("Host(`{host}`)")).await;
            times.push(served(&mut client, format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(200..2_500))).await;
        }
        let sorted = sorted_ms(times);
        println!(
            "{:<10} {:>7} {:>8.1} {:>8.1} {:>8.1}   Traefik, beside",
            store,
            0,
            percentile(&sorted, 0.5),
            percentile(&sorted, 0.99),
            percentile(&sorted, 1.0)
        );
    }
}

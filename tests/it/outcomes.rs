//! How attempts end decides where the next ones go: an endpoint that fails at once attracts nothing, and one that became slow is avoided.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Backend, Box1, get};

/// An endpoint that accepts connections and closes them.
fn closing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    address
}

fn erring() -> Backend {
    Backend::start(|_, _| b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec())
}

/// How long an experiment takes: `make outcomes` takes the time of its figures.
fn experiment(short: u64, long: u64) -> Duration {
    Duration::from_secs(if std::env::var_os("WAYPOST_LONG_OUTCOMES").is_some() { long } else { short })
}

/// One request of a client that gives up after a second; whether it was answered well.
fn answered_within_a_second(web: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(web)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// Requests for so long on this many connections; returns how many there were, and how many failed.
fn load(web: SocketAddr, time: Duration, clients: usize, request: impl Fn(SocketAddr) -> bool + Copy + Send + 'static) -> (u64, u64) {
    let (all, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let end = Instant::now() + time;
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (all, failed) = (all.clone(), failed.clone());
            std::thread::spawn(move || {
                while Instant::now() < end {
                    all.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u64::from(!request(web)), Ordering::Relaxed);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    (all.load(Ordering::Relaxed), failed.load(Ordering::Relaxed))
}

fn with_endpoints(endpoints: &[SocketAddr]) -> (Box1, SocketAddr) {
    let run = Box1::on_files();
    let web = run.listener();
    for (number, address) in endpoints.iter().enumerate() {
        run.ok(&["put", &format!("endpoints/shop/e{number}"), &address.to_string()]);
    }
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    run.ok(&["wait", &format!("endpoints/shop/e{}", endpoints.len() - 1)]);
    (run, web)
}

#[test]
fn of_three_endpoints_one_that_closes_or_errs_at_once_costs_a_hundredth_at_most() {
    let (good, erring) = ([Backend::named("a"), Backend::named("b")], erring());
    for bad in [closing(), erring.address] {
        let (_run, web) = with_endpoints(&[good[0].address, good[1].address, bad]);
        let time = experiment(10, 30);
        let (all, failed) = load(web, time, 20, |web| get(web, "shop", "/").status == 200);
        println!("one of three endpoints fails at once: {failed} of {all} requests failed in {time:?}");
        assert!(all >= 500 * time.as_secs() && failed * 100 <= all, "{failed} of {all} failed");
    }
}

#[test]
fn of_eleven_endpoints_one_that_is_slow_for_half_of_the_time_costs_next_to_nothing() {
    let slow = Arc::new(AtomicBool::new(false));
    let flag = slow.clone();
    let stalling = Backend::start(move |_, _| {
        if flag.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(2));
        }
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    let others: Vec<Backend> = (0..10).map(|number| Backend::named(&format!("e{number}"))).collect();
    let addresses: Vec<SocketAddr> = others.iter().chain([&stalling]).map(|backend| backend.address).collect();
    let (_run, web) = with_endpoints(&addresses);
    let time = experiment(12, 60);
    let turning = std::thread::spawn(move || {
        for turn in [true, false] {
            std::thread::sleep(time / 4);
            slow.store(turn, Ordering::Relaxed);
            std::thread::sleep(time / 4);
        }
    });
    let (all, failed) = load(web, time, 20, answered_within_a_second);
    turning.join().unwrap();
    println!("one of eleven endpoints takes 2 s for half of the time: {failed} of {all} requests failed in {time:?}");
    assert!(failed * 2_000 <= all, "{failed} of {all} failed");
    assert!(stalling.count() * 100 > all, "it takes its share while it is not slow: {} of {all}", stalling.count());
}

#[test]
fn a_client_whose_requests_fail_everywhere_ejects_nobody() {
    let answer = |head: &str, _: &[u8]| {
        let status = if head.starts_with("GET /bad") { "500 Oops" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    };
    let all = [Backend::start(answer), Backend::start(answer), Backend::start(answer)];
    let (run, web) = with_endpoints(&all.each_ref().map(|backend| backend.address));
    for _ in 0..200 {
        assert_eq!(get(web, "shop", "/bad").status, 500);
    }
    let metrics = get(run.admin, "admin", "/metrics").body;
    assert!(metrics.contains("waypost_proxy_ejections_total 0"), "{metrics}");
    let before: Vec<u64> = all.iter().map(|backend| backend.requests.load(Ordering::Relaxed)).collect();
    assert!((0..60).all(|_| get(web, "shop", "/").status == 200));
    assert!(all.iter().zip(before).all(|(backend, before)| backend.requests.load(Ordering::Relaxed) > before), "all take requests");
}

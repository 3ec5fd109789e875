//! Shortage of descriptors: new clients and operators are answered all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use waypost_testkit::process::Process;

use crate::harness::{Backend, Load, get, loopback, text, until, verb, waypost};

#[test]
fn four_hundred_idle_clients_of_a_process_with_256_descriptors_keep_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("waypost");
    std::fs::create_dir_all(store.join("listeners")).unwrap();
    std::fs::create_dir_all(store.join("routes")).unwrap();
    std::fs::create_dir_all(store.join("endpoints/shop")).unwrap();
    let (api, admin, web, origin) = (loopback(), loopback(), loopback(), Backend::named("a"));
    std::fs::write(store.join("listeners/web"), format!("{{\"address\":\"{web}\"}}")).unwrap();
    std::fs::write(store.join("routes/shop"), r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#).unwrap();
    std::fs::write(store.join("endpoints/shop/a"), origin.address.to_string()).unwrap();
    let run = format!(
        "ulimit -n 256; exec {} run --store file://{} --state {} --api {api} --admin {admin}",
        waypost().display(),
        store.display(),
        folder.path().join("state").display()
    );
    let _process = Process::start(Command::new("bash").args(["-c", &run]), &folder.path().join("run.log"));
    until("the route", || TcpStream::connect(web).is_ok() && get(web, "shop", "/").status == 200);
    let idle: Vec<TcpStream> = (0..400).filter_map(|_| TcpStream::connect(web).ok()).collect();
    assert_eq!(idle.len(), 400);
    let within_a_second = |what: &str, address: SocketAddr, path: &str| {
        let begun = Instant::now();
        let response = get(address, "shop", path);
        assert!(response.status == 200 && begun.elapsed() < Duration::from_secs(1), "{what}: {} after {:?}", response.status, begun.elapsed());
    };
    for _ in 0..5 {
        within_a_second("admin", admin, "/readyz");
        within_a_second("API", api, "/livez");
        within_a_second("a new client", web, "/");
    }
    until("the event", || text(&verb(api, &["events"]).stdout).contains("proxy/connections"));
    let metrics = get(admin, "admin", "/metrics").body;
    assert!(!metrics.contains("waypost_proxy_connections_shed_total 0"), "{metrics}");
    drop(idle);
}

#[test]
fn connections_to_two_hundred_endpoints_are_kept_for_the_next_requests_of_32_clients() {
    let run = crate::harness::Box1::on_files();
    let web = run.listener();
    let endpoints: Vec<Backend> = (0..200).map(|number| Backend::named(&format!("e{number}"))).collect();
    let folder = run.folder.path().join("waypost/endpoints/shop");
    std::fs::create_dir_all(&folder).unwrap();
    endpoints.iter().enumerate().for_each(|(number, endpoint)| std::fs::write(folder.join(format!("e{number}")), endpoint.address.to_string()).unwrap());
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    run.ok(&["wait", "endpoints/shop/e199"]);
    let load = Load::start(web, "shop", 32);
    until("requests", || load.sent.load(Ordering::Relaxed) >= 10_000);
    let sent = load.finish();
    let count = |of: fn(&Backend) -> &AtomicU64| endpoints.iter().map(|endpoint| of(endpoint).load(Ordering::Relaxed)).sum::<u64>();
    let (connects, requests) = (count(|endpoint| &endpoint.connections), count(|endpoint| &endpoint.requests));
    println!("{connects} connections for {requests} requests");
    assert!(requests >= sent && connects * 5 <= requests, "{connects} connections for {requests} requests");
}

#[test]
fn the_api_closes_a_connection_that_never_ends_its_head_and_answers_others_meanwhile() {
    let run = crate::harness::Box1::on_files();
    let slow: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = TcpStream::connect(run.api).unwrap();
            // Some say nothing at all.
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nx: ").unwrap();
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    assert_eq!(get(run.api, "c", "/livez").status, 200);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_ok() || begun.elapsed() < Duration::from_secs(30));
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

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
    let origin = Backend::named("a");
    let run = Short::start(origin.address);
    let (api, admin, web) = (run.api, run.admin, run.web);
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

/// `waypost run` on files, with 256 descriptors, one route of the host `shop` and one endpoint.
struct Short {
    _folder: tempfile::TempDir,
    _process: Process,
    store: std::path::PathBuf,
    api: SocketAddr,
    admin: SocketAddr,
    web: SocketAddr,
}

impl Short {
    fn start(endpoint: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("waypost");
        for kind in ["listeners", "routes", "endpoints/shop"] {
            std::fs::create_dir_all(store.join(kind)).unwrap();
        }
        let (api, admin, web) = (loopback(), loopback(), loopback());
        std::fs::write(store.join("listeners/web"), format!("{{\"address\":\"{web}\"}}")).unwrap();
        std::fs::write(store.join("routes/shop"), r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#).unwrap();
        std::fs::write(store.join("endpoints/shop/a"), endpoint.to_string()).unwrap();
        let run = format!(
            "ulimit -n 256; exec {} run --store file://{} --state {} --api {api} --admin {admin}",
            waypost().display(),
            store.display(),
            folder.path().join("state").display()
        );
        let process = Process::start(Command::new("bash").args(["-c", &run]), &folder.path().join("run.log"));
        until("the listener", || TcpStream::connect(web).is_ok());
        Self { _folder: folder, _process: process, store, api, admin, web }
    }
}

/// An endpoint that answers `/slow` only when it is released, and everything else at once.
fn held_endpoint() -> (Backend, std::sync::Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>) {
    let gate = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let of_endpoint = gate.clone();
    let backend = Backend::start(move |head, _| {
        if head.starts_with("GET /slow") {
            drop(of_endpoint.1.wait_while(of_endpoint.0.lock().unwrap(), |open| !*open).unwrap());
        }
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()
    });
    (backend, gate)
}

#[test]
fn two_hundred_busy_clients_of_a_process_with_256_descriptors_leave_the_admin_surface_and_mark_no_endpoint() {
    let (origin, gate) = held_endpoint();
    let run = Short::start(origin.address);
    until("the route", || get(run.web, "shop", "/").status == 200);
    let mut busy = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(run.web).unwrap();
        if stream.write_all(b"GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n").is_ok() {
            busy.push(stream);
        }
    }
    for _ in 0..5 {
        for (what, address, path) in [("admin", run.admin, "/readyz"), ("API", run.api, "/livez")] {
            let begun = Instant::now();
            let response = get(address, "shop", path);
            assert!(response.status == 200 && begun.elapsed() < Duration::from_secs(1), "{what}: {} after {:?}", response.status, begun.elapsed());
        }
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let answers: Vec<String> = busy
        .into_iter()
        .map(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut piece = [0; 4_096];
            let length = stream.read(&mut piece).unwrap_or_default();
            text(&piece[..length])
        })
        .collect();
    let of = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    assert!(of("HTTP/1.1 200") >= 50 && of("HTTP/1.1 503") > 0, "{} served, {} refused: {:?}", of("HTTP/1.1 200"), of("HTTP/1.1 503"), answers.last());
    let refused = answers.iter().find(|answer| answer.starts_with("HTTP/1.1 503")).unwrap();
    assert!(refused.contains("descriptors for connections are in use"), "{refused}");
    // The shortage was the proxy's own.
    assert_eq!(get(run.web, "shop", "/").status, 200);
    let metrics = get(run.admin, "admin", "/metrics").body;
    assert!(metrics.contains("waypost_proxy_ejections_total 0") && metrics.contains("waypost_proxy_endpoint_connect_errors_total 0"), "{metrics}");
}

#[test]
fn connections_to_two_hundred_endpoints_are_kept_for_the_next_requests_of_32_clients() {
    let run = crate::harness::Box1::start("file://{dir}", &["--threads", "32"]);
    let web = run.listener();
    let endpoints: Vec<Backend> = (0..200).map(|number| Backend::named(&format!("e{number}"))).collect();
    let folder = run.folder.path().join("waypost/endpoints/shop");
    std::fs::create_dir_all(&folder).unwrap();
    endpoints.iter().enumerate().for_each(|(number, endpoint)| std::fs::write(folder.join(format!("e{number}")), endpoint.address.to_string()).unwrap());
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    run.ok(&["wait", "endpoints/shop/e199"]);
    let load = Load::start(web, "shop", 32);
    until("requests", || load.sent.load(Ordering::Relaxed) >= 17_000);
    let sent = load.finish();
    let count = |of: fn(&Backend) -> &AtomicU64| endpoints.iter().map(|endpoint| of(endpoint).load(Ordering::Relaxed)).sum::<u64>();
    let (connects, requests) = (count(|endpoint| &endpoint.connections), count(|endpoint| &endpoint.requests));
    println!("{connects} connections for {requests} requests");
    // Each of the 32 threads opens one to each endpoint: 6,400 in all, whatever the number of requests.
    assert!(requests >= sent && connects * 2 <= requests, "{connects} connections for {requests} requests");
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

#[test]
fn probes_of_many_hanging_endpoints_take_no_descriptor_that_others_need_and_a_shortage_makes_nobody_unhealthy() {
    let origin = Backend::named("a");
    let run = Short::start(origin.address);
    let (api, web) = (run.api, run.web);
    until("the route", || get(web, "shop", "/").status == 200);
    // Connections to this one are never accepted: its queue is full.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _full: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect_timeout(&hanging.local_addr().unwrap(), Duration::from_millis(20)).ok()).collect();
    let put = |key: &str, value: &str| crate::harness::ok(api, &["put", key, value]);
    put("backends/shop", r#"{"healthCheck":{"interval":"500ms"}}"#);
    put("backends/hang", r#"{"healthCheck":{"type":"TCP","interval":"2s","timeout":"2s"}}"#);
    for number in 0..260 {
        let folder = run.store.join("endpoints/hang");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("e{number}")), hanging.local_addr().unwrap().to_string()).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(8);
    while Instant::now() < end {
        assert_eq!(get(web, "shop", "/").status, 200);
        let begun = Instant::now();
        assert!(get(run.admin, "admin", "/readyz").status == 200 && begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    let described = text(&verb(api, &["describe", "endpoint", "shop/a"]).stdout);
    assert!(!described.contains("UNHEALTHY"), "{described}");
}

//! What runs out: descriptors. Whoever comes, and whoever operates, is answered all the same.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use waypost_testkit::process::Process;

use crate::harness::{Backend, get, loopback, text, until, verb, waypost};

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

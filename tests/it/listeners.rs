//! Listeners: one that cannot be bound is its key's verdict alone, and one that moves turns nobody away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Box1, get, loopback, page, text, until};

#[test]
fn a_listener_whose_address_is_taken_costs_no_readiness_and_goes_with_its_key() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    run.write("listeners/w2", &format!("{{\"address\":\"{}\"}}", listener.local_addr().unwrap()));
    let description = || text(&run.verb(&["describe", "listener", "w2"]).stdout);
    until("the verdict", || description().contains("cannot be bound"));
    assert!(description().contains("the process ") && description().contains("has it"), "who has it: {}", description());
    // A route that nobody can reach is not live.
    run.write("routes/lost", r#"{"listeners":["w2"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200}}]}]}"#);
    until("the route's verdict", || text(&run.verb(&["describe", "route", "lost"]).stdout).contains("listener w2 is not bound there"));
    let waited = run.verb(&["wait", "routes/lost", "--timeout", "1s"]);
    assert!(!waited.status.success(), "{}", text(&waited.stdout));
    assert_eq!(get(run.admin, "admin", "/readyz").status, 200);
    std::fs::remove_file(run.dir().join("routes/lost")).unwrap();
    std::fs::remove_file(run.dir().join("listeners/w2")).unwrap();
    until("its end", || run.verb(&["describe", "listener", "w2"]).status.code() == Some(1));
    // No proxy ever bound it, so nobody misses it.
    until("everything current", || run.verb(&["status"]).status.success());
    assert_eq!(get(web, "page", "/").body, "one");
    // One that was served is missed: it stays, and so does readiness.
    run.write("listeners/w3", &format!("{{\"address\":\"{web}\"}}"));
    until("the other verdict", || text(&run.verb(&["describe", "listener", "w3"]).stdout).contains("listeners/web"));
    assert_eq!(get(run.admin, "admin", "/readyz").status, 200);
}

#[test]
fn a_listener_moves_between_addresses_of_one_port_and_turns_nobody_away() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    let (stop, all, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (stop, all, failed) = (stop.clone(), all.clone(), failed.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let request = b"GET / HTTP/1.1\r\nhost: page\r\nconnection: close\r\n\r\n";
                    let good = crate::harness::raw(web, request).is_ok_and(|response| response.status == 200);
                    all.fetch_add(1, Ordering::Relaxed);
                    failed.fetch_add(u64::from(!good), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for host in ["0.0.0.0", "127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        let begun = Instant::now();
        run.ok(&["put", "listeners/web", &format!("{{\"address\":\"{host}:{}\"}}", web.port()), "--wait"]);
        assert!(begun.elapsed() < Duration::from_secs(1), "live after {:?}", begun.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(failed.load(Ordering::Relaxed), 0, "of {}", all.load(Ordering::Relaxed));
    let other = loopback();
    run.ok(&["put", "listeners/web", &format!("{{\"address\":\"{other}\"}}"), "--wait"]);
    assert_eq!(get(other, "page", "/").body, "one");
}

#[test]
fn a_route_that_no_listener_serves_is_not_live() {
    let run = Box1::on_files();
    let web = loopback();
    run.ok(&["put", "listeners/web", &format!(r#"{{"address":"{web}","explicitOnly":true}}"#), "--wait"]);
    run.write("routes/lost", &page("one"));
    let described = |name: &str| text(&run.verb(&["describe", "route", name]).stdout);
    until("the verdict", || described("lost").contains("no listener serves it"));
    assert!(!run.verb(&["wait", "routes/lost", "--timeout", "1s"]).status.success());
    run.write("routes/named", r#"{"listeners":["nope"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200}}]}]}"#);
    until("the verdict of a missing listener", || described("named").contains("no listener serves it"));
    run.ok(&["put", "routes/lost", r#"{"listeners":["web"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":204}}]}]}"#, "--wait"]);
    assert_eq!(get(web, "page", "/").status, 204);
    // A listener for other proxies' labels serves nothing here.
    run.write("listeners/core", r#"{"address":"127.0.0.1:9","proxies":{"tier":"core"}}"#);
    run.write("routes/core", r#"{"listeners":["core"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200}}]}]}"#);
    until("the verdict of another proxy's listener", || described("core").contains("none of them has a listener that serves it"));
}

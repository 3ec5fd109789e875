//! Everything else dead: the proxies serve on.

use std::process::Command;
use std::time::{Duration, Instant};

use waypost_testkit::Process;
use waypost_testkit::servers::{Etcd, Server as _};

use crate::harness::{Backend, Load, get, loopback, ok, text, until, verb, waypost, waypost_proxy};

/// How long the outage lasts: 30 minutes for the record, 2 in the ordinary run.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("WAYPOST_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(120))
}

/// Whether a proxy answers as it should.
fn answers(proxy: std::net::SocketAddr) -> bool {
    std::net::TcpStream::connect(proxy).is_ok() && get(proxy, "any", "/").status == 200
}

#[test]
fn store_and_controller_dead_under_load_no_request_fails_and_a_restarted_proxy_serves_at_once() {
    let mut etcd = Etcd::new(1);
    let folder = tempfile::tempdir().unwrap();
    let (api, admin, web) = (loopback(), loopback(), loopback());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let store = format!("etcd://{}/waypost", etcd.endpoints()[0]);
    let controller = || {
        Process::start(
            Command::new(waypost()).args(["controller", "--store", &store, "--state", &path("c"), "--api", &api.to_string()]),
            &folder.path().join("c.log"),
        )
    };
    let proxy = |name: &str, admin: std::net::SocketAddr, bind: &str| {
        let mut command = Command::new(waypost_proxy());
        command.args([
            "--controller",
            &format!("http://{api}"),
            "--state",
            &path(name),
            "--admin",
            &admin.to_string(),
            "--name",
            name,
            "--bind",
            bind,
            "--drain-delay",
            "0s",
        ]);
        Process::start(&mut command, &folder.path().join(format!("{name}.log")))
    };
    let verb = |arguments: &[&str]| verb(api, arguments);
    let ok = |arguments: &[&str]| drop(ok(api, arguments));
    let mut first_controller = controller();
    let _steady = proxy("p1", admin, "127.0.0.1");
    let mut second = proxy("p2", loopback(), "127.0.0.2");
    waypost_testkit::process::wait_for_port(api, &mut first_controller);
    let backends = [Backend::named("a"), Backend::named("b")];
    ok(&["put", "listeners/web", &format!("{{\"address\":\"{web}\"}}")]);
    for (id, backend) in ["a", "b"].iter().zip(&backends) {
        ok(&["put", &format!("endpoints/shop/{id}"), &backend.address.to_string()]);
    }
    ok(&["put", "routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    until("both proxies", || text(&verb(&["wait", "routes/shop"]).stdout).contains("2/2"));
    ok(&["wait", "endpoints/shop/b"]);
    let on_second = std::net::SocketAddr::from(([127, 0, 0, 2], web.port()));
    // Two configs that serve, and the membership, are on the second proxy's disk before anything dies.
    let stored = |name: &str, what: &str| {
        let files = std::fs::read_dir(folder.path().join("p2")).unwrap().flatten();
        files
            .filter(|file| file.file_name().to_string_lossy().starts_with(name) && std::fs::read_to_string(file.path()).is_ok_and(|text| text.contains(what)))
            .count()
    };
    until("a config on disk", || stored("config-", "\"shop\"") > 0);
    until("a config in the history", || text(&verb(&["history"]).stdout).contains("put route/shop"));
    let later = r#"{"type":"FixedResponse","fixedResponse":{"statusCode":200,"body":"later"}}"#;
    ok(&["put", "routes/later", &format!(r#"{{"hostnames":["later"],"rules":[{{"filters":[{later}]}}]}}"#)]);
    until("the next config on disk", || stored("config-", "\"later\"") > 0);
    until("the next config in the history", || text(&verb(&["history"]).stdout).contains("put route/later"));
    until("the membership on disk", || stored("membership", &backends[1].address.to_string()) > 0);

    let connections = if outage() > Duration::from_secs(600) { 1 } else { 8 };
    let load = Load::start(web, "any", connections);
    first_controller.kill();
    etcd.kill(0);
    let begun = Instant::now();
    std::thread::sleep(outage() / 3);
    second.kill();
    let restarted = Instant::now();
    second = proxy("p2", loopback(), "127.0.0.2");
    until("the restarted proxy", || answers(on_second));
    let took = restarted.elapsed();
    assert!(took < Duration::from_secs(1), "the restarted proxy served after {took:?}");

    second.kill();
    let ring =
        || std::fs::read_dir(folder.path().join("p2")).unwrap().flatten().map(|item| item.path()).filter(|path| path.display().to_string().contains("config-"));
    let newest = ring().max().unwrap();
    std::fs::write(&newest, "garbage").unwrap();
    let restarted = Instant::now();
    second = proxy("p2", loopback(), "127.0.0.2");
    until("the proxy with a corrupt config", || answers(on_second));
    let from_before = restarted.elapsed();
    assert!(from_before < Duration::from_secs(1), "with its newest config corrupted the proxy served after {from_before:?}");
    assert!(second.output().contains("the config before it is used"), "{}", second.output());
    while begun.elapsed() < outage() * 2 / 3 {
        std::thread::sleep(Duration::from_millis(100));
    }
    // A controller and a proxy without anything start meanwhile: the last good state is relayed, and operators are obeyed.
    let started = Instant::now();
    let _next_controller = controller();
    let _third = proxy("p3", loopback(), "127.0.0.3");
    let on_third = std::net::SocketAddr::from(([127, 0, 0, 3], web.port()));
    until("the proxy without anything", || answers(on_third));
    let relayed = started.elapsed();
    assert!(relayed < Duration::from_secs(1), "the last good state was relayed after {relayed:?}");
    let proxies = [web, on_second, on_third];
    let everywhere = |later: bool| until("all proxies", || proxies.iter().all(|proxy| (get(*proxy, "later", "/").body == "later") == later));
    everywhere(true);
    until("all proxies to be back", || text(&verb(&["status"]).stdout).contains("Proxies:  3 connected"));
    ok(&["freeze", "--by", "alice"]);
    ok(&["unfreeze"]);
    let history = text(&verb(&["history"]).stdout);
    let before = history.lines().find(|line| line.contains("put route/shop")).unwrap().split(' ').next().unwrap().to_owned();
    let asked = Instant::now();
    ok(&["rollback", "--to", &before, "--by", "alice"]);
    everywhere(false);
    let obeyed = asked.elapsed();
    assert!(obeyed < Duration::from_secs(2), "the rollback was everywhere after {obeyed:?}");
    ok(&["unpin"]);
    everywhere(true);
    while begun.elapsed() < outage() {
        std::thread::sleep(Duration::from_millis(100));
    }
    etcd.start(0);
    until("everything to be current", || verb(&["status"]).status.success());
    ok(&["put", "routes/next", r#"{"hostnames":["next"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    let sent = load.finish();
    assert!(sent > 1_000, "{sent} requests are too few to tell");
    println!(
        "{sent} requests, 0 failed, over {:?} without store and controller; a restarted proxy served after {took:?}, with its newest config corrupted after {from_before:?}; a controller relayed the last good state after {relayed:?}, a rollback was everywhere after {obeyed:?}",
        outage()
    );
}

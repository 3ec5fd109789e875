//! The first hour of a user, word by word, against a real Consul.

use std::process::Command;

use waypost_testkit::servers::{Consul, Server as _};

use crate::harness::{Backend, Box1, get, loopback, text, until};

/// `consul kv …`, as a user types it.
fn consul_kv(server: &Consul, arguments: &[&str]) -> String {
    let output = Command::new(Consul::binary()).arg("kv").args(arguments).env("CONSUL_HTTP_ADDR", &server.endpoints()[0]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_user_of_consul_is_answered_at_every_step() {
    let consul = Consul::new(1);
    let backend = Backend::named("a");
    let run = Box1::start(&format!("consul://{}/waypost", consul.endpoints()[0]), &[]);
    until("where the controller is", || {
        consul_kv_get(&consul, "waypost-status/controllers/p1").is_some_and(|record| record.trim() == format!("{{\"url\":\"http://{}\"}}", run.api))
    });
    until("the key to write", || run.process.output().contains("no listener is written; write listeners/web"));

    let web = loopback();
    consul_kv(&consul, &["put", "waypost/listeners/web", &format!("{{\"address\":\"{web}\",\"protocol\":\"HTTP\"}}")]);
    consul_kv(&consul, &["put", "waypost/routes/shop", r#"{"hostnames":["shop.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    run.ok(&["wait", "listeners/web"]);
    run.ok(&["wait", "routes/shop"]);
    let nobody = get(web, "shop.example.com", "/");
    assert_eq!((nobody.status, nobody.body.as_str(), nobody.header("server")), (503, "no endpoint in backend shop\n", Some("waypost")));

    consul_kv(&consul, &["put", "waypost/endpoints/shop/a", &backend.address.to_string()]);
    let printed = run.ok(&["wait", "endpoints/shop/a"]);
    assert!(printed.starts_with("endpoints/shop/a is live on 1/1 proxies at version 1."), "{printed}");
    assert!(printed.contains(" ms "), "{printed}");
    assert_eq!(get(web, "shop.example.com", "/").status, 200);

    let good = run.ok(&["get", "routes/shop", "-o", "json"]);
    let revision = good.lines().find_map(|line| line.trim().strip_prefix("\"revision\": ")).unwrap().trim_end_matches(',').to_owned();
    consul_kv(&consul, &["put", "waypost/routes/shop", r#"{"hostname":["shop.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    let printed = run.fails(3, &["wait", "routes/shop"]);
    assert_eq!(printed, format!("1:2 unknown field \"hostname\"; did you mean \"hostnames\"?; revision {revision}, the last good one, still serves\n"));
    assert_eq!(get(web, "shop.example.com", "/").status, 200);
    let described = run.ok(&["describe", "route", "shop"]);
    assert!(described.contains(&format!("Serves:    revision {revision}, the last good one")), "{described}");
    assert!(run.ok(&["status"]).contains("Rejected: 1 entries"));
    until("the verdict in the store", || {
        consul_kv_get(&consul, "waypost-status/verdicts/routes/shop").is_some_and(|verdict| verdict.contains("unknown field"))
    });

    consul_kv(&consul, &["put", "waypost/routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    run.ok(&["wait", "routes/shop"]);
    until("the verdict to go", || consul_kv_get(&consul, "waypost-status/verdicts/routes/shop").is_none());
    consul_kv(&consul, &["delete", "waypost/endpoints/shop/a"]);
    // A person who deletes a backend's last endpoint without a drain is asked whether that is intended.
    until("the guard", || run.verb(&["status"]).status.code() == Some(1));
    assert_eq!(
        run.fails(3, &["wait", "endpoints/shop/a", "--for", "gone"]),
        "endpoints/shop/a is deleted and serves on: backend shop lost its last endpoint; `waypost approve endpoints/shop/a` lets it go\n"
    );
    assert_eq!(get(web, "shop.example.com", "/").status, 200);
    assert_eq!(run.ok(&["approve", "endpoints/shop/a"]), "endpoint/shop/a goes\n");
    run.ok(&["wait", "endpoints/shop/a", "--for", "gone"]);
    assert_eq!(get(web, "shop.example.com", "/").status, 503);
    assert_eq!(run.fails(1, &["approve", "--all"]), "waypost: nothing is held; `waypost status` lists what is\n");
}

fn consul_kv_get(server: &Consul, key: &str) -> Option<String> {
    let output = Command::new(Consul::binary()).args(["kv", "get", key]).env("CONSUL_HTTP_ADDR", &server.endpoints()[0]).output().unwrap();
    output.status.success().then(|| text(&output.stdout))
}

//! The stop buttons: freeze, pin, rollback, with and without a store, over restarts.

use std::time::{Duration, Instant};

use waypost_testkit::servers::{Etcd, Server as _};

use crate::harness::{Backend, Box1, get, page_at, until};

#[test]
fn a_put_during_a_freeze_is_live_only_after_it() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page_at("page", "old"), "--wait"]);
    run.ok(&["freeze"]);
    assert!(run.fails(3, &["put", "routes/page", &page_at("page", "new"), "--wait"]).contains("the config is frozen at C"));
    assert_eq!(get(web, "page", "/").body, "old");
    run.ok(&["unfreeze"]);
    run.ok(&["wait", "routes/page"]);
    assert_eq!(get(web, "page", "/").body, "new", "live means served");
}

#[test]
fn a_frozen_config_stays_also_over_a_restart_and_endpoints_go_on() {
    let mut run = Box1::on_files();
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let web = run.listener();
    run.ok(&["put", "endpoints/shop/a", &one.address.to_string(), "--wait"]);
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    let output = run.ok(&["freeze", "--by", "alice"]);
    assert!(
        output.starts_with("the config is frozen at C") && output.contains(" by alice since ") && output.ends_with("`waypost unfreeze` releases it\n"),
        "{output}"
    );
    run.ok(&["put", "routes/new", &page_at("new", "new")]);
    let waited = run.fails(3, &["wait", "routes/new"]);
    assert!(waited.contains("by alice since ") && waited.contains("`waypost unfreeze` releases it"), "{waited}");
    assert!(run.ok(&["describe", "route", "new"]).contains("Programmed    False    Frozen"), "{}", run.ok(&["describe", "route", "new"]));
    assert_eq!(get(web, "new", "/").status, 404);
    run.ok(&["put", "endpoints/shop/a", &two.address.to_string(), "--wait"]);
    assert_eq!(get(web, "shop", "/").body, "two", "membership goes on");
    assert!(run.fails(1, &["status"]).contains("Pinned:   the config is frozen at C"));
    run.process.terminate();
    run.restart();
    until("service after the restart", || std::net::TcpStream::connect(web).is_ok() && get(web, "shop", "/").status == 200);
    until("the store to be read", || run.ok(&["get", "routes"]).contains("routes/new"));
    assert_eq!(get(web, "new", "/").status, 404, "still frozen");
    assert!(run.fails(1, &["rollback", "--to", "C1"]).contains("the config is frozen at C"));
    assert!(run.fails(1, &["unpin"]).contains("nothing is pinned; the config is frozen"));
    let exported = run.folder.path().join("exported");
    run.ok(&["delete", "routes/shop"]);
    assert!(run.fails(3, &["wait", "routes/shop", "--for", "gone"]).contains("routes/shop is deleted and serves on: the config is frozen at C"));
    run.ok(&["export", "--to", &exported.display().to_string()]);
    assert!(exported.join("routes/shop").exists() && !exported.join("routes/new").exists(), "what serves is exported");
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    run.ok(&["unfreeze", "--by", "bob"]);
    run.ok(&["wait", "routes/new"]);
    assert_eq!(get(web, "new", "/").body, "new");
    assert!(run.fails(1, &["unfreeze"]).contains("nothing is frozen"));
    let audit = run.ok(&["history", "--audit"]);
    assert!(audit.contains("alice") && audit.contains("bob"), "{audit}");
}

#[test]
fn an_old_config_comes_back_within_two_seconds_with_the_store_down() {
    let mut etcd = Etcd::new(1);
    let run = Box1::start(&format!("etcd://{}/waypost", etcd.endpoints()[0]), &[]);
    let web = run.listener();
    run.ok(&["put", "routes/page", &page_at("page", "good"), "--wait"]);
    until("the good config in the history", || run.ok(&["history"]).contains("put route/page"));
    let good = run.ok(&["history"]).lines().find(|line| line.contains("put route/page")).unwrap().split(' ').next().unwrap().to_owned();
    run.ok(&["put", "routes/page", &page_at("page", "bad"), "--wait"]);
    until("the bad one", || run.ok(&["history"]).lines().filter(|line| line.contains("put route/page")).count() == 2);
    let diff = run.ok(&["diff", &good]);
    assert!(diff.contains("route/page\n  - ") && diff.contains("\"body\":\"good\"") && diff.contains("\"body\":\"bad\""), "{diff}");
    etcd.kill(0);
    let begun = Instant::now();
    let output = run.ok(&["rollback", "--to", &good, "--by", "carol"]);
    assert!(output.starts_with(&format!("config {good} is pinned by carol since ")), "{output}");
    until("the good page", || get(web, "page", "/").body == "good");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    etcd.start(0);
    until("the store", || run.ok(&["put", "routes/other", &page_at("other", "x")]).contains("is written"));
    assert!(run.fails(3, &["wait", "routes/other"]).contains(&format!("config {good} is pinned by carol")));
    assert_eq!(get(web, "page", "/").body, "good");
    run.ok(&["unpin"]);
    run.ok(&["wait", "routes/other"]);
    assert_eq!(get(web, "page", "/").body, "bad", "what is written counts again");
}

#[test]
fn a_pin_ends_by_itself_and_what_cannot_be_pinned_is_told() {
    let run = Box1::on_files();
    let web = run.listener();
    assert!(run.fails(1, &["rollback", "--to", "C99"]).contains("there is no config C99; `waypost history` lists those there are"));
    assert!(run.fails(2, &["pin", "--for", "10ms"]).contains("--for is less than a second"));
    assert!(run.fails(2, &["rollback", "--to", "latest"]).contains("write it as in `waypost history`, such as C12"));
    assert!(run.fails(2, &["diff", "1", "2", "3"]).contains("unexpected argument"));
    until("the history", || run.ok(&["history"]).contains("C1 "));
    assert!(run.ok(&["pin", "C1"]).starts_with("config C1 is pinned"));
    run.ok(&["unpin"]);
    run.ok(&["pin", "--for", "6s"]);
    run.ok(&["put", "routes/later", &page_at("later", "now")]);
    assert_eq!(get(web, "later", "/").status, 404);
    assert!(run.fails(3, &["wait", "routes/later"]).contains(" until "), "it says until when");
    until("the end of the pin", || get(web, "later", "/").body == "now");
    assert!(run.ok(&["events"]).contains("Released"));
}

//! Bad input is answered with the key, the field, the place and the remedy, and changes nothing that serves.

use std::process::Command;

use waypost_testkit::Process;
use waypost_testkit::servers::{Etcd, Server as _};

use crate::harness::{Backend, Box1, get, loopback, page, text, until, waypost, waypost_proxy};

#[test]
fn every_bad_value_is_answered_exactly_and_hurts_only_itself() {
    let run = Box1::on_files();
    let backend = Backend::named("good");
    let web = run.listener();
    run.write("endpoints/shop/a", &backend.address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    let brackets = format!("{{\"rules\":{}", "[".repeat(5_000));
    let large = format!("{{\"rules\":[],\"x\":\"{}\"}}", "x".repeat(300_000));
    let cases = [
        ("routes/bad", "{\"rules\":[", "1:10 the value ends in the middle of a list; add what closes it"),
        ("routes/bad", &brackets, "1:73 brackets are nested more than 64 deep; write the value flatter"),
        ("routes/bad", r#"{"ruels":[]}"#, r#"1:2 unknown field "ruels"; did you mean "rules"?"#),
        ("routes/bad", r#"{"rules":{}}"#, "1:10 rules: expected a list, such as [...], found an object"),
        ("routes/bad", "null", r#"1:1 expected an object, found null; write {"hostnames":["shop.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#),
        ("routes/bad", &large, "1:1 the value has 300019 bytes; at most 262144 are accepted (setting valueBytes)"),
        ("endpoints/shop/bad", "10.0.0.5:0", "1:1 address \"10.0.0.5:0\" has the port 0; ports are 1 to 65535"),
        ("endpoints/shop/bad", "10.0.0.5:70000", "1:1 address \"10.0.0.5:70000\" has the port 70000; ports are 1 to 65535"),
        ("endpoints/shop/bad", "2001:db8::1:8080", "1:1 address \"2001:db8::1:8080\" needs brackets around the IPv6 address; write \"[2001:db8::1]:8080\""),
        ("endpoints/shop/bad", "http://10.0.0.5:80", "1:1 address \"http://10.0.0.5:80\" has the scheme \"http\"; write \"10.0.0.5:80\""),
        (
            "routes/bad",
            r#"{"rules":[{"matches":[{"path":{"type":"RegularExpression","value":"("}}],"backendRefs":[{"name":"shop"}]}]}"#,
            "1:31 rules[0].matches[0].path: the regular expression \"(\" is not valid: unclosed group; the syntax is that of RE2, without look-around and back-references",
        ),
        (
            "routes/bad",
            r#"{"hostnames":["a.com/x"],"rules":[]}"#,
            "1:15 hostnames[0]: hostname \"a.com/x\" has a path; write \"a.com\" here and the path under rules[].matches[].path",
        ),
    ];
    for (key, value, message) in cases {
        run.write(key, value);
        assert_eq!(run.fails(3, &["wait", key]), format!("{message}; nothing was served under this key before\n"));
        assert_eq!(get(web, "any", "/").status, 200, "{message}");
        std::fs::remove_file(run.dir().join(key)).unwrap();
        run.ok(&["wait", key, "--for", "gone"]);
    }
}

#[test]
fn a_duplicate_name_a_shadowed_route_and_a_missing_reference_are_reported() {
    let run = Box1::on_files();
    run.listener();
    run.write("routes/a.json", r#"{"rules":[{"backendRefs":[{"name":"nobody"}]}]}"#);
    run.ok(&["wait", "routes/a"]);
    let described = run.ok(&["describe", "routes/a", "-o", "json"]);
    assert!(described.contains("there is no backend nobody; register an endpoint under endpoints/nobody/, until then it takes no requests, and a rule without another backend answers 503"), "{described}");
    run.write("routes/b", r#"{"rules":[{"backendRefs":[{"name":"nobody"}]}]}"#);
    assert_eq!(run.fails(3, &["wait", "routes/b"]), "shadowed by routes/a, which claims the same match\n");
    run.write("routes/a.yaml", "rules: []");
    let output = run.fails(3, &["wait", "routes/a"]);
    assert!(output.starts_with("1:1 the name is there more than once: a.json, a.yaml; keep one file; revision "), "{output}");
}

#[test]
fn a_listener_address_in_use_hurts_that_listener_only() {
    let run = Box1::on_files();
    let web = run.listener();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    run.write("listeners/second", &format!("{{\"address\":\"{address}\"}}"));
    let output = run.fails(1, &["wait", "listeners/second", "--timeout", "1s"]);
    assert!(output.contains(&format!("p1: address {address} cannot be bound: Address already in use")), "{output}");
    assert!(output.contains("end that process or write another port"), "{output}");
    assert_eq!(get(web, "any", "/").status, 404);
    drop(holder);
    run.ok(&["wait", "listeners/second"]);
    assert_eq!(get(address, "any", "/").status, 404);
}

#[test]
fn programs_refuse_unusable_settings_before_they_bind_anything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let state = file.join("state").display().to_string();
    let good = folder.path().join("state").display().to_string();
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["run", "--store", "redis://h/x", "--state", &good],
            2,
            "the store \"redis://h/x\" has the unknown scheme \"redis\"; write file:///etc/waypost, etcd://",
        ),
        (&["run", "--state", &good], 2, "no store is given; write --store URL"),
        (&["run", "--store", "file:///tmp/x", "--state", &state], 1, "the state directory"),
        (
            &["controller", "--store", "file:///tmp/x", "--state", &good, "--api", "0.0.0.0:7400", "--advertise", "http://c1:7400"],
            2,
            "--advertise http://c1:7400 is plain HTTP, and the API uses TLS; write https://",
        ),
        (&["status", "--controller", "http://127.0.0.1:1"], 4, "the controller at http://127.0.0.1:1/ cannot be reached"),
        (&["get", "rotues"], 4, "cannot be reached"),
    ];
    for (arguments, code, message) in cases {
        let output = Command::new(waypost()).args(arguments).env("WAYPOST_CONTROLLER", "http://127.0.0.1:1").output().unwrap();
        let printed = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
        assert!(printed.contains(message), "{arguments:?}: {printed}");
    }
    let clear = Command::new(waypost_proxy()).args(["--controller", "http://10.0.0.1:7400", "--state", &good]).output().unwrap();
    assert!(text(&clear.stderr).contains("would be talked to in clear text; write https://"), "{}", text(&clear.stderr));
}

#[test]
fn a_store_that_is_unreachable_at_the_start_is_reported_and_the_last_snapshot_serves() {
    let mut run = Box1::on_files();
    let backend = Backend::named("a");
    let web = run.listener();
    run.write("endpoints/shop/a", &backend.address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    run.ok(&["wait", "endpoints/shop/a"]);
    run.process.terminate();
    std::fs::rename(run.dir(), run.folder.path().join("away")).unwrap();
    run.restart();
    until("service from disk", || std::net::TcpStream::connect(web).is_ok());
    assert_eq!(get(web, "any", "/").body, "a");
    until("a word about the store", || run.process.output().contains("create the directory, or correct the path of --store"));
    until("the status to say so", || run.verb(&["status"]).status.code() == Some(1));
    std::fs::rename(run.folder.path().join("away"), run.dir()).unwrap();
    until("the status to be good again", || run.verb(&["status"]).status.code() == Some(0));
    assert_eq!(get(web, "any", "/").body, "a");
}

#[test]
fn a_corrupt_state_directory_costs_the_last_config_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Box1::on_files();
    let state = folder.path().join("proxy");
    let web = loopback();
    let url = format!("http://{}", controller.api);
    let start = || {
        let mut command = Command::new(waypost_proxy());
        command.args([
            "--controller",
            &url,
            "--state",
            &state.display().to_string(),
            "--admin",
            &loopback().to_string(),
            "--name",
            "p2",
            "--label",
            "who=p2",
            "--drain-delay",
            "0s",
        ]);
        Process::start(&mut command, &folder.path().join("proxy.log"))
    };
    let backend = Backend::named("a");
    let mut proxy = start();
    // Only the proxy under test has the label, so that the box's own does not hold the address.
    controller.write("listeners/web", &format!("{{\"address\":\"{web}\",\"proxies\":{{\"who\":\"p2\"}}}}"));
    controller.write("endpoints/shop/a", &backend.address.to_string());
    controller.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    let ring = || {
        std::fs::read_dir(&state)
            .map(|items| items.flatten().map(|item| item.path()).filter(|path| path.display().to_string().contains("config-")).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    // The proxy writes at most one config a second, so the content of a file is checked, not the number of files.
    let newest_has = |path: &str| ring().into_iter().max().is_some_and(|file| std::fs::read_to_string(file).is_ok_and(|held| held.contains(path)));
    until("the route on disk", || newest_has("\"name\":\"shop\""));
    controller.write("routes/second", r#"{"hostnames":["b"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    until("the second route on disk", || newest_has("\"name\":\"second\""));
    proxy.terminate();
    drop(controller);
    let mut files = ring();
    files.sort();
    std::fs::write(files.last().unwrap(), "garbage").unwrap();
    let proxy = start();
    until("service from the config before", || std::net::TcpStream::connect(web).is_ok() && get(web, "any", "/").body == "a");
    assert!(proxy.output().contains("the checksum does not fit; the file is torn or was changed by hand; the config before it is used"), "{}", proxy.output());
}

#[test]
fn a_full_state_directory_is_reported_and_changes_nothing_that_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, state) = (folder.path().join("waypost"), folder.path().join("state"));
    for path in [&dir, &state] {
        std::fs::create_dir(path).unwrap();
    }
    let (api, admin, web) = (loopback(), loopback(), loopback());
    let write = |key: &str, value: &str| {
        let path = dir.join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value).unwrap();
    };
    // A file system of its own with little room, seen by this process alone.
    let script = format!(
        "mount -t tmpfs -o size=192k tmpfs {0} && exec {1} run --store file://{2} --state {0} --api {api} --admin {admin} --name p1 --drain-delay 0s",
        state.display(),
        waypost().display(),
        dir.display()
    );
    let mut command = Command::new("unshare");
    // Without being root, a user namespace gives the right to mount.
    let namespaces: &[&str] =
        if std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) { &["-m"] } else { &["-Urm"] };
    command.args(namespaces).args(["sh", "-c", &script]);
    let mut process = Process::start(&mut command, &folder.path().join("run.log"));
    waypost_testkit::process::wait_for_port(api, &mut process);
    let verb = |arguments: &[&str]| Command::new(waypost()).args(arguments).env("WAYPOST_CONTROLLER", format!("http://{api}")).output().unwrap();
    let backend = Backend::named("a");
    write("listeners/web", &format!("{{\"address\":\"{web}\"}}"));
    write("endpoints/shop/a", &backend.address.to_string());
    write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    assert!(verb(&["wait", "routes/shop"]).status.success());
    assert!(verb(&["wait", "endpoints/shop/a"]).status.success());
    // More than fits, and not to be compressed away.
    let noise: String = (0..60_000).map(|_| fastrand::alphanumeric()).collect();
    for number in 0..4 {
        let route = format!(
            r#"{{"hostnames":["h{number}"],"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{number}{noise}"}}}}]}}]}}"#
        );
        write(&format!("routes/big{number}"), &route);
        assert!(verb(&["wait", &format!("routes/big{number}")]).status.success(), "what cannot be kept is served all the same");
    }
    until("a word about the disk", || {
        let output = process.output();
        output.contains("No space left on device") && output.contains("state directory")
    });
    assert_eq!(get(web, "any", "/").body, "a");
    assert!(get(web, "h3", "/").body.starts_with('3'));
}

#[test]
fn a_corrupt_state_of_the_controller_costs_the_last_change_and_no_more() {
    let mut run = Box1::on_files();
    run.listener();
    run.write("routes/first", r#"{"hostnames":["first"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/first"]);
    let file = run.folder.path().join("state/controller/entries.json.gz");
    until("the entries on disk", || file.exists());
    let before = std::fs::read(&file).unwrap();
    run.write("routes/second", r#"{"hostnames":["second"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/second"]);
    until("the next generation on disk", || std::fs::read(&file).is_ok_and(|now| now != before));
    run.process.terminate();
    std::fs::write(&file, "garbage").unwrap();
    // Without its store the controller has nothing but its disk.
    std::fs::rename(run.dir(), run.folder.path().join("away")).unwrap();
    run.restart();
    until("a word about the file", || {
        let output = run.process.output();
        output.contains("entries.json.gz") && output.contains("the generation before it is used")
    });
    until("the entries of the generation before", || run.ok(&["get", "routes"]).contains("first"));
    std::fs::rename(run.folder.path().join("away"), run.dir()).unwrap();
    until("the store again", || run.ok(&["get", "routes"]).contains("second"));
}

#[test]
fn a_torn_history_and_a_torn_operators_record_are_reported_and_change_nothing_that_serves() {
    let mut run = Box1::on_files();
    let web = run.listener();
    let histories = || std::fs::read_dir(run.folder.path().join("state/controller/history")).map_or(0, Iterator::count);
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    until("the first config in the history", || histories() > 0 && run.ok(&["history"]).contains("put route/page"));
    run.ok(&["pin", "--by", "alice"]);
    run.ok(&["unpin", "--by", "alice"]);
    run.ok(&["freeze", "--by", "alice"]);
    run.ok(&["put", "routes/page", &page("two")]);
    run.process.terminate();
    let state = run.folder.path().join("state/controller");
    for file in std::fs::read_dir(state.join("history")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    // The generation before it says that nothing is frozen.
    let bytes = std::fs::read(state.join("operator.json")).unwrap();
    std::fs::write(state.join("operator.json"), &bytes[..bytes.len() / 2]).unwrap();
    run.restart();
    until("service after the restart", || std::net::TcpStream::connect(web).is_ok() && get(web, "page", "/").status == 200);
    until("the store to be read", || run.ok(&["events"]).contains("StoreRead"));
    let events = run.ok(&["events"]);
    for text in ["history/C", "this config of the history is lost", "operator.json", "the config is frozen as it was published"] {
        assert!(events.contains(text), "{text}: {events}");
    }
    assert_eq!(get(web, "page", "/").body, "one", "it stays frozen");
    for (arguments, message) in [(["rollback", "--to", "C1"], "the config is frozen at C"), (["rollback", "--to", "C77"], "there is no config C77")] {
        assert!(run.fails(1, &arguments).contains(message), "{message}");
        assert!(run.ok(&["events"]).contains(message), "{message}: {}", run.ok(&["events"]));
        if message.contains("frozen") {
            run.ok(&["unfreeze"]);
        }
    }
    until("what was written meanwhile", || get(web, "page", "/").body == "two");
    assert!(run.fails(1, &["approve", "routes/page"]).contains("nothing of routes/page is held"));
    assert!(run.ok(&["events"]).contains("nothing of routes/page is held"));
}

#[test]
fn keys_under_the_other_spelling_of_the_root_are_named() {
    let etcd = Etcd::new(1);
    etcd.ctl(&["put", "/waypost/routes/lost", "{}"]).unwrap();
    let run = Box1::start(&format!("etcd://{}/waypost", etcd.endpoints()[0]), &[]);
    until("a word about them", || text(&run.verb(&["status"]).stdout).contains("/waypost/routes/lost"));
    let output = text(&run.verb(&["status"]).stdout);
    let wanted = r#"1 keys such as "/waypost/routes/lost" are written under "/waypost", which nobody reads; write them under "waypost""#;
    assert!(output.contains(wanted), "{output}");
}

#[test]
fn a_state_directory_that_is_full_at_the_start_is_reported_and_its_content_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, state) = (folder.path().join("waypost"), folder.path().join("state"));
    for path in [&dir, &state] {
        std::fs::create_dir(path).unwrap();
    }
    std::fs::create_dir(dir.join("listeners")).unwrap();
    std::fs::create_dir(dir.join("routes")).unwrap();
    let (api, admin, web) = (loopback(), loopback(), loopback());
    std::fs::write(dir.join("listeners/web"), format!("{{\"address\":\"{web}\"}}")).unwrap();
    std::fs::write(dir.join("routes/ok"), r#"{"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200,"body":"ok"}}]}]}"#).unwrap();
    // Runs, is stopped, and is started again on a disk that was filled and whose store is gone: all in one namespace.
    let run = format!(
        "{} run --store file://{} --state {} --api {api} --admin {admin} --name p1 --drain-delay 0s",
        waypost().display(),
        dir.display(),
        state.display()
    );
    let script = format!(
        "mount -t tmpfs -o size=128k tmpfs {0} && {{ {run} & first=$!; \
         until ls {0}/proxy/config-* 2>/dev/null | grep -q . && grep -q '\"ok\"' {0}/proxy/config-*; do sleep 0.05; done; \
         kill $first; wait $first; mv {1} {1}.away; head -c 200000 /dev/zero > {0}/filler; echo FULL >&2; exec {run}; }}",
        state.display(),
        dir.display()
    );
    let mut command = Command::new("unshare");
    let root = std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    command.args(if root { &["-m"][..] } else { &["-Urm"] }).args(["bash", "-c", &script]);
    let process = Process::start(&mut command, &folder.path().join("run.log"));
    until("the second start", || process.output().contains("FULL"));
    until("service from what the disk holds", || std::net::TcpStream::connect(web).is_ok() && get(web, "any", "/").body == "ok");
    until("a word about the disk", || process.output().contains("the state directory is full: No space left on device"));
    until("a word about the store", || process.output().contains("create the directory, or correct the path of --store"));
    assert_eq!(get(web, "any", "/").body, "ok");
}

#[test]
fn a_value_that_expands_too_far_or_changes_framing_headers_is_refused() {
    let run = Box1::on_files();
    let web = run.listener();
    run.write("routes/shop", r#"{"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200,"body":"ok"}}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    let body = "x".repeat(100_000);
    let rule = "  - {filters: [{type: FixedResponse, fixedResponse: {statusCode: 200, body: *b}}]}\n";
    let first = format!("rules:\n  - {{filters: [{{type: FixedResponse, fixedResponse: {{statusCode: 200, body: &b {body}}}}}]}}\n");
    let aliases = first + &rule.repeat(40);
    let modifier = |kind: &str, field: &str, change: &str| {
        format!(r#"{{"rules":[{{"filters":[{{"type":"{kind}","{field}":{change}}}],"backendRefs":[{{"name":"b"}}]}}]}}"#)
    };
    for (value, message) in [
        (aliases, "with what its aliases repeat the value has more than 1048576 bytes (setting objectBytes)"),
        (
            modifier("ResponseHeaderModifier", "responseHeaderModifier", r#"{"set":[{"name":"Content-Length","value":"5"}]}"#),
            r#"the header "content-length" belongs to the connection and cannot be changed; the proxy sets it; take it out of responseHeaderModifier"#,
        ),
        (
            modifier("RequestHeaderModifier", "requestHeaderModifier", r#"{"remove":["transfer-encoding"]}"#),
            r#"the header "transfer-encoding" belongs to the connection"#,
        ),
    ] {
        run.write("routes/bad", &value);
        let printed = run.fails(3, &["wait", "routes/bad"]);
        assert!(printed.contains(message), "{printed}");
        assert_eq!(get(web, "any", "/").body, "ok");
    }
    assert!(run.ok(&["status"]).contains("Proxies:  1 connected"));
}

#[test]
fn files_that_are_no_values_cost_neither_memory_nor_any_other_key() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "routes/page", &page("one"), "--wait"]);
    let routes = run.dir().join("routes");
    // One far too large, links that lead to nothing in each way, and one that leads round.
    std::fs::File::create(routes.join("huge.json")).unwrap().set_len(8 << 30).unwrap();
    for (name, target) in [("nowhere", "missing"), ("through", "page/x"), ("itself", "itself"), ("round", ".")] {
        std::os::unix::fs::symlink(target, routes.join(name)).unwrap();
    }
    run.write("routes/after", r#"{"hostnames":["after"],"rules":[{"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":204}}]}]}"#);
    until("the next key", || get(web, "after", "/").status == 204);
    until("the verdict", || text(&run.verb(&["describe", "route", "huge"]).stdout).contains("the file has more than 4194304 bytes"));
    let listed = text(&run.verb(&["get", "routes"]).stdout);
    assert!(["nowhere", "through", "itself", "round"].iter().all(|name| !listed.contains(name)), "{listed}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.process.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap();
    assert!(resident < 400_000, "{resident} kB");
    // What is said of a long value is short.
    run.write("routes/long", &format!("{{\"{}\":1}}", "\u{7f}".repeat(200_000)));
    until("the verdict", || text(&run.verb(&["describe", "route", "long"]).stdout).contains("unknown field"));
    let events = text(&run.verb(&["events"]).stdout);
    assert!(events.contains("routes/long") || events.contains("unknown field"), "{events}");
    assert!(events.len() < 50_000, "{} bytes", events.len());
}

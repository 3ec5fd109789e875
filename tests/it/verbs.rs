//! The answers of the verbs, in every form of a request.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Backend, Box1, get, loopback, page_at, start_proxy, text, until, waypost};

const ROUTE: &str = r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#;

#[test]
fn a_key_may_be_typed_in_words_below_a_tree_or_as_current() {
    let run = Box1::on_files();
    let backend = Backend::named("a");
    run.listener();
    run.ok(&["put", "endpoint", "shop/a", &backend.address.to_string(), "--wait"]);
    run.ok(&["put", "route", "shop", ROUTE, "--wait"]);
    let output = run.ok(&["wait", "route", "shop", "endpoints/shop/a"]);
    assert_eq!(output.lines().filter(|line| line.contains("is live on 1/1 proxies")).count(), 2, "{output}");
    let listener = std::fs::read_to_string(run.dir().join("listeners/web")).unwrap();
    run.ok(&["put", "trees/v2/listeners/web", &listener]);
    run.ok(&["put", "trees/v2/routes/shop", ROUTE]);
    assert_eq!(
        run.fails(3, &["wait", "trees/v2/routes/shop"]),
        "the active config is the root; write current to switch; nothing was served under this key before\n"
    );
    run.ok(&["put", "current", "v2", "--wait"]);
    assert!(run.ok(&["wait", "current"]).starts_with("current is live on 1/1 proxies"));
    assert!(run.ok(&["wait", "trees/v2/routes/shop"]).contains("is live on 1/1 proxies"));
    let output = run.fails(3, &["put", "current", "v3", "--wait"]);
    assert!(output.contains("there is no key under trees/v3/; write the tree first, then current; revision "), "{output}");
    std::fs::remove_file(run.dir().join("routes/shop")).unwrap();
    assert!(run.ok(&["wait", "routes/shop"]).contains("is live"), "the plain name means the active tree's");
}

#[test]
fn gone_means_that_no_proxy_serves_it_any_more() {
    let run = Box1::on_files();
    run.listener();
    let second = start_proxy(run.api, &run.folder.path().join("p2"), "p2", "127.0.0.2");
    run.ok(&["put", "routes/shop", ROUTE]);
    until("both proxies", || text(&run.verb(&["wait", "routes/shop"]).stdout).contains("2/2"));
    second.freeze();
    assert!(run.ok(&["delete", "routes/shop"]).contains("is deleted"));
    let output = run.fails(1, &["wait", "routes/shop", "--for", "gone", "--timeout", "1s"]);
    assert_eq!(output, "waypost: routes/shop is deleted, but after 1s still served by p2\n");
    second.thaw();
    assert_eq!(run.ok(&["wait", "routes/shop", "--for", "gone"]), "routes/shop is gone\n");
}

#[test]
fn one_file_and_one_environment_serve_every_verb() {
    let run = Box1::on_files();
    let file = run.folder.path().join("waypost.toml");
    std::fs::write(&file, format!("state = \"/nowhere\"\ncontroller = \"http://{}\"\noutput = \"json\"\n[limits]\nvalueBytes = 1000\n", run.api)).unwrap();
    let verb = |arguments: &[&str], variables: &[(&str, &str)]| {
        Command::new(waypost()).args(arguments).envs(variables.iter().copied()).env("WAYPOST_CONFIG", &file).output().unwrap()
    };
    let status = verb(&["status"], &[]);
    assert!(status.status.success() && text(&status.stdout).starts_with('{'), "{}", text(&status.stderr));
    let yaml = verb(&["proxies"], &[("WAYPOST_OUTPUT", "yaml")]);
    assert!(text(&yaml.stdout).starts_with("- name: p1"), "the environment comes before the file: {}", text(&yaml.stdout));
    // A controller's name and directory are not those that a token is made for.
    let named = format!("name = \"c1\"\nstate = \"/nowhere\"\ncontroller = \"http://{}\"\n[limits]\nvalueBytes = 1000\n", run.api);
    std::fs::write(&file, named).unwrap();
    let token = verb(&["token", "--join", "proxy"], &[]);
    assert!(text(&token.stderr).contains("needs neither certificates nor tokens"), "the controller is asked: {}", text(&token.stderr));
    assert_eq!(verb(&["token", "--role", "read"], &[]).status.code(), Some(2), "whose it is has to be said");
    let refused = verb(&["put", "routes/a", &format!("{{\"rules\":[],\"x\":\"{}\"}}", "x".repeat(1_000))], &[]);
    assert!(text(&refused.stderr).contains("at most 1000 are accepted (setting valueBytes)"), "{}", text(&refused.stderr));
    std::fs::write(&file, "[limits]\nvalueBytes = 10000000\n").unwrap();
    let refused = verb(&["lint", &run.dir().display().to_string()], &[]);
    assert!(text(&refused.stderr).contains("the limit valueBytes is 10000000; proxies take at most 3145728"), "{}", text(&refused.stderr));
    std::fs::write(&file, "statte = 1\n").unwrap();
    let refused = verb(&["status"], &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("unknown key \"statte\""), "{}", text(&refused.stderr));
}

#[test]
fn an_export_can_replace_the_original_entries() {
    let run = Box1::on_files();
    run.listener();
    run.write("routes/shop.yaml", "rules:\n- backendRefs:\n  - name: shop\n");
    run.write("endpoints/shop/a", "10.0.0.1:80\n");
    run.ok(&["wait", "routes/shop"]);
    run.write("endpoints/shop/a", "10.0.0.1:0\n");
    until("the refusal", || run.verb(&["wait", "endpoints/shop/a"]).status.code() == Some(3));
    let copy = run.folder.path().join("copy");
    run.ok(&["export", "--to", &copy.display().to_string()]);
    assert_eq!(std::fs::read_to_string(copy.join("routes/shop")).unwrap(), "rules:\n- backendRefs:\n  - name: shop\n", "the author's bytes");
    assert_eq!(std::fs::read_to_string(copy.join("endpoints/shop/a")).unwrap(), "10.0.0.1:80\n", "what serves, not what was refused");
    assert!(run.ok(&["lint", &copy.display().to_string()]).contains("3 entries, 0 refused"));
}

#[test]
fn held_entries_of_two_stores_are_written_back_to_the_store_of_each() {
    let other = tempfile::tempdir().unwrap();
    let second = other.path().join("second");
    std::fs::create_dir_all(second.join("routes")).unwrap();
    let run = Box1::start("file://{dir}", &["--store", &format!("file://{}", second.display())]);
    run.listener();
    for number in 0..10 {
        run.write(&format!("routes/a{number}"), &page_at(&format!("a{number}"), "x"));
        std::fs::write(second.join(format!("routes/b{number}")), page_at(&format!("b{number}"), "x")).unwrap();
    }
    for key in ["routes/a9", "routes/b9"] {
        run.ok(&["wait", key]);
    }
    until("everything to be current", || run.verb(&["status"]).status.success());
    std::fs::remove_dir_all(run.dir().join("routes")).unwrap();
    std::fs::remove_dir_all(second.join("routes")).unwrap();
    let commands = [run.dir(), second.clone()].map(|store| format!("waypost export --held --to file://{}", store.display()));
    until("both to be held", || {
        let output = text(&run.verb(&["status"]).stdout);
        commands.iter().all(|command| output.contains(command))
    });
    for command in &commands {
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        assert!(run.ok(&arguments).starts_with("10 entries are written"), "{command}");
    }
    until("everything to be current again", || run.verb(&["status"]).status.success());
    let names = |dir: &std::path::Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir.join("routes")).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name: &String| !name.starts_with('.'));
        names.sort();
        names
    };
    assert_eq!(names(&run.dir()), (0..10).map(|number| format!("a{number}")).collect::<Vec<_>>());
    assert_eq!(names(&second), (0..10).map(|number| format!("b{number}")).collect::<Vec<_>>());
}

#[test]
fn a_stream_is_kept_alive_also_after_a_burst_and_is_compressed_when_asked() {
    let run = Box1::on_files();
    run.listener();
    let mut stream = TcpStream::connect(run.api).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    stream.write_all(b"GET /v1/watch HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    for number in 0..30 {
        run.write(&format!("routes/r{number}"), &format!(r#"{{"hostnames":["h{number}"],"rules":[{{"backendRefs":[{{"name":"shop"}}]}}]}}"#));
        std::thread::sleep(Duration::from_millis(20));
    }
    run.ok(&["wait", "routes/r29"]);
    let quiet = Instant::now();
    lines.by_ref().map(|line| line.expect("a line in time")).find(|line| line.contains("heartbeat")).expect("a heartbeat");
    assert!(quiet.elapsed() < Duration::from_secs(7), "{:?}", quiet.elapsed());

    let mut stream = TcpStream::connect(run.api).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
    stream.write_all(b"GET /v1/watch HTTP/1.0\r\naccept-encoding: gzip\r\n\r\n").unwrap();
    let mut head = BufReader::new(stream);
    let mut line = String::new();
    let mut head_text = String::new();
    while line != "\r\n" {
        head_text += &line;
        line.clear();
        head.read_line(&mut line).unwrap();
    }
    assert!(head_text.contains("content-encoding: gzip"), "{head_text}");
    let mut first = [0; 2];
    head.read_exact(&mut first).unwrap();
    assert_eq!(first, [0x1f, 0x8b]);
}

#[test]
fn a_watcher_that_claims_to_have_seen_the_end_of_time_is_refused() {
    let run = Box1::on_files();
    run.listener();
    let body = r#"{"name":"liar","highest":"18446744073709551615.0"}"#;
    let request =
        format!("POST /v1/watch HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let refused = crate::harness::raw(run.api, request.as_bytes()).unwrap();
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(run.ok(&["status"]).contains("epoch 1"));
}

#[test]
fn an_open_connection_follows_its_listener_to_a_new_name() {
    let run = Box1::on_files();
    let backend = Backend::named("a");
    let web = run.listener();
    run.ok(&["put", "endpoints/shop/a", &backend.address.to_string(), "--wait"]);
    run.ok(&["put", "routes/shop", r#"{"listeners":["web","front"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    let mut connection = TcpStream::connect(web).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut ask = || {
        connection.write_all(b"GET / HTTP/1.1\r\nhost: any\r\n\r\n").unwrap();
        let mut buffer = [0; 4_096];
        let count = connection.read(&mut buffer).unwrap();
        text(&buffer[..count]).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask(), "200");
    run.ok(&["put", "routes/shop", r#"{"listeners":["front"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#]);
    until("the route to be for another listener", || ask() == "404");
    std::fs::rename(run.dir().join("listeners/web"), run.dir().join("listeners/front")).unwrap();
    run.ok(&["wait", "listeners/front"]);
    run.ok(&["wait", "listeners/web", "--for", "gone"]);
    assert_eq!(ask(), "200", "the socket is the renamed listener's now");
    assert_eq!(get(web, "any", "/").status, 200);
}

#[test]
fn a_proxy_of_another_cluster_is_not_counted_as_serving() {
    let run = Box1::on_files();
    let state = run.folder.path().join("p2");
    let p2 = start_proxy(run.api, &state, "p2", "127.0.0.2");
    run.listener();
    for number in 0..5 {
        run.ok(&["put", "routes/shop", &ROUTE.replace("shop", &format!("shop{number}")), "--wait"]);
    }
    until("it on disk", || state.join("membership.jsonl").exists());
    drop(p2);
    // The listeners that the proxy has from its own cluster have other names.
    let other = Box1::on_files();
    other.ok(&["put", "listeners/edge", &format!(r#"{{"address":"{}"}}"#, loopback()), "--wait"]);
    let _again = start_proxy(other.api, &state, "p2", "127.0.0.3");
    until("it to be refused", || text(&other.verb(&["status"]).stdout).contains("belongs to cluster"));
    let output = other.fails(1, &["put", "routes/after", ROUTE, "--wait", "--timeout", "1s"]);
    assert!(output.contains("routes/after is live on 1/2 proxies after 1s; p2: ") && output.contains("belongs to cluster"), "{output}");
    assert!(!other.fails(1, &["status"]).contains("Everything is current"));
    // An operator says that it is meant, in the words of the refusal; it holds over a restart of the controller too.
    let status = text(&other.verb(&["status"]).stdout);
    let command = status.split("waypost adopt ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(other.fails(2, &["adopt", "two words"]).contains("without spaces"));
    assert!(other.ok(&["adopt", &command, "--by", "alice"]).contains("they come by themselves"));
    until("the proxy to follow", || text(&other.verb(&["wait", "routes/after"]).stdout).contains("2/2"));
    assert!(other.ok(&["history", "--audit"]).contains(&format!("proxies of cluster {command} may follow")));
    until("everything to be current", || other.verb(&["status"]).status.success());
}

#[test]
fn a_listener_that_no_proxy_has_the_labels_for_is_not_live() {
    let run = Box1::on_files();
    run.listener();
    run.ok(&["put", "listeners/edge", &format!(r#"{{"address":"{}","proxies":{{"tier":"edge"}}}}"#, loopback())]);
    let output = run.fails(1, &["wait", "listeners/edge", "--timeout", "1s"]);
    assert_eq!(output, "waypost: listeners/edge is accepted, but none of 1 connected proxies has the labels tier=edge\n");
}

#[test]
fn a_controller_that_hangs_is_reported_in_time() {
    let run = Box1::on_files();
    run.listener();
    run.process.freeze();
    let begun = Instant::now();
    let output = run.fails(4, &["wait", "listeners/web", "--timeout", "1s"]);
    assert!(output.contains("cannot be reached") && begun.elapsed() < Duration::from_secs(10), "{output}");
    run.process.thaw();
}

#[test]
fn a_reader_that_closes_its_end_ends_a_verb_without_an_error() {
    let run = Box1::on_files();
    run.listener();
    for number in 0..400 {
        run.write(&format!("routes/r{number}"), &ROUTE.replacen('{', &format!(r#"{{"hostnames":["h{number}"],"#), 1));
    }
    run.ok(&["wait", "routes/r399"]);
    let mut child = Command::new(waypost())
        .args(["get", "-o", "json", "--controller", &format!("http://{}", run.api)])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", text(&ended.stderr));
}

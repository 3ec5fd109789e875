//! HTTP/1.1 through the real proxy.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::harness::{Backend, Box1, get, raw, text, until};

/// A box with one route to one backend.
fn routed(backend: SocketAddr, rule: &str) -> (Box1, SocketAddr) {
    let run = Box1::start("file://{dir}", &["--version-header"]);
    let web = run.listener();
    run.write("endpoints/b/1", &backend.to_string());
    run.write("routes/r", &format!(r#"{{"rules":[{rule}]}}"#));
    run.ok(&["wait", "endpoints/b/1"]);
    run.ok(&["wait", "routes/r"]);
    (run, web)
}

const TO_B: &str = r#"{"backendRefs":[{"name":"b"}]}"#;

#[test]
fn headers_are_made_for_the_endpoint_and_hop_by_hop_ones_end_here() {
    let backend = Backend::echo();
    let (run, web) = routed(backend.address, TO_B);
    let request = "GET /x?y=1 HTTP/1.1\r\nhost: Shop.Example.com:81\r\nconnection: close, x-private\r\nx-private: 1\r\nx-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nkeep-alive: 5\r\nx-kept: yes\r\n\r\n";
    let response = raw(web, request.as_bytes()).unwrap();
    let got = &response.body;
    assert!(got.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{got}");
    for line in [
        "host: Shop.Example.com:81",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: Shop.Example.com:81",
        "forwarded: for=127.0.0.1;host=\"Shop.Example.com:81\";proto=http",
        "via: 1.1 waypost",
        "x-kept: yes",
    ] {
        assert!(got.contains(line), "{line} is missing in {got}");
    }
    assert!(!got.contains("x-private") && !got.contains("keep-alive") && !got.contains("6.6.6.6"), "{got}");
    assert_eq!(response.header("via"), Some("1.1 waypost"));
    assert!(response.header("waypost-version").is_some());
    run.write("listeners/web", &format!(r#"{{"address":"{web}","trustedProxies":["127.0.0.0/8"]}}"#));
    run.ok(&["wait", "listeners/web"]);
    assert!(raw(web, request.as_bytes()).unwrap().body.contains("x-forwarded-for: 6.6.6.6, 127.0.0.1"));
}

#[test]
fn filters_change_redirect_and_answer() {
    let backend = Backend::echo();
    let rules = [
        r#"{"matches":[{"path":{"value":"/api"}}],"filters":[{"type":"URLRewrite","urlRewrite":{"hostname":"inner","path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/v2"}}},{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"x-set","value":"1"}],"remove":["x-gone"]}},{"type":"ResponseHeaderModifier","responseHeaderModifier":{"add":[{"name":"x-added","value":"2"}]}}],"backendRefs":[{"name":"b"}]}"#,
        r#"{"matches":[{"path":{"value":"/old"}}],"filters":[{"type":"RequestRedirect","requestRedirect":{"scheme":"https","statusCode":301}}]}"#,
        r#"{"matches":[{"path":{"type":"Exact","value":"/fixed"}}],"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":418,"body":"short and stout"}}]}"#,
    ];
    let (_run, web) = routed(backend.address, &rules.join(","));
    let response = raw(web, b"GET /api/x?q HTTP/1.1\r\nhost: h\r\nx-gone: 1\r\nconnection: close\r\n\r\n").unwrap();
    assert!(
        response.body.starts_with("GET /v2/x?q HTTP/1.1\r\n") && response.body.contains("host: inner") && response.body.contains("x-set: 1"),
        "{}",
        response.body
    );
    assert!(!response.body.contains("x-gone"));
    assert_eq!(response.header("x-added"), Some("2"));
    let redirect = get(web, "h:8080", "/old?x=1");
    assert_eq!((redirect.status, redirect.header("location")), (301, Some("https://h/old?x=1")));
    let fixed = get(web, "h", "/fixed");
    assert_eq!((fixed.status, fixed.body.as_str()), (418, "short and stout"));
    let none = get(web, "h", "/other");
    assert_eq!((none.status, none.body.as_str()), (404, "no route for host h and path /other\n"));
}

#[test]
fn bodies_stream_both_ways_with_and_without_a_length() {
    let backend = Backend::echo();
    let (_run, web) = routed(backend.address, TO_B);
    let large = "x".repeat(3_000_000);
    let response = raw(web, format!("POST /p HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{large}", large.len()).as_bytes()).unwrap();
    assert!(response.body.ends_with(&large), "{} bytes came back", response.body.len());
    let response = raw(web, b"POST /p HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").unwrap();
    assert!(response.body.contains("transfer-encoding: chunked") && response.body.contains("hello"), "{}", response.body);
}

#[test]
fn trailers_pass_to_a_client_that_takes_them() {
    let backend = Backend::start(|_, _| b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n".to_vec());
    let (_run, web) = routed(backend.address, TO_B);
    let response = raw(web, b"GET / HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te, close\r\n\r\n").unwrap();
    assert!(response.body.contains("4\r\nbody\r\n0\r\nx-sum: 42\r\n"), "{:?}", response.body);
}

#[test]
fn a_head_request_has_the_length_and_no_body_and_the_connection_lives_on() {
    let backend = Backend::start(|head, _| {
        if head.starts_with("HEAD") {
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec()
        } else {
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec()
        }
    });
    let (_run, web) = routed(backend.address, TO_B);
    let both = raw(web, b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!(both.header("content-length"), Some("5"));
    assert!(both.body.starts_with("HTTP/1.1 200 OK") && both.body.ends_with("hello"), "{:?}", both.body);
}

#[test]
fn a_body_that_waits_for_100_is_sent_when_the_endpoint_asks_for_it() {
    let asks = Backend::echo();
    let (run, web) = routed(asks.address, TO_B);
    let converse = |web: SocketAddr| {
        let mut stream = TcpStream::connect(web).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"POST /p HTTP/1.1\r\nhost: h\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").unwrap();
        let mut first = [0; 1_024];
        let count = stream.read(&mut first).unwrap();
        let first = text(&first[..count]);
        if first.starts_with("HTTP/1.1 100") {
            stream.write_all(b"hello").unwrap();
        }
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        (first, rest)
    };
    let (first, rest) = converse(web);
    assert!(first.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "{first}");
    assert!(rest.ends_with("hello"), "{rest}");
    // An endpoint that refuses by the head alone: the client never sends the body.
    let refuses = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = refuses.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = refuses.accept().unwrap();
        let mut head = [0; 4_096];
        let count = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        assert!(!text(&head[..count]).contains("hello"));
    });
    run.write("endpoints/b/1", &address.to_string());
    run.ok(&["wait", "endpoints/b/1"]);
    let (first, _) = converse(web);
    assert!(first.starts_with("HTTP/1.1 417"), "{first}");
}

#[test]
fn a_websocket_is_passed_through_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                let count = stream.read(&mut buffer).unwrap();
                let head = text(&buffer[..count]).to_ascii_lowercase();
                assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade") && head.contains("sec-websocket-key: k"), "{head}");
                stream
                    .write_all(
                        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: a\r\n\r\nserver speaks first",
                    )
                    .unwrap();
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..count]).unwrap();
                }
            });
        }
    });
    let (_run, web) = routed(address, TO_B);
    let mut stream = TcpStream::connect(web).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"GET /ws HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: keep-alive, Upgrade\r\nsec-websocket-key: k\r\n\r\n").unwrap();
    let mut received = String::new();
    until("the switch", || {
        let mut buffer = [0; 4_096];
        let count = stream.read(&mut buffer).unwrap();
        received += &text(&buffer[..count]);
        received.contains("server speaks first")
    });
    assert!(received.starts_with("HTTP/1.1 101 Switching Protocols\r\n") && received.contains("sec-websocket-accept: a"), "{received}");
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).unwrap();
        let mut echo = [0; 3];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, word.as_bytes());
    }
}

#[test]
fn requests_that_cannot_be_understood_are_refused_and_the_proxy_lives() {
    let backend = Backend::named("b");
    let (_run, web) = routed(backend.address, TO_B);
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nconnection: close\r\n\r\n", 405),
    ] {
        assert_eq!(raw(web, request).unwrap().status, status, "{}", text(request));
    }
    assert_eq!(get(web, "h", "/").status, 200);
}

#[test]
fn a_dead_endpoint_is_passed_over_and_a_lone_one_is_named() {
    let good = Backend::named("good");
    let (run, web) = routed(good.address, TO_B);
    let dead = crate::harness::loopback();
    run.write("endpoints/b/dead", &dead.to_string());
    run.ok(&["wait", "endpoints/b/dead"]);
    for _ in 0..50 {
        assert_eq!(get(web, "h", "/").body, "good");
    }
    std::fs::remove_file(run.dir().join("endpoints/b/1")).unwrap();
    run.ok(&["wait", "endpoints/b/1", "--for", "gone"]);
    until("the last endpoint's failure", || get(web, "h", "/").status == 502);
    let failed = get(web, "h", "/");
    assert!(failed.body.starts_with(&format!("endpoint dead ({dead}) could not be reached: ")), "{}", failed.body);
}

#[test]
fn a_request_on_a_connection_that_the_endpoint_closed_meanwhile_is_sent_again() {
    // Answers one request per connection, says keep-alive, and closes without a word.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4_096];
                assert_ne!(stream.read(&mut buffer).unwrap(), 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                // Takes the next request, and closes without a byte.
                drop(stream.read(&mut buffer));
            });
        }
    });
    let (_run, web) = routed(address, TO_B);
    for round in 0..40 {
        assert_eq!(get(web, "h", "/").status, 200, "round {round}");
    }
    // A POST may have had its effect: it is not sent again.
    let post = |_| raw(web, b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx").unwrap().status;
    assert!((0..8).map(post).any(|status| status == 502), "a POST on a reused connection was sent again");
}

#[test]
fn time_outs_end_what_hangs() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (run, web) = routed(silent.local_addr().unwrap(), TO_B);
    run.write("backends/b", r#"{"timeouts":{"firstByte":"300ms"}}"#);
    run.ok(&["wait", "backends/b"]);
    let late = get(web, "h", "/");
    assert_eq!(late.status, 504, "{}", late.body);
    assert!(late.body.contains("no response in time"), "{}", late.body);
    run.write("backends/b", r#"{"timeouts":{"firstByte":"0s"}}"#);
    run.write("routes/r", r#"{"rules":[{"backendRefs":[{"name":"b"}],"timeouts":{"request":"200ms"}}]}"#);
    run.ok(&["wait", "routes/r"]);
    assert_eq!(get(web, "h", "/").status, 504);
}

#[test]
fn connections_are_spread_over_the_cores() {
    let backend = Backend::named("b");
    let run = Box1::start("file://{dir}", &["--threads", "2"]);
    let web = run.listener();
    run.write("endpoints/b/1", &backend.address.to_string());
    run.write("routes/r", &format!(r#"{{"rules":[{TO_B}]}}"#));
    run.ok(&["wait", "routes/r"]);
    let connections: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(web).unwrap()).collect();
    let per_core = || -> Vec<u64> {
        let metrics = raw(run.admin, b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").unwrap().body;
        metrics.lines().filter(|line| line.starts_with("waypost_proxy_core_connections{")).filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
    };
    until("all of them", || per_core().iter().sum::<u64>() >= 64);
    let loads = per_core();
    assert!(loads.iter().all(|load| *load * 10 <= 64 * 6), "no core has more than 60 %: {loads:?}");
    drop(connections);
}

#[test]
fn sigterm_ends_requests_in_peace() {
    let slow = Backend::start(|_, _| {
        std::thread::sleep(Duration::from_millis(700));
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_vec()
    });
    let (mut run, web) = routed(slow.address, TO_B);
    let waiting = std::thread::spawn(move || get(web, "h", "/"));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(run.process.terminate(), Some(0));
    assert_eq!(waiting.join().unwrap().body, "slow");
}

#[test]
fn the_access_log_and_the_tail_tell_of_requests() {
    let backend = Backend::named("b");
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log").display().to_string();
    let run = Box1::start("file://{dir}", &["--access-log", &log]);
    let web = run.listener();
    run.write("endpoints/b/1", &format!(r#"{{"address":"{}","zone":"z1"}}"#, backend.address));
    run.write("routes/r", &format!(r#"{{"rules":[{TO_B}]}}"#));
    run.ok(&["wait", "routes/r"]);
    run.ok(&["wait", "endpoints/b/1"]);
    let tail = std::process::Command::new(crate::harness::waypost())
        .args(["tail", "--proxy", &format!("http://{}", run.admin), "--status", "2xx", "--count", "1"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    get(web, "shop", "/a");
    let tailed = text(&tail.wait_with_output().unwrap().stdout);
    assert!(tailed.contains("\"path\":\"/a\"") && tailed.contains("\"status\":200") && tailed.contains("\"zone\":\"z1\""), "{tailed}");
    until("the log", || std::fs::read_to_string(&log).unwrap_or_default().contains("\"route\":\"r\",\"backend\":\"b\",\"endpoint\":\"1\""));
    run.write("routes/own", r#"{"hostnames":["own"],"rules":[{"matches":[{"path":{"value":"/own"}}],"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":200,"body":"x"}}]}]}"#);
    run.ok(&["wait", "routes/own"]);
    run.ok(&["delete", "routes/r", "--wait"]);
    assert_eq!((get(web, "own", "/own").status, get(web, "own", "/else").status), (200, 404));
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    until("the proxy's own answers", || logged().contains("\"path\":\"/own\"") && logged().contains("\"path\":\"/else\""));
    let missed = logged().lines().find(|line| line.contains("/else")).unwrap().to_owned();
    assert!(missed.contains("\"listener\":\"web\"") && !logged().contains("aborted"), "{}", logged());
}

#[test]
fn an_endpoint_that_answers_without_asking_for_the_body_is_heard_to_the_end() {
    let refuses = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = refuses.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in refuses.incoming() {
            let mut stream = stream.unwrap();
            assert_ne!(stream.read(&mut [0; 4_096]).unwrap(), 0);
            // The head alone decides; the body of the answer comes in two pieces.
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 10\r\n\r\nfirst").unwrap();
            std::thread::sleep(Duration::from_millis(200));
            stream.write_all(b"later").unwrap();
            // Whatever else comes is not waited for.
            drop(stream.read(&mut [0; 4_096]));
        }
    });
    let (_run, web) = routed(address, TO_B);
    for _ in 0..3 {
        let mut stream = TcpStream::connect(web).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").unwrap();
        let mut got = String::new();
        while !got.ends_with("firstlater") {
            let mut piece = [0; 1_024];
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "cut off: {got}");
            got += &text(&piece[..count]);
        }
        assert!(got.starts_with("HTTP/1.1 401"), "{got}");
    }
}

#[test]
fn a_silent_endpoint_is_given_up_also_when_the_request_had_a_body() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = r#"{"timeouts":{"firstByte":"300ms"},"backendRefs":[{"name":"b"}]}"#;
    let (_run, web) = routed(silent.local_addr().unwrap(), rule);
    let begun = std::time::Instant::now();
    let response = raw(web, b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello").unwrap();
    assert_eq!((response.status, response.body.contains("no response in time")), (504, true), "{}", response.body);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_get_with_a_chunked_body_keeps_it() {
    let backend = Backend::echo();
    let (_run, web) = routed(backend.address, TO_B);
    let request = b"GET /_search HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let response = raw(web, request).unwrap();
    assert!(response.body.contains("transfer-encoding: chunked") && response.body.contains("hello"), "{}", response.body);
}

#[test]
fn what_others_could_read_differently_is_refused() {
    let backend = Backend::echo();
    let (_run, web) = routed(backend.address, TO_B);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: shop,for=6.6.6.6\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: u@shop\r\nconnection: close\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n", 400),
        ("POST / HTTP/1.0\r\nhost: h\r\n\r\nGET /second HTTP/1.1\r\n\r\n", 411),
        ("POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
    ] {
        let response = raw(web, request.as_bytes()).unwrap();
        assert_eq!(response.status, status, "{request:?}: {}", response.body);
    }
    assert_eq!(backend.count(), 0, "nothing of it reached the endpoint");
}

#[test]
fn a_refused_upload_hears_why_and_is_not_reset() {
    let backend = Backend::echo();
    let (_run, web) = routed(backend.address, r#"{"matches":[{"path":{"value":"/only"}}],"backendRefs":[{"name":"b"}]}"#);
    for _ in 0..10 {
        let mut stream = TcpStream::connect(web).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let body = vec![b'x'; 900_000];
        stream.write_all(format!("POST /other HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).unwrap();
        stream.write_all(&body).expect("the upload is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the answer is read whole");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}

#[test]
fn an_empty_backends_share_goes_to_the_others_by_weight() {
    let (most, few) = (Backend::named("most"), Backend::named("few"));
    let (run, web) = routed(most.address, r#"{"backendRefs":[{"name":"empty","weight":90},{"name":"b","weight":9},{"name":"canary","weight":1}]}"#);
    run.write("endpoints/canary/1", &few.address.to_string());
    run.ok(&["wait", "endpoints/canary/1"]);
    (0..400).for_each(|_| assert_eq!(get(web, "h", "/").status, 200));
    // Expected 40 of 400; twice that has a probability of one in a hundred million.
    assert!(few.count() < 90, "the canary got {} of 400", few.count());
}

#[test]
fn a_listener_that_cannot_move_stays_and_one_that_is_renamed_never_closes() {
    let backend = Backend::named("a");
    let (run, web) = routed(backend.address, TO_B);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    run.write("listeners/web", &format!(r#"{{"address":"{}"}}"#, listener.local_addr().unwrap()));
    until("the failure to be told", || run.ok(&["describe", "listener", "web"]).contains("cannot be bound"));
    assert_eq!(get(web, "h", "/").status, 200, "the old socket serves on");
    run.write("listeners/web", &format!(r#"{{"address":"{web}"}}"#));
    run.ok(&["wait", "listeners/web"]);
    std::fs::rename(run.dir().join("listeners/web"), run.dir().join("listeners/front")).unwrap();
    while run.ok(&["get", "listeners"]).contains("web") {
        assert_eq!(get(web, "h", "/").status, 200, "during the change");
    }
    run.ok(&["wait", "listeners/front"]);
    assert_eq!(get(web, "h", "/").status, 200);
}

#[test]
fn a_head_may_be_so_large_and_no_larger() {
    let backend = Backend::echo();
    let run = Box1::start("file://{dir}", &["--max-head-bytes", "16384"]);
    let web = run.listener();
    run.write("endpoints/b/1", &backend.address.to_string());
    run.write("routes/r", &format!(r#"{{"rules":[{TO_B}]}}"#));
    run.ok(&["wait", "endpoints/b/1"]);
    run.ok(&["wait", "routes/r"]);
    let request = |bytes: usize| {
        let empty = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes - empty))
    };
    assert_eq!(raw(web, request(16_384).as_bytes()).unwrap().status, 200);
    let before = backend.count();
    assert_eq!(raw(web, request(16_385).as_bytes()).unwrap().status, 431);
    assert_eq!(raw(web, request(16_385 + 8_192).as_bytes()).unwrap().status, 431);
    // Of a client that goes on writing regardless the connection may be gone before it reads.
    drop(raw(web, request(163_840).as_bytes()).map(|response| assert_eq!(response.status, 431)));
    assert_eq!(backend.count(), before, "neither reached the endpoint");
}

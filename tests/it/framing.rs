//! What the proxy makes of messages whose end could be understood in two ways, from clients and from endpoints.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::{Backend, Box1, raw, text};

fn with_endpoint(endpoint: SocketAddr) -> (Box1, SocketAddr) {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "endpoints/shop/a", &endpoint.to_string(), "--wait"]);
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    (run, web)
}

#[test]
fn requests_that_two_readers_could_understand_in_two_ways_are_refused_with_the_reason_and_reach_no_endpoint() {
    let origin = Backend::echo();
    let (_run, web) = with_endpoint(origin.address);
    let before = origin.count();
    for (request, status, why) in [
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Content-Length and Transfer-Encoding"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello", 400, "more than one Content-Length"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 5, 5\r\n\r\nhello", 400, "more than one Content-Length"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: +5\r\n\r\nhello", 400, "not a number of bytes"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length:\r\n\r\n", 400, "not a number of bytes"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 99999999999999999999\r\n\r\n", 400, "not a number of bytes"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: gzip\r\n\r\n", 400, "does not end in one \"chunked\""),
        ("POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked, chunked\r\n\r\n", 400, "does not end in one \"chunked\""),
        ("POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", 400, "does not end in one \"chunked\""),
        ("POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: gzip, chunked\r\n\r\n", 501, "a transfer coding other than chunked"),
        ("POST / HTTP/1.0\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Transfer-Encoding in HTTP/1.0"),
        ("POST / HTTP/1.0\r\nhost: shop\r\n\r\n", 411, "no Content-Length"),
        ("GET / HTTP/2.0\r\nhost: shop\r\n\r\n", 505, "an HTTP version"),
        ("GET / HTTP/1.1\r\nhost : shop\r\n\r\n", 400, "a blank before the colon"),
        ("GET / HTTP/1.1\r\nhost: shop\r\n folded: x\r\n\r\n", 400, "begins with a blank"),
        ("GET / HTTP/1.1\nhost: shop\n\n", 400, "does not end in CR LF"),
        ("GET / HTTP/1.1\r\nhost: shop\nx: y\r\n\r\n", 400, "does not end in CR LF"),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: a\rb\r\n\r\n", 400, "does not end in CR LF"),
        ("GET / HTTP/1.1\r\nhost: shop\r\nx: a\0b\r\n\r\n", 400, "a control character"),
        ("GET / HTTP/1.1\r\nhost: shop\r\nno colon\r\n\r\n", 400, "a name and a colon"),
        ("GET  / HTTP/1.1\r\nhost: shop\r\n\r\n", 400, "one space between"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "no Host header"),
        ("GET / HTTP/1.1\r\nhost: shop\r\nhost: shop\r\n\r\n", 400, "more than one Host header"),
        ("GET / HTTP/1.1\r\nhost: sh op\r\n\r\n", 400, "a Host that is not"),
        ("GET http://user@shop/ HTTP/1.1\r\nhost: shop\r\n\r\n", 400, "a Host that is not"),
        ("GET shop HTTP/1.1\r\nhost: shop\r\n\r\n", 400, "a target of a form"),
        ("GET /a#b HTTP/1.1\r\nhost: shop\r\n\r\n", 400, "a target of a form"),
        ("CONNECT shop:443 HTTP/1.1\r\nhost: shop:443\r\nconnection: close\r\n\r\n", 405, "CONNECT is not served"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03", 400, "a TLS handshake on a port for plain HTTP"),
    ] {
        let response = raw(web, request.as_bytes()).unwrap();
        assert!(response.status == status && response.body.contains(why), "{request:?}: {} {}", response.status, response.body);
    }
    assert_eq!(origin.count(), before, "none of them reached the endpoint");
    // The body is not understood only once it has begun.
    for chunks in
        ["5 \r\nhello\r\n0\r\n\r\n", "-1\r\n\r\n", "5\r\nhello!\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "fffffffffffffffff\r\n"]
    {
        let request = format!("POST / HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
        let response = raw(web, request.as_bytes()).unwrap();
        assert!(response.status == 400 && response.body.contains("chunk"), "{chunks:?}: {} {}", response.status, response.body);
    }
}

#[test]
fn many_requests_on_one_connection_are_as_many_for_the_endpoint_with_the_same_bodies() {
    let origin = Backend::echo();
    let (_run, web) = with_endpoint(origin.address);
    let before = origin.count();
    let requests = [
        "POST /1 HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\nhello",
        "\r\nPOST /2 HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n",
        "GET /3 HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n",
        "POST /4 HTTP/1.1\r\nhost: shop\r\ncontent-length: 36\r\n\r\nGET /no HTTP/1.1\r\nhost: shop\r\n\r\n    ",
        "GET http://shop/5?q HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n",
    ];
    let response = raw(web, requests.concat().as_bytes()).unwrap();
    let all = format!("{}\r\n\r\n{}", response.head, response.body);
    assert_eq!(all.matches("HTTP/1.1 200").count(), 5, "{all}");
    assert!(
        ["POST /1 ", "POST /2 ", "GET /3 ", "POST /4 ", "GET /5?q "].iter().all(|line| all.contains(line))
            && !all.contains("\nGET /no HTTP/1.1\r\nhost: shop\r\nx-"),
        "{all}"
    );
    assert!(all.contains("3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n") && all.contains("host: shop"), "{all}");
    assert_eq!(origin.count() - before, 5);
}

/// An endpoint that answers every connection's first request with these bytes, and closes.
fn answers(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut head = [0; 4_096];
                let _read = stream.read(&mut head);
                let _written = stream.write_all(bytes);
            });
        }
    });
    address
}

#[test]
fn an_endpoints_response_is_made_unambiguous_or_is_502() {
    for (bytes, status, body_text) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello"[..], 200, "hello"),
        (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", 200, "hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello", 200, "hello"),
        (b"HTTP/1.1 200 OK\r\nx-folded: a\r\n b\r\ncontent-length: 5\r\n\r\nhello", 200, "hello"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n", 200, "hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello"),
        (b"HTTP/1.1 999\r\ncontent-length: 5\r\n\r\nhello", 999, "hello"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!", 502, "more than one Content-Length"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, "Content-Length and Transfer-Encoding"),
        (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 502, "Transfer-Encoding in HTTP/1.0"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", 502, "does not end in one"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", 502, "a name and a colon"),
        (b"ICY 200 OK\r\n\r\n", 502, "a first line"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 502, "a first line"),
        (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", 502, "was not asked for"),
        (b"HTTP/1.1 200 O", 502, "failed"),
        (b"", 502, "without a response"),
    ] {
        let (_run, web) = with_endpoint(answers(bytes));
        let response = raw(web, b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").unwrap();
        assert!(response.status == status && response.body.contains(body_text), "{:?}: {} {}", text(bytes), response.status, response.body);
        assert!(response.header("x-folded").is_none_or(|value| value == "a b"), "{}", response.head);
    }
}

#[test]
fn a_body_that_an_endpoint_cuts_never_looks_whole() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX",
    ] {
        let (_run, web) = with_endpoint(answers(bytes));
        let response = raw(web, b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
        let is_whole =
            response.body.ends_with("0\r\n\r\n") || response.header("content-length").is_some_and(|length| length == response.body.len().to_string());
        assert!(response.status == 200 && !is_whole, "{}\n{}", response.head, response.body);
    }
}

#[test]
fn a_refusal_in_the_middle_of_an_upload_arrives() {
    let origin = Backend::echo();
    let (_run, web) = with_endpoint(origin.address);
    for (head, status) in [
        ("POST / HTTP/1.1\r\nhost: nowhere\r\ncontent-length: 20000000\r\n\r\n".to_owned(), "HTTP/1.1 404"),
        ("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 20000000\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (format!("POST / HTTP/1.1\r\nhost: shop\r\nx: {}\r\n\r\n", "y".repeat(100_000)), "HTTP/1.1 431"),
    ] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(web).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut sender = stream.try_clone().unwrap();
            let first = head.clone();
            let sending = std::thread::spawn(move || {
                let piece = vec![b'x'; 64 * 1024];
                sender.write_all(first.as_bytes()).is_ok() && (0..60).all(|_| sender.write_all(&piece).is_ok())
            });
            let (mut all, mut piece) = (Vec::new(), [0; 4_096]);
            let begun = Instant::now();
            while let Ok(length @ 1..) = stream.read(&mut piece) {
                all.extend_from_slice(&piece[..length]);
            }
            assert!(text(&all).starts_with(status) && begun.elapsed() < Duration::from_secs(9), "{status}: {:?} after {:?}", text(&all), begun.elapsed());
            drop(stream);
            let _sent = sending.join();
        }
    }
}

#[test]
fn each_limit_of_a_connection_is_a_setting_and_what_exceeds_it_is_answered_counted_and_logged() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let log_path = log.display().to_string();
    let flags = ["--head-timeout", "300ms", "--idle-timeout", "700ms", "--max-head-fields", "16", "--access-log", &log_path];
    let run = crate::harness::Box1::start("file://{dir}", &flags);
    let web = run.listener();
    run.ok(&["put", "routes/page", &crate::harness::page("one"), "--wait"]);
    let fields = |count: usize| (0..count).map(|number| format!("x-{number}: 1\r\n")).collect::<String>();
    for (sent, status, reason) in [
        ("GET / HTTP/1.1\r\nhost: page\r\n".to_owned(), 408, "late_head"),
        (format!("GET / HTTP/1.1\r\nhost: page\r\n{}\r\n", fields(16)), 431, "too_many_fields"),
        // What begins no method is not waited for.
        ("\u{1}".to_owned(), 400, "request_line"),
    ] {
        let begun = std::time::Instant::now();
        let response = crate::harness::raw(web, sent.as_bytes()).unwrap();
        assert_eq!(response.status, status, "{sent:?}: {}", response.body);
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{sent:?}: {:?}", begun.elapsed());
        let line = format!("waypost_proxy_requests_refused_total{{reason=\"{reason}\"}} 1");
        assert!(crate::harness::get(run.admin, "admin", "/metrics").body.contains(&line), "{line}");
        crate::harness::until("the log", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(&format!("\"refused\":\"{reason}\""))));
    }
    // A connection on which nothing was sent is closed without a word.
    let silent = crate::harness::raw(web, b"").unwrap();
    assert_eq!((silent.status, silent.head.as_str()), (0, ""));
}

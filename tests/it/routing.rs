//! The route that a request finds, and the effect of its rule, in every spelling of the path.

use crate::harness::{Backend, Box1, get, page_at, raw, text};

/// An endpoint that answers with the request's head, and a route of the host `shop` to it.
fn mirror(rule: &str) -> (Box1, std::net::SocketAddr, Backend) {
    let run = Box1::on_files();
    let web = run.listener();
    let origin = Backend::start(|head, _| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len()).into_bytes());
    run.ok(&["put", "endpoints/shop/a", &origin.address.to_string(), "--wait"]);
    run.ok(&["put", "routes/shop", &format!(r#"{{"hostnames":["shop"],"rules":[{rule}]}}"#), "--wait"]);
    (run, web, origin)
}

#[test]
fn no_spelling_of_a_path_passes_a_rule_by() {
    const GUARD: &str = r#"{"backendRefs":[{"name":"shop"}]},
        {"matches":[{"path":{"value":"/internal"}}],"filters":[{"type":"FixedResponse","fixedResponse":{"statusCode":403}}]}"#;
    let (_run, web, _origin) = mirror(GUARD);
    for (path, status) in [
        ("/internal", 403),
        ("/x/../internal/keys", 403),
        ("/x/%2e%2E/internal", 403),
        ("/%69nternal", 403),
        ("//internal", 403),
        ("/./internal", 403),
        ("/x/..%2finternal", 400),
        ("/x%5c..%5cinternal", 400),
        ("/x/..;/internal", 400),
        ("/../internal", 400),
        ("/x%00", 400),
        ("/internals", 200),
        ("/a%2Fb", 200),
        ("/%252e%252e/internal", 200),
    ] {
        assert_eq!(get(web, "shop", path).status, status, "{path}");
    }
    // Signatures cover the bytes of a path: only dot segments are resolved.
    for (path, sent) in [("/a%2fb//c%7e", "/a%2fb//c%7e"), ("/a/./b/../c%2F", "/a/c%2F")] {
        assert!(get(web, "shop", path).body.starts_with(&format!("GET {sent} HTTP/1.1")), "{path}");
    }
}

#[test]
fn only_allowed_upgrades_are_passed_on_and_decisive_fields_have_no_twins() {
    let (run, web, _origin) = mirror(
        r#"{"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"X-Auth-User","value":"nobody"}]}}],"backendRefs":[{"name":"shop"}]}"#,
    );
    let ask =
        |fields: &str| raw(web, format!("GET / HTTP/1.1\r\nhost: shop\r\n{fields}connection: close\r\n\r\n").as_bytes()).unwrap().body.to_ascii_lowercase();
    let upgrade = |protocols: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade, close\r\nupgrade: {protocols}\r\n\r\n");
        raw(web, request.as_bytes()).unwrap().body.to_ascii_lowercase()
    };
    assert!(!upgrade("h2c").contains("upgrade"), "and the request went on");
    assert!(!upgrade("SPDY/3.1").contains("upgrade"));
    assert!(upgrade("h2c, websocket").contains("\r\nupgrade: websocket\r\n"));
    let metrics = get(run.admin, "admin", "/metrics").body;
    assert!(metrics.contains("waypost_proxy_upgrades_dropped_total 2"), "{metrics}");
    let received = ask("Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Auth_User: root\r\nX_Real_IP: 1.1.1.1\r\nx_harmless: 1\r\n");
    assert!(["content_length", "transfer_encoding", "x_auth_user", "x_real_ip"].iter().all(|twin| !received.contains(twin)), "{received}");
    assert!(received.contains("x_harmless: 1") && received.contains("x-auth-user: nobody"));
}

#[test]
fn trailers_that_decide_something_do_not_arrive() {
    let run = Box1::on_files();
    let web = run.listener();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    run.ok(&["put", "endpoints/shop/a", &listener.local_addr().unwrap().to_string(), "--wait"]);
    run.ok(&["put", "routes/shop", r#"{"hostnames":["shop"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    let got = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        while !all.windows(5).any(|end| end == b"0\r\n\r\n") && !text(&all).contains("x-sum: 9\r\n\r\n") {
            match stream.read(&mut piece).unwrap() {
                0 => break,
                length => all.extend_from_slice(&piece[..length]),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        text(&all).to_ascii_lowercase()
    });
    let request = "POST / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-forwarded-for, x-sum, authorization\r\n\r\n\
                   1\r\na\r\n0\r\nx-forwarded-for: 1.1.1.1\r\nauthorization: x\r\nX_Real_IP: 1\r\nx-sum: 9\r\n\r\n";
    assert_eq!(raw(web, request.as_bytes()).unwrap().status, 200);
    let received = got.join().unwrap();
    let trailers = received.split("\r\n0\r\n").nth(1).unwrap_or_default().to_owned();
    assert!(trailers.contains("x-sum: 9") && !trailers.contains("x-forwarded-for") && !trailers.contains("authorization"), "{received}");
}

#[test]
fn a_rules_response_filters_hold_for_every_answer_of_the_proxy_itself() {
    let run = Box1::on_files();
    let web = run.listener();
    let closed = crate::harness::loopback();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    run.ok(&["put", "endpoints/closed/a", &closed.to_string(), "--wait"]);
    run.ok(&["put", "endpoints/silent/a", &silent.local_addr().unwrap().to_string(), "--wait"]);
    let rule = |path: &str, what: &str| {
        format!(
            r#"{{"matches":[{{"path":{{"value":"{path}"}}}}],"filters":[{{"type":"ResponseHeaderModifier","responseHeaderModifier":{{"set":[{{"name":"strict-transport-security","value":"max-age=1"}}]}}}}{what}}}"#
        )
    };
    let rules = [
        rule("/502", r#"],"backendRefs":[{"name":"closed"}]"#),
        rule("/503", r#"],"backendRefs":[{"name":"nobody"}]"#),
        rule("/504", r#"],"timeouts":{"request":"200ms"},"backendRefs":[{"name":"silent"}]"#),
        rule("/302", r#",{"type":"RequestRedirect","requestRedirect":{"hostname":"other"}}]"#),
        rule("/418", r#",{"type":"FixedResponse","fixedResponse":{"statusCode":418}}]"#),
    ];
    run.ok(&["put", "routes/shop", &format!(r#"{{"hostnames":["shop"],"rules":[{}]}}"#, rules.join(",")), "--wait"]);
    for status in [502, 503, 504, 302, 418] {
        let response = get(web, "shop", &format!("/{status}"));
        assert_eq!((response.status, response.header("strict-transport-security")), (status, Some("max-age=1")), "{}", response.body);
    }
    assert_eq!(get(web, "shop", "/none").header("strict-transport-security"), None, "no rule matched");
}

#[test]
fn a_redirect_keeps_the_scheme_host_and_port_that_a_trusted_proxy_in_front_names() {
    let run = Box1::on_files();
    let (trusting, plain) = (run.listener(), crate::harness::loopback());
    run.ok(&["put", "listeners/web", &format!(r#"{{"address":"{trusting}","trustedProxies":["127.0.0.1"]}}"#), "--wait"]);
    run.ok(&["put", "listeners/plain", &format!(r#"{{"address":"{plain}"}}"#), "--wait"]);
    let redirect = r#"{"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"path":{"type":"ReplaceFullPath","replaceFullPath":"/new"}}}]}]}"#;
    run.ok(&["put", "routes/shop", redirect, "--wait"]);
    let location = |address, fields: &str| {
        let response = raw(address, format!("GET /old HTTP/1.1\r\nhost: inner\r\n{fields}connection: close\r\n\r\n").as_bytes()).unwrap();
        response.header("location").unwrap_or_default().to_owned()
    };
    for (fields, wanted) in [
        ("x-forwarded-proto: https\r\n", "https://inner/new"),
        ("x-forwarded-proto: https, http\r\nx-forwarded-host: shop.example, inner\r\n", "https://shop.example/new"),
        ("x-forwarded-proto: https\r\nx-forwarded-host: shop.example:8443\r\n", "https://shop.example:8443/new"),
        ("x-forwarded-proto: https\r\nx-forwarded-host: shop.example\r\nx-forwarded-port: 8443\r\n", "https://shop.example:8443/new"),
        ("forwarded: for=1.2.3.4;proto=https;host=\"shop.example\"\r\n", "https://shop.example/new"),
        ("x-forwarded-proto: wss\r\nx-forwarded-port: 80\r\n", "https://inner/new"),
        ("x-forwarded-host: a/b\r\n", "http://inner/new"),
        ("", "http://inner/new"),
    ] {
        assert_eq!(location(trusting, fields), wanted, "{fields:?}");
    }
    assert_eq!(location(plain, "x-forwarded-proto: https\r\nx-forwarded-host: evil.example\r\n"), "http://inner/new", "a stranger's word");
}

#[test]
fn a_route_that_expands_too_far_is_refused_with_the_product_the_limit_and_the_setting() {
    let run = Box1::on_files();
    let web = run.listener();
    let hosts: Vec<String> = (0..128).map(|n| format!("\"h{n}.example.com\"")).collect();
    let matches: Vec<String> = (0..60).map(|n| format!(r#"{{"path":{{"value":"/p{n}"}}}}"#)).collect();
    let rule = format!(r#"{{"matches":[{}],"backendRefs":[{{"name":"b"}}]}}"#, matches.join(","));
    let rules = vec![rule; 10].join(",");
    run.write("routes/huge", &format!(r#"{{"hostnames":[{}],"rules":[{rules}]}}"#, hosts.join(",")));
    let output = run.fails(3, &["wait", "routes/huge"]);
    assert!(output.contains("76800") && output.contains("10000") && output.contains("matchesPerRoute"), "{output}");
    run.ok(&["put", "routes/small", &page_at("small", "one"), "--wait"]);
    assert_eq!(get(web, "small", "/").body, "one", "it hurts nobody else");
}

#[test]
fn what_a_client_sends_cannot_make_a_lookup_long_nor_pass_a_rule_by_its_length() {
    let rule = |path: &str, status: u16| format!(r#"{{"matches":[{path}],"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":{status}}}}}]}}"#);
    let (run, web, _origin) = mirror(&format!(
        r#"{{"matches":[{{"path":{{"value":"/"}}}}],"backendRefs":[{{"name":"shop"}}]}},{},{}"#,
        rule(r#"{"path":{"type":"RegularExpression","value":"/internal/.*"}}"#, 403),
        rule(r#"{"path":{"value":"/ask"},"queryParams":[{"name":"debug","value":"1"}]}"#, 403),
    ));
    assert_eq!(get(web, "shop", &format!("/internal/{}", "a".repeat(8_200))).status, 403);
    assert_eq!(get(web, "shop", &format!("/internal/{}", "a".repeat(20_000))).status, 414, "its rule is not known");
    assert_eq!(get(web, "shop", &format!("/other/{}", "a".repeat(20_000))).status, 200, "the expression fails at once");
    let many = |count: usize| "x=1&".repeat(count);
    assert_eq!(get(web, "shop", &format!("/ask?{}debug=1", many(255))).status, 403);
    assert_eq!(get(web, "shop", &format!("/ask?{}debug=1", many(256))).status, 414);
    // A name of 76 KB has tens of thousands of suffixes, of which a wildcard might be one.
    run.ok(&["put", "routes/wild", r#"{"hostnames":["*.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#, "--wait"]);
    assert_eq!(get(web, "a.example.com", "/").status, 200);
    let host = format!("{}nope", "a.".repeat(38_000));
    let began = std::time::Instant::now();
    assert_eq!(get(web, &host, "/").status, 400);
    assert!(began.elapsed() < std::time::Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(get(web, &format!("{}.example.com", "a.".repeat(120).trim_end_matches('.')), "/").status, 200);
    let upgrades = format!(r#"{{"rules":[{{"upgrades":[{}],"backendRefs":[{{"name":"shop"}}]}}]}}"#, vec!["\"b\""; 17].join(","));
    let refused = text(&run.verb(&["put", "routes/up", &upgrades]).stderr);
    assert!(refused.contains("rules[0].upgrades has 17 entries; at most 16 are accepted (setting upgradesPerRule)"), "{refused}");
}

#[test]
fn a_redirect_never_leads_to_the_url_it_came_from_and_needs_a_host() {
    let run = Box1::on_files();
    let web = run.listener();
    run.ok(&["put", "listeners/web", &format!(r#"{{"address":"{web}","trustedProxies":["127.0.0.0/8"]}}"#), "--wait"]);
    run.ok(&["put", "routes/secure", r#"{"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"scheme":"https"}}]}]}"#, "--wait"]);
    let ask = |fields: &str| raw(web, format!("GET /a?b HTTP/1.1\r\n{fields}connection: close\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(ask("host: shop\r\n").header("location"), Some("https://shop/a?b"));
    let looped = ask("host: shop\r\nx-forwarded-proto: https\r\n");
    assert_eq!((looped.status, looped.body.as_str()), (500, "the redirect of this route leads to where the request was sent\n"));
    let nameless = raw(web, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(nameless.status, 400, "{}", nameless.head);
    let wildcard = r#"{"hostnames":["*.example"],"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"hostname":"www.example"}}]}]}"#;
    run.ok(&["put", "routes/www", wildcard, "--wait"]);
    assert!(get(web, "a.example", "/").header("location").is_some_and(|location| location.starts_with("http://www.example")));
    assert_eq!(get(web, "WWW.example", "/").status, 500);
}

#[test]
fn via_and_the_scheme_that_a_trusted_proxy_names_are_what_the_rule_and_the_proxy_say() {
    let (run, web, _origin) = mirror(
        r#"{"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"remove":["via"]}},
            {"type":"ResponseHeaderModifier","responseHeaderModifier":{"set":[{"name":"x-rule","value":"1"}]}}],"backendRefs":[{"name":"shop"}]}"#,
    );
    run.ok(&["put", "listeners/web", &format!(r#"{{"address":"{web}","trustedProxies":["127.0.0.0/8"]}}"#), "--wait"]);
    let received =
        raw(web, b"GET / HTTP/1.1\r\nhost: shop\r\nforwarded: for=10.0.0.1;proto=https\r\nconnection: close\r\n\r\n").unwrap().body.to_ascii_lowercase();
    assert!(!received.contains("\r\nvia:") && received.contains("\r\nx-forwarded-proto: https\r\n"), "{received}");
    let options = raw(web, b"OPTIONS / HTTP/1.1\r\nhost: shop\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n").unwrap();
    assert_eq!((options.status, options.header("x-rule")), (200, Some("1")), "{}", options.head);
}

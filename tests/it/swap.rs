//! Changes under load: no connection is lost, no request sees a mix.

use std::time::Duration;

use crate::harness::{Backend, Box1, Load, get, loopback, until};

#[test]
fn snapshots_are_swapped_under_load_and_no_request_fails() {
    let run = Box1::on_files();
    let backends = [Backend::named("a"), Backend::named("b")];
    let web = run.listener();
    run.write("endpoints/shop/a", &backends[0].address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    run.ok(&["wait", "endpoints/shop/a"]);
    let load = Load::start(web, "any", 8);
    for round in 0..100 {
        let (keep, other) = (round % 2, (round + 1) % 2);
        run.write(&format!("endpoints/shop/{}", ["a", "b"][other]), &backends[other].address.to_string());
        run.write(&format!("routes/extra{}", round % 10), &format!(r#"{{"hostnames":["h{round}"],"rules":[{{"backendRefs":[{{"name":"shop"}}]}}]}}"#));
        run.ok(&["wait", &format!("endpoints/shop/{}", ["a", "b"][other])]);
        std::fs::remove_file(run.dir().join(format!("endpoints/shop/{}", ["a", "b"][keep]))).unwrap();
    }
    let sent = load.finish();
    assert!(sent > 1_000, "{sent} requests are too few to tell");
    assert!(backends.iter().all(|backend| backend.count() > 100));
}

#[test]
fn closing_a_listener_under_load_resets_no_connection() {
    let run = Box1::on_files();
    let backend = Backend::named("a");
    run.listener();
    run.write("endpoints/shop/a", &backend.address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    for round in 0..10 {
        let address = loopback();
        run.write("listeners/closing", &format!("{{\"address\":\"{address}\"}}"));
        run.ok(&["wait", "listeners/closing"]);
        let failed = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // New connections until the port is closed: each that was made must be answered.
                    loop {
                        let mut stream = match std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                            Ok(stream) => stream,
                            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
                            Err(error) => return failed.lock().unwrap().push(format!("connecting: {error}")),
                        };
                        use std::io::{Read as _, Write as _};
                        let mut answer = Vec::new();
                        let asked =
                            stream.write_all(b"GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n").and_then(|()| stream.read_to_end(&mut answer));
                        if !answer.starts_with(b"HTTP/1.1 200") {
                            failed.lock().unwrap().push(format!("{asked:?}"));
                        }
                    }
                });
                // Kept connections go on until they are told to close, with an answer and not instead of one.
                scope.spawn(|| {
                    if let Err(why) = ask_until_told_to_close(address) {
                        failed.lock().unwrap().push(why);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(200));
            run.ok(&["delete", "listeners/closing"]);
        });
        let failed = failed.into_inner().unwrap();
        assert!(failed.is_empty(), "round {round}: {failed:?}");
    }
}

/// Asks on one connection until an answer says that it is the last.
fn ask_until_told_to_close(address: std::net::SocketAddr) -> Result<(), String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
    loop {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: any\r\n\r\n").map_err(|error| format!("asking: {error}"))?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\na") {
            let mut buffer = [0; 1_024];
            match stream.read(&mut buffer).map_err(|error| format!("reading: {error}"))? {
                0 => return Err(format!("closed after {} bytes", answer.len())),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        if !answer.starts_with("http/1.1 200") {
            return Err(answer);
        }
        if answer.contains("connection: close") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_endpoint_drains_in_peace() {
    let run = Box1::on_files();
    let web = run.listener();
    let slow = Backend::start(|_, _| {
        std::thread::sleep(Duration::from_millis(800));
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_vec()
    });
    let fast = Backend::named("fast");
    run.write("endpoints/shop/slow", &slow.address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "endpoints/shop/slow"]);
    run.ok(&["wait", "routes/shop"]);
    let waiting = std::thread::spawn(move || get(web, "any", "/"));
    until("the slow request", || {
        slow.count() > 0 || waiting.is_finished() || {
            std::thread::sleep(Duration::from_millis(100));
            true
        }
    });
    run.write("endpoints/shop/fast", &fast.address.to_string());
    run.ok(&["wait", "endpoints/shop/fast"]);
    let output = run.ok(&["drain", "endpoints/shop/slow"]);
    assert!(output.contains("endpoints/shop/slow is drained: no request is under way"), "{output}");
    assert_eq!(waiting.join().unwrap().body, "slow");
    for _ in 0..20 {
        assert_eq!(get(web, "any", "/").body, "fast");
    }
}

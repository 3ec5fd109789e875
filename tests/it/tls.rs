//! HTTPS listeners: which certificate a client gets, what endpoints and browsers are told, and certificates that change or cannot be used.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::harness::{Backend, Box1, Response, get, loopback, raw, raw_on, text, until};

/// A certificate and its key, as files of one name in a directory.
struct Pair {
    cert: String,
    key: String,
    der: Vec<u8>,
}

impl Pair {
    /// For these hosts; it ends in so many days.
    fn new(hosts: &[&str], days: i64) -> Self {
        let mut params = rcgen::CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - time::Duration::days(100), now + time::Duration::days(days));
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().to_vec() }
    }

    fn write(&self, folder: &Path, name: &str) {
        std::fs::create_dir_all(folder).unwrap();
        for (ending, content) in [("key", &self.key), ("crt", &self.cert)] {
            let path = folder.join(format!("{name}.{ending}"));
            std::fs::write(path.with_extension("new"), content).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }
    }
}

/// The value of a certificate's key in the store.
fn named(folder: &Path, name: &str) -> String {
    let path = |ending: &str| folder.join(format!("{name}.{ending}")).display().to_string();
    format!("{{\"files\":{{\"cert\":\"{}\",\"key\":\"{}\"}}}}", path("crt"), path("key"))
}

/// Takes every certificate, and remembers it.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<u8>>);

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = cert.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

type Secured = StreamOwned<ClientConnection, TcpStream>;

/// Connects and shakes hands; returns the connection and the certificate. Without a host it asks for none.
fn connect(address: SocketAddr, host: Option<&str>, versions: &[&'static rustls::SupportedProtocolVersion]) -> std::io::Result<(Secured, Vec<u8>)> {
    let witness = Arc::new(Witness::default());
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let name = host.map_or(ServerName::IpAddress(IpAddr::from(address.ip())), |host| ServerName::try_from(host.to_owned()).unwrap());
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    let cert = witness.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((StreamOwned::new(client, stream), cert))
}

fn secured(address: SocketAddr, host: &str) -> std::io::Result<(Secured, Vec<u8>)> {
    connect(address, Some(host), rustls::ALL_VERSIONS)
}

/// One GET over TLS.
fn get_secured(address: SocketAddr, host: &str, path: &str) -> std::io::Result<Response> {
    let (mut stream, _) = secured(address, host)?;
    raw_on(&mut stream, format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())
}

/// A product with an HTTPS listener, `certificates/shop` in `folder`, and a route to `endpoint` for every host.
struct Shop {
    run: Box1,
    folder: PathBuf,
    address: SocketAddr,
}

impl Shop {
    fn start(pair: &Pair, endpoint: SocketAddr, tls: &str) -> Self {
        let run = Box1::on_files();
        let (folder, address) = (run.folder.path().join("tls"), loopback());
        pair.write(&folder, "shop");
        run.write("certificates/shop", &named(&folder, "shop"));
        run.write("listeners/secure", &format!("{{\"address\":\"{address}\",\"protocol\":\"HTTPS\",\"tls\":{tls}}}"));
        run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
        run.write("endpoints/shop/a", &endpoint.to_string());
        run.ok(&["wait", "routes/shop"]);
        run.ok(&["wait", "listeners/secure"]);
        Self { run, folder, address }
    }

    fn description(&self, kind: &str, name: &str) -> String {
        text(&self.run.verb(&["describe", kind, name]).stdout)
    }
}

#[test]
fn endpoints_and_browsers_are_told_of_tls_and_clear_text_gets_a_hint() {
    let pair = Pair::new(&["shop.test"], 10);
    let endpoint = Backend::echo();
    let shop = Shop::start(&pair, endpoint.address, r#"{"certificates":["shop"],"hsts":{"maxAge":"24h","includeSubdomains":true}}"#);
    let response = get_secured(shop.address, "shop.test", "/x").unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.header("strict-transport-security"), Some("max-age=86400; includeSubDomains"));
    let received = response.body.to_lowercase();
    assert!(received.contains("x-forwarded-proto: https") && received.contains(";proto=https"), "{received}");
    shop.run.ok(&[
        "put",
        "routes/away",
        r#"{"hostnames":["away.test"],"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"hostname":"other.test"}}]}]}"#,
        "--wait",
    ]);
    let redirect = get_secured(shop.address, "away.test", "/x").unwrap();
    assert_eq!(redirect.header("location").map(|at| at.split(':').next().unwrap_or_default()), Some("https"));
    assert!(redirect.header("strict-transport-security").is_some(), "{}", redirect.head);
    let clear = get(shop.address, "shop.test", "/");
    assert_eq!((clear.status, clear.body.as_str()), (400, "a request in clear text on a port for HTTPS; ask with https://\n"));
    // The other way round, too.
    let web = shop.run.listener();
    let hello = raw(web, b"\x16\x03\x01\x00\x05hello").unwrap();
    assert_eq!(hello.status, 400, "{}", hello.head);
    assert_eq!(get(web, "shop.test", "/").header("strict-transport-security"), None);
    let metrics = get(shop.run.admin, "admin", "/metrics").body;
    assert!(metrics.contains("waypost_proxy_tls_handshakes_total{outcome=\"clear-text\"} 1"), "{metrics}");
    assert!(metrics.contains("waypost_proxy_certificate_expiry_timestamp_seconds{certificate=\"shop\"}"), "{metrics}");
}

#[test]
fn a_client_gets_the_certificate_for_its_name_or_the_first_and_speaks_no_version_below_the_lowest() {
    let (first, wild) = (Pair::new(&["shop.test"], 10), Pair::new(&["*.shop.test"], 10));
    let endpoint = Backend::named("a");
    let shop = Shop::start(&first, endpoint.address, r#"{"certificates":["shop","wild"],"minVersion":"1.3"}"#);
    // The listener came before its second certificate.
    until("the missing one's verdict", || shop.description("listener", "secure").contains("there is no certificate wild; write certificates/wild"));
    wild.write(&shop.folder, "wild");
    shop.run.ok(&["put", "certificates/wild", &named(&shop.folder, "wild"), "--wait"]);
    for (host, wanted) in [(Some("shop.test"), &first), (Some("a.shop.test"), &wild), (Some("other.test"), &first), (None, &first)] {
        let (_, cert) = connect(shop.address, host, rustls::ALL_VERSIONS).unwrap();
        assert!(cert == wanted.der, "{host:?}");
    }
    let old = connect(shop.address, Some("shop.test"), &[&rustls::version::TLS12]).unwrap_err().to_string();
    assert!(old.contains("ProtocolVersion"), "{old}");
    // A wildcard's certificate that goes while a listener names it is held.
    std::fs::remove_file(shop.run.dir().join("certificates/wild")).unwrap();
    until("the hold", || text(&shop.run.verb(&["status"]).stdout).contains("a certificate went that listeners/secure names"));
    assert!(secured(shop.address, "a.shop.test").unwrap().1 == wild.der);
    shop.run.ok(&["approve", "certificates/wild"]);
    until("its end", || secured(shop.address, "a.shop.test").is_ok_and(|(_, cert)| cert == first.der));
}

#[test]
fn a_certificate_that_cannot_be_used_is_its_verdict_and_the_one_before_stays() {
    let first = Pair::new(&["shop.test"], 10);
    let endpoint = Backend::named("a");
    let shop = Shop::start(&first, endpoint.address, r#"{"certificates":["shop"]}"#);
    let other = Pair::new(&["shop.test"], 10);
    std::fs::write(shop.folder.join("shop.key"), &other.key).unwrap();
    until("the verdict", || shop.description("certificate", "shop").contains("is not that of the certificate in"));
    let described = shop.description("certificate", "shop");
    assert!(described.contains("KeyMismatch") && described.contains("the one that was read before stays in use"), "{described}");
    until("the event", || text(&shop.run.verb(&["events"]).stdout).contains("certificate/shop: the key in"));
    assert!(get(shop.run.admin, "admin", "/metrics").body.contains("waypost_proxy_object_problems 1"));
    assert!(secured(shop.address, "shop.test").unwrap().1 == first.der);
    Pair::new(&["shop.test"], -1).write(&shop.folder, "shop");
    until("the expiry", || shop.description("certificate", "shop").contains("Expired"));
    assert!(secured(shop.address, "shop.test").unwrap().1 == first.der);
    other.write(&shop.folder, "shop");
    until("the new one", || secured(shop.address, "shop.test").unwrap().1 == other.der);
    until("a good verdict", || !shop.description("certificate", "shop").contains("False"));
    // What is refused at once: a path that no proxy could read, tls where there is none, none where there must be some.
    for (key, value, reason) in [
        ("certificates/bad", r#"{"files":{"cert":"shop.crt","key":"/x"}}"#, "is not the absolute path of a file"),
        ("listeners/bad", r#"{"address":"127.0.0.1:1","protocol":"HTTPS"}"#, "a listener with the protocol HTTPS needs certificates"),
        ("listeners/bad", r#"{"address":"127.0.0.1:1","tls":{"certificates":["shop"]}}"#, "a listener with the protocol HTTP has no tls"),
        ("listeners/bad", r#"{"address":"127.0.0.1:1","protocol":"HTTPS","tls":{"certificates":[]}}"#, "the list of certificates is empty"),
    ] {
        let refused = text(&shop.run.verb(&["put", key, value]).stderr);
        assert!(refused.contains(reason), "{value}: {refused}");
    }
}

#[test]
fn a_hundred_reloads_under_load_fail_no_handshake() {
    let pairs = [Pair::new(&["shop.test"], 10), Pair::new(&["shop.test"], 20)];
    let endpoint = Backend::named("a");
    let run = Box1::on_files();
    // As a ConfigMap or a Secret: a link that is swapped.
    let folder = run.folder.path().join("tls");
    std::fs::create_dir(&folder).unwrap();
    for (at, pair) in pairs.iter().enumerate() {
        pair.write(&folder.join(format!("{at}")), "shop");
    }
    let link = |at: usize| {
        std::os::unix::fs::symlink(format!("{at}"), folder.join("new")).unwrap();
        std::fs::rename(folder.join("new"), folder.join("now")).unwrap();
    };
    link(0);
    let address = loopback();
    run.write("certificates/shop", &named(&folder.join("now"), "shop"));
    run.write("listeners/secure", &format!("{{\"address\":\"{address}\",\"protocol\":\"HTTPS\",\"tls\":{{\"certificates\":[\"shop\"]}}}}"));
    run.write("endpoints/shop/a", &endpoint.address.to_string());
    run.write("routes/shop", r#"{"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    run.ok(&["wait", "routes/shop"]);
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get_secured(address, "shop.test", "/") {
                        Ok(response) if response.status == 200 => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Ok(response) => failed.push(response.head),
                        Err(error) => failed.push(error.to_string()),
                    }
                }
                failed
            })
        })
        .collect();
    for round in 1..=100_usize {
        link(round % 2);
        until("the reload", || secured(address, "shop.test").is_ok_and(|(_, cert)| cert == pairs[round % 2].der));
    }
    stop.store(true, Ordering::Relaxed);
    let failed: Vec<String> = load.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(failed, Vec::<String>::new(), "of {} requests", served.load(Ordering::Relaxed));
    assert!(served.load(Ordering::Relaxed) >= 100);
}

#[test]
fn a_certificate_is_read_again_also_while_publications_come_without_a_pause() {
    let (first, second) = (Pair::new(&["shop.test"], 10), Pair::new(&["shop.test"], 20));
    let endpoint = Backend::named("a");
    let shop = Shop::start(&first, endpoint.address, r#"{"certificates":["shop"]}"#);
    let (stop, store) = (Arc::new(AtomicBool::new(false)), shop.run.dir());
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let mut weight = 1;
            while !stop.load(Ordering::Relaxed) {
                weight += 1;
                std::fs::write(store.join("endpoints/shop/a"), format!("{{\"address\":\"{}\",\"weight\":{weight}}}", endpoint.address)).unwrap();
                // The pace of the writes: the proxy gets a publication at least twice a second.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    });
    let begun = std::time::Instant::now();
    second.write(&shop.folder, "shop");
    until("the new certificate", || secured(shop.address, "shop.test").is_ok_and(|(_, cert)| cert == second.der));
    let took = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

use std::io::{Read as _, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::{Authority, KeyPair};

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A certificate of this authority for `identity`, which expires in this number of seconds.
fn keyring(authority: &Authority, trusted: &Authority, identity: &Identity, ends: i64) -> Keyring {
    Keyring::new(material(authority, trusted, identity, ends))
}

fn material(authority: &Authority, trusted: &Authority, identity: &Identity, ends: i64) -> Material {
    let key = KeyPair::generate().unwrap();
    let made = now() - Duration::from_secs(7_200);
    let life = Duration::from_secs(u64::try_from(7_200 + ends).unwrap());
    let issued = authority.issue(identity, &key.public(), &["127.0.0.1".to_owned(), "localhost".to_owned()], made, life).unwrap();
    Material::read(issued.chain.as_bytes(), key.private_pem().as_bytes(), trusted.cert().as_bytes()).unwrap()
}

fn proxy() -> Identity {
    Identity::Proxy("p1".to_owned())
}

fn c1() -> Identity {
    Identity::Controller("c1".to_owned())
}

/// A handshake in memory; returns the client's identity as the server sees it, or the error of either side.
fn shake(client: ClientConfig, server: &Keyring) -> Result<Option<Identity>, String> {
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("10.9.8.7").unwrap()).unwrap();
    let mut server = ServerConnection::new(server.server().unwrap()).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    client.writer().write_all(b"x").unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    server.read_tls(&mut bytes.as_slice()).unwrap();
    server.process_new_packets().map_err(|error| format!("server: {error}"))?;
    server.reader().read_exact(&mut [0]).unwrap();
    Ok(server.peer_certificates().and_then(|certs| identity_of(certs.first()?)))
}

#[test]
fn programs_of_one_authority_know_each_other_whatever_their_address() {
    let authority = Authority::create(now()).unwrap();
    let server = keyring(&authority, &authority, &c1(), 600);
    let client = keyring(&authority, &authority, &proxy(), 600);
    assert_eq!(shake(client.client().unwrap(), &server).unwrap(), Some(proxy()));
    assert_eq!(shake(joining_client(&authority.fingerprint()).unwrap(), &server).unwrap(), None, "whoever joins has none yet");
}

#[test]
fn what_is_forged_over_or_not_a_controller_is_refused() {
    let (ours, theirs) = (Authority::create(now()).unwrap(), Authority::create(now()).unwrap());
    let server = keyring(&ours, &ours, &c1(), 600);
    let refused = |client: ClientConfig, server: &Keyring| shake(client, server).unwrap_err();
    let forged = keyring(&theirs, &ours, &proxy(), 600);
    assert!(refused(forged.client().unwrap(), &server).contains("server: invalid peer certificate: "), "{}", refused(forged.client().unwrap(), &server));
    let over = keyring(&ours, &ours, &proxy(), -60);
    assert!(
        refused(over.client().unwrap(), &server).starts_with("server: invalid peer certificate: certificate expired")
            || refused(over.client().unwrap(), &server).contains("Expired")
    );
    let client = keyring(&ours, &ours, &proxy(), 600);
    let old_server = keyring(&ours, &ours, &c1(), -60);
    assert!(refused(client.client().unwrap(), &old_server).starts_with("client: "));
    let no_controller = keyring(&ours, &ours, &proxy(), 600);
    assert!(refused(client.client().unwrap(), &no_controller).starts_with("client: "), "a proxy's certificate makes no controller");
    assert!(refused(joining_client(&theirs.fingerprint()).unwrap(), &server).starts_with("client: "));
}

#[test]
fn a_new_certificate_is_shown_to_whoever_connects_next() {
    let authority = Authority::create(now()).unwrap();
    let server = keyring(&authority, &authority, &c1(), 600);
    let client = keyring(&authority, &authority, &proxy(), -60);
    let config = client.client().unwrap();
    assert!(shake(config.clone(), &server).is_err());
    client.replace(material(&authority, &authority, &proxy(), 600));
    assert_eq!(shake(config, &server).unwrap(), Some(proxy()));
}

#[test]
fn files_that_do_not_fit_are_refused_with_their_reason() {
    let authority = Authority::create(now()).unwrap();
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let issued = authority.issue(&proxy(), &one.public(), &[], now(), Duration::from_secs(60)).unwrap();
    let read =
        |chain: &str, key: &str, trusted: &str| Material::read(chain.as_bytes(), key.as_bytes(), trusted.as_bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(read("", &one.private_pem(), authority.cert()).contains("the certificate cannot be used: there is no certificate in it"));
    assert!(read(&issued.chain, "x", authority.cert()).contains("the key cannot be used"));
    assert!(read(&issued.chain, &other.private_pem(), authority.cert()).contains("the certificate with its key cannot be used"));
    assert!(read(authority.cert(), &one.private_pem(), authority.cert()).contains("cannot be used"));
}

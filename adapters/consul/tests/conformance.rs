//! The conformance suite against real Consul, and the cases that only Consul has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use waypost_adapter::{Auth, ErrorKind, Key, Settings};
use waypost_adapter_consul::ConsulAdapter;
use waypost_testkit::conformance::{self, RECOVERY_TIME, ROOT, Store, key, listing, put};
use waypost_testkit::servers::{Consul, Server};
use waypost_testkit::{Certificates, Mirror, free_port};

fn adapter(settings: Settings) -> Store {
    Arc::new(ConsulAdapter::new(settings).unwrap())
}

fn open(endpoints: Vec<String>) -> Store {
    adapter(Settings { endpoints, ..Settings::default() })
}

fn store(server: &impl Server) -> Store {
    open(server.endpoints())
}

/// Transactions encode values in base64.
fn on_the_wire(value: &str) -> Vec<u8> {
    STANDARD.encode(value).into_bytes()
}

fn with_token(server: &Consul, token: &str) -> Store {
    adapter(Settings { endpoints: server.endpoints(), auth: Auth::Token(token.to_owned()), ..Settings::default() })
}

waypost_testkit::conformance_suite!(Consul, store, open, on_the_wire);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_told_whole() {
    let server = Consul::new(1);
    let url = format!("http://{}/v1/txn", server.endpoints()[0]);
    let store = store(&server);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(Vec::<reqwest::Certificate>::new()).build().unwrap();
    let write = move |value: String| {
        let set =
            ["waypost/routes/a", "waypost/routes/z"].map(|key| serde_json::json!({ "KV": { "Verb": "set", "Key": key, "Value": STANDARD.encode(&value) } }));
        let request = client.put(&url).body(serde_json::json!(set).to_string());
        async move { assert!(request.send().await.unwrap().status().is_success()) }
    };
    conformance::a_transaction_is_told_whole(store, write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_is_no_deletion() {
    let server = Consul::with_acls();
    let master = with_token(&server, Consul::MASTER);
    put(&master, "routes/a", "1").await;
    let rules = |rules: &str| server.run(&["acl", "policy", "update", "-name", "anonymous-read", "-rules", rules]).expect("a policy");
    server.run(&["acl", "policy", "create", "-name", "anonymous-read", "-rules", r#"key_prefix "waypost/" { policy = "read" }"#]).expect("a policy");
    server.run(&["acl", "token", "update", "-accessor-id", "00000000-0000-0000-0000-000000000002", "-policy-name", "anonymous-read"]).expect("a token");
    let mirror = Mirror::follow(store(&server).as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the entry", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    mirror.may_not_go_back(true);
    rules(r#"key_prefix "other/" { policy = "read" }"#);
    put(&master, "routes/b", "2").await;
    mirror.until(std::time::Duration::from_secs(20), "an error", |mirror| mirror.errors().0 > 0).await;
    assert_eq!(mirror.errors().1.unwrap().kind, ErrorKind::Denied);
    assert!(mirror.entry("waypost/routes/a").is_some(), "what may not be read is not gone");
    rules(r#"key_prefix "waypost/" { policy = "read" }"#);
    mirror.until(std::time::Duration::from_secs(20), "both", |mirror| mirror.values().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_stores_limit() {
    let server = Consul::new(1);
    conformance::values_at_the_stores_limit(store(&server), 512 * 1024).await;
}

#[tokio::test]
async fn unreachable_endpoints_are_named() {
    conformance::unreachable_endpoints_are_named(adapter(Settings { endpoints: vec![format!("127.0.0.1:{}", free_port())], ..Settings::default() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_endpoint_of_two_is_passed_over() {
    let server = Consul::new(1);
    let endpoints = vec![format!("127.0.0.1:{}", free_port()), server.endpoints()[0].clone()];
    conformance::ordinary_life_over_errors(adapter(Settings { endpoints, ..Settings::default() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_prefix_answers_404_and_is_an_empty_store_with_an_index() {
    let server = Consul::new(1);
    let store = store(&server);
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "an empty Reset", |mirror| mirror.counts().0 == 1).await;
    assert_eq!(mirror.errors().0, 0, "{:?}", mirror.errors());
    put(&store, "routes/a", "1").await;
    mirror.until(RECOVERY_TIME, "the first key", |mirror| mirror.values().len() == 1).await;
    store.delete(&key("routes/a")).await.unwrap();
    mirror.until(RECOVERY_TIME, "nothing again", |mirror| mirror.values().is_empty()).await;
    put(&store, "routes/a", "2").await;
    mirror.until(RECOVERY_TIME, "the key after that", |mirror| mirror.values().len() == 1).await;
    assert_eq!(mirror.errors().0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_goes_backwards_with_a_restored_snapshot_leads_to_a_new_listing() {
    let server = Consul::new(1);
    let store = store(&server);
    put(&store, "routes/old", "1").await;
    let folder = std::env::temp_dir().join(format!("waypost-consul-{}", free_port()));
    let file = folder.display().to_string();
    server.run(&["snapshot", "save", &file]).expect("snapshot save");
    for number in 0..50 {
        put(&store, &format!("routes/new{number}"), "2").await;
    }
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "all", |mirror| mirror.values().len() == 51).await;
    server.run(&["snapshot", "restore", &file]).expect("snapshot restore");
    mirror.until_is(RECOVERY_TIME, &listing(&store).await).await;
    assert_eq!(mirror.values().len(), 1);
    put(&store, "routes/after", "3").await;
    mirror.until(RECOVERY_TIME, "what came after", |mirror| mirror.values().len() == 2).await;
    std::fs::remove_file(folder).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policies_are_enough_and_missing_rights_are_reported_as_denied() {
    let server = Consul::with_acls();
    let master = with_token(&server, Consul::MASTER);
    put(&master, "routes/a", "1").await;
    let token = |name: &str, rules: &str| {
        server.run(&["acl", "policy", "create", "-name", name, "-rules", rules]).expect("a policy");
        let created = server.run(&["acl", "token", "create", "-policy-name", name, "-format", "json"]).expect("a token");
        let secret = created.lines().find_map(|line| line.trim().strip_prefix("\"SecretID\": \"")).expect("a secret").to_owned();
        secret.trim_end_matches([',', '"']).to_owned()
    };
    let controller =
        with_token(&server, &token("controller", r#"key_prefix "waypost/" { policy = "read" } key_prefix "waypost-status/" { policy = "write" }"#));
    let registrant = with_token(&server, &token("registrant", r#"key_prefix "waypost/endpoints/shop/" { policy = "write" }"#));
    let mirror = Mirror::follow(controller.as_ref(), ROOT);
    registrant.put(&key("endpoints/shop/a"), Bytes::from_static(b"10.0.0.1:80")).await.unwrap();
    mirror.until(RECOVERY_TIME, "both", |mirror| mirror.values().len() == 2).await;
    controller.put(&Key::from("waypost-status/cluster"), Bytes::from_static(b"{}")).await.unwrap();
    assert_eq!(controller.put(&key("routes/a"), Bytes::new()).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(registrant.put(&key("routes/a"), Bytes::new()).await.unwrap_err().kind, ErrorKind::Denied);
    for blind in [
        with_token(&server, &token("blind", r#"key_prefix "other/" { policy = "read" }"#)),
        adapter(Settings { endpoints: server.endpoints(), ..Settings::default() }),
    ] {
        let denied = blind.source(ROOT).next().await.unwrap_err();
        assert_eq!(denied.kind, ErrorKind::Denied, "an answer that ACLs made empty is not an empty store: {denied}");
        assert!(denied.to_string().contains("key_prefix read"), "{denied}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_own_authority_and_client_certificate() {
    let certificates = Certificates::new();
    let server = Consul::with_tls(&certificates);
    let endpoints = vec![server.tls_endpoint()];
    let open = |tls| -> Store { adapter(Settings { endpoints: endpoints.clone(), tls, ..Settings::default() }) };
    conformance::tls_with_own_authority_and_client_certificate(open, &certificates).await;
}

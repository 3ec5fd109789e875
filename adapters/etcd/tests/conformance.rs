//! The conformance suite against real etcd, and the cases that only etcd has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waypost_adapter::{Adapter as _, Auth, ErrorKind, Key, Settings};
use waypost_adapter_etcd::EtcdAdapter;
use waypost_testkit::conformance::{self, RECOVERY_TIME, ROOT, Store, key, listing, put};
use waypost_testkit::servers::{Etcd, Server};
use waypost_testkit::{Certificates, Mirror, free_port};

fn open(endpoints: Vec<String>) -> Store {
    Arc::new(EtcdAdapter::new(Settings { endpoints, ..Settings::default() }))
}

fn store(server: &impl Server) -> Store {
    open(server.endpoints())
}

fn on_the_wire(value: &str) -> Vec<u8> {
    value.as_bytes().to_vec()
}

fn with_user(server: &Etcd, user: &str) -> Store {
    let auth = Auth::Password { user: user.to_owned(), password: "secret".to_owned() };
    Arc::new(EtcdAdapter::new(Settings { endpoints: server.endpoints(), auth, ..Settings::default() }))
}

waypost_testkit::conformance_suite!(Etcd, store, open, on_the_wire);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_told_whole() {
    let server = Etcd::new(1);
    let client = etcd_client::Client::connect(server.endpoints(), None).await.unwrap();
    let write = move |value: String| {
        let mut kv = client.kv_client();
        async move {
            let puts = ["waypost/routes/a", "waypost/routes/z"].map(|key| etcd_client::TxnOp::put(key, value.clone(), None));
            kv.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
        }
    };
    conformance::a_transaction_is_told_whole(store(&server), write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_stores_limit() {
    let server = Etcd::new(1);
    conformance::values_at_the_stores_limit(store(&server), 1_500_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_supported_release_passes_the_basic_part() {
    let server = Etcd::old();
    conformance::ordinary_life(store(&server)).await;
    conformance::binary_and_empty_values(store(&server)).await;
}

#[tokio::test]
async fn unreachable_endpoints_are_named() {
    let settings = Settings { endpoints: vec![format!("127.0.0.1:{}", free_port())], ..Settings::default() };
    conformance::unreachable_endpoints_are_named(Arc::new(EtcdAdapter::new(settings))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_dead_endpoint_of_two_is_passed_over() {
    let server = Etcd::new(1);
    let endpoints = vec![format!("127.0.0.1:{}", free_port()), server.endpoints()[0].clone()];
    let store: Store = Arc::new(EtcdAdapter::new(Settings { endpoints, ..Settings::default() }));
    conformance::ordinary_life_over_errors(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_not_text_are_delivered_unchanged() {
    let server = Etcd::new(1);
    let store = store(&server);
    let strange = Key::from(b"waypost/routes/\xff\xfe".to_vec());
    store.put(&strange, Bytes::from_static(b"x")).await.unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the strange key", |mirror| mirror.values().contains_key(&strange)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_while_disconnected_leads_to_a_new_listing() {
    let mut server = Etcd::new(1);
    let store = store(&server);
    put(&store, "routes/a", "1").await;
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the entry", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    server.kill(0);
    mirror.until(Duration::from_secs(20), "an error", |mirror| mirror.errors().0 > 0).await;
    server.start(0);
    for number in 0..20 {
        put(&store, "routes/a", format!("{number}")).await;
    }
    let at = store.get(&key("routes/a")).await.unwrap().unwrap().revision;
    server.ctl(&["compact", &at.to_string()]).expect("compact");
    mirror.until_is(RECOVERY_TIME, &listing(&store).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_restored_from_an_older_backup_is_listed_anew() {
    let mut server = Etcd::new(1);
    let store = store(&server);
    put(&store, "routes/old", "1").await;
    let backup = server.backup();
    for number in 0..50 {
        put(&store, &format!("routes/new{number}"), "2").await;
    }
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "all", |mirror| mirror.values().len() == 51).await;
    let server = tokio::task::spawn_blocking(move || {
        server.restore(&backup);
        server
    })
    .await
    .unwrap();
    mirror.until_is(RECOVERY_TIME, &listing(&store).await).await;
    assert_eq!(mirror.values().len(), 1);
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_user_watches_also_after_its_token_expired_and_is_denied_elsewhere() {
    let server = Etcd::new(1);
    put(&store(&server), "routes/a", "1").await;
    for command in [
        &["user", "add", "root:secret"][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "controller:secret"],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "--prefix=true", "read", "waypost/"],
        &["user", "grant-role", "controller", "reader"],
        &["user", "add", "nobody:secret"],
        &["auth", "enable"],
    ] {
        assert!(server.ctl(command).is_some(), "{command:?}");
    }
    let (reader, root) = (with_user(&server, "controller"), with_user(&server, "root"));
    let mirror = Mirror::follow(reader.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the entry", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    // The server's tokens expire after three seconds here.
    tokio::time::sleep(Duration::from_secs(5)).await;
    put(&root, "routes/a", "2").await;
    mirror.until(RECOVERY_TIME, "the change after the token's end", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "2")).await;
    let denied = reader.put(&key("routes/a"), Bytes::new()).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "{denied}");
    let denied = with_user(&server, "nobody").source(ROOT).next().await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "{denied}");
    assert!(denied.to_string().contains("grant its role read on the prefix"), "{denied}");
    let wrong = Auth::Password { user: "controller".to_owned(), password: "wrong".to_owned() };
    let wrong = EtcdAdapter::new(Settings { endpoints: server.endpoints(), auth: wrong, ..Settings::default() });
    let denied = wrong.get(&key("routes/a")).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "{denied}");
    assert!(!denied.to_string().contains("wrong"), "no secret in errors: {denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_own_authority_and_client_certificate() {
    let certificates = Certificates::new();
    let server = Etcd::with_tls(&certificates);
    let endpoints = vec![server.tls_endpoint()];
    let open = |tls| -> Store { Arc::new(EtcdAdapter::new(Settings { endpoints: endpoints.clone(), tls, ..Settings::default() })) };
    conformance::tls_with_own_authority_and_client_certificate(open, &certificates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_policies_are_enough_for_controller_and_registrant() {
    let server = Etcd::new(1);
    for command in [
        "user add root:secret",
        "role add root",
        "user grant-role root root",
        "user add controller:secret",
        "user add shop:secret",
        "role add waypost-controller",
        "role grant-permission waypost-controller --prefix=true read waypost/",
        "role grant-permission waypost-controller --prefix=true readwrite waypost-status/",
        "user grant-role controller waypost-controller",
        "role add waypost-shop",
        "role grant-permission waypost-shop --prefix=true readwrite waypost/endpoints/shop/",
        "user grant-role shop waypost-shop",
        "auth enable",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(server.ctl(&words).is_some(), "{command}");
    }
    let (controller, shop) = (with_user(&server, "controller"), with_user(&server, "shop"));
    let mirror = Mirror::follow(controller.as_ref(), ROOT);
    shop.put(&key("endpoints/shop/a"), Bytes::from_static(b"10.0.0.1:80")).await.unwrap();
    mirror.until(RECOVERY_TIME, "the registration", |mirror| mirror.entry("waypost/endpoints/shop/a").is_some()).await;
    controller.put(&Key::from("waypost-status/cluster"), Bytes::from_static(b"{}")).await.unwrap();
    for (who, what) in [(&controller, "routes/a"), (&shop, "routes/a"), (&shop, "endpoints/other/a")] {
        assert_eq!(who.put(&key(what), Bytes::new()).await.unwrap_err().kind, ErrorKind::Denied, "{what}");
    }
    shop.delete(&key("endpoints/shop/a")).await.unwrap();
    mirror.until(RECOVERY_TIME, "the end of it", |mirror| mirror.entry("waypost/endpoints/shop/a").is_none()).await;
}

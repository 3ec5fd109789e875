//! The conformance suite against real ZooKeeper, and the cases that only ZooKeeper has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waypost_adapter::{Auth, ErrorKind, Settings};
use waypost_adapter_zookeeper::ZooKeeperAdapter;
use waypost_testkit::conformance::{self, RECOVERY_TIME, ROOT, Store, key, listing, put};
use waypost_testkit::servers::{Server, ZooKeeper};
use waypost_testkit::{Certificates, Mirror, free_port};

fn open(endpoints: Vec<String>) -> Store {
    Arc::new(ZooKeeperAdapter::new(Settings { endpoints, ..Settings::default() }))
}

fn store(server: &impl Server) -> Store {
    open(server.endpoints())
}

fn on_the_wire(value: &str) -> Vec<u8> {
    value.as_bytes().to_vec()
}

waypost_testkit::conformance_suite!(ZooKeeper, store, open, on_the_wire);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_told_whole() {
    let server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "routes/a", "0").await;
    put(&store, "routes/z", "0").await;
    let client = zookeeper_client::Client::connect(&server.endpoints()[0]).await.unwrap();
    let write = move |value: String| {
        let client = client.clone();
        async move {
            let mut writer = client.new_multi_writer();
            for path in ["/waypost/routes/a", "/waypost/routes/z"] {
                writer.add_set_data(path, value.as_bytes(), None).unwrap();
            }
            writer.commit().await.unwrap();
        }
    };
    conformance::a_transaction_is_told_whole(store, write).await;
}

/// A node that is deleted and created again counts its versions from 0, as the one before did: a conditional write that meets it is not
/// reported as written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conditional_write_to_a_node_that_was_made_anew_is_never_reported_as_written() {
    use waypost_adapter::{Expected, PutIf};
    use zookeeper_client::{Acls, Client, CreateMode, Error};
    let server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "node", "0").await;
    let other = Client::connect(&server.endpoints()[0]).await.unwrap();
    // Another client deletes the node and creates it again, in a loop.
    let making = tokio::spawn(async move {
        let (options, mut pause) = (CreateMode::Persistent.with_acls(Acls::anyone_all()), 0);
        loop {
            match other.delete("/waypost/node", None).await {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) => panic!("{error}"),
            }
            match other.create("/waypost/node", b"theirs", &options).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => panic!("{error}"),
            }
            pause = pause % 7 + 1;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    });
    let (mut anew, mut written, begun) = (0, 0, std::time::Instant::now());
    while anew == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the node was never made anew between reading and writing, {written} were written");
        let Some(entry) = store.get(&key("node")).await.unwrap() else { continue };
        match store.put_if(&key("node"), Bytes::from_static(b"ours"), Expected::At(entry.revision)).await {
            Ok(PutIf::Written(_)) => written += 1,
            Ok(PutIf::Conflict) => {}
            Err(error) if error.kind == ErrorKind::UnknownOutcome && error.to_string().contains("made anew") => anew += 1,
            Err(error) => panic!("{error}"),
        }
    }
    making.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_we_may_not_read_hurts_only_itself() {
    use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};
    let server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "routes/open", "1").await;
    let owner = Client::connector().with_auth("digest", b"owner:secret").connect(&server.endpoints()[0]).await.unwrap();
    let acls = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    owner.create("/waypost/routes/secret", b"x", &CreateMode::Persistent.with_acls(Acls::new(&acls))).await.unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the open node", |mirror| mirror.entry("waypost/routes/open").is_some()).await;
    let message = mirror.entry("waypost/routes/secret").unwrap().unreadable.unwrap();
    assert!(message.contains("grant read"), "{message}");
    put(&store, "routes/open", "2").await;
    mirror.until(RECOVERY_TIME, "a change beside it", |mirror| mirror.entry("waypost/routes/open").is_some_and(|entry| entry.value == "2")).await;
    assert_eq!(mirror.errors().0, 0, "{:?}", mirror.errors());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_was_taken_away_is_no_deletion() {
    use zookeeper_client::{Acl, AuthId, Client, Permission};
    let mut server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "routes/a", "1").await;
    let owner = Client::connector().with_auth("digest", b"owner:secret").connect(&server.endpoints()[0]).await.unwrap();
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the node", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    let acls = [Acl::new(Permission::ALL, AuthId::new("auth", ""))];
    owner.set_acl("/waypost/routes", &acls, None).await.unwrap();
    drop(owner);
    let server = tokio::task::spawn_blocking(move || {
        server.kill(0);
        server.start(0);
        server
    })
    .await
    .unwrap();
    let denied = |mirror: &Mirror| mirror.errors().1.is_some_and(|error| error.kind == ErrorKind::Denied);
    mirror.until(Duration::from_secs(20), "the refusal", denied).await;
    assert!(mirror.entry("waypost/routes/a").is_some(), "what cannot be seen is not gone");
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_restored_from_an_older_backup_is_listed_anew() {
    let mut server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "routes/old", "1").await;
    let backup = server.backup();
    for number in 0..50 {
        put(&store, &format!("routes/new{number}"), "2").await;
    }
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "all", |mirror| mirror.entry("waypost/routes/new49").is_some()).await;
    let server = tokio::task::spawn_blocking(move || {
        server.restore(&backup);
        server
    })
    .await
    .unwrap();
    mirror.until_is(RECOVERY_TIME, &listing(&store).await).await;
    assert!(mirror.entry("waypost/routes/new0").is_none());
    put(&store, "routes/after", "3").await;
    mirror.until(RECOVERY_TIME, "what came after", |mirror| mirror.entry("waypost/routes/after").is_some()).await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_at_the_stores_limit() {
    let server = ZooKeeper::new(1);
    conformance::values_at_the_stores_limit(store(&server), 1_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_supported_release_passes_the_basic_part() {
    let server = ZooKeeper::old();
    conformance::ordinary_life(store(&server)).await;
    conformance::binary_and_empty_values(store(&server)).await;
}

#[tokio::test]
async fn unreachable_endpoints_are_named() {
    let settings = Settings { endpoints: vec![format!("127.0.0.1:{}", free_port())], ..Settings::default() };
    conformance::unreachable_endpoints_are_named(Arc::new(ZooKeeperAdapter::new(settings))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_expired_is_replaced_and_everything_is_read_again() {
    let server = ZooKeeper::new(1);
    let store = store(&server);
    put(&store, "routes/a", "1").await;
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the entry", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    // Longer than any session of the adapter survives without the server.
    server.freeze(0);
    tokio::time::sleep(Duration::from_secs(12)).await;
    server.thaw(0);
    put(&store, "routes/a", "2").await;
    mirror.until_is(RECOVERY_TIME, &listing(&store).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_during_a_listing_do_not_disturb_it() {
    let server = ZooKeeper::new(1);
    let store = store(&server);
    for number in 0..200 {
        put(&store, &format!("endpoints/shop/e{number}"), "10.0.0.1:80").await;
    }
    let churning = store.clone();
    let churn = tokio::spawn(async move {
        for round in 0..400 {
            let name = format!("endpoints/shop/e{}", round % 200);
            churning.delete(&key(&name)).await.unwrap();
            churning.put(&key(&name), Bytes::from(format!("10.0.0.2:{}", round + 1))).await.unwrap();
        }
    });
    let mut mirrors = Vec::new();
    while !churn.is_finished() {
        mirrors.push(Mirror::follow(store.as_ref(), ROOT));
        tokio::time::sleep(Duration::from_millis(50)).await;
        mirrors.truncate(10);
    }
    churn.await.unwrap();
    let wanted = listing(&store).await;
    for mirror in &mirrors {
        mirror.until_is(RECOVERY_TIME, &wanted).await;
        assert_eq!(mirror.errors().0, 0, "{:?}", mirror.errors());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_identity_owns_what_it_writes_and_others_only_read_it() {
    let server = ZooKeeper::new(1);
    let auth = Auth::Password { user: "team".to_owned(), password: "secret".to_owned() };
    let owner: Store = Arc::new(ZooKeeperAdapter::new(Settings { endpoints: server.endpoints(), auth, ..Settings::default() }));
    owner.put(&key("routes/a"), Bytes::from_static(b"1")).await.unwrap();
    let other = store(&server);
    let mirror = Mirror::follow(other.as_ref(), ROOT);
    mirror.until(RECOVERY_TIME, "the entry", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    let denied = other.put(&key("routes/a"), Bytes::from_static(b"2")).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied, "{denied}");
    owner.put(&key("routes/a"), Bytes::from_static(b"3")).await.unwrap();
    mirror.until(RECOVERY_TIME, "the change", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "3")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_own_authority_and_client_certificate() {
    let certificates = Certificates::new();
    let server = ZooKeeper::with_tls(&certificates);
    let endpoints = vec![server.tls_endpoint()];
    let open = |tls| -> Store { Arc::new(ZooKeeperAdapter::new(Settings { endpoints: endpoints.clone(), tls, ..Settings::default() })) };
    conformance::tls_with_own_authority_and_client_certificate(open, &certificates).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_access_lists_are_enough_for_controller_and_registrant() {
    use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};
    let server = ZooKeeper::new(1);
    let identity = |user: &str| Auth::Password { user: user.to_owned(), password: "secret".to_owned() };
    let open =
        |user: &str| -> Store { Arc::new(ZooKeeperAdapter::new(Settings { endpoints: server.endpoints(), auth: identity(user), ..Settings::default() })) };
    // The one-time setup by an administrator. A client that is logged in as the owner stands for `digest:owner:HASH`.
    let everybody_reads = Acl::new(Permission::READ, AuthId::new("world", "anyone"));
    for (path, owner) in [("/waypost", "admin"), ("/waypost/endpoints", "admin"), ("/waypost/endpoints/shop", "shop"), ("/waypost-status", "controller")] {
        let admin = Client::connector().with_auth("digest", format!("{owner}:secret").as_bytes()).connect(&server.endpoints()[0]).await.unwrap();
        let acls = [Acl::new(Permission::ALL, AuthId::new("auth", "")), everybody_reads.clone()];
        if path.starts_with("/waypost/endpoints/") {
            // The parent belongs to the administrator, so this client creates the node and changes its owner.
            let parent = Client::connector().with_auth("digest", b"admin:secret").with_auth("digest", format!("{owner}:secret").as_bytes());
            let parent = parent.connect(&server.endpoints()[0]).await.unwrap();
            parent.create(path, b"", &CreateMode::Persistent.with_acls(Acls::new(&acls))).await.unwrap();
        } else {
            admin.create(path, b"", &CreateMode::Persistent.with_acls(Acls::new(&acls))).await.unwrap();
        }
    }
    let (controller, shop) = (open("controller"), open("shop"));
    let mirror = Mirror::follow(controller.as_ref(), ROOT);
    shop.put(&key("endpoints/shop/a"), Bytes::from_static(b"10.0.0.1:80")).await.unwrap();
    mirror.until(RECOVERY_TIME, "the registration", |mirror| mirror.entry("waypost/endpoints/shop/a").is_some()).await;
    controller.put(&waypost_adapter::Key::from("waypost-status/cluster"), Bytes::from_static(b"{}")).await.unwrap();
    for (who, what) in [(&controller, "routes/a"), (&shop, "routes/a"), (&controller, "endpoints/shop/b")] {
        assert_eq!(who.put(&key(what), Bytes::new()).await.unwrap_err().kind, ErrorKind::Denied, "{what}");
    }
    shop.delete(&key("endpoints/shop/a")).await.unwrap();
    mirror.until(RECOVERY_TIME, "the end of it", |mirror| mirror.entry("waypost/endpoints/shop/a").is_none()).await;
}

//! The conformance suite that every adapter passes against its real server. Each function tests one promise of the contract; an adapter's
//! tests call it with a server of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waypost_adapter::{Adapter, AdapterError, ErrorKind, Event, Expected, Key, PutIf, Tls};

use crate::gate::{Fate, Gate};
use crate::mirror::Mirror;
use crate::servers::Server;
use crate::tls::Certificates;

/// Time within which, after a fault ends, the entries that the source delivered must equal those of the store.
pub const RECOVERY_TIME: Duration = Duration::from_secs(5);
/// Time within which ordinary changes must be delivered, on a slow machine.
const DELIVERY_TIME: Duration = Duration::from_secs(5);
/// The root of all tests.
pub const ROOT: &str = "waypost";

/// A store under test.
pub type Store = Arc<dyn Adapter>;

/// A key below the root.
pub fn key(relative: &str) -> Key {
    Key::from(format!("{ROOT}/{relative}"))
}

/// Writes an entry; tries again while the store is unreachable, because these tests are about reading.
///
/// # Panics
/// The store does not accept it within 20 s.
pub async fn put(store: &Store, relative: &str, value: impl Into<Bytes>) {
    let value = value.into();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match store.put(&key(relative), value.clone()).await {
            Ok(_) => return,
            Err(error) if std::time::Instant::now() < end && matches!(error.kind, ErrorKind::Unreachable | ErrorKind::UnknownOutcome) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{relative}: {error}"),
        }
    }
}

/// The entries of the store below the root, from a new listing.
///
/// # Panics
/// The store cannot be listed within 20 s.
pub async fn listing(store: &Store) -> BTreeMap<Key, Bytes> {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let mut source = store.source(ROOT);
    loop {
        match source.next().await {
            Ok(Event::Reset { entries, .. }) => return entries.into_iter().map(|entry| (entry.key, entry.value)).collect(),
            Ok(other) => panic!("the first event was {other:?}"),
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The values without folders: parents without a value, which only ZooKeeper has.
fn without_folders(values: BTreeMap<Key, Bytes>) -> BTreeMap<Key, Bytes> {
    let parent = |key: &Key| values.keys().any(|other| other.bytes().starts_with(&[key.bytes(), b"/"].concat()));
    values
        .iter()
        .filter(|(key, value)| !(value.is_empty() && parent(key)) && key.bytes() != ROOT.as_bytes())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Put, change, delete: the values and revisions are delivered in order.
pub async fn ordinary_life(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(DELIVERY_TIME, "a first Reset", |mirror| mirror.counts().0 == 1).await;
    assert!(mirror.values().is_empty());
    let first = store.put(&key("routes/a"), Bytes::from_static(b"one")).await.unwrap();
    mirror.until(DELIVERY_TIME, "the first value", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "one")).await;
    assert_eq!(mirror.entry("waypost/routes/a").unwrap().revision, first);
    let second = store.put(&key("routes/a"), Bytes::from_static(b"two")).await.unwrap();
    assert!(second > first, "revisions grow");
    mirror.until(DELIVERY_TIME, "the second value", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "two")).await;
    let read = store.get(&key("routes/a")).await.unwrap().unwrap();
    assert_eq!((read.value.as_ref(), read.revision), (&b"two"[..], second));
    store.delete(&key("routes/a")).await.unwrap();
    mirror.until(DELIVERY_TIME, "the deletion", |mirror| mirror.entry("waypost/routes/a").is_none()).await;
    assert_eq!(store.get(&key("routes/a")).await.unwrap(), None);
    store.delete(&key("routes/a")).await.expect("to delete what is not there is no error");
    assert_eq!(mirror.counts().0, 1, "ordinary life needs no second Reset");
    assert_eq!(mirror.drift(), 0);
}

/// TLS: a client with the right authority and certificate works; one without a certificate or with another authority is refused with a
/// remedy.
pub async fn tls_with_own_authority_and_client_certificate(open: impl Fn(Option<Tls>) -> Store, certificates: &Certificates) {
    let store = open(Some(certificates.client()));
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    put(&store, "routes/a", "1").await;
    mirror.until(DELIVERY_TIME, "the entry over TLS", |mirror| mirror.entry("waypost/routes/a").is_some()).await;
    let stranger = Certificates::new().client();
    for tls in [Tls { identity: None, ..certificates.client() }, Tls { ca: stranger.ca, ..certificates.client() }] {
        let refused = open(Some(tls)).get(&key("routes/a")).await.expect_err("without the right certificates nothing is read");
        assert!(!refused.remedy.is_empty() && !refused.endpoint.is_empty(), "{refused:?}");
    }
}

/// Ten thousand keys written at once are all delivered.
pub async fn burst_of_ten_thousand_keys(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(DELIVERY_TIME, "a first Reset", |mirror| mirror.counts().0 == 1).await;
    let mut wanted = BTreeMap::new();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20usize {
        let store = store.clone();
        let numbers = (0..10_000usize).filter(move |number| number % 20 == writer);
        wanted
            .extend(numbers.clone().map(|number| (key(&format!("endpoints/b{}/e{number:05}", number % 100)), Bytes::from(format!("10.0.0.1:{}", number + 1)))));
        writers.spawn(async move {
            for number in numbers {
                put(&store, &format!("endpoints/b{}/e{number:05}", number % 100), format!("10.0.0.1:{}", number + 1)).await;
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let entries = |mirror: &Mirror| without_folders(mirror.values());
    mirror.until(Duration::from_secs(15), "ten thousand keys", |mirror| entries(mirror).len() == wanted.len()).await;
    assert_eq!(entries(&mirror), wanted);
    assert_eq!(without_folders(listing(&store).await), wanted);
}

/// A value of the store's maximum size is accepted; a larger one is refused and changes nothing.
pub async fn values_at_the_stores_limit(store: Store, largest: usize) {
    let value = Bytes::from((0..largest).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<u8>>());
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    store.put(&key("routes/big"), value.clone()).await.unwrap();
    mirror.until(DELIVERY_TIME, "the large value", |mirror| mirror.entry("waypost/routes/big").is_some_and(|entry| entry.value == value)).await;
    let error = store.put(&key("routes/big"), Bytes::from(vec![0; largest * 2])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert_eq!(store.get(&key("routes/big")).await.unwrap().unwrap().value, value);
    for number in 0..8 {
        store.put(&key(&format!("routes/big{number}")), value.clone()).await.unwrap();
    }
    assert_eq!(listing(&store).await.values().filter(|found| **found == value).count(), 9, "many of them are listed whole");
}

/// Binary values are delivered unchanged, and an empty value is an entry.
pub async fn binary_and_empty_values(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    let binary = Bytes::from((0..=255u8).collect::<Vec<u8>>());
    store.put(&key("routes/binary"), binary.clone()).await.unwrap();
    store.put(&key("endpoints/shop/10.0.0.1:80"), Bytes::new()).await.unwrap();
    mirror
        .until(DELIVERY_TIME, "both", |mirror| mirror.entry("waypost/routes/binary").is_some() && mirror.entry("waypost/endpoints/shop/10.0.0.1:80").is_some())
        .await;
    assert_eq!(mirror.entry("waypost/routes/binary").unwrap().value, binary);
    assert!(mirror.entry("waypost/endpoints/shop/10.0.0.1:80").unwrap().value.is_empty());
}

/// Keys below `waypost2` are not below `waypost`.
pub async fn prefix_boundaries(store: Store) {
    for other in ["waypost2/routes/x", "waypost-status/leader", "waypos", "other/waypost/routes/x"] {
        store.put(&Key::from(other.to_owned()), Bytes::from_static(b"not ours")).await.unwrap();
    }
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    store.put(&key("routes/a"), Bytes::from_static(b"ours")).await.unwrap();
    store.put(&Key::from("waypost2/routes/y".to_owned()), Bytes::from_static(b"not ours")).await.unwrap();
    store.put(&key("routes/b"), Bytes::from_static(b"ours")).await.unwrap();
    mirror.until(DELIVERY_TIME, "both", |mirror| mirror.entry("waypost/routes/b").is_some()).await;
    let foreign: Vec<Key> = mirror.values().into_keys().filter(|key| !key.bytes().starts_with(b"waypost/")).collect();
    assert_eq!(foreign, []);
    assert_eq!(without_folders(mirror.values()).len(), 2);
}

/// The deletion of everything is delivered, and so are later writes.
pub async fn whole_tree_deleted(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    for number in 0..50 {
        put(&store, &format!("routes/r{number}"), "x").await;
    }
    mirror.until(DELIVERY_TIME, "all", |mirror| without_folders(mirror.values()).len() == 50).await;
    for number in 0..50 {
        store.delete(&key(&format!("routes/r{number}"))).await.unwrap();
    }
    mirror.until(DELIVERY_TIME, "nothing", |mirror| mirror.values().values().all(Bytes::is_empty)).await;
    put(&store, "routes/after", "y").await;
    mirror.until(DELIVERY_TIME, "what came after", |mirror| mirror.entry("waypost/routes/after").is_some()).await;
    mirror.check();
}

/// Of sixteen concurrent writers exactly one succeeds, for a new entry and for a known revision.
pub async fn put_if_raced_by_sixteen_writers(store: Store) {
    let mut expected = Expected::Absent;
    for round in 0..10 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let store = store.clone();
            writers.spawn(async move { (writer, store.put_if(&key("leader"), Bytes::from(format!("{round}-{writer}")), expected).await.unwrap()) });
        }
        let mut won = Vec::new();
        while let Some(done) = writers.join_next().await {
            if let (writer, PutIf::Written(revision)) = done.unwrap() {
                won.push((writer, revision));
            }
        }
        let [(writer, revision)] = won[..] else { panic!("round {round}: {won:?} won") };
        let now = store.get(&key("leader")).await.unwrap().unwrap();
        assert_eq!(now.value, format!("{round}-{writer}"));
        assert_eq!(now.revision, revision);
        expected = Expected::At(revision);
    }
    assert_eq!(store.put_if(&key("leader"), Bytes::new(), Expected::Absent).await.unwrap(), PutIf::Conflict);
}

/// A conditional write whose answer is lost: the outcome that the caller gets agrees with the store's content, and a write is not reported
/// as done unless it is known to have happened.
pub async fn put_if_with_an_unknown_outcome(store: Store, server: impl Server) {
    for (round, frozen) in [0, 200, 1_500, 4_000, 8_000].into_iter().enumerate() {
        let name = key(&format!("leader{round}"));
        put(&store, "warm", "up").await;
        server.freeze(0);
        let (writer, target) = (store.clone(), name.clone());
        let writing = tokio::spawn(async move { writer.put_if(&target, Bytes::from_static(b"mine"), Expected::Absent).await });
        tokio::time::sleep(Duration::from_millis(frozen)).await;
        server.thaw(0);
        let outcome = writing.await.unwrap();
        // Requests in progress at the thaw have ended once a later write of another client has ended.
        put(&store, "after", "wards").await;
        let found = loop {
            match store.get(&name).await {
                Ok(found) => break found,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        match outcome {
            Ok(PutIf::Written(revision)) => {
                let found = found.unwrap_or_else(|| panic!("frozen for {frozen} ms: told as written, but not there"));
                assert_eq!((found.value.as_ref(), found.revision), (&b"mine"[..], revision), "frozen for {frozen} ms");
            }
            Ok(PutIf::Conflict) => panic!("frozen for {frozen} ms: nobody else wrote"),
            Err(error) => assert!(matches!(error.kind, ErrorKind::Unreachable | ErrorKind::UnknownOutcome), "{error:?}"),
        }
        // Regardless of that outcome, exactly one of several later writers succeeds.
        let expected = store.get(&name).await.unwrap().map_or(Expected::Absent, |entry| Expected::At(entry.revision));
        let tries = [store.put_if(&name, Bytes::from_static(b"x"), expected).await, store.put_if(&name, Bytes::from_static(b"y"), expected).await];
        let wins = tries.iter().filter(|outcome| matches!(outcome, Ok(PutIf::Written(_)))).count();
        assert_eq!(wins, 1, "{tries:?}");
    }
}

/// A conditional write whose answer is lost is found to have been written. One that is delayed on its way, and may arrive at any time, has
/// an unknown outcome: neither written nor refused. `on_the_wire` encodes a value as the store's protocol does.
pub async fn put_if_whose_answer_or_itself_is_lost_on_the_way(behind: Store, plain: Store, gate: &Gate, on_the_wire: impl Fn(&str) -> Vec<u8>) {
    for (fate, value) in [(Fate::AnswerLost, "the-answer-is-lost-000"), (Fate::WriteHeld, "the-write-is-held-0000")] {
        for expected_before in [false, true] {
            let name = key(&format!("leader-{fate:?}-{expected_before}"));
            let expected = match expected_before {
                false => Expected::Absent,
                true => Expected::At(plain.put(&name, Bytes::from_static(b"before")).await.unwrap()),
            };
            put(&behind, "warm", "up").await;
            let value = format!("{value}-{expected_before:5}");
            gate.arm(on_the_wire(&value), fate);
            let outcome = behind.put_if(&name, Bytes::from(value.clone()), expected).await;
            let found = plain.get(&name).await.unwrap();
            match fate {
                Fate::AnswerLost => {
                    let found = found.expect("the write arrived");
                    assert_eq!(found.value, value);
                    assert_eq!(outcome.unwrap(), PutIf::Written(found.revision));
                }
                Fate::WriteHeld => {
                    assert_ne!(found.map(|entry| entry.value), Some(Bytes::from(value)), "the write is still on its way");
                    assert_eq!(outcome.unwrap_err().kind, ErrorKind::UnknownOutcome);
                }
            }
            gate.release();
        }
    }
}

/// Two keys that are always written together are always delivered together: `write` sets both to the same value in one transaction.
pub async fn a_transaction_is_told_whole<F: Future<Output = ()> + Send + 'static>(store: Store, write: impl Fn(String) -> F + Send + 'static) {
    let pair = ["waypost/routes/a", "waypost/routes/z"];
    let together = move |entries: &BTreeMap<Key, waypost_adapter::Entry>| {
        let value = |name: &str| entries.get(&Key::from(name.to_owned())).map(|entry| entry.value.clone());
        match pair.map(value) {
            [a, z] if a == z => Ok(()),
            [a, z] => Err(format!("half a transaction: {a:?} and {z:?}")),
        }
    };
    write("0".to_owned()).await;
    let mirror = Mirror::follow_checked(store.as_ref(), ROOT, together);
    let writing = tokio::spawn(async move {
        for number in 1..=300 {
            write(number.to_string()).await;
        }
    });
    // Listings that begin during the writes have complete transactions as well.
    let mut more = Vec::new();
    while !writing.is_finished() {
        more.push(Mirror::follow_checked(store.as_ref(), ROOT, together));
        if more.len() > 20 {
            more.remove(0).check();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    writing.await.unwrap();
    for mirror in more.iter().chain([&mirror]) {
        mirror.until(DELIVERY_TIME, "the last transaction", |mirror| mirror.entry(pair[1]).is_some_and(|entry| entry.value == "300")).await;
    }
}

/// A source without changes delivers an idle event at least every ten seconds.
pub async fn idle_is_told(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(DELIVERY_TIME, "a first Reset", |mirror| mirror.counts().0 == 1).await;
    let end = std::time::Instant::now() + Duration::from_secs(21);
    while std::time::Instant::now() < end {
        let silence = mirror.silence().unwrap();
        assert!(silence < Duration::from_secs(10), "silent for {silence:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((mirror.counts(), mirror.errors()), ((1, 0), (0, None)));
}

/// After a fault, everything written before, during and after it is delivered within [`RECOVERY_TIME`].
async fn recovers(store: &Store, mirror: &Mirror, after: &str) {
    let wanted = listing(store).await;
    mirror.until_is(RECOVERY_TIME, &wanted).await;
    put(store, &format!("routes/after-{after}"), "still there").await;
    let wanted = listing(store).await;
    mirror.until_is(RECOVERY_TIME, &wanted).await;
}

async fn prepared(store: &Store) -> Mirror {
    for number in 0..20 {
        put(store, &format!("routes/r{number}"), "before").await;
    }
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    mirror.until(DELIVERY_TIME, "all", |mirror| without_folders(mirror.values()).len() == 20).await;
    mirror.may_not_go_back(true);
    mirror
}

/// The server is killed and started again with its data.
pub async fn server_killed_and_restarted<S: Server + 'static>(store: Store, mut server: S) -> S {
    let mirror = prepared(&store).await;
    server.kill(0);
    let (lost, error) = mirror_error(&mirror).await;
    assert!(lost > 0, "the source noticed nothing");
    assert!(error.as_ref().is_some_and(|error| !error.endpoint.is_empty() && !error.remedy.is_empty()), "{error:?}");
    assert_eq!(without_folders(mirror.values()).len(), 20, "what was known stays known");
    let server = restart(server, 0).await;
    recovers(&store, &mirror, "restart").await;
    server
}

async fn mirror_error(mirror: &Mirror) -> (usize, Option<AdapterError>) {
    mirror.until(Duration::from_secs(20), "an error", |mirror| mirror.errors().0 > 0).await;
    mirror.errors()
}

async fn restart<S: Server + 'static>(mut server: S, member: usize) -> S {
    tokio::task::spawn_blocking(move || {
        server.start(member);
        server
    })
    .await
    .unwrap()
}

/// The server is frozen for longer than every time-out, then continues.
pub async fn server_frozen_for_longer_than_every_time_out<S: Server + 'static>(store: Store, server: S) {
    let mirror = prepared(&store).await;
    server.freeze(0);
    mirror_error(&mirror).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(without_folders(mirror.values()).len(), 20, "what was known stays known");
    server.thaw(0);
    recovers(&store, &mirror, "freeze").await;
}

/// Of three members the leader is killed; the others and the source continue.
pub async fn leader_of_three_killed<S: Server + 'static>(store: Store, server: S) {
    let mirror = prepared(&store).await;
    let (mut server, leader) = tokio::task::spawn_blocking(move || {
        let leader = server.leader();
        (server, leader)
    })
    .await
    .unwrap();
    server.kill(leader);
    put(&store, "routes/without-leader", "written").await;
    recovers(&store, &mirror, "election").await;
    let server = restart(server, leader).await;
    recovers(&store, &mirror, "return").await;
    drop(server);
}

/// The store returns empty.
pub async fn store_wiped<S: Server + 'static>(store: Store, mut server: S) {
    let mirror = prepared(&store).await;
    mirror.may_not_go_back(false);
    let server = tokio::task::spawn_blocking(move || {
        server.wipe();
        server
    })
    .await
    .unwrap();
    recovers(&store, &mirror, "wipe").await;
    assert_eq!(without_folders(mirror.values()).len(), 1);
    drop(server);
}

/// The error for unreachable endpoints names the endpoint.
pub async fn unreachable_endpoints_are_named(store: Store) {
    let error = store.get(&key("routes/a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    let error = store.source(ROOT).next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}

/// The source works although some endpoints do not: after errors it delivers everything.
pub async fn ordinary_life_over_errors(store: Store) {
    let mirror = Mirror::follow(store.as_ref(), ROOT);
    put(&store, "routes/a", "one").await;
    mirror.until(RECOVERY_TIME, "the value", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "one")).await;
    put(&store, "routes/a", "two").await;
    mirror.until(DELIVERY_TIME, "the change", |mirror| mirror.entry("waypost/routes/a").is_some_and(|entry| entry.value == "two")).await;
}

//! The watch stream from both sides, and the formats of past releases.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::object::Object;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{
    ApplyError, Begin, Commit, Delete, Frame, Heartbeat, Incoming, Lane, Put, ReceivedState, RelayAnswer, ReportAnswer, SourceAge, Track, decode, encode,
    read_whole, whole,
};

fn object(name: &str, value: u8) -> std::sync::Arc<Object> {
    Object::read(&format!(r#"{{"kind":"route","minLevel":1,"name":"{name}","spec":{value}}}"#)).unwrap()
}

fn version(epoch: u64, sequence: u64) -> Version {
    Version { epoch, sequence }
}

/// The frames that lead from an empty state to one route.
fn first(at: Version, cluster: &str, value: u8) -> Vec<Frame> {
    let lane = Objects::default().with([Change::Put(object("a", value))]);
    vec![
        Frame::Begin(Begin {
            version: at,
            cluster: cluster.to_owned(),
            replace: BTreeMap::from([(Lane::Stable, (0..=255).collect())]),
            base: BTreeMap::new(),
            adopts: Vec::new(),
        }),
        Frame::Put(Put::of(Lane::Stable, &object("a", value)).unwrap()),
        Frame::Track(Track { lane: Lane::Stable }),
        Frame::Commit(Commit { version: at, digests: BTreeMap::from([(Lane::Stable, lane.digest()), (Lane::Membership, Objects::default().digest())]) }),
    ]
}

/// Sends frames through the codec to a receiver.
fn receive(received: &ReceivedState, frames: Vec<Frame>) -> Result<ReceivedState, ApplyError> {
    let mut incoming = Incoming::default();
    let mut now = received.clone();
    for frame in frames {
        let line = encode(&frame).unwrap();
        let frame = decode(&line).unwrap();
        if let Some(next) = incoming.take(&now, frame)? {
            now = next;
        }
    }
    Ok(now)
}

#[test]
fn a_publication_is_applied_on_commit_and_a_delta_builds_on_it() {
    let received = receive(&ReceivedState::default(), first(version(1, 1), "c", 1)).unwrap();
    assert_eq!(received.snapshot().config.len(), 1);
    let after = Objects::default().with([Change::Put(object("b", 2))]);
    let delta = vec![
        Frame::Begin(Begin { version: version(1, 2), cluster: "c".to_owned(), replace: BTreeMap::new(), base: BTreeMap::new(), adopts: Vec::new() }),
        Frame::Delete(Delete { lane: Lane::Stable, kind: "route".to_owned(), name: "a".to_owned() }),
        Frame::Put(Put::of(Lane::Stable, &object("b", 2)).unwrap()),
        Frame::Heartbeat(Heartbeat::default()),
        Frame::Commit(Commit {
            version: version(1, 2),
            digests: BTreeMap::from([(Lane::Stable, after.digest()), (Lane::Membership, Objects::default().digest())]),
        }),
    ];
    let received = receive(&received, delta).unwrap();
    assert_eq!(received.snapshot().config, after);
    assert_eq!(received.version, version(1, 2));
}

#[test]
fn an_older_version_a_second_content_and_a_foreign_cluster_are_refused() {
    let received = receive(&ReceivedState::default(), first(version(2, 5), "c", 1)).unwrap();
    let refusal = |frames| receive(&received, frames).unwrap_err();
    assert_eq!(refusal(first(version(1, 9), "c", 1)), ApplyError::Fenced { offered: version(1, 9), highest: version(2, 5) });
    assert_eq!(refusal(first(version(2, 5), "c", 9)), ApplyError::Conflict(version(2, 5)));
    assert_eq!(refusal(first(version(3, 1), "d", 1)), ApplyError::ForeignCluster { offered: "d".to_owned(), own: "c".to_owned() });
    assert!(receive(&received, first(version(2, 5), "c", 1)).is_ok(), "the same again is harmless");
}

#[test]
fn a_result_without_the_announced_digest_is_refused() {
    let mut frames = first(version(1, 1), "c", 1);
    frames.remove(1);
    assert_eq!(receive(&ReceivedState::default(), frames).unwrap_err(), ApplyError::Digest(version(1, 1)));
}

#[test]
fn lines_out_of_place_and_objects_that_are_none_are_refused() {
    let frames = first(version(1, 1), "c", 1);
    assert!(matches!(receive(&ReceivedState::default(), frames[1..].to_vec()), Err(ApplyError::Protocol(_))));
    let forged = Put { digest: object("a", 9).digest(), ..Put::of(Lane::Stable, &object("a", 1)).unwrap() };
    assert!(matches!(receive(&ReceivedState::default(), vec![frames[0].clone(), Frame::Put(forged)]), Err(ApplyError::Protocol(_))));
}

#[test]
fn frames_and_fields_of_a_newer_release_are_passed_over() {
    let frame = decode(br#"{"type":"shiny","x":1}"#).unwrap();
    assert!(matches!(frame, Frame::Unknown));
    let frame = decode(br#"{"type":"begin","version":"1.1","cluster":"c","new":true}"#).unwrap();
    assert!(matches!(frame, Frame::Begin(_)));
}

#[test]
fn the_streams_of_all_releases_are_understood() {
    // The heartbeats of the first release had no fields.
    for (golden, heartbeat) in [(include_str!("golden/stream-1.jsonl"), Heartbeat::default()), (include_str!("golden/stream-2.jsonl"), aged())] {
        let frames: Vec<Frame> = golden.lines().map(|line| decode(line.as_bytes()).unwrap()).collect();
        assert!(frames.iter().all(|frame| !matches!(frame, Frame::Unknown)));
        assert!(frames.iter().any(|frame| matches!(frame, Frame::Heartbeat(heartbeat_frame) if *heartbeat_frame == heartbeat)));
        let received = receive(&ReceivedState::default(), frames).unwrap();
        let snapshot = received.snapshot();
        assert_eq!((received.cluster.as_str(), received.version), ("c1", version(1, 2)));
        let mut paths: Vec<&str> = snapshot.config.objects().chain(snapshot.membership.objects()).map(|object| object.path()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["endpoint/shop/a", "listener/web", "route/shop"]);
    }
}

fn aged() -> Heartbeat {
    Heartbeat { led_millis: Some(40), sources: vec![SourceAge { store: "etcd://h1:2379/waypost".to_owned(), at: 17, age_millis: Some(950) }] }
}

/// Encodes a stream in the present format; the outputs of earlier formats are stored beside it.
#[test]
fn the_present_form_is_the_golden_one() {
    use waypost_model::key::ResourceKey;
    use waypost_model::limits::Limits;
    let make = |kind, name: &str, value: &str| {
        let key = ResourceKey::new(kind, name);
        Object::compile(name, 0, &waypost_model::parse::parse(&key, value.as_bytes(), &Limits::default()).unwrap())
    };
    let listener = make(waypost_model::key::Kind::Listener, "web", r#"{"address":"127.0.0.1:8080"}"#);
    let route = make(waypost_model::key::Kind::Route, "shop", r#"{"hostnames":["shop.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#);
    let endpoint = make(waypost_model::key::Kind::Endpoint, "shop/a", "10.0.0.5:8080");
    let config = Objects::default().with([Change::Put(listener.clone()), Change::Put(route.clone())]);
    let before = Objects::default();
    let after = before.with([Change::Put(endpoint.clone())]);
    let commit = |at, membership: &Objects| {
        Frame::Commit(Commit { version: at, digests: BTreeMap::from([(Lane::Stable, config.digest()), (Lane::Membership, membership.digest())]) })
    };
    let all: Vec<u8> = (0..=255).collect();
    let frames = vec![
        Frame::Begin(Begin {
            version: version(1, 1),
            cluster: "c1".to_owned(),
            replace: BTreeMap::from([(Lane::Membership, all.clone()), (Lane::Stable, all)]),
            base: BTreeMap::new(),
            adopts: Vec::new(),
        }),
        Frame::Put(Put::of(Lane::Stable, &listener).unwrap()),
        Frame::Put(Put::of(Lane::Stable, &route).unwrap()),
        Frame::Track(Track { lane: Lane::Stable }),
        commit(version(1, 1), &before),
        Frame::Heartbeat(aged()),
        Frame::Begin(Begin { version: version(1, 2), cluster: "c1".to_owned(), replace: BTreeMap::new(), base: BTreeMap::new(), adopts: Vec::new() }),
        Frame::Put(Put::of(Lane::Membership, &endpoint).unwrap()),
        commit(version(1, 2), &after),
    ];
    let text: String = frames.iter().map(|frame| String::from_utf8(encode(frame).unwrap()).unwrap()).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/stream-2.jsonl"), &text).unwrap();
    }
    assert_eq!(text, include_str!("golden/stream-2.jsonl"), "the wire form changed: keep the old file, add a new one");
}

/// Messages of proxies in the present format equal the golden file, and the golden file is still readable.
#[test]
fn requests_and_reports_have_their_golden_forms() {
    use waypost_wire::{DrainingEndpoint, ListenerState, Load, ObjectProblem, Probed, Report, WatchRequest};
    let request = WatchRequest {
        controller: None,
        name: "edge-1".to_owned(),
        run_id: "5f0c1f3e-0000-4000-8000-000000000001".to_owned(),
        labels: BTreeMap::from([("tier".to_owned(), "edge".to_owned())]),
        cluster: Some("c1".to_owned()),
        highest: Some(version(2, 7)),
        from: Some(version(2, 6)),
        bucket_digests: BTreeMap::from([(Lane::Membership, vec![object("a", 1).digest()])]),
        level: 1,
    };
    let report = Report {
        cluster: None,
        run_id: "5f0c1f3e-0000-4000-8000-000000000001".to_owned(),
        labels: BTreeMap::from([("tier".to_owned(), "edge".to_owned())]),
        admin: "http://127.0.0.1:7410".to_owned(),
        release: "0.1.0".to_owned(),
        applied: Some(version(2, 6)),
        highest: Some(version(2, 7)),
        refused: Some("version 2.7 does not have the digest that was announced".to_owned()),
        problems: vec![ObjectProblem {
            kind: "listener".to_owned(),
            name: "web".to_owned(),
            reason: "AddressNotAvailable".to_owned(),
            message: "taken".to_owned(),
        }],
        listeners: vec![ListenerState { name: "web".to_owned(), address: "127.0.0.1:80".to_owned(), bound: false }],
        load: Load { connections: 1, in_flight: 2, requests: 3 },
        draining: vec![DrainingEndpoint { name: "shop/a".to_owned(), in_flight: 4 }],
        probed: None,
        content: None,
        age_millis: None,
        secrets: None,
    };
    let probed = Probed {
        version: version(2, 6),
        failing: BTreeMap::from([("shop/a".to_owned(), "status 503".to_owned())]),
        unsure: std::collections::BTreeSet::from(["shop/b".to_owned()]),
        ..Probed::default()
    };
    let probing = Report { probed: Some(probed), ..report.clone() };
    golden("report-2.json", &serde_json::to_string(&probing).unwrap(), include_str!("golden/report-2.json"));
    assert_eq!(serde_json::from_str::<Report>(include_str!("golden/report-2.json")).unwrap(), probing);
    let content = waypost_wire::Content { config: object("a", 1).digest(), membership: object("b", 1).digest() };
    let compared = Report { content: Some(content), age_millis: Some(1_200), secrets: Some(version(2, 1)), ..probing };
    golden("report-3.json", &serde_json::to_string(&compared).unwrap(), include_str!("golden/report-3.json"));
    assert_eq!(serde_json::from_str::<Report>(include_str!("golden/report-3.json")).unwrap(), compared);
    golden("watch-request-1.json", &serde_json::to_string(&request).unwrap(), include_str!("golden/watch-request-1.json"));
    golden("report-1.json", &serde_json::to_string(&report).unwrap(), include_str!("golden/report-1.json"));
    assert_eq!(serde_json::from_str::<WatchRequest>(include_str!("golden/watch-request-1.json")).unwrap(), request);
    assert_eq!(serde_json::from_str::<Report>(include_str!("golden/report-1.json")).unwrap(), report);
    let newer = include_str!("golden/report-1.json").trim_end().replacen('{', r#"{"mood":"good","#, 1);
    assert_eq!(serde_json::from_str::<Report>(&newer).unwrap(), report, "what a newer proxy adds is passed over");
}

/// The same for the messages between controllers.
#[test]
fn what_controllers_say_of_themselves_has_its_golden_forms() {
    use waypost_wire::{ControllerInfo, Downstream, RelayReport, RelayedEvent, Report};
    let info = ControllerInfo {
        name: "c1".to_owned(),
        url: "http://h1:7400".to_owned(),
        cluster: "c".to_owned(),
        epoch: Some(2),
        leads: true,
        version: Some(version(2, 7)),
        upstream: vec!["c2".to_owned()],
    };
    let report = Report { release: "0.1.0".to_owned(), applied: Some(version(2, 6)), ..Report::default() };
    let proxy = Downstream { name: "edge-1".to_owned(), cluster: Some("c".to_owned()), highest: version(2, 7), report: Some(report) };
    let content = waypost_wire::Content { config: object("a", 1).digest(), membership: object("b", 1).digest() };
    let event = RelayedEvent { reason: "StateDamaged".to_owned(), about: "operator.json".to_owned(), message: "torn".to_owned() };
    let relay = RelayReport {
        controller: "c2".to_owned(),
        proxies: vec![proxy],
        operated: Some((2, 3)),
        version: Some(version(2, 7)),
        content: Some(content),
        events: vec![event],
    };
    golden("controller-info-1.json", &serde_json::to_string(&info).unwrap(), include_str!("golden/controller-info-1.json"));
    golden("relay-report-1.json", &serde_json::to_string(&relay).unwrap(), include_str!("golden/relay-report-1.json"));
    assert_eq!(serde_json::from_str::<ControllerInfo>(include_str!("golden/controller-info-1.json")).unwrap(), info);
    assert_eq!(serde_json::from_str::<RelayReport>(include_str!("golden/relay-report-1.json")).unwrap(), relay);
    let (older, newer) = (r#"{"name":"c1","cluster":"c","epoch":2,"mood":"good"}"#, r#"{"controller":"c2","mood":"good"}"#);
    assert_eq!(serde_json::from_str::<ControllerInfo>(older).unwrap().epoch, Some(2), "what another release adds or has not is passed over");
    assert_eq!(serde_json::from_str::<RelayReport>(newer).unwrap().controller, "c2");
}

#[test]
fn what_a_proxy_tells_whole_is_read_again_and_nothing_less() {
    let object = |bytes: &str| Change::Put(Object::read(bytes).unwrap());
    let config = Objects::default().with([object(r#"{"kind":"route","name":"a"}"#)]);
    let membership = Objects::default().with([object(r#"{"kind":"endpoint","name":"shop/a"}"#)]);
    let snapshot = Snapshot { cluster: "c".to_owned(), version: Version { epoch: 3, sequence: 7 }, config, membership };
    let bytes = whole(&snapshot).unwrap();
    let read = read_whole(&bytes).unwrap();
    assert_eq!((read.version, read.cluster.as_str(), read.same_content(&snapshot)), (snapshot.version, "c", true));
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    for missing in 0..lines.len() {
        let less: Vec<u8> = lines.iter().enumerate().filter(|(number, _)| *number != missing).flat_map(|(_, line)| line.to_vec()).collect();
        let track = lines[missing].windows(7).any(|window| window == b"\"track\"");
        assert_eq!(read_whole(&less).is_ok(), track, "without line {missing}");
    }
    assert_eq!(serde_json::to_string(&ReportAnswer { recall: true, ..ReportAnswer::default() }).unwrap(), r#"{"recall":true}"#);
    assert!(!serde_json::from_str::<ReportAnswer>(r#"{"mood":"good"}"#).unwrap().recall, "what another release adds or has not is passed over");
    let asked = RelayAnswer { recall: Some(Version { epoch: 3, sequence: 7 }), ..RelayAnswer::default() };
    assert_eq!(serde_json::to_string(&asked).unwrap(), r#"{"recall":"3.7"}"#);
    let older: RelayAnswer = serde_json::from_str("{}").unwrap();
    assert!(older == RelayAnswer::default() && !older.takes_changes, "a leader of release 0.1 gets whole reports");
}

fn golden(name: &str, now: &str, stored: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR")), format!("{now}\n")).unwrap();
        return;
    }
    assert_eq!(now, stored.trim_end(), "{name}: the form changed: keep the old file, add a new one");
}

#[test]
fn a_cluster_that_adopts_ours_is_followed_whatever_its_versions_and_another_is_not() {
    let publication = |cluster: &str, at, adopts: &[&str]| {
        let mut frames = waypost_wire::publication(
            &waypost_model::snapshot::Snapshot {
                cluster: cluster.to_owned(),
                version: at,
                config: Objects::default().with([Change::Put(object("a", 1))]),
                ..waypost_model::snapshot::Snapshot::default()
            },
            None,
            &BTreeMap::new(),
        );
        let Some(Frame::Begin(begin)) = frames.first_mut() else { panic!("a publication begins") };
        begin.adopts = adopts.iter().map(|&name| name.to_owned()).collect();
        frames
    };
    let take = |received: &ReceivedState, frames: Vec<Frame>| {
        let mut incoming = Incoming::default();
        frames.into_iter().try_fold(None, |last, frame| Ok::<_, ApplyError>(incoming.take(received, frame)?.or(last)))
    };
    let received = take(&ReceivedState::default(), publication("c", version(7, 3), &[])).unwrap().unwrap();
    assert!(matches!(take(&received, publication("d", version(2, 1), &["b"])), Err(ApplyError::ForeignCluster { .. })));
    let moved = take(&received, publication("d", version(2, 1), &["b", "c"])).unwrap().unwrap();
    assert_eq!((moved.cluster.as_str(), moved.highest), ("d", version(2, 1)));
    assert!(matches!(take(&moved, publication("d", version(1, 9), &["c"])), Err(ApplyError::Fenced { .. })));
}

//! Golden forms of the files of controllers and of the messages between them: files of earlier releases are still read, and they can read the files
//! that this one writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use waypost_model::compile::{EntryId, EntryInput, Origin, SavedEntry, Written};
use waypost_model::lane::{Change, Lane};
use waypost_model::object::{Digest, Object};
use waypost_model::snapshot::{Snapshot, Version};

use crate::controller::disk::files::{
    ANNOUNCED_FILE, ENTRIES_FILE, GUARD_FILE, IDENTITY_FILE, OPERATOR_FILE, PROGRAMS_FILE, PUBLISHED_FILE, REVISIONS_FILE, load_entries, load_guard,
    load_identity, load_numbers, load_operator, load_programs, load_published, pack, save_entries, save_guard, save_identity, save_numbers, save_operator,
    save_programs, save_published,
};
use crate::controller::disk::history::History;
use crate::controller::rules::guard::{Judgement, Removal};
use crate::controller::rules::pins::{PinRecord, Reason};
use crate::controller::stored::entries::SavedStore;
use crate::controller::stored::identity::Identity;
use crate::controller::stored::operator::{Audit, OperatorState};
use crate::controller::stored::programs::Programs;
use crate::controller::stored::replica::{Document, Replica, ReplicaRequest};

const STORE: &str = "file:///srv/waypost";
const CONFIG: &str = "history/C0000000001.json.gz";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controller/golden-1")
}

/// The message when a form changed.
const CHANGED: &str = "the form changed: keep the old file, add a new one";

fn written(value: &[u8], revision: u64) -> Written {
    Written { value: value.into(), revision }
}

fn entries() -> Vec<SavedStore> {
    let entry = |key: &str, value: &[u8], unreadable: Option<&str>, good: Option<&[u8]>| SavedEntry {
        input: EntryInput { key: key.to_owned(), written: written(value, 7), unreadable: unreadable.map(str::to_owned) },
        last_good: good.map(|good| written(good, 6)),
    };
    vec![(STORE.to_owned(), vec![entry("routes/a", b"{\xff", None, Some(b"{}")), entry("routes/b", b"", Some("no right to read it"), None)])]
}

fn held() -> Vec<Removal> {
    let removal = |name: &str, judgement, instead| Removal {
        object: Object::read(&format!(r#"{{"kind":"route","name":"{name}"}}"#)).unwrap(),
        origin: Origin { id: EntryId { source: 0, key: format!("routes/{name}") }, written: written(b"{}", 5) },
        at: Duration::ZERO,
        date: 1_700_000_000_000,
        judgement,
        store_revision: 0,
        instead,
    };
    let held = Judgement::Held { why: "2 of 3 routes went within a minute".to_owned() };
    vec![removal("a", held, Some(Digest::of(b"instead"))), removal("b", Judgement::Waiting, None), removal("c", Judgement::Confirming, None)]
}

fn snapshot() -> Snapshot {
    let lane = |bytes: &str| Lane::default().with([Change::Put(Object::read(bytes).unwrap())]);
    let (config, membership) = (lane(r#"{"kind":"route","name":"a"}"#), lane(r#"{"kind":"endpoint","name":"shop/1"}"#));
    Snapshot { cluster: "c1".to_owned(), version: Version { epoch: 2, sequence: 7 }, config, membership }
}

fn operated() -> OperatorState {
    let mark = PinRecord {
        reason: Reason::Pinned,
        config: 1,
        by: "alice".to_owned(),
        at: 1_700_000_000_000,
        until: Some(1_700_000_060_000),
        digest: Some(Digest::of(b"config")),
    };
    let audit = Audit { at: mark.at, by: mark.by.clone(), what: mark.describe() };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let joined = BTreeSet::from_iter(names(&["proxy edge-1", "controller c1"]));
    let keys = BTreeMap::from([("proxy edge-1".to_owned(), Digest::of(b"key"))]);
    OperatorState { mark: Some(mark), audit: vec![audit], adopted: names(&["c0"]), joined, keys, count: 3, epoch: 2 }
}

fn us() -> Identity {
    let peers = BTreeMap::from([("b".to_owned(), "http://h2:7400".to_owned())]);
    Identity { cluster: "c1".to_owned(), epoch: 2, run: "5f0c1f3e".to_owned(), peers }
}

fn numbers(name: &str) -> BTreeMap<String, u64> {
    BTreeMap::from([(name.to_owned(), 7)])
}

/// The text of a file as it was written, without its checksum and unpacked.
fn text(path: &Path) -> String {
    let bytes = waypost_disk::read_exact(path).unwrap().unwrap();
    if !path.to_string_lossy().ends_with(".gz") {
        return String::from_utf8(bytes).unwrap();
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(bytes.as_slice()), &mut text).unwrap();
    text
}

/// Asserts that the text written now is the golden form of that name.
fn compare(name: &str, now: &str) {
    let file = golden().join(name.trim_end_matches(".gz"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        update(&file, now);
    }
    let saved = std::fs::read_to_string(&file).unwrap();
    assert_eq!(now, saved.trim_end_matches('\n'), "{name}: {CHANGED}");
}

fn update(file: &Path, now: &str) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, format!("{now}\n")).unwrap();
}

#[test]
fn the_files_of_a_controller_have_their_golden_forms() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, stores) = (folder.path(), [STORE.to_owned()]);
    save_entries(folder, &entries()).unwrap();
    save_guard(folder, &held(), &stores).unwrap();
    save_published(folder, &snapshot()).unwrap();
    save_numbers(folder, REVISIONS_FILE, &numbers(STORE)).unwrap();
    save_numbers(folder, ANNOUNCED_FILE, &numbers("route/a")).unwrap();
    save_operator(folder, &operated()).unwrap();
    save_identity(folder, &us()).unwrap();
    let number = History::open(folder, 3).add(snapshot().version, &snapshot().config, 1_700_000_000_000, &entries()).unwrap();
    assert_eq!(number, 1);
    let all = [ENTRIES_FILE, GUARD_FILE, PUBLISHED_FILE, REVISIONS_FILE, ANNOUNCED_FILE, OPERATOR_FILE, IDENTITY_FILE, CONFIG];
    for name in all {
        compare(name, &text(&folder.join(name)));
    }
}

#[test]
fn golden_files_of_a_controller_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, stores) = (folder.path(), [STORE.to_owned()]);
    for name in [ENTRIES_FILE, GUARD_FILE, PUBLISHED_FILE, REVISIONS_FILE, ANNOUNCED_FILE, OPERATOR_FILE, IDENTITY_FILE, CONFIG] {
        let text = std::fs::read_to_string(golden().join(name.trim_end_matches(".gz"))).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let bytes = if name.ends_with(".gz") { pack(&json).unwrap() } else { text.into_bytes() };
        waypost_disk::write(&folder.join(name), &bytes).unwrap();
    }
    assert_eq!(load_entries(folder).unwrap().value, entries());
    let debug = |all: Vec<Removal>| format!("{all:?}");
    assert_eq!(debug(load_guard(folder, &stores).unwrap().value), debug(held()));
    let published = load_published(folder).unwrap().value.unwrap();
    assert!(published.version == snapshot().version && published.same_content(&snapshot()) && published.cluster == "c1");
    assert_eq!(load_numbers(folder, REVISIONS_FILE).unwrap().value, numbers(STORE));
    assert_eq!(load_numbers(folder, ANNOUNCED_FILE).unwrap().value, numbers("route/a"));
    assert_eq!(load_operator(folder), (operated(), None));
    assert_eq!(load_identity(folder).unwrap().value, us());
    let history = History::open(folder, 3);
    assert_eq!((history.lane(1).unwrap(), history.entries(1).unwrap()), (snapshot().config, entries()));
}

/// Every kind of line, and a follower's request.
fn lines() -> Vec<String> {
    let replica = Replica { at: numbers(STORE), removals: held(), expected: vec!["route/a".to_owned()], entries: entries() };
    let documents = [
        replica.document(&[STORE.to_owned()]),
        Document::Operator { saved: operated(), left: Some(60_000) },
        Document::Config { number: 1, digest: "ab".to_owned(), file: "eA==".to_owned() },
        Document::Heartbeat,
    ];
    let request = ReplicaRequest { empty: true, configs: BTreeMap::from([(1, "ab".to_owned())]), programs: false };
    documents.iter().map(|document| serde_json::to_string(document).unwrap()).chain([serde_json::to_string(&request).unwrap()]).collect()
}

fn joined() -> Programs {
    let mut programs = Programs::default();
    programs.join("proxy edge-1".to_owned(), Some(Digest::of(b"key")), 1_700_000_000_000);
    programs.join("controller c1".to_owned(), None, 1_700_000_000_000);
    programs
}

#[test]
fn the_programs_that_have_joined_have_their_golden_forms() {
    let folder = tempfile::tempdir().unwrap();
    save_programs(folder.path(), &joined()).unwrap();
    compare(PROGRAMS_FILE, &text(&folder.path().join(PROGRAMS_FILE)));
    let (all, _) = joined().since(None);
    let request = ReplicaRequest { programs: true, ..ReplicaRequest::default() };
    let lines = [serde_json::to_string(&Document::Programs { joined: all.clone() }).unwrap(), serde_json::to_string(&request).unwrap()];
    compare("replica-2.jsonl", &lines.join("\n"));
    let mut read = load_programs(folder.path()).unwrap().value;
    assert!(read.iter().count() == 2 && !read.merge(all.clone()));
    let line = std::fs::read_to_string(golden().join("replica-2.jsonl")).unwrap();
    let Document::Programs { joined } = serde_json::from_str(line.lines().next().unwrap()).unwrap() else { panic!("{line}") };
    let mut programs = Programs::default();
    assert!(programs.merge(joined) && !programs.merge(all), "what is read is what was written");
}

#[test]
fn programs_in_the_operators_record_of_release_0_1_are_taken_over() {
    let mut operated = operated();
    let programs = operated.take_programs(7);
    assert!(operated.joined.is_empty() && operated.keys.is_empty());
    assert!(programs.has_room("proxy edge-1", Some(Digest::of(b"key"))) && !programs.has_room("controller c1", None));
    assert_eq!(operated.with_programs(&programs), self::operated(), "a follower of that release gets them as before");
}

#[test]
fn the_stream_from_a_leader_to_its_followers_has_its_golden_form() {
    compare("replica.jsonl", &lines().join("\n"));
    let text = std::fs::read_to_string(golden().join("replica.jsonl")).unwrap();
    let mut read = text.lines();
    let Document::State { at, removals: lines, expected, entries: saved } = serde_json::from_str(read.next().unwrap()).unwrap() else { panic!("{text}") };
    let replica = Replica::read(at, lines, expected, saved, &[STORE.to_owned()]).unwrap();
    assert_eq!((replica.at, format!("{:?}", replica.removals), replica.entries), (numbers(STORE), format!("{:?}", held()), entries()));
    let Document::Operator { saved, left: Some(60_000) } = serde_json::from_str(read.next().unwrap()).unwrap() else { panic!("{text}") };
    assert_eq!(saved, operated());
    assert!(matches!(serde_json::from_str(read.next().unwrap()).unwrap(), Document::Config { number: 1, .. }));
    assert!(matches!(serde_json::from_str(read.next().unwrap()).unwrap(), Document::Heartbeat));
    assert_eq!(serde_json::from_str::<ReplicaRequest>(read.next().unwrap()).unwrap().configs.len(), 1);
    assert!(matches!(serde_json::from_str(r#"{"type":"newer","x":1}"#).unwrap(), Document::Unknown));
}

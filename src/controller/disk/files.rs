//! The files of a controller: every entry with its last good value, the held removals, and the published snapshot.

use std::collections::BTreeMap;
use std::io;
use std::io::{Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Snapshot;

use crate::controller::message::Input;
use crate::controller::rules::guard::Removal;
use crate::controller::stored::entries::{SavedStore, StoredEntries};
use crate::controller::stored::identity::Identity;
use crate::controller::stored::operator::OperatorState;
use crate::controller::stored::programs::Programs;
use crate::controller::stored::published::{Published, lane_of, objects_of};
use crate::controller::stored::removals::StoredRemoval;

/// The entries of all stores.
pub const ENTRIES_FILE: &str = "entries.json.gz";
/// The held removals.
pub const GUARD_FILE: &str = "guard.json.gz";
/// The published snapshot.
pub const PUBLISHED_FILE: &str = "published.json.gz";
/// How far stores have been read, by their URLs.
pub const REVISIONS_FILE: &str = "revisions.json";
/// Removals that operators approved in advance: the dates until which that is good, by path.
pub const ANNOUNCED_FILE: &str = "announced.json";

/// The result of reading a file of the state directory.
#[derive(Debug, Default)]
pub struct Loaded<T> {
    /// The content.
    pub value: T,
    /// The part of the file that cannot be used, and why, as a note for people.
    pub note: Option<String>,
}

impl<T> Loaded<T> {
    fn map<U>(self, change: impl FnOnce(T) -> Result<U, String>) -> Result<Loaded<U>, String> {
        Ok(Loaded { value: change(self.value)?, note: self.note })
    }
}

/// The content of a file, or the default if it cannot be used, and an event that says which part is lost, if any is.
pub fn usable<T: Default>(file: &str, read: Result<Loaded<T>, String>, cost: &str) -> (T, Option<Input>) {
    match read {
        Ok(Loaded { value, note }) => (value, note.map(|note| Input::damaged(file, note))),
        Err(error) => (T::default(), Some(Input::damaged(file, format!("{error}; {cost}")))),
    }
}

/// Reads a file of the state directory, or its previous generation; the default if there is neither. A file that was being replaced when the process
/// was killed is no loss, because its content had not been acknowledged.
pub(crate) fn load<T: Default>(folder: &Path, name: &str, parse: impl FnOnce(&[u8]) -> io::Result<T>) -> Result<Loaded<T>, String> {
    let file = folder.join(name);
    let Some(content) = waypost_disk::read(&file).map_err(|error| error.to_string())? else { return Ok(Loaded::default()) };
    let value = parse(&content.bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Loaded { value, note: content.fallback.filter(|_| file.exists()) })
}

/// Writes the entries of all stores, named by their URLs.
///
/// # Errors
/// The disk refused.
pub fn save_entries(folder: &Path, stores: &[SavedStore]) -> io::Result<()> {
    let saved: Vec<StoredEntries> = stores.iter().map(StoredEntries::of).collect();
    waypost_disk::write(&folder.join(ENTRIES_FILE), &pack(&saved)?)
}

/// Reads the entries of all stores.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_entries(folder: &Path) -> Result<Loaded<Vec<SavedStore>>, String> {
    load(folder, ENTRIES_FILE, unpack)?.map(|saved: Vec<StoredEntries>| Ok(saved.into_iter().map(StoredEntries::into_store).collect()))
}

/// Writes numbers by name to a file of that name.
///
/// # Errors
/// The disk refused.
pub fn save_numbers(folder: &Path, name: &str, numbers: &BTreeMap<String, u64>) -> io::Result<()> {
    let file = folder.join(name);
    if numbers.is_empty() && !file.exists() {
        return Ok(());
    }
    waypost_disk::write(&file, &serde_json::to_vec(numbers)?)
}

/// Reads numbers by name from a file; none if there is no such file.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_numbers(folder: &Path, name: &str) -> Result<Loaded<BTreeMap<String, u64>>, String> {
    load(folder, name, |bytes| Ok(serde_json::from_slice(bytes)?))
}

/// Writes the held removals of the stores with these URLs.
///
/// # Errors
/// The disk refused.
pub fn save_guard(folder: &Path, removals: &[Removal], stores: &[String]) -> io::Result<()> {
    let file = folder.join(GUARD_FILE);
    if removals.is_empty() && !file.exists() {
        return Ok(());
    }
    waypost_disk::write(&file, &pack(&removals.iter().map(|removal| StoredRemoval::of(removal, stores)).collect::<Vec<_>>())?)
}

/// Reads the held removals of these stores.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_guard(folder: &Path, stores: &[String]) -> Result<Loaded<Vec<Removal>>, String> {
    let loaded: Loaded<Vec<StoredRemoval>> = load(folder, GUARD_FILE, unpack)?;
    let count = loaded.value.len();
    let mut removals = loaded.map(|lines| lines.into_iter().filter_map(|line| line.removal(stores).transpose()).collect::<Result<Vec<_>, _>>())?;
    let lost = count - removals.value.len();
    if lost > 0 && removals.note.is_none() {
        removals.note = Some(format!("{lost} of {count} things that were held are of a store that is not given any more, and are judged anew"));
    }
    Ok(removals)
}

/// Writes the published snapshot.
///
/// # Errors
/// The disk refused.
pub fn save_published(folder: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let (config, membership) = (objects_of(&snapshot.config), objects_of(&snapshot.membership));
    waypost_disk::write(&folder.join(PUBLISHED_FILE), &pack(&Published { cluster: snapshot.cluster.clone(), version: snapshot.version, config, membership })?)
}

/// Reads the snapshot that was published last; `None` if there is none.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_published(folder: &Path) -> Result<Loaded<Option<Snapshot>>, String> {
    load(folder, PUBLISHED_FILE, |bytes| unpack(bytes).map(Some))?.map(|published: Option<Published>| {
        let Some(published) = published else { return Ok(None) };
        let (config, membership) = (lane_of(&published.config)?, lane_of(&published.membership)?);
        Ok(Some(Snapshot { cluster: published.cluster, version: published.version, config, membership }))
    })
}

/// The identity of this controller.
pub const IDENTITY_FILE: &str = "identity.json";
/// The record of operators' actions and the pin.
pub const OPERATOR_FILE: &str = "operator.json";

/// Reads the identity of this controller; an empty one if there is no such file.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_identity(folder: &Path) -> Result<Loaded<Identity>, String> {
    load(folder, IDENTITY_FILE, |bytes| Ok(serde_json::from_slice(bytes)?))
}

/// Writes the identity of this controller.
///
/// # Errors
/// The disk refused.
pub fn save_identity(folder: &Path, identity: &Identity) -> io::Result<()> {
    waypost_disk::write(&folder.join(IDENTITY_FILE), &serde_json::to_vec(identity)?)
}

/// Reads the record of operators' actions, or its usable part, and the reason if that is not the newest record.
pub fn load_operator(folder: &Path) -> (OperatorState, Option<String>) {
    match load(folder, OPERATOR_FILE, |bytes| Ok(serde_json::from_slice(bytes)?)) {
        Ok(Loaded { value, note }) => (value, note),
        Err(error) => (OperatorState::default(), Some(error)),
    }
}

/// Writes the record of operators' actions.
///
/// # Errors
/// The disk refused.
pub fn save_operator(folder: &Path, state: &OperatorState) -> io::Result<()> {
    waypost_disk::write(&folder.join(OPERATOR_FILE), &serde_json::to_vec(state)?)
}

/// The programs that have joined.
pub const PROGRAMS_FILE: &str = "programs.json";

/// Reads the programs that have joined; none if there is no such file.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_programs(folder: &Path) -> Result<Loaded<Programs>, String> {
    load(folder, PROGRAMS_FILE, |bytes| Ok(serde_json::from_slice(bytes)?))
}

/// Writes the programs that have joined.
///
/// # Errors
/// The disk refused.
pub fn save_programs(folder: &Path, programs: &Programs) -> io::Result<()> {
    waypost_disk::write(&folder.join(PROGRAMS_FILE), &serde_json::to_vec(programs)?)
}

pub(crate) fn pack(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&serde_json::to_vec(value)?)?;
    encoder.finish()
}

pub(crate) fn unpack<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<T> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use waypost_model::compile::{EntryId, EntryInput, Origin, SavedEntry, Written};
    use waypost_model::object::{Digest, Object};

    use super::*;
    use crate::controller::rules::guard::{Guard, Judgement, Thresholds};
    use crate::controller::stored::entries::{Exported, same_store};

    #[test]
    fn held_removals_are_read_back_with_their_authors_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (stores, swapped) = (["file:///a", "file:///b"].map(str::to_owned), ["file:///b", "file:///a"].map(str::to_owned));
        assert!(load_guard(folder.path(), &stores).unwrap().value.is_empty());
        let removal = Removal {
            object: Object::read(r#"{"kind":"route","name":"r"}"#).unwrap(),
            origin: Origin { id: EntryId { source: 1, key: "routes/r".to_owned() }, written: Written { value: b"\xff".as_slice().into(), revision: 7 } },
            at: Duration::from_secs(5),
            date: 9,
            judgement: Judgement::Held { why: "a listener went".to_owned() },
            store_revision: 0,
            instead: Some(Digest::of(b"what is written now")),
        };
        save_guard(folder.path(), std::slice::from_ref(&removal), &stores).unwrap();
        assert_eq!(load_guard(folder.path(), &swapped).unwrap().value[0].origin.id.source, 0, "stores are given in another order");
        let one = load_guard(folder.path(), &stores[..1]).unwrap();
        assert!(one.value.is_empty() && one.note.unwrap().contains("1 of 1 things that were held"), "its store is not given any more");
        let found = load_guard(folder.path(), &stores).unwrap().value.remove(0);
        assert_eq!(
            (found.object, found.origin, found.date, found.judgement, found.instead),
            (removal.object, removal.origin, removal.date, removal.judgement, removal.instead)
        );
        save_guard(folder.path(), &[], &stores).unwrap();
        assert!(load_guard(folder.path(), &stores).unwrap().value.is_empty());
        std::fs::write(folder.path().join(GUARD_FILE), b"torn").unwrap();
        let (before, event) = usable(GUARD_FILE, load_guard(folder.path(), &stores), "lost");
        let Some(Input::Event { reason: "StateDamaged", message, .. }) = event else { panic!("{event:?}") };
        assert!(before.len() == 1 && message.ends_with("the generation before it is used"), "{message}");
    }

    #[test]
    fn an_announced_removal_is_remembered_over_a_restart_until_its_date() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_numbers(folder.path(), ANNOUNCED_FILE).unwrap().value.is_empty());
        let guard = |announced, now| {
            let mut guard = Guard::new(Thresholds::default());
            guard.restore_expected(announced, now);
            guard
        };
        let mut before = guard(BTreeMap::new(), (Duration::ZERO, 0));
        before.expect(vec!["route/r".to_owned()], Duration::from_secs(10));
        save_numbers(folder.path(), ANNOUNCED_FILE, &before.expected_until((Duration::from_secs(20), 1_000_000))).unwrap();
        let approved = |date| {
            guard(load_numbers(folder.path(), ANNOUNCED_FILE).unwrap().value, (Duration::from_secs(1), date)).expected_until((Duration::from_secs(1), date))
        };
        assert_eq!(approved(1_200_000), BTreeMap::from([("route/r".to_owned(), 1_290_000)]));
        assert!(approved(1_290_000).is_empty(), "that was too late");
        assert_eq!(approved(0)["route/r"], 300_000, "a clock that went back makes it no longer");
        save_numbers(folder.path(), ANNOUNCED_FILE, &BTreeMap::new()).unwrap();
        assert!(load_numbers(folder.path(), ANNOUNCED_FILE).unwrap().value.is_empty());
    }

    fn saved(key: &str, value: &[u8], good: Option<&[u8]>) -> SavedEntry {
        let written = |value: &[u8], revision| Written { value: value.into(), revision };
        SavedEntry { input: EntryInput { key: key.to_owned(), written: written(value, 2), unreadable: None }, last_good: good.map(|value| written(value, 1)) }
    }

    #[test]
    fn entries_come_back_byte_by_byte_with_their_last_good_values() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_entries(folder.path()).unwrap().value.is_empty());
        let all = vec![("file:///a".to_owned(), vec![saved("routes/a", b"{\"x\":\xff}", Some(b"{}")), saved("endpoints/a/b", b"", None)])];
        save_entries(folder.path(), &all).unwrap();
        assert_eq!(load_entries(folder.path()).unwrap().value, all);
    }

    #[test]
    fn a_store_is_recognised_by_any_of_its_endpoints() {
        assert!(same_store("etcd://h1:1,h2:1/waypost", "etcd://h2:1,h3:1/waypost"));
        assert!(same_store("etcd://h1:1/waypost", "etcds://h1:1/waypost"));
        for other in ["etcd://h3:1/waypost", "etcd://h1:1/other", "consul://h1:1/waypost"] {
            assert!(!same_store("etcd://h1:1/waypost", other), "{other}");
        }
        assert!(same_store("file:///a/b", "file:///a/b") && !same_store("file:///a/b", "file:///a/c"));
    }

    #[test]
    fn the_export_contains_the_values_that_serve() {
        let unreadable = SavedEntry { input: EntryInput { unreadable: Some("no right".to_owned()), ..saved("routes/c", b"", None).input }, last_good: None };
        let route = br#"{"rules":[]}"#;
        let entries = vec![
            saved("routes/a", route, None),
            saved("routes/b", b"bad", Some(b"good")),
            unreadable,
            saved("routes/never", b"bad", None),
            saved("routes/a/b", route, None),
            saved("current", b"v2", None),
        ];
        let exported = Exported::of(("s".to_owned(), entries));
        let entries: Vec<(&str, &[u8])> = exported.entries.iter().map(|(key, value)| (key.as_str(), value.as_ref())).collect();
        assert_eq!(entries, [("routes/a", route.as_slice()), ("routes/b", b"good"), ("current", b"v2")]);
    }
}

//! What a controller keeps on disk: every entry with its last good value, what the guard keeps, and what is published.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use waypost_model::compile::{CURRENT, EntryId, EntryInput, Origin, SavedEntry, Written};
use waypost_model::key::{Place, place};
use waypost_model::lane::{Change, Lane};
use waypost_model::limits::Limits;
use waypost_model::object::{Digest, Object};
use waypost_model::parse::parse;
use waypost_model::snapshot::{Snapshot, Version};

use super::guard::{Fate, Gone};
use super::step::Input;

/// An entry as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    key: String,
    value: String,
    revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_good: Option<Good>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Good {
    value: String,
    revision: u64,
}

/// The entries of one store, as they are written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    store: String,
    entries: Vec<Line>,
}

impl Saved {
    /// As they are written.
    pub fn of((store, entries): &SavedStore) -> Self {
        Self { store: store.clone(), entries: entries.iter().map(line).collect() }
    }

    /// As they were; what cannot be read is left out.
    pub fn into_store(self) -> SavedStore {
        (self.store, self.entries.into_iter().filter_map(entry).collect())
    }
}

fn line(entry: &SavedEntry) -> Line {
    let encode = |written: &Written| STANDARD.encode(&written.value);
    Line {
        key: entry.input.key.clone(),
        value: encode(&entry.input.written),
        revision: entry.input.written.revision,
        unreadable: entry.input.unreadable.clone(),
        last_good: entry.last_good.as_ref().map(|good| Good { value: encode(good), revision: good.revision }),
    }
}

fn entry(line: Line) -> Option<SavedEntry> {
    let decode = |value: &str, revision| STANDARD.decode(value).ok().map(|value| Written { value: value.into(), revision });
    let last_good = match line.last_good {
        Some(good) => Some(decode(&good.value, good.revision)?),
        None => None,
    };
    let written = decode(&line.value, line.revision)?;
    Some(SavedEntry { input: EntryInput { key: line.key, written, unreadable: line.unreadable }, last_good })
}

/// The entries of one store, by its URL.
pub type SavedStore = (String, Vec<SavedEntry>);

/// The authors' bytes of one store, as they serve.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The store's URL.
    pub store: String,
    /// Keys below the root, and values.
    pub entries: Vec<(String, Arc<[u8]>)>,
}

impl Exported {
    /// What serves of these entries: the last good value where the current one was refused, nothing of one that could
    /// never be read.
    pub fn of((store, entries): SavedStore) -> Self {
        let value = |entry: SavedEntry| {
            let SavedEntry { input: EntryInput { key, written, unreadable }, last_good } = entry;
            let serves = match place(&key, written.value.is_empty()) {
                _ if last_good.is_some() => true,
                Place::Resource { resource, .. } => unreadable.is_none() && parse(&resource, &written.value, &Limits::unbounded()).is_ok(),
                Place::Current => unreadable.is_none(),
                Place::Folder | Place::Unknown(_) => false,
            };
            serves.then(|| (key, last_good.unwrap_or(written).value))
        };
        Self { store, entries: entries.into_iter().filter_map(value).collect() }
    }
}

/// What serves: the entries of the stores, and what is `held` of each of them although it is gone or is something else there.
pub fn with_held(mut stores: Vec<SavedStore>, held: &[Exported]) -> Vec<SavedStore> {
    for Exported { store, entries } in held {
        let Some((_, known)) = stores.iter_mut().find(|(url, _)| url == store) else { continue };
        // A tree that is active stays so: what is held of another one is only written back with its own.
        let active = known.iter().any(|entry| entry.input.key == CURRENT);
        let entries: Vec<&(String, Arc<[u8]>)> = entries.iter().filter(|(key, _)| !(active && key == CURRENT)).collect();
        let keys: std::collections::HashSet<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
        known.retain(|entry| !keys.contains(entry.input.key.as_str()));
        let entry = |(key, value): &(String, Arc<[u8]>)| {
            let written = Written { value: value.clone(), revision: 0 };
            SavedEntry { input: EntryInput { key: key.clone(), written, unreadable: None }, last_good: None }
        };
        known.extend(entries.into_iter().map(entry));
    }
    stores
}

/// Whether two URLs name the same store: the same scheme and root, and an endpoint in common.
pub fn same_store(a: &str, b: &str) -> bool {
    fn parts(url: &str) -> Option<(&str, &str, &str)> {
        let (scheme, rest) = url.split_once("://")?;
        let (hosts, root) = rest.split_once('/').unwrap_or((rest, ""));
        Some((scheme.trim_end_matches('s'), hosts, root))
    }
    let (Some(a), Some(b)) = (parts(a), parts(b)) else { return a == b };
    (a.0, a.2) == (b.0, b.2) && a.1.split(',').any(|host| b.1.split(',').any(|other| host == other))
}

/// The entries of all stores.
pub const ENTRIES: &str = "entries.json.gz";
/// What the guard keeps.
pub const GUARD: &str = "guard.json.gz";
/// What is published.
pub const PUBLISHED: &str = "published.json.gz";
/// How far stores have been read, by their URLs.
pub const REVISIONS: &str = "revisions.json";
/// Until which dates what operators announced may go, by path.
pub const ANNOUNCED: &str = "announced.json";

/// What was read of a file of the state directory.
#[derive(Debug, Default)]
pub struct Loaded<T> {
    /// What it says.
    pub value: T,
    /// What is not used of it, and why: people should know.
    pub note: Option<String>,
}

impl<T> Loaded<T> {
    fn map<U>(self, change: impl FnOnce(T) -> Result<U, String>) -> Result<Loaded<U>, String> {
        Ok(Loaded { value: change(self.value)?, note: self.note })
    }
}

/// What a file has, nothing if it cannot be used; and what is told if it is not all there, with what that costs.
pub fn usable<T: Default>(file: &str, read: Result<Loaded<T>, String>, cost: &str) -> (T, Option<Input>) {
    match read {
        Ok(Loaded { value, note }) => (value, note.map(|note| Input::damaged(file, note))),
        Err(error) => (T::default(), Some(Input::damaged(file, format!("{error}; {cost}")))),
    }
}

/// Reads a file of the state directory, or its generation before; the default if there is none. A file that was being replaced when
/// the process was killed is no loss: nobody was told that it is done.
pub(super) fn load<T: Default>(folder: &Path, name: &str, parse: impl FnOnce(&[u8]) -> io::Result<T>) -> Result<Loaded<T>, String> {
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
    let saved: Vec<Saved> = stores.iter().map(Saved::of).collect();
    waypost_disk::write(&folder.join(ENTRIES), &pack(&saved)?)
}

/// Reads the entries of all stores.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_entries(folder: &Path) -> Result<Loaded<Vec<SavedStore>>, String> {
    load(folder, ENTRIES, unpack)?.map(|saved: Vec<Saved>| Ok(saved.into_iter().map(Saved::into_store).collect()))
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

/// Reads them; none if there is no such file.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_numbers(folder: &Path, name: &str) -> Result<Loaded<BTreeMap<String, u64>>, String> {
    load(folder, name, |bytes| Ok(serde_json::from_slice(bytes)?))
}

/// What the guard keeps, as it is written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptLine {
    object: String,
    /// The number of its store where it was written.
    source: usize,
    /// The URL of its store; earlier releases did not write it.
    #[serde(default)]
    store: String,
    key: String,
    value: String,
    revision: u64,
    date: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instead: Option<Digest>,
    #[serde(flatten)]
    fate: Fate,
}

impl KeptLine {
    /// As it is written; `stores` are our stores' URLs.
    pub fn of(gone: &Gone, stores: &[String]) -> Self {
        let source = gone.origin.id.source;
        Self {
            object: gone.object.bytes().to_owned(),
            source,
            store: stores.get(source).cloned().unwrap_or_default(),
            key: gone.origin.id.key.clone(),
            value: STANDARD.encode(&gone.origin.written.value),
            revision: gone.origin.written.revision,
            date: gone.date,
            instead: gone.instead,
            fate: gone.fate.clone(),
        }
    }

    /// As it was, if its store is one of `stores`: they may have another order here, or since.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn gone(self, stores: &[String]) -> Result<Option<Gone>, String> {
        let named = |store: &str| stores.iter().position(|url| same_store(url, store));
        let Some(source) = Some(self.store.as_str()).filter(|store| !store.is_empty()).map_or(Some(self.source), named) else { return Ok(None) };
        let written = Written { value: STANDARD.decode(&self.value).map_err(|error| error.to_string())?.into(), revision: self.revision };
        let origin = Origin { id: EntryId { source, key: self.key }, written };
        let object = Object::read(&self.object)?;
        Ok(Some(Gone { object, origin, at: Duration::ZERO, date: self.date, fate: self.fate, seen: 0, instead: self.instead }))
    }
}

/// Writes what the guard keeps of stores with these URLs.
///
/// # Errors
/// The disk refused.
pub fn save_guard(folder: &Path, kept: &[Gone], stores: &[String]) -> io::Result<()> {
    let file = folder.join(GUARD);
    if kept.is_empty() && !file.exists() {
        return Ok(());
    }
    waypost_disk::write(&file, &pack(&kept.iter().map(|gone| KeptLine::of(gone, stores)).collect::<Vec<_>>())?)
}

/// Reads what the guard kept of these stores.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_guard(folder: &Path, stores: &[String]) -> Result<Loaded<Vec<Gone>>, String> {
    let loaded: Loaded<Vec<KeptLine>> = load(folder, GUARD, unpack)?;
    let count = loaded.value.len();
    let mut kept = loaded.map(|lines| lines.into_iter().filter_map(|line| line.gone(stores).transpose()).collect::<Result<Vec<_>, _>>())?;
    let lost = count - kept.value.len();
    if lost > 0 && kept.note.is_none() {
        kept.note = Some(format!("{lost} of {count} things that were held are of a store that is not given any more, and are judged anew"));
    }
    Ok(kept)
}

/// What is published, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Published {
    cluster: String,
    version: Version,
    config: Vec<String>,
    membership: Vec<String>,
}

/// The objects of a lane, as they are written.
pub(super) fn objects_of(lane: &Lane) -> Vec<String> {
    lane.objects().map(|object| object.bytes().to_owned()).collect()
}

/// The lane of objects as they are written.
pub(super) fn lane_of(objects: &[String]) -> Result<Lane, String> {
    let objects = objects.iter().map(|bytes| Object::read(bytes).map(Change::Put)).collect::<Result<Vec<_>, _>>()?;
    Ok(Lane::default().with(objects))
}

/// Writes what is published.
///
/// # Errors
/// The disk refused.
pub fn save_published(folder: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let (config, membership) = (objects_of(&snapshot.config), objects_of(&snapshot.membership));
    waypost_disk::write(&folder.join(PUBLISHED), &pack(&Published { cluster: snapshot.cluster.clone(), version: snapshot.version, config, membership })?)
}

/// Reads what was published last; nothing if there is none.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_published(folder: &Path) -> Result<Loaded<Option<Snapshot>>, String> {
    load(folder, PUBLISHED, |bytes| unpack(bytes).map(Some))?.map(|published: Option<Published>| {
        let Some(published) = published else { return Ok(None) };
        let (config, membership) = (lane_of(&published.config)?, lane_of(&published.membership)?);
        Ok(Some(Snapshot { cluster: published.cluster, version: published.version, config, membership }))
    })
}

pub(super) fn pack(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&serde_json::to_vec(value)?)?;
    encoder.finish()
}

pub(super) fn unpack<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<T> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::super::guard::{Guard, Thresholds};
    use super::*;

    #[test]
    fn what_the_guard_keeps_comes_back_with_its_authors_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (stores, swapped) = (["file:///a", "file:///b"].map(str::to_owned), ["file:///b", "file:///a"].map(str::to_owned));
        assert!(load_guard(folder.path(), &stores).unwrap().value.is_empty());
        let gone = Gone {
            object: Object::read(r#"{"kind":"route","name":"r"}"#).unwrap(),
            origin: Origin { id: EntryId { source: 1, key: "routes/r".to_owned() }, written: Written { value: b"\xff".as_slice().into(), revision: 7 } },
            at: Duration::from_secs(5),
            date: 9,
            fate: Fate::Held { why: "a listener went".to_owned() },
            seen: 0,
            instead: Some(Digest::of(b"what is written now")),
        };
        save_guard(folder.path(), std::slice::from_ref(&gone), &stores).unwrap();
        assert_eq!(load_guard(folder.path(), &swapped).unwrap().value[0].origin.id.source, 0, "stores are given in another order");
        let one = load_guard(folder.path(), &stores[..1]).unwrap();
        assert!(one.value.is_empty() && one.note.unwrap().contains("1 of 1 things that were held"), "its store is not given any more");
        let found = load_guard(folder.path(), &stores).unwrap().value.remove(0);
        assert_eq!((found.object, found.origin, found.date, found.fate, found.instead), (gone.object, gone.origin, gone.date, gone.fate, gone.instead));
        save_guard(folder.path(), &[], &stores).unwrap();
        assert!(load_guard(folder.path(), &stores).unwrap().value.is_empty());
        std::fs::write(folder.path().join(GUARD), b"torn").unwrap();
        let (before, told) = usable(GUARD, load_guard(folder.path(), &stores), "lost");
        let Some(Input::Event { reason: "StateDamaged", message, .. }) = told else { panic!("{told:?}") };
        assert!(before.len() == 1 && message.ends_with("the generation before it is used"), "{message}");
    }

    #[test]
    fn what_is_announced_is_known_after_a_restart_until_its_date() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_numbers(folder.path(), ANNOUNCED).unwrap().value.is_empty());
        let guard = |announced, now| {
            let mut guard = Guard::new(Thresholds::default());
            guard.restore_expected(announced, now);
            guard
        };
        let mut before = guard(BTreeMap::new(), (Duration::ZERO, 0));
        before.expect(vec!["route/r".to_owned()], Duration::from_secs(10));
        save_numbers(folder.path(), ANNOUNCED, &before.expected_until((Duration::from_secs(20), 1_000_000))).unwrap();
        let known =
            |date| guard(load_numbers(folder.path(), ANNOUNCED).unwrap().value, (Duration::from_secs(1), date)).expected_until((Duration::from_secs(1), date));
        assert_eq!(known(1_200_000), BTreeMap::from([("route/r".to_owned(), 1_290_000)]));
        assert!(known(1_290_000).is_empty(), "that was too late");
        assert_eq!(known(0)["route/r"], 300_000, "a clock that went back makes it no longer");
        save_numbers(folder.path(), ANNOUNCED, &BTreeMap::new()).unwrap();
        assert!(load_numbers(folder.path(), ANNOUNCED).unwrap().value.is_empty());
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
    fn a_store_is_known_again_by_any_of_its_endpoints() {
        assert!(same_store("etcd://h1:1,h2:1/waypost", "etcd://h2:1,h3:1/waypost"));
        assert!(same_store("etcd://h1:1/waypost", "etcds://h1:1/waypost"));
        for other in ["etcd://h3:1/waypost", "etcd://h1:1/other", "consul://h1:1/waypost"] {
            assert!(!same_store("etcd://h1:1/waypost", other), "{other}");
        }
        assert!(same_store("file:///a/b", "file:///a/b") && !same_store("file:///a/b", "file:///a/c"));
    }

    #[test]
    fn what_is_exported_is_what_serves() {
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
        let told: Vec<(&str, &[u8])> = exported.entries.iter().map(|(key, value)| (key.as_str(), value.as_ref())).collect();
        assert_eq!(told, [("routes/a", route.as_slice()), ("routes/b", b"good"), ("current", b"v2")]);
    }
}

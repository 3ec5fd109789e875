//! What a controller keeps on disk: every entry with its last good value, and the history of configs.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use waypost_model::compile::{EntryId, EntryInput, Origin, SavedEntry, Written};
use waypost_model::key::{Place, place};
use waypost_model::lane::{Change, Lane};
use waypost_model::limits::Limits;
use waypost_model::object::Object;
use waypost_model::parse::parse;
use waypost_model::snapshot::Version;

use super::guard::{Fate, Gone};

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
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

#[derive(Debug, Serialize, Deserialize)]
struct Good {
    value: String,
    revision: u64,
}

/// The entries of one store.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    store: String,
    entries: Vec<Line>,
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

fn entries_file(folder: &Path) -> PathBuf {
    folder.join("entries.json.gz")
}

/// Writes the entries of all stores, named by their URLs.
///
/// # Errors
/// The disk refused.
pub fn save_entries(folder: &Path, stores: &[SavedStore]) -> io::Result<()> {
    let saved: Vec<Saved> = stores.iter().map(|(store, entries)| Saved { store: store.clone(), entries: entries.iter().map(line).collect() }).collect();
    waypost_disk::write(&entries_file(folder), &pack(&saved)?)
}

/// Reads the entries of all stores.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_entries(folder: &Path) -> Result<Vec<SavedStore>, String> {
    let Some(content) = waypost_disk::read(&entries_file(folder)).map_err(|error| error.to_string())? else { return Ok(Vec::new()) };
    if let Some(note) = &content.fallback {
        tracing::warn!("{note}");
    }
    let saved: Vec<Saved> = unpack(&content.bytes).map_err(|error| format!("{}: {error}", entries_file(folder).display()))?;
    Ok(saved.into_iter().map(|saved| (saved.store, saved.entries.into_iter().filter_map(entry).collect())).collect())
}

/// What the guard keeps, as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptLine {
    object: String,
    source: usize,
    key: String,
    value: String,
    revision: u64,
    date: u64,
    #[serde(flatten)]
    fate: Fate,
}

fn guard_file(folder: &Path) -> PathBuf {
    folder.join("guard.json.gz")
}

/// Writes what the guard keeps.
///
/// # Errors
/// The disk refused.
pub fn save_guard(folder: &Path, kept: &[Gone]) -> io::Result<()> {
    let line = |gone: &Gone| KeptLine {
        object: gone.object.bytes().to_owned(),
        source: gone.origin.id.source,
        key: gone.origin.id.key.clone(),
        value: STANDARD.encode(&gone.origin.written.value),
        revision: gone.origin.written.revision,
        date: gone.date,
        fate: gone.fate.clone(),
    };
    if kept.is_empty() && !guard_file(folder).exists() {
        return Ok(());
    }
    waypost_disk::write(&guard_file(folder), &pack(&kept.iter().map(line).collect::<Vec<_>>())?)
}

/// Reads what the guard kept.
///
/// # Errors
/// There are files, but none can be used.
pub fn load_guard(folder: &Path) -> Result<Vec<Gone>, String> {
    let Some(content) = waypost_disk::read(&guard_file(folder)).map_err(|error| error.to_string())? else { return Ok(Vec::new()) };
    if let Some(note) = &content.fallback {
        tracing::warn!("{note}");
    }
    let lines: Vec<KeptLine> = unpack(&content.bytes).map_err(|error| format!("{}: {error}", guard_file(folder).display()))?;
    let gone = |line: KeptLine| {
        let written = Written { value: STANDARD.decode(&line.value).map_err(|error| error.to_string())?.into(), revision: line.revision };
        let origin = Origin { id: EntryId { source: line.source, key: line.key }, written };
        Ok(Gone { object: Object::read(&line.object)?, origin, at: Duration::ZERO, date: line.date, fate: line.fate })
    };
    lines.into_iter().map(gone).collect()
}

fn pack(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&serde_json::to_vec(value)?)?;
    encoder.finish()
}

fn unpack<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<T> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// One config of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRecord {
    /// Its number; grows by one.
    pub number: u64,
    /// The digest of the config lane.
    pub digest: String,
    /// When it was published, in milliseconds since 1970.
    pub at: u64,
    /// The version under which it was published.
    pub version: Version,
    /// How many listeners, routes and backends it has.
    pub objects: usize,
    /// What changed since the one before, at most twenty lines.
    pub changes: Vec<String>,
}

/// A config with the authors' bytes, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    record: ConfigRecord,
    stores: Vec<Saved>,
    /// The objects, as proxies get them.
    #[serde(default)]
    objects: Vec<String>,
}

/// The ring of configs on disk.
#[derive(Debug)]
pub struct History {
    folder: PathBuf,
    keep: usize,
    records: Vec<ConfigRecord>,
    last: Lane,
    /// The number of the config that comes next.
    next: u64,
    /// The config that is held: it stays, however old.
    spare: Option<u64>,
}

impl History {
    /// Opens the ring below the state directory.
    pub fn open(state: &Path, keep: usize) -> Self {
        let folder = state.join("history");
        let mut history = Self { folder, keep: keep.max(1), records: Vec::new(), next: 1, last: Lane::default(), spare: None };
        let mut files = history.files();
        files.sort();
        for file in files {
            match history.read(&file) {
                Ok(kept) => history.records.push(kept.record),
                Err(error) => tracing::warn!("{}: {error}; this config of the history is lost", file.display()),
            }
        }
        history.next = history.records.last().map_or(1, |last| last.number + 1);
        history
    }

    fn files(&self) -> Vec<PathBuf> {
        let items = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|item| item.path());
        items.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("C"))).collect()
    }

    fn file(&self, number: u64) -> PathBuf {
        self.folder.join(format!("C{number:010}.json.gz"))
    }

    fn read(&self, file: &Path) -> Result<Kept, String> {
        let bytes = waypost_disk::read_exact(file).map_err(|error| error.to_string())?.unwrap_or_default();
        unpack(&bytes).map_err(|error| error.to_string())
    }

    /// All configs, oldest first.
    pub fn records(&self) -> &[ConfigRecord] {
        &self.records
    }

    /// The authors' entries of a config.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub fn entries(&self, number: u64) -> Result<Vec<SavedStore>, String> {
        let known = self.records.iter().any(|record| record.number == number);
        if !known {
            return Err(format!("there is no config C{number}; `waypost history` lists those there are"));
        }
        let kept = self.read(&self.file(number))?;
        Ok(kept.stores.into_iter().map(|saved| (saved.store, saved.entries.into_iter().filter_map(entry).collect())).collect())
    }

    /// The objects of a config.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub fn lane(&self, number: u64) -> Result<Lane, String> {
        let record = self.records.iter().find(|record| record.number == number);
        let record = record.ok_or_else(|| format!("there is no config C{number}; `waypost history` lists those there are"))?;
        let kept = self.read(&self.file(number))?;
        let objects = kept.objects.iter().map(|bytes| Object::read(bytes).map(Change::Put)).collect::<Result<Vec<_>, _>>()?;
        let lane = Lane::default().with(objects);
        if lane.digest().to_string() == record.digest {
            Ok(lane)
        } else {
            Err(format!("the file of C{number} does not hold its objects; export it and write it to the store"))
        }
    }

    /// Keeps a config from being trimmed.
    pub const fn spare(&mut self, number: Option<u64>) {
        self.spare = number;
    }

    /// Adds a config, unless it is the last one again, or the one that is spared. Returns its number.
    ///
    /// # Errors
    /// The disk refused; the config is to be added again later.
    pub fn add(&mut self, version: Version, config: &Lane, at: u64, stores: &[SavedStore]) -> io::Result<u64> {
        let digest = config.digest().to_string();
        let same = self.records.iter().rev().find(|record| record.digest == digest);
        let last = self.records.last().map(|last| last.number);
        if let Some(same) = same.filter(|same| Some(same.number) == last || Some(same.number) == self.spare) {
            self.last = config.clone();
            return Ok(same.number);
        }
        let told = |change: &Change| match change {
            Change::Put(object) => format!("put {}", object.path()),
            Change::Delete(path) => format!("delete {path}"),
        };
        let changes = self.last.changes_to(config);
        let mut lines: Vec<String> = changes.iter().take(20).map(told).collect();
        if changes.len() > lines.len() {
            lines.push(format!("and {} more", changes.len() - lines.len()));
        }
        let number = self.next;
        let record = ConfigRecord { number, digest, at, version, objects: config.len(), changes: lines };
        // Room first: a full disk is relieved by what goes.
        while self.records.len() >= self.keep
            && let Some(oldest) = self.records.iter().position(|record| Some(record.number) != self.spare)
        {
            let number = self.records.get(oldest).map(|record| record.number).unwrap_or_default();
            match std::fs::remove_file(self.file(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => drop(self.records.remove(oldest)),
            }
        }
        let stores = stores.iter().map(|(store, entries)| Saved { store: store.clone(), entries: entries.iter().map(line).collect() }).collect();
        let objects = config.objects().map(|object| object.bytes().to_owned()).collect();
        waypost_disk::write_once(&self.file(number), &pack(&Kept { record: record.clone(), stores, objects })?)?;
        self.records.push(record);
        self.next = number + 1;
        self.last = config.clone();
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guard_keeps_comes_back_with_its_authors_bytes() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_guard(folder.path()).unwrap().is_empty());
        let gone = Gone {
            object: Object::read(r#"{"kind":"route","name":"r"}"#).unwrap(),
            origin: Origin { id: EntryId { source: 1, key: "routes/r".to_owned() }, written: Written { value: b"\xff".as_slice().into(), revision: 7 } },
            at: Duration::from_secs(5),
            date: 9,
            fate: Fate::Held { why: "a listener went".to_owned() },
        };
        save_guard(folder.path(), std::slice::from_ref(&gone)).unwrap();
        let found = load_guard(folder.path()).unwrap().remove(0);
        assert_eq!((found.object, found.origin, found.date, found.fate), (gone.object, gone.origin, gone.date, gone.fate));
        save_guard(folder.path(), &[]).unwrap();
        assert!(load_guard(folder.path()).unwrap().is_empty());
    }

    fn saved(key: &str, value: &[u8], good: Option<&[u8]>) -> SavedEntry {
        let written = |value: &[u8], revision| Written { value: value.into(), revision };
        SavedEntry { input: EntryInput { key: key.to_owned(), written: written(value, 2), unreadable: None }, last_good: good.map(|value| written(value, 1)) }
    }

    #[test]
    fn a_config_that_is_held_stays_in_the_history() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path(), 3);
        let add = |history: &mut History, n: u64| {
            let object = Object::read(&format!(r#"{{"kind":"route","name":"r{n}"}}"#)).unwrap();
            history.add(Version { epoch: 1, sequence: n }, &Lane::default().with([Change::Put(object)]), n, &[]).unwrap()
        };
        assert_eq!(add(&mut history, 1), 1);
        history.spare(Some(1));
        (2..=6).for_each(|n| assert_eq!(add(&mut history, n), n));
        assert_eq!(history.records().iter().map(|record| record.number).collect::<Vec<_>>(), [1, 5, 6]);
        assert_eq!(add(&mut history, 1), 1, "it is known again");
        assert!(History::open(folder.path(), 3).lane(1).is_ok());
    }

    #[test]
    fn entries_come_back_byte_by_byte_with_their_last_good_values() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_entries(folder.path()).unwrap().is_empty());
        let all = vec![("file:///a".to_owned(), vec![saved("routes/a", b"{\"x\":\xff}", Some(b"{}")), saved("endpoints/a/b", b"", None)])];
        save_entries(folder.path(), &all).unwrap();
        assert_eq!(load_entries(folder.path()).unwrap(), all);
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

    #[test]
    fn the_history_keeps_the_last_configs_and_their_authors_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path(), 3);
        let mut lane = Lane::default();
        for n in 1..=5 {
            let object = waypost_model::object::Object::read(&format!(r#"{{"kind":"route","name":"r{n}"}}"#)).unwrap();
            lane = lane.with([Change::Put(object)]);
            let stores = vec![("s".to_owned(), vec![saved(&format!("routes/r{n}"), b"v", None)])];
            assert_eq!(history.add(Version { epoch: 1, sequence: n }, &lane, n, &stores).unwrap(), n);
            assert_eq!(history.add(Version { epoch: 1, sequence: n }, &lane, n, &stores).unwrap(), n, "the same again");
        }
        let history = History::open(folder.path(), 3);
        assert_eq!(history.records().iter().map(|record| record.number).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(history.records()[2].changes, ["put route/r5"]);
        assert_eq!(history.entries(4).unwrap()[0].1[0].input.key, "routes/r4");
        let four: Vec<String> = history.lane(4).unwrap().objects().map(|object| object.name().to_owned()).collect();
        assert_eq!(four.len(), 4, "C4 had r1 to r4: {four:?}");
        assert!(history.entries(1).unwrap_err().contains("waypost history"));
    }
}

//! The entries of a store as they are on disk and on the stream between controllers.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use waypost_model::compile::{CURRENT_KEY, EntryInput, SavedEntry, Written};
use waypost_model::key::{Place, place};
use waypost_model::limits::Limits;
use waypost_model::parse::parse;

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
pub struct StoredEntries {
    store: String,
    entries: Vec<Line>,
}

impl StoredEntries {
    /// As they are written.
    pub fn of((store, entries): &SavedStore) -> Self {
        Self { store: store.clone(), entries: entries.iter().map(line).collect() }
    }

    /// The entries themselves; an entry that cannot be decoded is left out.
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
    /// The values that serve: the last good value where the current one is refused, and none for an entry that was never accepted.
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

/// The entries that serve: those of the stores, and the `held` ones in place of entries that are missing or differ there.
pub fn with_held(mut stores: Vec<SavedStore>, held: &[Exported]) -> Vec<SavedStore> {
    for Exported { store, entries } in held {
        let Some((_, saved)) = stores.iter_mut().find(|(url, _)| url == store) else { continue };
        // An active tree stays active: held entries of another tree are only written back under their own keys.
        let active = saved.iter().any(|entry| entry.input.key == CURRENT_KEY);
        let entries: Vec<&(String, Arc<[u8]>)> = entries.iter().filter(|(key, _)| !(active && key == CURRENT_KEY)).collect();
        let keys: std::collections::HashSet<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
        saved.retain(|entry| !keys.contains(entry.input.key.as_str()));
        let entry = |(key, value): &(String, Arc<[u8]>)| {
            let written = Written { value: value.clone(), revision: 0 };
            SavedEntry { input: EntryInput { key: key.clone(), written, unreadable: None }, last_good: None }
        };
        saved.extend(entries.into_iter().map(entry));
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

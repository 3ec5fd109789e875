//! Entries: as stores say them, as the compiler keeps them, and as they are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::key::{Place, ResourceKey};
use crate::object::Object;
use crate::problem::Problem;
use crate::resource::Resource;
use crate::verdict::Verdict;

/// A value and the store's revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The author's bytes.
    pub value: Arc<[u8]>,
    /// The store's revision of the entry.
    pub revision: u64,
}

/// An entry as a store has it. Keys are relative to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInput {
    /// The key below the root, without a leading slash.
    pub key: String,
    /// What was written.
    pub written: Written,
    /// Why the store's adapter could not read it, if it could not.
    pub unreadable: Option<String>,
}

/// One change of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChange {
    /// The entry is now this.
    Put(EntryInput),
    /// The entry at this key is gone.
    Delete(String),
}

impl EntryChange {
    /// The key below the root.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// Names one entry of one store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// The store's number, in the order in which the stores were given.
    pub source: usize,
    /// The key below the root.
    pub key: String,
}

/// The last value of an entry that was accepted.
#[derive(Debug, Clone)]
pub(super) struct Good {
    pub(super) written: Written,
    pub(super) resource: Resource,
    pub(super) object: Arc<Object>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) written: Written,
    /// Why the store's adapter could not read it, if it could not.
    pub(super) unreadable: Option<String>,
    /// Why the current value is refused.
    pub(super) problem: Option<Problem>,
    /// What serves: the current value, or the last one that was accepted.
    pub(super) good: Option<Good>,
}

#[derive(Debug, Default)]
pub(super) struct Source {
    /// Whether its entries are complete: it was reset, or restored from disk.
    pub(super) complete: bool,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Keys of entries that were refused because there are too many.
    pub(super) over: BTreeSet<String>,
}

/// An entry as it is saved: enough to serve it again, and to keep its last good value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedEntry {
    /// The entry.
    pub input: EntryInput,
    /// The last good value, where it is not the current one.
    pub last_good: Option<Written>,
}

/// The entry that an object comes from, with the author's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Which entry.
    pub id: EntryId,
    /// The value that the object was compiled from.
    pub written: Written,
}

/// An object that a commit took away or replaced.
#[derive(Debug, Clone)]
pub struct Departed {
    /// What it was.
    pub object: Arc<Object>,
    /// The entry it came from.
    pub origin: Origin,
    /// Another one stands in its place.
    pub replaced: bool,
}

/// What a commit changed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Paths of objects that were put.
    pub came: Vec<String>,
    /// What went away or was replaced.
    pub departed: Vec<Departed>,
    /// Entries whose verdict may differ from before.
    pub touched: BTreeSet<EntryId>,
    /// Whether C changed.
    pub config: bool,
    /// Whether M changed.
    pub membership: bool,
}

/// What people see of an entry.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryView {
    /// Which entry.
    pub id: EntryId,
    /// The resource it names, if it names one.
    pub resource: Option<ResourceKey>,
    /// The current value.
    pub written: Written,
    /// The answer to it.
    pub verdict: Verdict,
    /// What is wrong with the current value, in parts.
    pub problem: Option<Problem>,
    /// The revision that serves although the current value was refused.
    pub last_good: Option<u64>,
    /// Whether the entry, or its last good value, is part of the snapshot.
    pub in_snapshot: bool,
}

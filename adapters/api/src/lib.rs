//! The contract between Waypost and a store: traits to watch and write entries, without I/O of their own.
//!
//! Keys are complete: they include the root, have `/` between parts and no leading slash (`waypost/routes/shop`). `adapters/testkit` checks
//! every implementation of this contract against its real server.

mod error;
mod settings;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{AdapterError, ErrorKind};
pub use settings::{AUDIT_INTERVAL, Auth, Settings, Tls};

/// A key as the store has it; it need not be text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key below `root`, if it lies there: `routes/shop` of `waypost/routes/shop`. Bytes that are not UTF-8 become `\xNN`, which no
    /// name may contain.
    pub fn below(&self, root: &str) -> Option<String> {
        let rest = self.0.strip_prefix(root.as_bytes())?;
        match rest.split_first() {
            None => Some(String::new()),
            Some((b'/', rest)) => Some(escape(rest)),
            Some(_) => None,
        }
    }
}

/// The text of bytes that should be UTF-8; invalid bytes become `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        text
    })
}

impl<T: Into<Bytes>> From<T> for Key {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A point in a store's history. It grows with changes and is comparable only within one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The complete key.
    pub key: Key,
    /// The value; empty if it could not be read.
    pub value: Bytes,
    /// The revision at which this value was written.
    pub revision: Revision,
    /// Why the value could not be read although the store could; `None` if the value was read.
    pub unreadable: Option<String>,
}

impl Entry {
    /// An entry that could be read.
    pub fn new(key: impl Into<Key>, value: impl Into<Bytes>, revision: u64) -> Self {
        Self { key: key.into(), value: value.into(), revision: Revision(revision), unreadable: None }
    }
}

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The entry was created or has this new value.
    Put(Entry),
    /// The entry was deleted.
    Delete(Key),
}

/// An event of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A complete listing; it replaces all entries known before.
    Reset {
        /// All entries below the root.
        entries: Vec<Entry>,
        /// The store's revision of the listing.
        at: Revision,
        /// The number of entries in which the listing differs from the events before it. It is not zero if the watch lost something, and
        /// zero if there were no events before.
        drift: usize,
    },
    /// All changes of one revision or of one answer of the store, in order.
    Changes {
        /// The changes.
        changes: Vec<Change>,
        /// The store's revision after them.
        at: Revision,
    },
    /// No change: the known entries were just confirmed to be current.
    Idle {
        /// The store's revision.
        at: Revision,
    },
}

/// A live view of every key below one root.
///
/// The first event, and the first after any error, is a complete [`Event::Reset`]; a partial listing is never delivered. `at` never goes
/// down between two resets. [`Event::Idle`] is delivered at least every ten seconds.
#[async_trait]
pub trait Source: fmt::Debug + Send {
    /// Waits for the next event. After an error the caller backs off and calls again; the source then tries the next endpoint.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    ///
    /// # Errors
    /// The store could not be read; the error names the endpoint and the remedy.
    async fn next(&mut self) -> Result<Event, AdapterError>;
}

/// The state of the entry that [`Adapter::put_if`] expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// No entry.
    Absent,
    /// The entry at this revision.
    At(Revision),
}

/// The outcome of [`Adapter::put_if`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutIf {
    /// The value was written, at this revision.
    Written(Revision),
    /// The entry was not as expected.
    Conflict,
}

/// A store. Reads are consistent (linearizable). Writes are never repeated blindly: after an unknown outcome the adapter reads the entry
/// back.
#[async_trait]
pub trait Adapter: fmt::Debug + Send + Sync {
    /// A live view of every key below `root`.
    fn source(&self, root: &str) -> Box<dyn Source>;

    /// Whether its revisions never go back, as long as it is the same store: a lower one than was seen once, by whichever
    /// process, says that it was restored from a backup, or is another one.
    fn only_counts_up(&self) -> bool;

    /// Reads one entry.
    ///
    /// # Errors
    /// The store could not be read.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, AdapterError>;

    /// Writes one entry unconditionally.
    ///
    /// # Errors
    /// The store refused, or whether the value was written could not be determined.
    async fn put(&self, key: &Key, value: Bytes) -> Result<Revision, AdapterError>;

    /// Writes one entry if it is as expected: of any number of concurrent callers exactly one succeeds.
    ///
    /// # Errors
    /// The store refused, or whether the value was written could not be determined.
    async fn put_if(&self, key: &Key, value: Bytes, expected: Expected) -> Result<PutIf, AdapterError>;

    /// Deletes one entry, if it exists, but not the entries below it.
    ///
    /// # Errors
    /// The store refused, or could not be reached.
    async fn delete(&self, key: &Key) -> Result<(), AdapterError>;
}

/// Determines the outcome of a write after its answer was lost, from the entry that was read back. `None` if the entry is still as expected
/// before the write, because the write may yet arrive.
pub fn settled(found: Option<&Entry>, value: &Bytes, expected: Expected) -> Option<PutIf> {
    match (found, expected) {
        (None, Expected::Absent) => None,
        (Some(entry), Expected::At(before)) if entry.revision == before => None,
        (Some(entry), _) if entry.value == *value => Some(PutIf::Written(entry.revision)),
        _ => Some(PutIf::Conflict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_below_its_root_only_behind_a_slash() {
        let below = |key: &'static [u8]| Key::from(key).below("waypost");
        assert_eq!(below(b"waypost/routes/a"), Some("routes/a".to_owned()));
        assert_eq!(below(b"waypost"), Some(String::new()));
        assert_eq!(below(b"waypost2/routes/a"), None);
        assert_eq!(below(b"waypost/routes/\xff"), Some("routes/\\xff".to_owned()));
    }

    #[test]
    fn a_write_that_may_yet_arrive_is_not_settled() {
        let mine = Bytes::from_static(b"mine");
        let entry = |value: &'static [u8], revision| Some(Entry::new(b"k".to_vec(), value, revision));
        let (absent, before) = (Expected::Absent, Expected::At(Revision(1)));
        for (found, expected, outcome) in [
            (None, absent, None),
            (entry(b"mine", 2), absent, Some(PutIf::Written(Revision(2)))),
            (entry(b"theirs", 2), absent, Some(PutIf::Conflict)),
            (entry(b"old", 1), before, None),
            (entry(b"mine", 2), before, Some(PutIf::Written(Revision(2)))),
            (entry(b"theirs", 2), before, Some(PutIf::Conflict)),
            (None, before, Some(PutIf::Conflict)),
        ] {
            assert_eq!(settled(found.as_ref(), &mine, expected), outcome, "{found:?} {expected:?}");
        }
    }
}

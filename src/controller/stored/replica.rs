//! The state that followers replicate from the leader beside the snapshot: the next leader goes on from there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::controller::rules::guard::Removal;
use crate::controller::stored::entries::{SavedStore, StoredEntries};
use crate::controller::stored::operator::OperatorState;
use crate::controller::stored::programs::Program;
use crate::controller::stored::removals::StoredRemoval;

/// The part of the replica for the task that owns the state.
#[derive(Debug, Clone, Default)]
pub struct Replica {
    /// The revision up to which the leader has read each store, by URL.
    pub at: BTreeMap<String, u64>,
    /// The held removals.
    pub removals: Vec<Removal>,
    /// Paths of approved removals that are still to come.
    pub expected: Vec<String>,
    /// Entries whose current value is refused, with their last good value; all entries for a follower that has none.
    pub entries: Vec<SavedStore>,
}

/// One line of the stream from a leader to its followers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Document {
    /// Removals, approvals and entries.
    State {
        /// The revision of each store.
        at: BTreeMap<String, u64>,
        /// The held removals.
        #[serde(rename = "kept")]
        removals: Vec<StoredRemoval>,
        /// Paths of approved removals that are still to come.
        expected: Vec<String>,
        /// Entries with a last good value, or all.
        entries: Vec<StoredEntries>,
    },
    /// The record of operators' actions and the pin.
    Operator {
        /// The same as on disk.
        saved: OperatorState,
        /// How much time is left of the pin, in milliseconds, if it has an end: clocks may differ.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<u64>,
    },
    /// Programs that have joined: all of them at first, then those that changed.
    Programs {
        /// By kind and name.
        joined: BTreeMap<String, Program>,
    },
    /// A config of the history.
    Config {
        /// Its number.
        number: u64,
        /// The digest of its objects.
        digest: String,
        /// Its file, in base64.
        file: String,
    },
    /// Nothing new.
    Heartbeat,
    /// A line of a newer release.
    #[serde(other)]
    Unknown,
}

/// The request of a follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaRequest {
    /// It has no entries of its own.
    pub empty: bool,
    /// The configs that it has, by number, with their digests.
    pub configs: BTreeMap<u64, String>,
    /// It understands [`Document::Programs`]. Release 0.1 does not, and gets the programs in the record of operators' actions.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub programs: bool,
}

impl Replica {
    /// As a line; `stores` are our stores' URLs.
    pub fn document(&self, stores: &[String]) -> Document {
        Document::State {
            at: self.at.clone(),
            removals: self.removals.iter().map(|removal| StoredRemoval::of(removal, stores)).collect(),
            expected: self.expected.clone(),
            entries: self.entries.iter().map(StoredEntries::of).collect(),
        }
    }

    /// From a line's parts, for a controller of these `stores`.
    ///
    /// # Errors
    /// The text says which part cannot be understood.
    pub fn read(
        at: BTreeMap<String, u64>,
        removals: Vec<StoredRemoval>,
        expected: Vec<String>,
        entries: Vec<StoredEntries>,
        stores: &[String],
    ) -> Result<Self, String> {
        let removals = removals.into_iter().filter_map(|line| line.removal(stores).transpose()).collect::<Result<Vec<_>, String>>()?;
        Ok(Self { at, removals, expected, entries: entries.into_iter().map(StoredEntries::into_store).collect() })
    }
}

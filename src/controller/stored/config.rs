//! A config of the history, as it is on disk.

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;

use crate::controller::stored::entries::StoredEntries;

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
    /// The changes since the config before it, at most twenty lines.
    pub changes: Vec<String>,
}

/// A config with the authors' bytes, as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredConfig {
    /// Its record, as people see it.
    pub record: ConfigRecord,
    /// The entries that it was compiled from, by store.
    pub stores: Vec<StoredEntries>,
    /// The objects, as proxies get them.
    #[serde(default)]
    pub objects: Vec<String>,
}

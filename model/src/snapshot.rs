//! Versions and snapshots: the published state.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lane::Lane;

/// Orders publications: `epoch.sequence`. The epoch grows with every term of a leader, the sequence with every publication in the term.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version {
    /// Grows with every change of leader.
    pub epoch: u64,
    /// Grows with every publication.
    pub sequence: u64,
}

impl Version {
    /// The next publication of the same leader.
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, sequence: self.sequence + 1 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(epoch, sequence)| Some(Self { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? }));
        parsed.ok_or_else(|| format!("{text:?} is not a version; versions are EPOCH.SEQUENCE, such as \"3.17\""))
    }
}

/// One config and one membership, immutable, published together.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The cluster that published it; proxies refuse the snapshots of another cluster.
    pub cluster: String,
    /// Its position in the order of publications.
    pub version: Version,
    /// Listeners, routes and backends (C).
    pub config: Lane,
    /// Endpoints (M).
    pub membership: Lane,
}

impl Snapshot {
    /// Whether the content is the same, regardless of the version.
    pub fn same_content(&self, other: &Self) -> bool {
        self.config == other.config && self.membership == other.membership
    }
}

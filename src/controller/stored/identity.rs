//! The identity of a controller, as it is on disk.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The identity in the state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// The cluster's id; empty before it is known.
    pub cluster: String,
    /// The highest epoch under which this controller led, or that it has seen.
    pub epoch: u64,
    /// The last run of this controller.
    pub run: String,
    /// The other controllers of the cluster: where they are, by name.
    pub peers: BTreeMap<String, String>,
}

impl Identity {
    /// The cluster's id, once it is known.
    pub fn cluster_id(&self) -> Option<String> {
        Some(self.cluster.clone()).filter(|id| !id.is_empty())
    }
}

/// An id that no other program has.
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

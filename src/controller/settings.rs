//! The settings of a controller.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use waypost_adapter::Adapter;
use waypost_model::limits::Limits;

use crate::controller::rules::guard::Thresholds;

/// One store to watch.
#[derive(Debug, Clone)]
pub struct Store {
    /// Its URL, without credentials.
    pub url: String,
    /// How to talk to it.
    pub adapter: Arc<dyn Adapter>,
    /// The root of the keys, without a leading slash.
    pub root: String,
    /// The other spelling of the root that people confuse with this one, where the store takes both.
    pub other_spelling: Option<String>,
}

impl Store {
    /// The root under which we write.
    pub fn status_root(&self) -> String {
        format!("{}-status", self.root)
    }

    /// The whole key of what stands below the root.
    pub fn full_key(&self, relative: &str) -> String {
        format!("{}/{relative}", self.root)
    }
}

/// Which verdicts are written under the status root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StatusWrites {
    /// None.
    None,
    /// Those of entries that are refused, shadowed or refer to nothing.
    Problems,
    /// All.
    All,
}

/// A controller's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The stores, the first one first in rank.
    pub stores: Vec<Store>,
    /// Where last good values, history, cluster id and epoch are kept.
    pub state: PathBuf,
    /// The controller's name.
    pub name: String,
    /// Where others reach its API.
    pub advertise: String,
    /// Which verdicts are written to the first store.
    pub status_writes: StatusWrites,
    /// Bounds of what is accepted.
    pub limits: Limits,
    /// When removals are held.
    pub guard: Thresholds,
    /// Configs kept in the history.
    pub history: usize,
    /// How long a leader is believed that does not renew its record.
    pub leader_ttl: Duration,
    /// Lead without the store: an operator says that nobody else does.
    pub store_down: bool,
    /// Other controllers, beside those that the store knows.
    pub peers: Vec<String>,
    /// Asks other controllers.
    pub client: reqwest::Client,
}

//! State shared by all watch streams: permits for complete snapshots, and recent snapshots.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use waypost_model::snapshot::Snapshot;
use waypost_wire::WatchRequest;

/// Number of recent snapshots from which a returning proxy is updated without comparing buckets.
const REMEMBERED_SNAPSHOTS: usize = 64;

/// Maximum number of streams that are sent a complete snapshot at the same time.
const MAX_FULL_SYNCS: usize = 16;

/// State shared by all watch streams of one controller.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) admission: Semaphore,
    /// Recent snapshots.
    pub(super) recent: Mutex<VecDeque<Arc<Snapshot>>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { admission: Semaphore::new(MAX_FULL_SYNCS), recent: Mutex::default() }
    }
}

impl Streams {
    pub(super) fn remember(&self, snapshot: &Arc<Snapshot>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.iter().any(|earlier| earlier.version == snapshot.version && earlier.cluster == snapshot.cluster) {
            return;
        }
        if recent.len() >= REMEMBERED_SNAPSHOTS {
            recent.pop_front();
        }
        recent.push_back(snapshot.clone());
    }

    pub(super) fn recent(&self, cluster: &str, request: &WatchRequest) -> Option<Arc<Snapshot>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|snapshot| Some(snapshot.version) == request.from && snapshot.cluster == cluster).cloned()
    }
}

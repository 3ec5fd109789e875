//! Saves the served state to disk, on a thread of its own, so that a slow disk delays no change.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use waypost_model::object::Digest;
use waypost_model::snapshot::Version;
use waypost_wire::ReceivedState;

use crate::state::{Files, StateDir};

/// Minimum interval between writes of configs; the last one is always written.
const CONFIG_SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between writes of memberships; the last one is always written.
const MEMBERSHIP_SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of writes of a membership: the file and its previous generation.
const MEMBERSHIP_COPIES: u8 = 2;

/// The state to save.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    /// The received state.
    pub(crate) received: ReceivedState,
    /// Configs that are never applied again.
    pub(crate) quarantined: BTreeSet<Digest>,
}

/// Saves the state.
#[derive(Debug)]
pub(crate) struct Saver {
    files: Files,
    config: Option<Digest>,
    membership: Option<Digest>,
    /// The highest version and the quarantined configs that are on disk.
    record: (Version, BTreeSet<Digest>),
    config_at: Option<Instant>,
    membership_at: Option<Instant>,
    /// How often this membership has been written.
    membership_copies: u8,
    record_at: Option<Instant>,
}

impl Saver {
    /// A saver that does not write `found` again, because it was just read from disk.
    pub(crate) fn new(state: &StateDir, found: &ReceivedState) -> Self {
        let snapshot = found.snapshot();
        let has_lanes = !found.lanes.is_empty();
        Self {
            files: state.files(),
            config: has_lanes.then(|| snapshot.config.digest()),
            membership: has_lanes.then(|| snapshot.membership.digest()),
            record: (found.highest, state.quarantined().clone()),
            config_at: None,
            membership_at: None,
            membership_copies: 0,
            record_at: None,
        }
    }

    /// Runs until the sender is dropped, then writes everything that is not on disk yet.
    pub(crate) async fn run(mut self, mut keep: watch::Receiver<Option<Keep>>) {
        loop {
            let ended = matches!(tokio::time::timeout(CONFIG_SAVE_INTERVAL, keep.changed()).await, Ok(Err(_)));
            let latest = keep.borrow_and_update().clone();
            if let Some(latest) = latest {
                self.save(&latest, ended);
            }
            if ended {
                return;
            }
        }
    }

    /// Writes what is due, or with `all` everything that is not on disk. A failed write is repeated when it is due next.
    fn save(&mut self, Keep { received, quarantined }: &Keep, all: bool) {
        let snapshot = received.snapshot();
        let due = |last: Option<Instant>, every| all || last.is_none_or(|last| last.elapsed() >= every);
        let (config, membership) = (snapshot.config.digest(), snapshot.membership.digest());
        if self.config != Some(config) && !quarantined.contains(&config) && due(self.config_at, CONFIG_SAVE_INTERVAL) {
            self.config_at = Some(Instant::now());
            if noted(self.files.save_config(received), "config") {
                self.config = Some(config);
            }
        }
        if self.membership != Some(membership) {
            self.membership_copies = 0;
        }
        // The membership is written a second time when it does not change, so that the previous generation equals it and one corrupt file
        // costs nothing.
        if self.membership_copies < MEMBERSHIP_COPIES && due(self.membership_at, MEMBERSHIP_SAVE_INTERVAL) {
            self.membership_at = Some(Instant::now());
            if noted(self.files.save_membership(received), "membership") {
                self.membership = Some(membership);
                self.membership_copies += 1;
            }
        }
        // The highest version protects from a deposed leader, also after a restart; a quarantine must survive a restart too.
        let urgent = self.record.0.epoch != received.highest.epoch || self.record.1 != *quarantined;
        if urgent || self.record.0 != received.highest && due(self.record_at, CONFIG_SAVE_INTERVAL) {
            self.record_at = Some(Instant::now());
            if noted(self.files.save_highest(received, quarantined), "highest version") {
                self.record = (received.highest, quarantined.clone());
            }
        }
    }
}

fn noted(result: std::io::Result<()>, what: &str) -> bool {
    if let Err(error) = &result {
        tracing::error!(%error, "the {what} could not be written to the state directory; serving goes on");
    }
    result.is_ok()
}

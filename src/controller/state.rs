//! The heart of the controller: state × input → output. No clock, no I/O; time is an input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use waypost_adapter::Revision;
use waypost_model::compile::{Compiler, EntryId, SavedEntry};
use waypost_model::lane::Lane;
use waypost_model::limits::Limits;
use waypost_model::snapshot::{Snapshot, Version};

use crate::controller::message::{Now, Output, Woken};
use crate::controller::rules::election::Role;
use crate::controller::rules::guard::{Guard, Thresholds};
use crate::controller::rules::health::Health;
use crate::controller::rules::overlay::Overlay;
use crate::controller::rules::pins::Pin;
use crate::controller::rules::window::Window;
use crate::controller::state::events::Events;
use crate::controller::state::proxies::Proxies;
use crate::controller::state::source::{SourceState, StoreRegression};
use crate::controller::stored::replica::Replica;

mod claims;
mod desired;
pub mod events;
mod lead;
#[cfg(test)]
mod lead_tests;
mod pins;
mod probes;
pub mod proxies;
mod publish;
mod removals;
#[cfg(test)]
mod removals_tests;
pub mod source;
mod step;
mod stores;
#[cfg(test)]
mod tests;
mod tracks;

/// Interval in which outdated state is forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// The way of one entry: when the controller read it, and from which version on it is served.
#[derive(Debug, Clone, Copy)]
pub struct Track {
    /// The entry's revision.
    pub revision: u64,
    /// When the controller read it, since its start.
    pub read_at: Duration,
    /// The first version that has it; `None` while it waits for its window.
    pub version: Option<Version>,
    /// When the last proxy that follows us served it.
    pub live: Option<Duration>,
    /// Whether the entry was deleted. If so, the track ends when no proxy serves it any more.
    pub deleted: bool,
}

/// A controller that follows us.
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// When its last report came.
    pub reported_at: Duration,
    /// The version of what it relays.
    pub version: Option<Version>,
    /// Whether it relays other content than was published under that version.
    pub drifted: bool,
}

/// The whole state of the controller.
#[derive(Debug)]
pub struct State {
    /// The entries and what they compile to.
    pub compiler: Compiler,
    /// The stores, by number.
    pub sources: Vec<SourceState>,
    /// The proxies.
    pub proxies: Proxies,
    /// What happened.
    pub events: Events,
    /// What is published.
    pub snapshot: Arc<Snapshot>,
    /// When it was published.
    pub published: Duration,
    /// The way of each entry from the store to the proxies.
    pub tracks: HashMap<EntryId, Track>,
    /// The entries of which the answer may have changed in this step.
    woken: Woken,
    /// Entries that wait for a publication of their lane.
    unpublished: BTreeSet<EntryId>,
    /// Entries that are published and not yet live everywhere.
    arriving: BTreeSet<(Version, EntryId)>,
    windows: (Window, Window),
    /// Judges removals that may be unintended.
    pub guard: Guard,
    overlay: Overlay,
    /// Which endpoints can take requests.
    pub health: Health,
    /// Until when proxies that followed the previous leader may not have found us.
    proxies_expected_until: Duration,
    /// The lanes to be published if there is no pin: written by `desired.rs` alone.
    lanes: (Lane, Lane),
    /// The pin, and when its time is over.
    pin: Option<(Pin, Option<Duration>)>,
    swept: Duration,
    /// The highest epoch that each program claimed to have received, and when that claim was accepted.
    claims: HashMap<String, (u64, Duration)>,
    /// When an event last told of a claim that was not believed.
    last_claim_event: Option<Duration>,
    /// Reasons of held removals that already had an event.
    announced_reasons: BTreeSet<String>,
    names: Vec<String>,
    missing_listener_announced: bool,
    cluster: Option<String>,
    /// The other controllers: where they are, by name.
    pub peers: BTreeMap<String, String>,
    /// Whether the store has named the other controllers.
    pub met_peers: bool,
    /// The controllers that follow us.
    pub followers: BTreeMap<String, Follower>,
    /// Grows with every time that the stores have to be read anew.
    generation: u64,
    /// Our role in the election.
    role: Role,
    /// The last epoch for which the stores are, or were, read anew and other controllers asked.
    begun: Option<u64>,
    /// An epoch of ours under which another controller has published.
    contested: Option<u64>,
    /// Whether the other controllers were asked for the snapshot that was published before we lead.
    recovered: bool,
    /// Something waits until we may publish again.
    suppressed: bool,
    /// Whether the snapshot that was published before we lead was lost here and recovered from a proxy.
    recovered_from_proxy: bool,
    /// Whether an operator's request is not published yet.
    operated: bool,
    /// A store that went back or became empty while we followed.
    regression: Option<StoreRegression>,
    /// What was replicated from the leader, while we follow.
    replica: Replica,
    /// When it was replicated last, in milliseconds since 1970.
    replicated_at: u64,
}

impl State {
    /// A controller of these stores, named for people. It publishes nothing before it leads.
    pub fn new(names: Vec<String>, limits: Limits, thresholds: Thresholds, cluster: Option<String>) -> Self {
        let snapshot = Snapshot { cluster: cluster.clone().unwrap_or_default(), ..Snapshot::default() };
        let mut proxies = Proxies::default();
        if let Some(id) = &cluster {
            proxies.belong_to(id);
        }
        Self {
            compiler: Compiler::new(names.len(), limits),
            sources: vec![SourceState::default(); names.len()],
            proxies,
            events: Events::default(),
            snapshot: Arc::new(snapshot),
            published: Duration::ZERO,
            tracks: HashMap::new(),
            woken: Woken::default(),
            unpublished: BTreeSet::new(),
            arriving: BTreeSet::new(),
            windows: Default::default(),
            guard: Guard::new(thresholds),
            overlay: Overlay::default(),
            health: Health::default(),
            proxies_expected_until: Duration::ZERO,
            lanes: Default::default(),
            pin: None,
            swept: Duration::ZERO,
            claims: HashMap::new(),
            last_claim_event: None,
            announced_reasons: BTreeSet::new(),
            names,
            missing_listener_announced: false,
            cluster,
            peers: BTreeMap::new(),
            met_peers: false,
            followers: BTreeMap::new(),
            generation: 0,
            role: Role::Following { leader: None },
            begun: None,
            contested: None,
            recovered: false,
            suppressed: false,
            recovered_from_proxy: false,
            operated: false,
            regression: None,
            replica: Replica::default(),
            replicated_at: 0,
        }
    }

    /// Restores entries from before a restart: they are served until the store is read. Removals that the guard held stay until then.
    pub fn restore(&mut self, source: usize, saved: Vec<SavedEntry>, now: Now) -> Output {
        self.compiler.restore(source, saved);
        self.compiled(Some(source), None, now)
    }

    /// Restores the revision up to which the store had been read: a store that does not reach it was restored from a backup.
    pub fn restore_revision(&mut self, source: usize, at: u64) {
        if let Some(state) = self.sources.get_mut(source) {
            state.at = Revision(at);
        }
    }

    /// Whether something is published.
    pub fn is_ready(&self) -> bool {
        self.snapshot.version.sequence > 0
    }

    /// The next moment at which [`crate::controller::message::Input::Tick`] is needed.
    pub fn due(&self) -> Duration {
        // Only the leader ends a pin, because clocks may differ.
        let released = self.pin.as_ref().filter(|_| self.role.epoch().is_some()).and_then(|(_, until)| *until);
        [self.windows.0.due(), self.windows.1.due(), released, self.guard.due()].into_iter().flatten().fold(self.swept + SWEEP_INTERVAL, Duration::min)
    }
}

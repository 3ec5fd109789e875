//! A controller and a proxy of the simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waypost_model::compile::SavedEntry;
use waypost_model::lane::Lane;
use waypost_model::limits::Limits;
use waypost_model::snapshot::Snapshot;
use waypost_wire::{ApplyError, Frame, Incoming, ReceivedState, publication};

use crate::controller::message::{Input, Now, Output};
use crate::controller::rules::election::{Candidate, Election, ElectionInput, Holder, Role, StoreFailure, StoreRequest};
use crate::controller::rules::guard::{Removal, Thresholds};
use crate::controller::rules::pins::{Pin, PinRecord, Reason};
use crate::controller::state::State;
use crate::controller::stored::replica::Replica;

/// The number of files: the published snapshot; the removals that are held now or were held before; the entries; and the store's revision with the
/// removals that are held now.
pub(super) const FILES: usize = 4;

/// The state that survives a crash.
#[derive(Debug, Clone, Default)]
struct Disk {
    epoch: u64,
    published: Option<Arc<Snapshot>>,
    entries: Vec<SavedEntry>,
    removals: Vec<Removal>,
    /// How far the store was read.
    read: u64,
    operated: Operated,
}

/// The record of operators' actions with the pin: of two records, the one with the higher rank counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Operated {
    pub(super) rank: (u64, u64),
    pub(super) frozen: Option<Lane>,
}

/// A controller.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) run: u64,
    pub(super) state: State,
    pub(super) election: Election,
    pub(super) crashed: bool,
    pub(super) paused_until: Option<u64>,
    /// The connection to the store: a new number with every new one.
    pub(super) link: u64,
    /// How often the store had been restored, and its revision, as far as the controller has read; `None` before the listing.
    pub(super) upstream: Option<(u64, u64)>,
    pub(super) feed_busy_until: u64,
    /// When the last part of the leader's replica arrives.
    pub(super) replicas_until: u64,
    /// The number of the last ask, and whether its answer is still waited for.
    pub(super) asked: u64,
    waiting: bool,
    /// Links that began with a generation of reading.
    generations: BTreeMap<u64, u64>,
    disk: Disk,
}

impl Node {
    /// A controller in its first run, or in one after `old`.
    pub(super) fn new(number: usize, run: u64, old: Option<Self>, jitter: Duration, now: Duration) -> Self {
        let holder = |run: u64| Holder { name: format!("n{number}"), run: format!("n{number}-{run}") };
        let disk = old.as_ref().map(|old| old.disk.clone()).unwrap_or_default();
        let me = Candidate { cluster: "c".to_owned(), holder: holder(run), previous_run: old.map(|old| holder(old.run).run), url: String::new() };
        let highest = disk.epoch.max(disk.published.as_ref().map_or(0, |snapshot| snapshot.version.epoch));
        let mut state = State::new(vec!["store".to_owned()], Limits::default(), Thresholds::default(), Some("c".to_owned()));
        state.sources[0].counts_up = true;
        let at = Now { since_start: now, date: 0 };
        if let Some(lane) = &disk.operated.frozen {
            state.step(pin_input(Some(lane)), at);
        }
        state.guard.restore(disk.removals.clone(), now);
        if let Some(snapshot) = &disk.published {
            state.restore_published(snapshot.as_ref().clone(), at);
        }
        state.restore_revision(0, disk.read);
        if !disk.entries.is_empty() {
            state.restore(0, disk.entries.clone(), at);
        }
        let mut election = Election::new(me, Duration::from_secs(6), jitter, highest);
        election.handle(ElectionInput::Others(true), now);
        Self {
            run,
            state,
            election,
            crashed: false,
            paused_until: None,
            link: 1,
            upstream: None,
            feed_busy_until: 0,
            replicas_until: 0,
            asked: 0,
            waiting: false,
            generations: BTreeMap::from([(1, 0)]),
            disk,
        }
    }

    /// Whether a message for this run is for us.
    pub(super) fn is(&self, run: u64) -> bool {
        !self.crashed && self.run == run
    }

    pub(super) fn poll(&mut self, now: Duration) -> Option<StoreRequest> {
        let ask = self.election.poll(now)?;
        self.asked += 1;
        self.waiting = true;
        Some(ask)
    }

    /// Whether the answer to an ask is the one that is waited for; only the first is.
    pub(super) fn waits_for(&mut self, number: u64) -> bool {
        self.asked == number && std::mem::take(&mut self.waiting)
    }

    pub(super) const fn operated(&self) -> &Operated {
        &self.disk.operated
    }

    /// Writes the pin to disk before it takes effect. Returns the input with which it does.
    pub(super) fn operate(&mut self, frozen: Option<Lane>, epoch: u64) -> Input {
        let rank = (epoch, self.disk.operated.rank.1 + 1);
        self.disk.operated = Operated { rank, frozen };
        pin_input(self.disk.operated.frozen.as_ref())
    }

    /// Takes over another controller's record, if it is newer.
    pub(super) fn adopt(&mut self, other: &Operated) -> Option<Input> {
        let newer = other.rank > self.disk.operated.rank;
        newer.then(|| {
            self.disk.operated = other.clone();
            pin_input(other.frozen.as_ref())
        })
    }

    /// Writes the epoch to disk: nothing is published under an epoch that is not there.
    pub(super) fn remember(&mut self, role: &Role) {
        self.disk.epoch = self.disk.epoch.max(role.epoch().unwrap_or_default());
    }

    pub(super) fn step(&mut self, input: Input, now: Duration) -> Output {
        let output = self.state.step(input, Now { since_start: now, date: 0 });
        if output.relist {
            self.upstream = None;
            self.generations.insert(self.link + 1, self.state.generation());
        }
        output
    }

    /// How often the stores had to be read anew when this link began.
    pub(super) fn generation_of(&self, link: u64) -> u64 {
        self.generations.get(&link).copied().unwrap_or_default()
    }

    /// Writes the first so many of its files, in their order: all of them once a second, fewer where a crash cuts that off.
    pub(super) fn save(&mut self, files: usize) {
        let now = self.state.removals_for_followers().0;
        let is_held_now = |removal: &Removal| now.iter().any(|one| one.object.path() == removal.object.path());
        let both: Vec<Removal> = self.disk.removals.iter().filter(|removal| !is_held_now(removal)).chain(&now).cloned().collect();
        if files >= 1 {
            self.disk.published = (self.state.snapshot.version.sequence > 0).then(|| self.state.snapshot.clone());
        }
        if files >= 2 {
            self.disk.removals = both;
        }
        if files >= 3 {
            self.disk.entries = self.state.compiler.save(0);
        }
        if files >= FILES {
            self.disk.read = self.state.known_revision(0);
            self.disk.removals = now;
        }
    }

    pub(super) fn replica(&self) -> Replica {
        let (removals, expected) = self.state.removals_for_followers();
        let at = BTreeMap::from([("store".to_owned(), self.state.known_revision(0))]);
        Replica { at, removals, expected, entries: vec![("store".to_owned(), self.state.compiler.last_goods(0))] }
    }
}

/// A proxy: its received state, and the controller that it follows.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    pub(super) controller: Option<usize>,
    /// The connection: a new number with every new one.
    pub(super) link: u64,
    pub(super) held: ReceivedState,
    incoming: Incoming,
    /// The last snapshot that its controller sent on this connection.
    pub(super) sent: Option<Arc<Snapshot>>,
    pub(super) busy_until: u64,
}

impl Proxy {
    /// The frames that bring it to this snapshot, as its controller believes.
    pub(super) fn frames(&mut self, snapshot: &Arc<Snapshot>) -> Vec<Frame> {
        let base = self.sent.replace(snapshot.clone());
        publication(snapshot, base.as_deref(), &self.held.bucket_digests())
    }

    /// Takes a publication; returns what is applied, if something is.
    pub(super) fn take(&mut self, frames: Vec<Frame>) -> Result<Option<Snapshot>, ApplyError> {
        let mut applied = None;
        for frame in frames {
            if let Some(next) = self.incoming.take(&self.held, frame)? {
                self.held = next;
                applied = Some(self.held.snapshot());
            }
        }
        Ok(applied)
    }
}

fn pin_input(frozen: Option<&Lane>) -> Input {
    let mark = |lane: &Lane| PinRecord { reason: Reason::Frozen, config: 1, by: "alice".to_owned(), at: 0, until: None, digest: Some(lane.digest()) };
    Input::Pin { pin: frozen.map(|lane| Box::new(Pin::new(mark(lane), lane.clone(), 0))), by: "alice".to_owned() }
}

/// The answer of a store that cannot be reached.
pub(super) fn unanswered(ask: &StoreRequest) -> ElectionInput {
    match ask {
        StoreRequest::Read => ElectionInput::Read(Err(StoreFailure::Unreachable)),
        StoreRequest::Write { .. } => ElectionInput::Wrote(Err(StoreFailure::Unreachable)),
    }
}

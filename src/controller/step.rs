//! The heart of the controller: state × input → output. No clock, no I/O; time is an input.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use waypost_adapter::{AdapterError, Change, Entry, Event as StoreEvent, Revision};
use waypost_model::compile::{Compiler, EntryChange, EntryId, EntryInput, SavedEntry, Written};
use waypost_model::key::{Kind, ResourceKey};
use waypost_model::lane::Lane;
use waypost_model::limits::Limits;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::Report;

use super::events::Events;
use super::guard::{Fate, Guard, Thresholds};
use super::hold::Hold;
use super::proxies::Proxies;
use super::window::Window;

/// When something happened: since the start, for measuring, and as a date, for people.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Since the start of the process.
    pub since_start: Duration,
    /// Milliseconds since 1970.
    pub date: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A store said something.
    Store {
        /// Its number.
        source: usize,
        /// What it said.
        event: StoreEvent,
    },
    /// A store cannot be read.
    StoreFailed {
        /// Its number.
        source: usize,
        /// Why.
        error: AdapterError,
    },
    /// Keys under the other spelling of a store's root.
    OtherSpelling {
        /// The store's number.
        source: usize,
        /// How many, and one of them.
        found: Option<(usize, String)>,
    },
    /// The cluster's id is known.
    Cluster(String),
    /// A proxy began to watch; the highest version it has seen.
    ProxyOpened {
        /// Its name.
        name: String,
        /// The highest version it has seen.
        highest: Version,
        /// The cluster it believes to belong to.
        cluster: Option<String>,
    },
    /// A proxy's stream ended.
    ProxyClosed(String),
    /// A proxy reported.
    Reported {
        /// Its name.
        name: String,
        /// What it said.
        report: Box<Report>,
    },
    /// An operator holds the config, or lets it go; and who that is.
    Hold {
        /// What is held from now on.
        hold: Option<Box<Hold>>,
        /// Who asked for it.
        by: String,
    },
    /// An operator lets go what is held, and what he is about to delete.
    Approve {
        /// Keys of resources, such as `routes/shop`; all that is held if there are none.
        keys: Vec<ResourceKey>,
        /// Also when they go later.
        later: bool,
        /// By whom.
        by: String,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Output {
    /// Publish this.
    pub publish: Option<Arc<Snapshot>>,
    /// The config changed: write it to the history.
    pub config_published: bool,
    /// Entries or their last good values changed: write them to disk.
    pub entries_changed: bool,
    /// The epoch changed: write it to disk before anything is published under it.
    pub epoch: Option<u64>,
    /// Entries whose verdict may have changed.
    pub verdicts: BTreeSet<EntryId>,
    /// Something that somebody may wait for changed.
    pub changed: bool,
    /// Paths of what an operator let go.
    pub approved: Vec<String>,
}

impl Output {
    /// Adds what a further part of the same step wants done.
    fn absorb(&mut self, more: Self) {
        self.publish = more.publish.or(self.publish.take());
        self.config_published |= more.config_published;
        self.entries_changed |= more.entries_changed;
        self.epoch = more.epoch.or(self.epoch);
        self.verdicts.extend(more.verdicts);
        self.changed |= more.changed;
    }
}

/// How a store fares.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// The store's revision.
    pub at: Revision,
    /// When it was last confirmed to be current.
    pub confirmed: Option<Duration>,
    /// Why it cannot be read, if so.
    pub error: Option<AdapterError>,
    /// Entries in which the watch had been wrong, ever.
    pub drift: u64,
    /// Whether it delivered its entries since the start.
    pub live: bool,
    /// Keys under the other spelling of the root.
    pub other_spelling: Option<(usize, String)>,
}

/// When an entry was seen and since which version it is served.
#[derive(Debug, Clone, Copy)]
pub struct Track {
    /// The entry's revision.
    pub revision: u64,
    /// When the controller saw it.
    pub seen: Duration,
    /// The first version that has it; `None` while it waits for its window.
    pub version: Option<Version>,
    /// When the last proxy that follows us served it.
    pub live: Option<Duration>,
    /// The entry was deleted: what is tracked is that proxies stop serving it.
    pub gone: bool,
}

/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Deleted entries are remembered for so long, for those who wait until no proxy serves them.
const REMEMBER_GONE: Duration = Duration::from_secs(60);

/// Everything that the controller knows.
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
    /// When each entry was seen and published.
    pub tracks: HashMap<EntryId, Track>,
    /// Entries that wait for a publication of their lane.
    unpublished: BTreeSet<EntryId>,
    /// Entries that are published and not yet live everywhere.
    arriving: BTreeSet<EntryId>,
    windows: (Window, Window),
    /// What went away and may not be meant.
    pub guard: Guard,
    /// What the stores say, with what the guard keeps.
    lanes: (Lane, Lane),
    /// What an operator holds, and when that is over.
    hold: Option<(Hold, Option<Duration>)>,
    swept: Duration,
    /// Reasons for which something is held, as far as they were told.
    told_held: BTreeSet<String>,
    names: Vec<String>,
    no_listener_told: bool,
    cluster: Option<String>,
}

impl State {
    /// A controller of these stores, named for people, under an epoch of its own.
    pub fn new(names: Vec<String>, limits: Limits, thresholds: Thresholds, epoch: u64, cluster: Option<String>) -> Self {
        let snapshot = Snapshot { version: Version { epoch, sequence: 0 }, cluster: cluster.clone().unwrap_or_default(), ..Snapshot::default() };
        Self {
            compiler: Compiler::new(names.len(), limits),
            sources: vec![SourceState::default(); names.len()],
            proxies: Proxies::default(),
            events: Events::default(),
            snapshot: Arc::new(snapshot),
            published: Duration::ZERO,
            tracks: HashMap::new(),
            unpublished: BTreeSet::new(),
            arriving: BTreeSet::new(),
            windows: Default::default(),
            guard: Guard::new(thresholds),
            lanes: Default::default(),
            hold: None,
            swept: Duration::ZERO,
            told_held: BTreeSet::new(),
            names,
            no_listener_told: false,
            cluster,
        }
    }

    /// Takes in what was saved before a restart: it is served until the store is heard.
    pub fn restore(&mut self, source: usize, saved: Vec<SavedEntry>, now: Now) -> Output {
        self.compiler.restore(source, saved);
        self.compiled(None, now)
    }

    /// Whether there is something to publish, and somebody to publish it as.
    pub fn is_ready(&self) -> bool {
        self.snapshot.version.sequence > 0
    }

    /// The next moment at which [`Input::Tick`] is needed.
    pub fn due(&self) -> Duration {
        let released = self.hold.as_ref().and_then(|(_, until)| *until);
        [self.windows.0.due(), self.windows.1.due(), released, self.guard.due()].into_iter().flatten().fold(self.swept + SWEEP, Duration::min)
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Output {
        match input {
            Input::Store { source, event } => self.store(source, event, now),
            Input::StoreFailed { source, error } => self.store_failed(source, error, now),
            Input::OtherSpelling { source, found } => {
                if let Some(state) = self.sources.get_mut(source) {
                    state.other_spelling = found;
                }
                Output::default()
            }
            Input::Cluster(id) => {
                self.cluster = Some(id);
                self.publish(true, true, now)
            }
            Input::ProxyOpened { name, highest, cluster } => self.opened(&name, highest, cluster.as_deref(), now),
            Input::ProxyClosed(name) => {
                if self.proxies.closed(&name) {
                    self.events.add(now.date, "ProxyDisconnected", &name, "the proxy's stream ended; it serves on");
                }
                Output { changed: true, ..Output::default() }
            }
            Input::Reported { name, report } => self.reported(&name, *report, now),
            Input::Tick => {
                self.sweep(now);
                if self.hold.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= now.since_start)) {
                    return self.set_hold(None, "its time being over", now);
                }
                if self.guard.tick(self.compiler.config(), self.compiler.membership(), now.since_start) {
                    return self.guarded(now);
                }
                let due = (self.windows.0.tick(now.since_start), self.windows.1.tick(now.since_start));
                self.publish(due.0, due.1, now)
            }
            Input::Approve { keys, later, by } => self.approve(&keys, later, &by, now),
            Input::Hold { hold, by } => self.set_hold(hold.map(|hold| *hold), &by, now),
        }
    }

    /// What the guard keeps changed: publishes the lanes anew.
    fn guarded(&mut self, now: Now) -> Output {
        self.tell_held(now);
        self.lanes = self.guard.apply(self.compiler.config(), self.compiler.membership());
        let mut output = self.publish(true, true, now);
        (output.changed, output.entries_changed) = (true, true);
        output
    }

    /// Says why something is held, once for each reason.
    fn tell_held(&mut self, now: Now) {
        let held = self.guard.kept().filter_map(|gone| match &gone.fate {
            Fate::Held { why } => Some(why.clone()),
            _ => None,
        });
        let reasons: BTreeSet<String> = held.collect();
        for why in reasons.difference(&self.told_held) {
            self.events.add(now.date, "Held", "guard", format!("{why}; it serves on until `waypost approve`, see `waypost status`"));
        }
        self.told_held = reasons;
    }

    /// The stores were confirmed: what waited for that may go.
    fn confirm(&mut self, now: Now) -> Output {
        let oldest = self.sources.iter().map(|source| source.confirmed.unwrap_or_default()).min().unwrap_or_default();
        if self.guard.confirmed(oldest) { self.guarded(now) } else { Output::default() }
    }

    fn approve(&mut self, keys: &[ResourceKey], later: bool, by: &str, now: Now) -> Output {
        let paths: Vec<String> = keys.iter().map(|key| format!("{}/{}", key.kind.singular(), key.name)).collect();
        let chosen = |path: &str| paths.is_empty() || paths.iter().any(|wanted| wanted == path);
        let went = self.guard.approve(&chosen, if later { &paths } else { &[] }, now.since_start);
        if !went.is_empty() {
            self.events.add(
                now.date,
                "Approved",
                "guard",
                format!("{by} let {} go: {}", went.len(), went.iter().take(5).cloned().collect::<Vec<_>>().join(", ")),
            );
        }
        let output = if went.is_empty() { Output::default() } else { self.guarded(now) };
        Output { approved: went, ..output }
    }

    /// What an operator holds.
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref().map(|(hold, _)| hold)
    }

    /// Whether a resource waits behind a hold: the config that is published has another form of it, or none.
    pub fn is_held_back(&self, resource: &ResourceKey) -> bool {
        let path = format!("{}/{}", resource.kind.singular(), resource.name);
        let digest = |lane: &Lane| lane.get(&path).map(|object| object.digest());
        !resource.kind.is_membership() && self.hold.as_ref().is_some_and(|(hold, _)| digest(&hold.lane) != digest(&self.lanes.0))
    }

    fn set_hold(&mut self, hold: Option<Hold>, by: &str, now: Now) -> Output {
        let (reason, told) = match (&hold, self.hold.take()) {
            (Some(hold), _) => (hold.mark.reason.word(), hold.mark.told()),
            (None, Some((before, _))) => ("Released", format!("the config goes on from C{}, {by}", before.mark.config)),
            (None, None) => return Output::default(),
        };
        self.events.add(now.date, reason, "config", told);
        self.hold = hold.map(|hold| {
            let until = hold.mark.left(now.date).map(|left| now.since_start + left);
            (hold, until)
        });
        let mut output = self.publish(true, false, now);
        output.changed = true;
        output.verdicts = self.compiler.config_entries();
        output
    }

    /// The config that is to be published.
    fn config(&self) -> &Lane {
        self.hold.as_ref().map_or(&self.lanes.0, |(hold, _)| &hold.lane)
    }

    /// Forgets what is over.
    fn sweep(&mut self, now: Now) {
        if now.since_start < self.swept + SWEEP {
            return;
        }
        self.swept = now.since_start;
        self.proxies.sweep(now.since_start);
        self.tracks.retain(|_, track| !track.gone || now.since_start.saturating_sub(track.seen) < REMEMBER_GONE);
    }

    fn store(&mut self, source: usize, event: StoreEvent, now: Now) -> Output {
        let name = self.names.get(source).cloned().unwrap_or_default();
        let Some(state) = self.sources.get_mut(source) else { return Output::default() };
        state.confirmed = Some(now.since_start);
        if state.error.take().is_some() {
            self.events.add(now.date, "StoreBack", &name, "the store answers again");
        }
        match event {
            StoreEvent::Idle { at } => {
                state.at = at;
                self.confirm(now)
            }
            StoreEvent::Changes { changes, at } => {
                state.at = at;
                let changes = changes.into_iter().map(change).collect();
                self.compiler.change(source, changes);
                self.compiled(None, now)
            }
            StoreEvent::Reset { entries, at, drift } => {
                let before = std::mem::replace(&mut state.at, at);
                let flagged = match self.compiler.entries_of(source) {
                    known if entries.is_empty() && known > 0 => Some(format!("the store became empty: {known} entries went at once")),
                    _ if at < before => Some(format!("the store went back from revision {before} to {at}")),
                    _ => None,
                };
                state.drift += u64::try_from(drift).unwrap_or_default();
                let first = !std::mem::replace(&mut state.live, true);
                if drift > 0 {
                    self.events.add(now.date, "Drift", &name, format!("the watch had missed {drift} entries; the listing mended it"));
                }
                let count = entries.len();
                self.compiler.reset(source, entries.into_iter().map(input).collect());
                if first {
                    self.events.add(now.date, "StoreRead", &name, format!("{count} entries at revision {at}"));
                }
                let mut output = self.compiled(flagged.as_deref(), now);
                output.absorb(self.confirm(now));
                output
            }
        }
    }

    fn store_failed(&mut self, source: usize, error: AdapterError, now: Now) -> Output {
        let name = self.names.get(source).cloned().unwrap_or_default();
        if let Some(state) = self.sources.get_mut(source) {
            // Endpoints take turns in failing; that is one loss and not many.
            if state.error.as_ref().map(|known| known.kind) != Some(error.kind) {
                let serving = if self.snapshot.version.sequence > 0 { "what is published stays" } else { "nothing is published yet" };
                self.events.add(now.date, "StoreLost", &name, format!("{error}; {serving}"));
            }
            state.error = Some(error);
        }
        Output { changed: true, ..Output::default() }
    }

    /// Compiles what came in, tells what changed, and publishes what its window allows.
    fn compiled(&mut self, flagged: Option<&str>, now: Now) -> Output {
        let outcome = self.compiler.commit();
        self.guard.take(&outcome.came, outcome.departed, self.compiler.config(), flagged, (now.since_start, now.date));
        self.tell_held(now);
        self.lanes = self.guard.apply(self.compiler.config(), self.compiler.membership());
        for id in &outcome.touched {
            self.track(id, now);
        }
        self.unpublished.extend(outcome.touched.iter().cloned());
        let due = (outcome.config && self.windows.0.changed(now.since_start), outcome.membership && self.windows.1.changed(now.since_start));
        let mut output = self.publish(due.0, due.1, now);
        self.tell_missing_listener(now);
        output.entries_changed = !outcome.touched.is_empty();
        output.changed |= output.entries_changed;
        output.verdicts = outcome.touched;
        output
    }

    fn track(&mut self, id: &EntryId, now: Now) {
        let Some(view) = self.compiler.view(id) else {
            if let Some(track) = self.tracks.get_mut(id).filter(|track| !track.gone) {
                *track = Track { seen: now.since_start, version: None, live: None, gone: true, ..*track };
                self.events.add(now.date, "Deleted", &id.key, "the entry is gone");
            }
            return;
        };
        let revision = view.written.revision;
        if self.tracks.get(id).is_some_and(|track| track.revision == revision && !track.gone) {
            return;
        }
        if !view.verdict.accepted()
            && let Some(problem) = view.verdict.problem()
        {
            let serving = view.last_good.map(|revision| format!("; revision {revision} still serves")).unwrap_or_default();
            self.events.add(now.date, "Rejected", &id.key, format!("revision {revision}: {}{serving}", problem.message));
        }
        self.tracks.insert(id.clone(), Track { revision, seen: now.since_start, version: None, live: None, gone: false });
    }

    /// Publishes the lanes that are due, if their content is new.
    fn publish(&mut self, config: bool, membership: bool, now: Now) -> Output {
        let mut output = Output::default();
        if !self.compiler.complete() || self.cluster.is_none() {
            return output;
        }
        let first = self.snapshot.version.sequence == 0;
        let lane = |due: bool, new: &Lane, old: &Lane| if due || first { new.clone() } else { old.clone() };
        let next = Snapshot {
            cluster: self.cluster.clone().unwrap_or_default(),
            version: self.snapshot.version.next(),
            config: lane(config, self.config(), &self.snapshot.config),
            membership: lane(membership, &self.lanes.1, &self.snapshot.membership),
        };
        if first || !next.same_content(&self.snapshot) {
            output.config_published = next.config != self.snapshot.config;
            self.replace(next, now, &mut output);
        }
        self.settle(now);
        output
    }

    fn replace(&mut self, next: Snapshot, now: Now, output: &mut Output) {
        let next = Arc::new(next);
        (self.snapshot, self.published) = (next.clone(), now.since_start);
        output.publish = Some(next);
        output.changed = true;
    }

    /// Gives every entry whose lane has gone out the version that has it.
    fn settle(&mut self, now: Now) {
        let version = self.snapshot.version;
        let waits = (self.windows.0.is_pending(), self.windows.1.is_pending());
        let member = |id: &EntryId| id.key.starts_with(Kind::Endpoint.plural());
        // What the guard keeps is served as before, so its end is not published yet.
        let kept: HashSet<&EntryId> = self.guard.kept().map(|gone| &gone.origin.id).collect();
        let settled: Vec<EntryId> =
            self.unpublished.iter().filter(|id| !kept.contains(id)).filter(|id| if member(id) { !waits.1 } else { !waits.0 }).cloned().collect();
        for id in settled {
            self.unpublished.remove(&id);
            if let Some(track) = self.tracks.get_mut(&id).filter(|track| track.version.is_none()) {
                track.version = Some(version);
                self.arriving.insert(id);
            }
        }
        self.mark_live(now);
    }

    /// Notes when entries became live on every proxy that follows us.
    fn mark_live(&mut self, now: Now) {
        let oldest = self.proxies.connected(now.since_start).map(|(_, proxy)| proxy.report.applied.unwrap_or_default()).min();
        let Some(oldest) = oldest else { return };
        let tracks = &mut self.tracks;
        self.arriving.retain(|id| {
            let Some(track) = tracks.get_mut(id) else { return false };
            let live = track.version.is_some_and(|version| version <= oldest);
            if live {
                track.live = Some(now.since_start);
            }
            !live
        });
    }

    fn opened(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Now) -> Output {
        if self.proxies.opened(name, now.since_start) {
            self.events.add(now.date, "ProxyConnected", name, format!("the proxy follows us; it has seen version {highest}"));
        }
        let mut output = Output { changed: true, ..Output::default() };
        let ours = cluster.is_none_or(|cluster| Some(cluster) == self.cluster.as_deref());
        // We lost our state, or another led in between: nobody may be asked to go back.
        if ours && highest > self.snapshot.version && highest.epoch >= self.snapshot.version.epoch {
            let version = Version { epoch: highest.epoch.saturating_add(1), sequence: self.snapshot.version.sequence.min(1) };
            self.events.add(now.date, "EpochRaised", name, format!("version {highest} was seen; going on as {version}"));
            output.epoch = Some(version.epoch);
            let next = Snapshot { version, ..self.snapshot.as_ref().clone() };
            if version.sequence == 0 {
                self.snapshot = Arc::new(next);
            } else {
                self.replace(next, now, &mut output);
            }
        }
        output
    }

    fn reported(&mut self, name: &str, report: Report, now: Now) -> Output {
        let (refused, problems) = (report.refused.clone(), report.problems.clone());
        let before = self.proxies.reported(name, report, now.since_start);
        if let Some(reason) = refused.filter(|reason| before.refused.as_ref() != Some(reason)) {
            self.events.add(now.date, "ProxyRefused", name, reason);
        }
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            self.events.add(now.date, "ProxyProblem", name, format!("{}/{}: {}", problem.kind, problem.name, problem.message));
        }
        self.mark_live(now);
        Output { changed: true, ..Output::default() }
    }

    /// Says which key to write while there is no listener at all.
    fn tell_missing_listener(&mut self, now: Now) {
        let missing = self.compiler.complete() && self.lanes.0.of_kind("listener").next().is_none();
        if missing && !self.no_listener_told {
            let message = "no listener is written; write listeners/web below the root, such as: waypost put listeners/web '{\"address\":\"0.0.0.0:80\",\"protocol\":\"HTTP\"}'";
            self.events.add(now.date, "NoListener", "listeners/", message);
        }
        self.no_listener_told = missing;
    }
}

/// An adapter's entry as the compiler takes it; keys below the root.
fn input(entry: Entry) -> EntryInput {
    EntryInput { key: entry.key.to_string(), written: Written { value: entry.value.as_ref().into(), revision: entry.revision.0 }, unreadable: entry.unreadable }
}

fn change(change: Change) -> EntryChange {
    match change {
        Change::Put(entry) => EntryChange::Put(input(entry)),
        Change::Delete(key) => EntryChange::Delete(key.to_string()),
    }
}

#[cfg(test)]
mod tests;

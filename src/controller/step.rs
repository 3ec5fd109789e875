//! The heart of the controller: state × input → output. No clock, no I/O; time is an input.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use waypost_adapter::{AdapterError, Event as StoreEvent, Revision};
use waypost_model::compile::{Compiler, Departed, EntryId, SavedEntry};
use waypost_model::key::ResourceKey;
use waypost_model::lane::Lane;
use waypost_model::limits::Limits;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Content, Report, Told};

use super::election::{CLAIMED, Role};
use super::events::Events;
use super::guard::{Doubted, Guard, Thresholds, is_doubted};
use super::health::{Health, ejected};
use super::hold::{Hold, Mark};
use super::proxies::{Downstream, Proxies, counts};
use super::replica::Replica;
use super::window::Window;
use sources::NotBelieved;
pub use sources::SourceState;

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
        /// How often the stores had to be read anew when this reading began.
        generation: u64,
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
    /// The other controllers: where they are, by name.
    Peers(BTreeMap<String, String>),
    /// What we are in the election.
    Role(Role),
    /// The leader published this; we relay it.
    Relayed(Arc<Snapshot>),
    /// A proxy told what was published before we lead, which was lost here: of what went since, nobody knows how.
    Recalled(Arc<Snapshot>),
    /// All that other controllers have of what was published before we lead under this epoch is known.
    Recovered(u64),
    /// What the leader keeps, for the day on which we lead.
    Replica(Box<Replica>),
    /// Proxies that follow another controller, which passes on what they say.
    Downstream {
        /// The controller's name.
        controller: String,
        /// What it knows of them.
        proxies: Vec<Downstream>,
        /// The version of what it relays.
        version: Option<Version>,
        /// The digests of that.
        content: Option<Content>,
        /// What happened on it that only it can know.
        told: Vec<Told>,
    },
    /// A proxy began to watch; the highest version it has seen.
    ProxyOpened {
        /// Its name.
        name: String,
        /// The highest version it has seen.
        highest: Version,
        /// The cluster it believes to belong to.
        cluster: Option<String>,
    },
    /// Something happened beside the state that people should know.
    Event {
        /// One word.
        reason: &'static str,
        /// What it is about.
        about: String,
        /// One sentence.
        message: String,
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
        /// Keys of resources below the root, such as `routes/shop`; all that is held if there are none.
        keys: Vec<String>,
        /// Also when they go later.
        later: bool,
        /// By whom.
        by: String,
    },
    /// Time passed.
    Tick,
}

impl Input {
    /// A file of the state directory cannot be used; what is said tells what that costs.
    pub fn damaged(file: &str, message: String) -> Self {
        Self::Event { reason: "StateDamaged", about: file.to_owned(), message }
    }
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
    /// A store was not believed: what was judged goes to disk soon, so that a restart does not judge it again.
    pub doubted: bool,
    /// Somebody saw this epoch, which is above ours.
    pub saw: Option<u64>,
    /// Every store is to be read anew: what it said so far may be older than what is published.
    pub relist: bool,
    /// Entries whose verdict may have changed.
    pub verdicts: BTreeSet<EntryId>,
    /// Something that somebody may wait for changed.
    pub changed: bool,
    /// Paths of what an operator let go.
    pub approved: Vec<String>,
    /// The time of this is over, which an operator held.
    pub over: Option<Mark>,
}

impl Output {
    /// Adds what a further part of the same step wants done.
    fn absorb(&mut self, more: Self) {
        self.publish = more.publish.or(self.publish.take());
        self.config_published |= more.config_published;
        self.entries_changed |= more.entries_changed;
        self.doubted |= more.doubted;
        self.saw = more.saw.or(self.saw);
        self.relist |= more.relist;
        self.verdicts.extend(more.verdicts);
        self.changed |= more.changed;
    }
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

/// A controller that follows us.
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// When it said so last.
    pub heard: Duration,
    /// The version of what it relays.
    pub version: Option<Version>,
    /// Whether that has other content than was published under that version.
    pub drifted: bool,
}

/// A program's claim of a still higher epoch is believed again after this long.
const CLAIM_PAUSE: Duration = Duration::from_secs(5);
/// Claims are forgotten after this long.
const CLAIM_MEMORY: Duration = Duration::from_secs(600);
/// How often what is over is forgotten.
const SWEEP: Duration = Duration::from_secs(10);
/// Deleted entries are remembered for so long, for those who wait until no proxy serves them.
const REMEMBER_GONE: Duration = Duration::from_secs(60);

/// What a publication may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everything.
    All,
    /// What an operator asked for.
    Operated,
    /// What the probers of endpoints say.
    Probed,
    /// Nothing: what was published goes out once more, under our epoch.
    Again,
}

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
    /// Which endpoints can take requests.
    pub health: Health,
    /// Until when proxies that followed whoever led before us may not have found us.
    unmet: Duration,
    /// What the stores say, with what the guard keeps.
    lanes: (Lane, Lane),
    /// What an operator holds, and when that is over.
    hold: Option<(Hold, Option<Duration>)>,
    swept: Duration,
    /// The highest epoch that each program claimed to have seen, and when that was believed.
    claims: HashMap<String, (u64, Duration)>,
    /// Reasons for which something is held, as far as they were told.
    told_held: BTreeSet<String>,
    names: Vec<String>,
    no_listener_told: bool,
    cluster: Option<String>,
    /// The other controllers: where they are, by name.
    pub peers: BTreeMap<String, String>,
    /// Whether the store has said which there are.
    pub met_peers: bool,
    /// The controllers that follow us.
    pub followers: BTreeMap<String, Follower>,
    /// Grows with every time that the stores have to be read anew.
    generation: u64,
    /// What we are in the election.
    role: Role,
    /// The last epoch for which the stores are, or were, read anew and other controllers asked.
    begun: Option<u64>,
    /// An epoch of ours under which somebody else has published.
    contested: Option<u64>,
    /// Whether other controllers were asked for what was published before we lead.
    recovered: bool,
    /// Something waits until we may publish again.
    suppressed: bool,
    /// What was published before we lead was lost here, and is known from a proxy.
    recalled: bool,
    /// An operator asked for something that is not published yet.
    operated: bool,
    /// Why a store is not believed, which went back or became empty while we followed.
    not_believed: Option<NotBelieved>,
    /// What the leader keeps, while we follow.
    replica: Replica,
    /// When it said so last, in milliseconds since 1970.
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
            unpublished: BTreeSet::new(),
            arriving: BTreeSet::new(),
            windows: Default::default(),
            guard: Guard::new(thresholds),
            health: Health::default(),
            unmet: Duration::ZERO,
            lanes: Default::default(),
            hold: None,
            swept: Duration::ZERO,
            claims: HashMap::new(),
            told_held: BTreeSet::new(),
            names,
            no_listener_told: false,
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
            recalled: false,
            operated: false,
            not_believed: None,
            replica: Replica::default(),
            replicated_at: 0,
        }
    }

    /// Takes in what was saved before a restart: it is served until the store is heard. What the guard kept stays until then.
    pub fn restore(&mut self, source: usize, saved: Vec<SavedEntry>, now: Now) -> Output {
        self.compiler.restore(source, saved);
        self.compiled(Some(source), None, now)
    }

    /// How far that store had been read: if it is not as far any more, it was restored from a backup.
    pub fn restore_revision(&mut self, source: usize, at: u64) {
        if let Some(state) = self.sources.get_mut(source) {
            state.at = Revision(at);
        }
    }

    /// Whether something is published.
    pub fn is_ready(&self) -> bool {
        self.snapshot.version.sequence > 0
    }

    /// The next moment at which [`Input::Tick`] is needed.
    pub fn due(&self) -> Duration {
        // Only whoever leads ends what an operator holds: clocks may differ.
        let released = self.hold.as_ref().filter(|_| self.role.epoch().is_some()).and_then(|(_, until)| *until);
        [self.windows.0.due(), self.windows.1.due(), released, self.guard.due()].into_iter().flatten().fold(self.swept + SWEEP, Duration::min)
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Output {
        match input {
            Input::Store { source, event, generation } => self.store(source, event, generation, now),
            Input::StoreFailed { source, error } => self.store_failed(source, error, now),
            Input::OtherSpelling { source, found } => {
                if let Some(state) = self.sources.get_mut(source) {
                    state.other_spelling = found;
                }
                Output::default()
            }
            Input::Cluster(id) => {
                self.proxies.belong_to(&id);
                self.cluster = Some(id);
                self.publish(true, true, now)
            }
            Input::Peers(peers) => {
                (self.peers, self.met_peers) = (peers, true);
                Output { changed: true, ..Output::default() }
            }
            Input::Role(role) => self.take_role(role, now),
            Input::Recovered(epoch) => self.recovered(epoch, now),
            Input::Relayed(snapshot) => self.relayed(&snapshot, now),
            Input::Recalled(snapshot) => {
                let output = self.relayed(&snapshot, now);
                self.recalled |= output.publish.is_some();
                output
            }
            Input::Replica(replica) => self.replicated(*replica, now),
            Input::Downstream { controller, proxies, version, content, told } => {
                self.pass_events(&controller, told, now);
                self.follower(&controller, version, content, now);
                self.downstream(&controller, proxies, version, now)
            }
            Input::ProxyOpened { name, highest, cluster } => self.opened(&name, highest, cluster.as_deref(), now),
            Input::Event { reason, about, message } => {
                self.events.add(now.date, reason, about, message);
                Output::default()
            }
            Input::ProxyClosed(name) => {
                if self.proxies.closed(&name, now.since_start) {
                    self.events.add(now.date, "ProxyDisconnected", &name, "the proxy's stream ended; it serves on");
                }
                let mut output = self.gather(now);
                output.absorb(self.prober_gone(&name, now));
                output.changed = true;
                output
            }
            Input::Reported { name, report } => self.reported(&name, *report, now),
            Input::Tick => self.tick(now),
            Input::Approve { keys, later, by } => self.approve(&keys, later, &by, now),
            Input::Hold { hold, by } => self.set_hold(hold.map(|hold| *hold), &by, now),
        }
    }

    /// Time has passed.
    fn tick(&mut self, now: Now) -> Output {
        if self.sweep(now) {
            let mut output = self.gather(now);
            if matches!(self.role, Role::Caretaking { .. }) {
                // What waited for proxies to come back waits no more.
                output.absorb(self.publish(false, false, now));
            }
            return output;
        }
        let leads = self.role.epoch().is_some();
        if let Some((hold, _)) = self.hold.as_ref().filter(|(_, until)| leads && until.is_some_and(|until| until <= now.since_start)) {
            let over = Some(hold.mark.clone());
            return Output { over, ..self.set_hold(None, "its time being over", now) };
        }
        if self.guard.tick(self.compiler.config(), self.compiler.membership(), now.since_start) {
            return self.guarded(now);
        }
        let due = (self.windows.0.tick(now.since_start), self.windows.1.tick(now.since_start));
        self.publish(due.0, due.1, now)
    }

    /// Forgets what is over, if it is time for that.
    fn sweep(&mut self, now: Now) -> bool {
        if now.since_start < self.swept + SWEEP {
            return false;
        }
        self.swept = now.since_start;
        self.proxies.sweep(now.since_start);
        self.claims.retain(|_, (_, at)| now.since_start.saturating_sub(*at) < CLAIM_MEMORY);
        self.tracks.retain(|_, track| !track.gone || now.since_start.saturating_sub(track.seen) < REMEMBER_GONE);
        self.arriving.retain(|id| self.tracks.contains_key(id));
        self.unpublished.retain(|id| self.tracks.contains_key(id));
        true
    }

    /// Compiles what came in, tells what changed, and publishes what its window allows. Of a store that is read for the `first`
    /// time since the start, or is restored, nothing was written just now: what is kept of it is compared with what it says.
    fn compiled(&mut self, first: Option<usize>, doubted: Option<Doubted<'_>>, now: Now) -> Output {
        let mut outcome = self.compiler.commit();
        if first.is_some() {
            outcome.came.retain(|path| self.guard.source_of(path) != first);
        }
        // What took no requests is not missed.
        if outcome.departed.iter().any(|gone| gone.object.kind() == "endpoint") {
            let ejected = ejected(&self.snapshot);
            let missed = |gone: &Departed| is_doubted(doubted, gone.origin.id.source) || !ejected.contains(gone.object.name());
            outcome.departed.retain(|gone| gone.object.kind() != "endpoint" || missed(gone));
        }
        outcome.departed.retain(|gone| gone.object.kind() != "listener" || !self.proxies.never_bound(gone.object.name()));
        let lanes = (self.compiler.config(), self.compiler.membership());
        let at: Vec<u64> = self.sources.iter().map(|source| source.at.0).collect();
        self.guard.take(&outcome.came, outcome.departed, (lanes, &at), doubted, (now.since_start, now.date));
        if let Some(source) = first.filter(|source| self.sources.get(*source).is_some_and(|state| state.live)) {
            self.guard.reconcile(source, lanes);
        }
        self.give_way(now);
        self.tell_held(now);
        let before = self.lanes.1.clone();
        if !matches!(self.role, Role::Caretaking { .. }) {
            self.lanes = self.guard.apply(self.compiler.config(), self.compiler.membership());
        }
        // A route that is held from now on is marked in membership.
        let members_differ = outcome.membership || self.lanes.1 != before;
        for id in &outcome.touched {
            self.track(id, now);
        }
        self.unpublished.extend(outcome.touched.iter().cloned());
        let due = (outcome.config && self.windows.0.changed(now.since_start), members_differ && self.windows.1.changed(now.since_start));
        let mut output = self.publish(due.0, due.1, now);
        self.tell_missing_listener(now);
        output.entries_changed = !outcome.touched.is_empty();
        output.doubted |= doubted.is_some();
        output.changed |= output.entries_changed;
        output.verdicts = outcome.touched;
        output
    }

    /// Publishes the lanes that are due, if their content is new.
    fn publish(&mut self, config: bool, membership: bool, now: Now) -> Output {
        let mut output = Output::default();
        let Some((epoch, scope)) = self.publishes(now) else { return output };
        let empty = self.snapshot.version.sequence == 0;
        let first = empty || self.snapshot.version.epoch != epoch;
        if first {
            output.doubted = self.recalled;
            self.inherit(now);
        }
        // What waited until we might publish goes out as a whole.
        let all = scope == Scope::All && (first || std::mem::take(&mut self.suppressed));
        let fresh = matches!(scope, Scope::All | Scope::Operated);
        let lane = |due: bool, new: &Lane, old: &Lane| if all || empty || due && fresh { new.clone() } else { old.clone() };
        let version = if first { Version { epoch, sequence: 1 } } else { self.snapshot.version.next() };
        let config = lane(config, self.config(), &self.snapshot.config);
        let membership = lane(membership, &self.membership(), self.health.base());
        let membership = self.health.overlay(&config, membership, version);
        let next = Snapshot { cluster: self.cluster.clone().unwrap_or_default(), version, config, membership };
        if first || !next.same_content(&self.snapshot) {
            output.config_published = next.config != self.snapshot.config;
            self.replace(next, now, &mut output);
        }
        self.settle(now);
        output
    }

    fn replace(&mut self, next: Snapshot, now: Now, output: &mut Output) {
        let next = Arc::new(next);
        self.proxies.published(&next);
        (self.snapshot, self.published) = (next.clone(), now.since_start);
        output.publish = Some(next);
        output.changed = true;
    }

    fn opened(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Now) -> Output {
        if self.proxies.opened(name, highest, cluster, now.since_start) {
            self.events.add(now.date, "ProxyConnected", name, format!("the proxy follows us; it has seen version {highest}"));
        }
        Output { changed: true, saw: self.claimed(name, highest, cluster, now), ..Output::default() }
    }

    /// The epoch above ours that a program claims to have seen: a new one has to be taken then, and every store to be listed. One that
    /// claims higher and higher ones is not believed so often.
    fn claimed(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Now) -> Option<u64> {
        let epoch = self.claim_of(highest, cluster)?;
        match self.claims.get(name) {
            Some((known, _)) if epoch <= *known => Some(epoch),
            Some((known, at)) if now.since_start.saturating_sub(*at) < CLAIM_PAUSE => {
                let message = format!("it claims to have seen epoch {epoch}, and epoch {known} a moment ago; that is looked at again after {CLAIM_PAUSE:?}");
                self.events.add(now.date, "EpochClaims", name, message);
                None
            }
            _ => {
                self.claims.insert(name.to_owned(), (epoch, now.since_start));
                Some(epoch)
            }
        }
    }

    /// The epoch above ours that is claimed, if it is to be believed.
    fn claim_of(&self, highest: Version, cluster: Option<&str>) -> Option<u64> {
        // Only who names our cluster is believed, and no claim that leaves no room above it: what is made of it has to be believed too.
        let ours = cluster.is_some() && cluster == self.cluster.as_deref() && highest.epoch < CLAIMED;
        // We lost our state, or another led in between: nobody may be asked to go back.
        (ours && highest > self.snapshot.version && self.role.epoch().is_none_or(|epoch| highest.epoch >= epoch)).then_some(highest.epoch)
    }

    fn reported(&mut self, name: &str, report: Report, now: Now) -> Output {
        let (refused, problems) = (report.refused.clone(), report.problems.clone());
        let (probed, counted) = (report.probed.clone(), counts(&report));
        let drifted = self.proxies.has_drifted(name);
        let before = self.proxies.reported(name, report, now.since_start);
        if !drifted && self.proxies.has_drifted(name) {
            self.events.add(now.date, "Drift", name, "the proxy serves other content than was published under its version");
        }
        if let Some(reason) = refused.filter(|reason| before.refused.as_ref() != Some(reason)) {
            self.events.add(now.date, "ProxyRefused", name, reason);
        }
        for problem in problems.iter().filter(|problem| !before.problems.contains(problem)) {
            self.events.add(now.date, "ProxyProblem", name, format!("{}/{}: {}", problem.kind, problem.name, problem.message));
        }
        self.mark_live(now);
        let mut output = if counts(&before) == counted { Output::default() } else { self.gather(now) };
        output.absorb(self.probed(name, before.probed.as_ref(), probed.as_ref(), now));
        output.changed = true;
        output
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

/// The path of a resource's object.
pub fn object_path(resource: &ResourceKey) -> String {
    format!("{}/{}", resource.kind.singular(), resource.name)
}

#[cfg(test)]
mod held_tests;
mod judge;
mod kept;
mod lead;
#[cfg(test)]
mod lead_tests;
mod sources;
#[cfg(test)]
mod tests;
mod tracks;

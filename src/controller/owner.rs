//! The task that owns the state, and what carries out what the steps decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use waypost_model::compile::{CURRENT_KEY, EntryView};
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};

use crate::controller::answers;
use crate::controller::answers::shapes::LeaderInfo;
use crate::controller::answers::{entries, proxies, status};
use crate::controller::clock::now_millis;
use crate::controller::disk::files;
use crate::controller::disk::files::{
    ANNOUNCED_FILE, ENTRIES_FILE, GUARD_FILE, Loaded, REVISIONS_FILE, load_entries, load_guard, load_numbers, save_identity, save_published,
};
use crate::controller::disk::saver::SaveRequest;
use crate::controller::freshness::{Freshness, Stamp};
use crate::controller::message::{Command, Current, EntriesAfter, Input, Now, Output, Query, Signal};
use crate::controller::metrics::{Metrics, StoreLabel};
use crate::controller::operator::Request;
use crate::controller::rules::election::Role;
use crate::controller::rules::pins::Pin;
use crate::controller::rules::recovery::RecoveryState;
use crate::controller::settings::{Settings, Store};
use crate::controller::state::State;
use crate::controller::state::source::SourceState;
use crate::controller::stored::entries::{Exported, SavedStore, same_store, with_held};
use crate::controller::stored::identity::Identity;
use crate::controller::stored::replica::Replica;
use crate::controller::stores::verdicts::Outbox;
use crate::controller::waiters::Waiters;

/// Maximum number of inputs that wait for the task; stores are slowed down beyond it.
pub(super) const INPUT_QUEUE_LENGTH: usize = 1_024;
/// Minimum interval between writes of the files; the last content is always written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of entries in one answer, so that an answer delays publishing only for a short time.
const MAX_ENTRIES_PER_ANSWER: usize = 128;
/// The same if only health changed.
const HEALTH_SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// The judgement of a distrusted store, and the snapshot that was published of it by then, are on disk within this time.
const DOUBT_SAVE_TIME: Duration = Duration::from_millis(250);

/// The state from before a restart.
pub(super) struct Restored {
    pub(super) pin: Option<Pin>,
    pub(super) published: Option<Snapshot>,
    /// Events for files that cannot be used.
    pub(super) damaged: Vec<Input>,
}

/// The parts that are still to be written.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    /// Something of the state.
    state: bool,
    /// When it is to be handed to the saver.
    due: Option<Instant>,
    /// How often something was handed over.
    count: u64,
    /// Whether our identity is still to be written, because the disk refused it.
    identity: bool,
    /// Whether a published snapshot is on disk, or was refused by it.
    published: bool,
}

/// The owner of the state.
pub(super) struct Owner {
    pub(super) settings: Settings,
    pub(super) identity: Identity,
    pub(super) stores: Arc<Vec<Arc<Store>>>,
    pub(super) state: State,
    pub(super) started: Instant,
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) waiters: Waiters,
    pub(super) outbox: Arc<Outbox>,
    /// The saved entries of stores that are not among the settings this time.
    pub(super) others: Vec<SavedStore>,
    /// Events up to here are in the log.
    pub(super) logged: u64,
    pub(super) saver: watch::Sender<Option<SaveRequest>>,
    pub(super) unsaved: Unsaved,
    pub(super) config: Option<(Version, Lane, u64)>,
    pub(super) metrics: Arc<Metrics>,
    /// Gets the cluster's id.
    pub(super) cluster: watch::Sender<Option<String>>,
    /// Tells the feeds to read their stores anew.
    pub(super) generation: watch::Sender<u64>,
    pub(super) signals: mpsc::Sender<Signal>,
    /// Keeps what operators do.
    pub(super) operator: mpsc::Sender<Request>,
    pub(super) fresh: Freshness,
    pub(super) _lock: std::fs::File,
}

impl Owner {
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut inputs: mpsc::Receiver<Input>,
        mut roles: watch::Receiver<Role>,
        restored: Restored,
        stop: CancellationToken,
    ) {
        restored.damaged.into_iter().for_each(|event| drop(self.input(event)));
        if let Some(pin) = restored.pin {
            drop(self.input(Input::Pin { pin: Some(Box::new(pin)), by: String::new() }));
        }
        self.restore(restored.published);
        loop {
            let due = self.started + self.state.due();
            let wake = self.unsaved.due.map_or(due, |save| save.min(due));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = roles.changed() => {
                    let role = roles.borrow_and_update().clone();
                    drop(self.input(Input::Role(role)));
                }
                () = tokio::time::sleep_until(wake.into()) => {
                    drop(self.input(Input::Tick));
                    self.save_if_due(false);
                }
                command = commands.recv() => match command {
                    Some(Command::Input(input)) => drop(self.input(input)),
                    Some(Command::Ask(query)) => self.answer(query),
                    Some(Command::Touch) => self.carry_out(Output { changed: true, ..Output::default() }),
                    Some(Command::PinIf(input, digest, to)) => {
                        let same = self.state.snapshot.config.digest() == digest;
                        if same {
                            drop(self.input(input));
                        }
                        if to.send(same).is_err() {
                            tracing::debug!("whoever asked for the hold has gone");
                        }
                    }
                    // The caller may have left.
                    Some(Command::Approve(input, to)) => drop(to.send(self.approve(input))),
                    None => break,
                },
                Some(input) = inputs.recv() => drop(self.input(input)),
            }
        }
        self.save_if_due(true);
    }

    fn now(&self) -> Now {
        Now { since_start: self.started.elapsed(), date: now_millis() }
    }

    fn restore(&mut self, published: Option<Snapshot>) {
        let folder = self.settings.state.clone();
        let stores: Vec<String> = self.stores.iter().map(|store| store.url.clone()).collect();
        let removals = self.usable(GUARD_FILE, load_guard(&folder, &stores), "what the guard held is not known any more");
        let now = self.now();
        self.state.guard.restore(removals, now.since_start);
        let announced = self.usable(ANNOUNCED_FILE, load_numbers(&folder, ANNOUNCED_FILE), "what operators announced to let go is held when it goes");
        self.state.guard.restore_expected(announced, (now.since_start, now.date));
        if let Some(snapshot) = published {
            self.unsaved.published = true;
            let output = self.state.restore_published(snapshot, now);
            self.carry_out(output);
        }
        let saved = self.usable(ENTRIES_FILE, load_entries(&folder), "starting from the store alone");
        let revisions = self.usable(REVISIONS_FILE, load_numbers(&folder, REVISIONS_FILE), "a store that was restored from a backup meanwhile is believed");
        let mut restored = BTreeSet::new();
        for (url, entries) in saved {
            let free = |(number, store): &(usize, &Arc<Store>)| !restored.contains(number) && same_store(&store.url, &url);
            let Some((number, store)) = self.stores.iter().enumerate().find(free) else {
                tracing::warn!(store = url, "the saved entries of a store that is not given are left alone");
                self.others.push((url, entries));
                continue;
            };
            let now = self.now();
            restored.insert(number);
            if let Some(at) = revisions.get(&url).filter(|_| store.adapter.only_counts_up()) {
                self.state.restore_revision(number, *at);
            }
            let output = self.state.restore(number, entries, now);
            self.carry_out(output);
        }
    }

    /// The content of a file; the default if it cannot be used. An event says which part is not used, and what that costs.
    fn usable<T: Default>(&mut self, file: &str, read: Result<Loaded<T>, String>, cost: &str) -> T {
        let (value, event) = files::usable(file, read, cost);
        if let Some(event) = event {
            drop(self.input(event));
        }
        value
    }

    /// One step; returns the paths of the removals that an operator approved with it.
    fn input(&mut self, input: Input) -> Vec<String> {
        let begun = Instant::now();
        match &input {
            Input::Cluster(id) => {
                self.identity.cluster.clone_from(id);
                self.save_identity();
                self.cluster.send_replace(Some(id.clone()));
            }
            // The epoch is on disk before anything is published under it. A disk that refuses does not keep us from leading: the
            // record in the store and the proxies know the epoch as well, and it is written as soon as that is possible.
            Input::Role(role) if role.epoch().is_some_and(|epoch| epoch > self.identity.epoch) => {
                self.identity.epoch = role.epoch().unwrap_or_default();
                self.save_identity();
            }
            Input::Peers(peers) if *peers != self.identity.peers => {
                self.identity.peers.clone_from(peers);
                self.save_identity();
                if self.signals.try_send(Signal::Others(!peers.is_empty())).is_err() {
                    tracing::debug!("the election has ended");
                }
            }
            _ => {}
        }
        if let Input::StoreFailed { source, .. } = &input {
            let url = self.stores.get(*source).map(|store| store.url.clone()).unwrap_or_default();
            self.metrics.store_errors.get_or_create(&StoreLabel { store: url }).inc();
        }
        let (now, read) = (self.now(), matches!(input, Input::Store { .. }));
        let mut output = self.state.step(input, now);
        if read {
            self.stamp();
        }
        let approved = std::mem::take(&mut output.approved);
        self.carry_out(output);
        self.metrics.step_seconds.observe(begun.elapsed().as_secs_f64());
        approved
    }

    /// Approves removals. Returns their paths and the number of the save request that has them; `None` if this controller does not lead.
    fn approve(&mut self, input: Input) -> Option<(Vec<String>, u64)> {
        if !self.state.role().leads(self.now().since_start) {
            return None;
        }
        let went = self.input(input);
        self.unsaved.state = true;
        self.save_if_due(true);
        Some((went, self.unsaved.count))
    }

    /// Notes how fresh the stores are, for followers.
    fn stamp(&self) {
        let stamp = |(store, source): (&Arc<Store>, &SourceState)| Stamp {
            store: store.url.clone(),
            at: source.at.0,
            confirmed: source.confirmed.map(|at| self.started + at),
        };
        self.fresh.read(self.stores.iter().zip(&self.state.sources).map(stamp).collect());
    }

    fn carry_out(&mut self, output: Output) {
        if let Some(epoch) = output.saw
            && self.signals.try_send(Signal::Saw { epoch, living: false }).is_err()
        {
            tracing::debug!(epoch, "the election has ended, or has more to do; the next report tells it");
        }
        if let Some(mark) = output.over
            && self.operator.try_send(Request::Over(mark)).is_err()
        {
            tracing::warn!("the end of a pin could not be kept; `waypost unpin` keeps it");
        }
        if output.relist {
            self.generation.send_modify(|generation| *generation = self.state.generation());
        }
        let (published, mut prompt) = (output.publish.is_some(), output.entries_changed || output.config_published);
        if let Some(snapshot) = output.publish {
            self.metrics.publications.inc();
            // A pinned config is in the history already. The last config of the previous leader may be in nobody's history.
            let epoch = self.state.role().epoch();
            let first = epoch == Some(snapshot.version.epoch) && self.config.as_ref().map(|(version, ..)| version.epoch) != epoch;
            prompt |= first;
            if (output.config_published || first) && self.state.pin().is_none() {
                self.config = Some((snapshot.version, snapshot.config.clone(), self.now().date));
            }
            self.save_first(&snapshot);
            self.snapshots.send_replace(snapshot);
        }
        self.waiters.wake(&output.woken);
        if output.changed {
            self.changes.send_modify(|count| *count += 1);
        }
        // A new leader writes all verdicts; until then they would only pile up.
        if self.state.role().epoch().is_some() {
            self.outbox.add(answers::verdicts::wanted(&self.state, &output.verdicts, self.settings.status_writes));
        }
        for event in self.state.events.since(self.logged) {
            if event.is_trouble() {
                tracing::warn!(target: "waypost", about = event.about, "{}: {}", event.reason, event.message);
            } else {
                tracing::info!(target: "waypost", about = event.about, "{}: {}", event.reason, event.message);
            }
        }
        self.logged = self.state.events.next();
        self.unsaved.state |= output.entries_changed || output.doubted || published;
        if self.unsaved.state {
            let pause = match (output.doubted, prompt) {
                (true, _) => DOUBT_SAVE_TIME,
                (false, true) => SAVE_INTERVAL,
                (false, false) => HEALTH_SAVE_INTERVAL,
            };
            let due = Instant::now() + pause;
            self.unsaved.due = Some(self.unsaved.due.map_or(due, |earlier| earlier.min(due)));
        }
    }

    fn save_identity(&mut self) {
        let saved = save_identity(&self.settings.state, &self.identity);
        self.unsaved.identity = saved.is_err();
        if let Err(error) = saved {
            self.metrics.disk_errors.inc();
            tracing::error!(%error, "the cluster's id and epoch could not be written to the state directory; that is tried again");
        }
    }

    /// The first published snapshot is on disk before any other program has it, so that a controller that has published never takes itself for one
    /// that lost its disk.
    fn save_first(&mut self, snapshot: &Snapshot) {
        if std::mem::replace(&mut self.unsaved.published, true) {
            return;
        }
        if let Err(error) = save_published(&self.settings.state, snapshot) {
            self.metrics.disk_errors.inc();
            tracing::error!(%error, "what is published first could not be written to the state directory; that is tried again");
        }
    }

    fn save_if_due(&mut self, all: bool) {
        let due = self.unsaved.due.is_some_and(|due| due <= Instant::now());
        if !self.unsaved.state || !(all || due) {
            return;
        }
        (self.unsaved.state, self.unsaved.due) = (false, None);
        if self.unsaved.identity {
            self.save_identity();
        }
        self.unsaved.count += 1;
        let stores = self.saved().chain(self.others.iter().cloned()).collect();
        let published = self.state.is_ready().then(|| self.state.snapshot.clone());
        // A follower replicates the leader's history; what this controller published when it led is not added to it.
        let epoch = self.state.role().epoch();
        let config = self.config.clone().filter(|(version, ..)| Some(version.epoch) == epoch);
        let (number, removals, held) = (self.unsaved.count, self.state.removals_for_followers().0, self.held());
        let announced = self.state.announced(self.now());
        self.saver.send_replace(Some(SaveRequest { number, stores, revisions: self.revisions(), config, removals, held, announced, published }));
    }

    /// The authors' bytes of held removals. At the end, the tree that they were in becomes the active one again.
    fn held(&self) -> Vec<Exported> {
        let of = |number: usize| self.state.guard.removals().filter(move |removal| removal.origin.id.source == number);
        let current = |number| self.state.tree_of_held(number).map(|tree| (CURRENT_KEY.to_owned(), tree.as_bytes().into()));
        let entries = |number| of(number).map(|removal| (removal.origin.id.key.clone(), removal.origin.written.value.clone())).chain(current(number)).collect();
        self.stores.iter().enumerate().map(|(number, store)| Exported { store: store.url.clone(), entries: entries(number) }).collect()
    }

    fn current(&self) -> Option<Current> {
        let snapshot = &self.state.snapshot;
        self.state.is_ready().then(|| Current { version: snapshot.version, config: snapshot.config.clone(), stores: self.serving() })
    }

    /// The entries of every store as they are saved.
    fn saved(&self) -> impl Iterator<Item = SavedStore> + '_ {
        self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), self.state.compiler.save(number)))
    }

    /// The same with the held removals.
    fn serving(&self) -> Vec<SavedStore> {
        with_held(self.saved().collect(), &self.held())
    }

    /// How far each store has been read, of the stores whose revisions never go back: after a restart, a lower revision shows that a store was
    /// restored.
    fn revisions(&self) -> BTreeMap<String, u64> {
        let all = self.stores.iter().enumerate().filter(|(_, store)| store.adapter.only_counts_up());
        all.map(|(number, store)| (store.url.clone(), self.state.known_revision(number))).collect()
    }

    /// The leader, as far as it is known.
    fn leader(&self) -> Option<LeaderInfo> {
        match self.state.role() {
            Role::Leading { epoch, .. } | Role::Caretaking { epoch, .. } => {
                let caretaker = matches!(self.state.role(), Role::Caretaking { .. });
                Some(LeaderInfo { name: self.settings.name.clone(), url: self.settings.advertise.clone(), epoch: *epoch, caretaker })
            }
            Role::Following { leader } => {
                leader.as_ref().map(|record| LeaderInfo { name: record.holder.name.clone(), url: record.url.clone(), epoch: record.epoch, caretaker: false })
            }
        }
    }

    /// The replica for followers.
    fn replica(&self, all: bool) -> Replica {
        let entries = |number| if all { self.state.compiler.save(number) } else { self.state.compiler.last_goods(number) };
        let entries = self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), entries(number))).collect();
        let at = self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), self.state.known_revision(number))).collect();
        let (removals, expected) = self.state.removals_for_followers();
        Replica { at, removals, expected, entries }
    }

    fn recovery_state(&self, now: Duration) -> RecoveryState {
        let (came, held) = self.state.proxies.highest_seen(now);
        let empty = (0..self.stores.len()).any(|source| !self.state.compiler.has_any(source));
        RecoveryState { cluster: self.identity.cluster_id(), came, complete: self.state.compiler.complete(), empty, held }
    }

    fn answer(&self, query: Query) {
        let now = self.now();
        // The caller may have left; that is no error.
        match query {
            Query::Status(to) => drop(to.send(status::status(&self.state, &self.stores, self.leader(), now))),
            Query::Ready(to) => drop(to.send(status::ready(&self.state, &self.stores, now))),
            Query::Entries(EntriesAfter { prefix, after }, to) => {
                let views: Vec<EntryView> = self.state.compiler.views_after(&prefix, after.as_ref()).take(MAX_ENTRIES_PER_ANSWER).collect();
                let last = views.last().map(|view| view.id.clone()).filter(|_| views.len() == MAX_ENTRIES_PER_ANSWER);
                drop(to.send((views.iter().map(|view| entries::entry(&self.state, &self.stores, view, now)).collect(), last)));
            }
            Query::Entry(key, to) => drop(to.send(entries::answer(&self.state, &self.stores, &key, now))),
            Query::Connected(to) => drop(to.send(self.state.proxies.connected(now.since_start).map(|(name, _)| name.clone()).collect())),
            Query::Proxies(to) => drop(to.send(proxies::proxies(&self.state, now))),
            Query::Events(from, to) => drop(to.send(self.state.events.since(from).cloned().collect())),
            Query::Export(true, to) => drop(to.send(self.held())),
            Query::Export(false, to) => drop(to.send(self.serving().into_iter().map(Exported::of).collect())),
            Query::Approvable(keys, later, to) => drop(to.send(self.state.approvable(&keys, later))),
            Query::Current(to) => drop(to.send(self.current())),
            Query::PinLeft(to) => drop(to.send(self.state.pin_left(now))),
            Query::Pinned(to) => drop(to.send(self.state.pin().is_some())),
            Query::Peers(to) => drop(to.send(self.state.peers.clone())),
            Query::Met(to) => drop(to.send(self.state.met_peers)),
            Query::RecoveryState(to) => drop(to.send(self.recovery_state(now.since_start))),
            Query::Followed(to) => drop(to.send(self.state.is_followed(now))),
            Query::Empty(to) => drop(to.send(!self.state.compiler.complete())),
            Query::FindingsNumber(name, to) => drop(to.send(self.state.proxies.findings_number(&name))),
            Query::FindingsMissed(all, to) => {
                let missed = |(name, number): &(String, u64)| self.state.proxies.findings_number(name) != Some(*number);
                drop(to.send(all.into_iter().filter(missed).map(|(name, _)| name).collect()));
            }
            Query::Downstream(reports, to) => drop(to.send(self.state.proxies.downstream(&reports, now.since_start))),
            Query::Replica(all, to) => drop(to.send(self.replica(all))),
            Query::Metrics(to) => drop(to.send(self.metrics.render(&status::counts(&self.state, &self.stores, now)))),
        }
    }
}

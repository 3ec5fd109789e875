//! The task that owns the state, and what carries out what the steps decide.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};

use super::disk::{Exported, History, SavedStore, load_entries, load_guard, same_store};
use super::handle::{Command, Handle, Query};
use super::hold::Hold;
use super::identity::{self, Identity};
use super::metrics::{Metrics, StoreLabel};
use super::operator::{self, Current};
use super::save::{ToSave, save};
use super::settings::{Settings, Store};
use super::step::{Input, Now, Output, State};
use super::view::{self, LeaderInfo};
use super::{feed, verdicts};

/// Inputs that wait for the task; stores are slowed down beyond it.
const QUEUE: usize = 1_024;
/// Files are written at most this often, and always with the last content.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Why a controller could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory cannot be used.
    #[error("the state directory {path} cannot be used: {reason}; make it writable for this user, or name another with --state")]
    State {
        /// Which directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Starts a controller on the current runtime; it ends with `stop`. `tasks` tracks what has to end before the process
/// does.
///
/// # Errors
/// The state directory cannot be used. Stores that cannot be reached are no error.
pub fn start(settings: Settings, stop: &CancellationToken, tasks: &TaskTracker) -> Result<Handle, StartError> {
    let path = settings.state.clone();
    let failed = |reason: String| StartError::State { path: path.clone(), reason };
    std::fs::create_dir_all(&settings.state).map_err(|error| failed(error.to_string()))?;
    let identity = begin_epoch(&settings.state).map_err(|error| failed(error.to_string()))?;
    let known = Some(identity.cluster.clone()).filter(|id| !id.is_empty());
    let stores: Arc<Vec<Arc<Store>>> = Arc::new(settings.stores.iter().cloned().map(Arc::new).collect());
    let names = stores.iter().map(|store| store.url.clone()).collect();
    let state = State::new(names, settings.limits.clone(), settings.guard.clone(), identity.epoch, known.clone());
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (inputs, from_feeds) = mpsc::channel(QUEUE);
    let (snapshot_sender, snapshots) = watch::channel(state.snapshot.clone());
    let (change_sender, changes) = watch::channel(0);
    let outbox = Arc::new(verdicts::Outbox::default());
    let (saver, to_save) = watch::channel(None);
    for (number, store) in stores.iter().enumerate() {
        tasks.spawn(feed::run(number, store.clone(), inputs.clone(), stop.clone()));
    }
    if let Some(first) = stores.first() {
        let settling = identity::settle(first.clone(), known, inputs.clone());
        let announcing = identity::announce(first.clone(), settings.name.clone(), settings.advertise.clone());
        tasks.spawn(until(stop.clone(), settling));
        tasks.spawn(until(stop.clone(), announcing));
        tasks.spawn(verdicts::run(first.clone(), outbox.clone(), stop.clone()));
    }
    let metrics = Arc::new(Metrics::default());
    let history = Arc::new(std::sync::Mutex::new(History::open(&settings.state, settings.history)));
    tasks.spawn(save(settings.state.clone(), history.clone(), to_save, metrics.clone(), stop.clone()));
    let saved = operator::Saved::load(&settings.state).unwrap_or_else(|error| {
        tracing::error!("{error}; what was frozen or pinned is not known any more");
        operator::Saved::default()
    });
    let (hold, saved) = restore_hold(saved, &history);
    let (requests, from_operators) = mpsc::channel(QUEUE);
    let saved = Arc::new(std::sync::Mutex::new(saved));
    let operator = operator::Operator { folder: settings.state.clone(), history: history.clone(), owner: commands.clone(), saved: saved.clone() };
    tasks.spawn(until(stop.clone(), operator.run(from_operators)));
    let leader = LeaderInfo { name: settings.name.clone(), url: settings.advertise.clone(), epoch: identity.epoch };
    let owner = Owner {
        settings,
        identity,
        stores: stores.clone(),
        state,
        started: Instant::now(),
        snapshots: snapshot_sender,
        changes: change_sender,
        outbox,
        others: Vec::new(),
        logged: 0,
        saver,
        unsaved: false,
        save_due: None,
        config: None,
        metrics,
        leader,
    };
    tasks.spawn(owner.run(receiver, from_feeds, hold, stop.clone()));
    Ok(Handle::new(commands, snapshots, changes, stores, history, (requests, saved)))
}

/// Who we are, under an epoch that no earlier run had.
fn begin_epoch(folder: &std::path::Path) -> std::io::Result<Identity> {
    let mut identity = Identity::load(folder).unwrap_or_else(|error| {
        tracing::error!("{error}; a new epoch is begun");
        Identity::default()
    });
    identity.epoch = identity.epoch.saturating_add(1);
    match identity.save(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            // The next start will not know of this epoch; seconds since 1970 make one that nobody had.
            identity.epoch = identity.epoch.saturating_add(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
            tracing::error!("the state directory is full: {error}; free some space: what is learned now would be lost in a restart");
        }
        saved => saved?,
    }
    Ok(identity)
}

/// Work that ends with `stop` at the latest.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// What was held when the controller stopped, with its config. What cannot be held any more is none, and recorded.
fn restore_hold(mut saved: operator::Saved, history: &std::sync::Mutex<History>) -> (Option<Hold>, operator::Saved) {
    let date = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
    let Some(mark) = saved.mark.take().filter(|mark| !mark.is_over(date)) else { return (None, saved) };
    let mut history = history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    history.spare(Some(mark.config));
    match history.lane(mark.config) {
        Ok(lane) => {
            saved.mark = Some(mark.clone());
            (Some(Hold { mark, lane }), saved)
        }
        Err(error) => {
            let what = format!("{} no more, and what the store says is published: {error}", mark.told());
            tracing::error!("{what}");
            saved.audit.push(operator::Audit { at: date, by: "waypost".to_owned(), what });
            (None, saved)
        }
    }
}

struct Owner {
    settings: Settings,
    identity: Identity,
    stores: Arc<Vec<Arc<Store>>>,
    state: State,
    started: Instant,
    snapshots: watch::Sender<Arc<Snapshot>>,
    changes: watch::Sender<u64>,
    outbox: Arc<verdicts::Outbox>,
    /// What is saved of stores that are not given this time.
    others: Vec<SavedStore>,
    /// Events up to here are in the log.
    logged: u64,
    saver: watch::Sender<Option<ToSave>>,
    unsaved: bool,
    save_due: Option<Instant>,
    config: Option<(Version, Lane, u64)>,
    metrics: Arc<Metrics>,
    leader: LeaderInfo,
}

impl Owner {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut inputs: mpsc::Receiver<Input>, hold: Option<Hold>, stop: CancellationToken) {
        if let Some(hold) = hold {
            drop(self.input(Input::Hold { hold: Some(Box::new(hold)), by: String::new() }));
        }
        self.restore();
        loop {
            let due = self.started + self.state.due();
            let wake = self.save_due.map_or(due, |save| save.min(due));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(wake.into()) => {
                    drop(self.input(Input::Tick));
                    self.save_if_due(false);
                }
                command = commands.recv() => match command {
                    Some(Command::Input(input)) => drop(self.input(input)),
                    Some(Command::Ask(query)) => self.answer(query),
                    Some(Command::HoldIf(input, digest, to)) => {
                        let same = self.state.snapshot.config.digest() == digest;
                        if same {
                            drop(self.input(input));
                        }
                        if to.send(same).is_err() {
                            tracing::debug!("whoever asked for the hold has gone");
                        }
                    }
                    // Whoever asked may have gone.
                    Some(Command::Approve(input, to)) => drop(to.send(self.input(input))),
                    None => break,
                },
                Some(input) = inputs.recv() => drop(self.input(input)),
            }
        }
        self.save_if_due(true);
    }

    fn now(&self) -> Now {
        let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Now { since_start: self.started.elapsed(), date: u64::try_from(date).unwrap_or(u64::MAX) }
    }

    fn restore(&mut self) {
        let kept = load_guard(&self.settings.state).unwrap_or_else(|error| {
            tracing::error!("{error}; what the guard held is not known any more");
            Vec::new()
        });
        let now = self.now();
        self.state.guard.restore(kept, now.since_start);
        let saved = load_entries(&self.settings.state).unwrap_or_else(|error| {
            tracing::error!("{error}; starting from the store alone");
            Vec::new()
        });
        let mut taken = BTreeSet::new();
        for (url, entries) in saved {
            let free = |(number, store): &(usize, &Arc<Store>)| !taken.contains(number) && same_store(&store.url, &url);
            let Some((number, _)) = self.stores.iter().enumerate().find(free) else {
                tracing::warn!(store = url, "the saved entries of a store that is not given are left alone");
                self.others.push((url, entries));
                continue;
            };
            let now = self.now();
            taken.insert(number);
            let output = self.state.restore(number, entries, now);
            self.carry_out(output);
        }
    }

    /// One step; returns the paths of what an operator let go with it.
    fn input(&mut self, input: Input) -> Vec<String> {
        let begun = Instant::now();
        if let Input::Cluster(id) = &input {
            self.identity.cluster.clone_from(id);
            self.save_identity();
        }
        if let Input::StoreFailed { source, .. } = &input {
            let url = self.stores.get(*source).map(|store| store.url.clone()).unwrap_or_default();
            self.metrics.store_errors.get_or_create(&StoreLabel { store: url }).inc();
        }
        let now = self.now();
        let mut output = self.state.step(input, now);
        let approved = std::mem::take(&mut output.approved);
        self.carry_out(output);
        self.metrics.step_seconds.observe(begun.elapsed().as_secs_f64());
        approved
    }

    fn carry_out(&mut self, output: Output) {
        if let Some(epoch) = output.epoch {
            self.identity.epoch = epoch;
            self.leader.epoch = epoch;
            self.save_identity();
        }
        if let Some(snapshot) = output.publish {
            self.metrics.publications.inc();
            // What is held is in the history already.
            if output.config_published && self.state.hold().is_none() {
                self.config = Some((snapshot.version, snapshot.config.clone(), self.now().date));
                self.unsaved = true;
            }
            self.snapshots.send_replace(snapshot);
        }
        if output.changed {
            self.changes.send_modify(|count| *count += 1);
        }
        self.outbox.add(verdicts::wanted(&self.state, &output.verdicts, self.settings.status_writes));
        for event in self.state.events.since(self.logged) {
            if event.is_trouble() {
                tracing::warn!(target: "waypost", about = event.about, "{}: {}", event.reason, event.message);
            } else {
                tracing::info!(target: "waypost", about = event.about, "{}: {}", event.reason, event.message);
            }
        }
        self.logged = self.state.events.next();
        self.unsaved |= output.entries_changed;
        if self.unsaved && self.save_due.is_none() {
            self.save_due = Some(Instant::now() + SAVE_EVERY);
        }
    }

    fn save_identity(&self) {
        if let Err(error) = self.identity.save(&self.settings.state) {
            self.metrics.disk_errors.inc();
            tracing::error!(%error, "the cluster's id and epoch could not be written to the state directory");
        }
    }

    fn save_if_due(&mut self, all: bool) {
        let due = self.save_due.is_some_and(|due| due <= Instant::now());
        if !self.unsaved || !(all || due) {
            return;
        }
        (self.unsaved, self.save_due) = (false, None);
        let stores = self.saved().chain(self.others.iter().cloned()).collect();
        self.saver.send_replace(Some(ToSave { stores, config: self.config.clone(), kept: self.state.guard.kept().cloned().collect() }));
    }

    /// The authors' bytes of what the guard holds.
    fn held(&self) -> Vec<Exported> {
        let of = |number: usize| self.state.guard.kept().filter(move |gone| gone.origin.id.source == number);
        let entries = |number| of(number).map(|gone| (gone.origin.id.key.clone(), gone.origin.written.value.clone())).collect();
        self.stores.iter().enumerate().map(|(number, store)| Exported { store: store.url.clone(), entries: entries(number) }).collect()
    }

    fn current(&self) -> Option<Current> {
        let snapshot = &self.state.snapshot;
        self.state.is_ready().then(|| Current { version: snapshot.version, config: snapshot.config.clone(), stores: self.saved().collect() })
    }

    /// The entries of every store as they are saved.
    fn saved(&self) -> impl Iterator<Item = SavedStore> + '_ {
        self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), self.state.compiler.save(number)))
    }

    fn answer(&self, query: Query) {
        let now = self.now();
        // Whoever asked may have gone; that is no error.
        match query {
            Query::Status(to) => drop(to.send(view::status(&self.state, &self.stores, self.leader.clone(), now))),
            Query::Ready(to) => drop(to.send(view::ready(&self.state, &self.stores, now))),
            Query::Entries(prefix, to) => {
                let views = self.state.compiler.views_below(&prefix);
                drop(to.send(views.map(|view| view::entry(&self.state, &self.stores, &view, now)).collect()));
            }
            Query::Entry(key, to) => drop(to.send(view::answer(&self.state, &self.stores, &key, now))),
            Query::Proxies(to) => drop(to.send(view::proxies(&self.state, now))),
            Query::Events(from, to) => drop(to.send(self.state.events.since(from).cloned().collect())),
            Query::Export(true, to) => drop(to.send(self.held())),
            Query::Export(false, to) => drop(to.send(self.saved().map(Exported::of).collect())),
            Query::Current(to) => drop(to.send(self.current())),
            Query::Metrics(to) => drop(to.send(self.metrics.render(&view::status(&self.state, &self.stores, self.leader.clone(), now)))),
        }
    }
}

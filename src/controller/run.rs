//! The task that owns the state, and what carries out what the steps decide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_model::compile::{EntryId, SavedEntry};
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};

use super::disk::{History, load_entries, save_entries};
use super::handle::{Command, Exported, Handle, Query};
use super::identity::{self, Identity};
use super::metrics::{Metrics, StoreLabel};
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
    let mut identity = Identity::load(&settings.state).unwrap_or_else(|error| {
        tracing::error!("{error}; a new epoch is begun");
        Identity::default()
    });
    identity.epoch += 1;
    identity.save(&settings.state).map_err(|error| failed(error.to_string()))?;
    let known = Some(identity.cluster.clone()).filter(|id| !id.is_empty());
    let stores: Arc<Vec<Arc<Store>>> = Arc::new(settings.stores.iter().cloned().map(Arc::new).collect());
    let names = stores.iter().map(|store| store.url.clone()).collect();
    let state = State::new(names, settings.limits.clone(), identity.epoch, known.clone());
    let (commands, receiver) = mpsc::channel(QUEUE);
    let (inputs, from_feeds) = mpsc::channel(QUEUE);
    let (snapshot_sender, snapshots) = watch::channel(state.snapshot.clone());
    let (change_sender, changes) = watch::channel(0);
    let (verdict_sender, wanted) = mpsc::channel(QUEUE);
    let (saver, to_save) = watch::channel(None);
    for (number, store) in stores.iter().enumerate() {
        tasks.spawn(feed::run(number, store.clone(), inputs.clone(), stop.clone()));
    }
    if let Some(first) = stores.first() {
        let settling = identity::settle(first.clone(), known, inputs.clone());
        let ended = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = settling => {}
            }
        });
        tasks.spawn(verdicts::run(first.clone(), wanted, stop.clone()));
    }
    let metrics = Arc::new(Metrics::default());
    let history = Arc::new(std::sync::Mutex::new(History::open(&settings.state, settings.history)));
    tasks.spawn(save(settings.state.clone(), history.clone(), to_save, metrics.clone(), stop.clone()));
    let leader = LeaderInfo { name: settings.name.clone(), url: settings.advertise.clone(), epoch: identity.epoch };
    let owner = Owner {
        settings,
        identity,
        stores: stores.clone(),
        state,
        started: Instant::now(),
        snapshots: snapshot_sender,
        changes: change_sender,
        verdicts: verdict_sender,
        saver,
        unsaved: false,
        save_due: None,
        config: None,
        metrics,
        history,
        leader,
    };
    tasks.spawn(owner.run(receiver, from_feeds, stop.clone()));
    Ok(Handle::new(commands, snapshots, changes, stores))
}

/// What goes to disk.
#[derive(Debug, Clone)]
struct ToSave {
    stores: Vec<(String, Vec<SavedEntry>)>,
    config: Option<(Version, Lane, u64)>,
}

struct Owner {
    settings: Settings,
    identity: Identity,
    stores: Arc<Vec<Arc<Store>>>,
    state: State,
    started: Instant,
    snapshots: watch::Sender<Arc<Snapshot>>,
    changes: watch::Sender<u64>,
    verdicts: mpsc::Sender<verdicts::Wanted>,
    saver: watch::Sender<Option<ToSave>>,
    unsaved: bool,
    save_due: Option<Instant>,
    config: Option<(Version, Lane, u64)>,
    metrics: Arc<Metrics>,
    history: Arc<std::sync::Mutex<History>>,
    leader: LeaderInfo,
}

impl Owner {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut inputs: mpsc::Receiver<Input>, stop: CancellationToken) {
        self.restore();
        loop {
            let due = self.state.due().map(|due| self.started + due);
            let wake = [due, self.save_due].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(wake) => {
                    self.input(Input::Tick);
                    self.save_if_due(false);
                }
                command = commands.recv() => match command {
                    Some(Command::Input(input)) => self.input(input),
                    Some(Command::Ask(query)) => self.answer(query),
                    None => break,
                },
                Some(input) = inputs.recv() => self.input(input),
            }
        }
        self.save_if_due(true);
    }

    fn now(&self) -> Now {
        let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Now { since_start: self.started.elapsed(), date: u64::try_from(date).unwrap_or(u64::MAX) }
    }

    fn restore(&mut self) {
        let saved = load_entries(&self.settings.state).unwrap_or_else(|error| {
            tracing::error!("{error}; starting from the store alone");
            Vec::new()
        });
        for (url, entries) in saved {
            let Some(number) = self.stores.iter().position(|store| store.url == url) else {
                tracing::warn!(store = url, "the saved entries of a store that is no longer given are left alone");
                continue;
            };
            let now = self.now();
            let output = self.state.restore(number, entries, now);
            self.carry_out(output);
        }
    }

    fn input(&mut self, input: Input) {
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
        let output = self.state.step(input, now);
        self.carry_out(output);
        self.metrics.step_seconds.observe(begun.elapsed().as_secs_f64());
    }

    fn carry_out(&mut self, output: Output) {
        if let Some(epoch) = output.epoch {
            self.identity.epoch = epoch;
            self.leader.epoch = epoch;
            self.save_identity();
        }
        if let Some(snapshot) = output.publish {
            self.metrics.publications.inc();
            if output.config_published {
                self.config = Some((snapshot.version, snapshot.config.clone(), self.now().date));
                self.unsaved = true;
            }
            self.snapshots.send_replace(snapshot);
        }
        if output.changed {
            self.changes.send_modify(|count| *count += 1);
        }
        self.tell_verdicts(&output.verdicts);
        self.unsaved |= output.entries_changed;
        if self.unsaved && self.save_due.is_none() {
            self.save_due = Some(Instant::now() + SAVE_EVERY);
        }
    }

    fn tell_verdicts(&self, touched: &BTreeSet<EntryId>) {
        let views = touched
            .iter()
            .filter_map(|id| self.state.compiler.view(id).map(|view| verdicts::of(&view, self.settings.status_writes)).unwrap_or_else(|| gone(id)));
        let wanted: BTreeMap<_, _> = views.collect();
        if !wanted.is_empty() && self.verdicts.try_send(wanted).is_err() {
            tracing::warn!("the store is slower than verdicts come; some are in the API alone");
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
        let stores = self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), self.state.compiler.save(number))).collect();
        self.saver.send_replace(Some(ToSave { stores, config: self.config.clone() }));
    }

    fn answer(&self, query: Query) {
        let now = self.now();
        // Whoever asked may have gone; that is no error.
        match query {
            Query::Status(to) => drop(to.send(view::status(&self.state, &self.stores, self.leader.clone(), now))),
            Query::Entries(prefix, to) => {
                let views = self.state.compiler.views().filter(|view| view.id.key.starts_with(&prefix));
                drop(to.send(views.map(|view| view::entry(&self.state, &self.stores, &view, now)).collect()));
            }
            Query::Proxies(to) => drop(to.send(view::proxies(&self.state, now))),
            Query::Events(from, to) => drop(to.send(self.state.events.since(from))),
            Query::History(to) => drop(to.send(self.history.lock().map(|history| history.records().to_vec()).unwrap_or_default())),
            Query::Export(config, to) => drop(to.send(self.export(config))),
            Query::Metrics(to) => drop(to.send(self.metrics.render(&view::status(&self.state, &self.stores, self.leader.clone(), now)))),
        }
    }

    fn export(&self, config: Option<u64>) -> Result<Vec<Exported>, String> {
        let saved = match config {
            Some(number) => self.history.lock().map_err(|error| error.to_string())?.entries(number)?,
            None => self.stores.iter().enumerate().map(|(number, store)| (store.url.clone(), self.state.compiler.save(number))).collect(),
        };
        // What serves is what is exported: the last good value where the current one was refused.
        let value = |entry: SavedEntry| (entry.input.key, entry.last_good.unwrap_or(entry.input.written).value);
        Ok(saved.into_iter().map(|(store, entries)| Exported { store, entries: entries.into_iter().map(value).collect() }).collect())
    }
}

/// The verdict of an entry that is gone: nothing is to stand there.
fn gone(id: &EntryId) -> Option<(String, Option<bytes::Bytes>)> {
    waypost_model::key::parse_typed("", &id.key).ok().map(|resource| (resource.to_string(), None))
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// Writes what the owner hands over, off its task. Always ends with the last.
async fn save(
    folder: PathBuf,
    history: Arc<std::sync::Mutex<History>>,
    mut to_save: watch::Receiver<Option<ToSave>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    loop {
        // The owner drops its sender after it handed over the last.
        let more = to_save.changed().await.is_ok();
        let work = to_save.borrow_and_update().clone();
        if let Some(work) = work {
            let (folder, history) = (folder.clone(), history.clone());
            let written = tokio::task::spawn_blocking(move || write(&folder, &history, &work)).await;
            if let Err(error) = written.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                metrics.disk_errors.inc();
                tracing::error!(%error, "the state directory could not be written; free some space: last good values would be lost in a restart");
            }
        }
        if !more || stop.is_cancelled() && to_save.has_changed().is_err() {
            return;
        }
    }
}

fn write(folder: &std::path::Path, history: &std::sync::Mutex<History>, work: &ToSave) -> std::io::Result<()> {
    save_entries(folder, &work.stores)?;
    if let (Some((version, config, at)), Ok(mut history)) = (&work.config, history.lock()) {
        history.add(*version, config, *at, &work.stores)?;
    }
    Ok(())
}

//! Starting a controller: its tasks and the channels between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_model::snapshot::Snapshot;

use crate::controller::clock::now_millis;
use crate::controller::disk::files::{
    IDENTITY_FILE, OPERATOR_FILE, PROGRAMS_FILE, PUBLISHED_FILE, load_identity, load_operator, load_programs, load_published, save_identity, save_programs,
    usable,
};
use crate::controller::disk::history::History;
use crate::controller::disk::saver::{Files, SaveRequest};
use crate::controller::freshness::Freshness;
use crate::controller::handle::Handle;
use crate::controller::jitter::jitter;
use crate::controller::message::{Command, Input, Signal, Upstream};
use crate::controller::metrics::Metrics;
use crate::controller::operator::{Operator, Request};
use crate::controller::owner::{INPUT_QUEUE_LENGTH, Owner, Restored, Unsaved};
use crate::controller::peers::follow::Relay;
use crate::controller::rules::election::{Candidate, Election, Holder, Role};
use crate::controller::rules::pins::{Pin, PinRecord, Reason};
use crate::controller::settings::{Settings, Store};
use crate::controller::state::State;
use crate::controller::stored::identity::{Identity, new_id};
use crate::controller::stored::operator::{Audit, OperatorState};
use crate::controller::stored::programs::Programs;
use crate::controller::stores::elector::{Elector, StoreDown};
use crate::controller::stores::verdicts::Outbox;
use crate::controller::stores::{feed, identity, verdicts};
use crate::controller::waiters::Waiters;

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
    let Opened { lock, published, identity, previous_run, mut damaged } = open(&settings.state)?;
    let own_cluster = identity.cluster_id();
    let stores: Arc<Vec<Arc<Store>>> = Arc::new(settings.stores.iter().cloned().map(Arc::new).collect());
    let state = state_of(&settings, &stores, own_cluster.clone());
    let (commands, receiver) = mpsc::channel(INPUT_QUEUE_LENGTH);
    let (inputs, from_feeds) = mpsc::channel(INPUT_QUEUE_LENGTH);
    let (snapshot_sender, snapshots) = watch::channel(state.snapshot.clone());
    let (change_sender, changes) = watch::channel(0);
    let (cluster, clusters) = watch::channel(own_cluster);
    let (role_sender, roles) = watch::channel(Role::Following { leader: None });
    let (generation, generations) = watch::channel(0);
    let (upstream_sender, upstream) = watch::channel(Upstream::Nobody);
    let (signals, from_outside) = mpsc::channel(INPUT_QUEUE_LENGTH);
    let (outbox, metrics, started) = (Arc::new(Outbox::default()), Arc::new(Metrics::default()), Instant::now());
    let (waiters, fresh) = (Waiters::default(), Freshness::default());
    let spawn = Spawn { settings: &settings, identity: &identity, stores: &stores, inputs, stop, tasks };
    spawn.stores(&generations, &outbox, &roles);
    spawn.election(role_sender, previous_run, clusters, from_outside, started);
    let history = Arc::new(std::sync::Mutex::new(History::open(&settings.state, settings.history)));
    let (saver, written) = spawn.disk(&history, &metrics);
    damaged.extend(lost_configs(&history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)));
    let (pin, operator, (saved, programs)) = spawn.operator(&history, (published.as_ref(), &mut damaged), commands.clone(), (roles.clone(), started));
    let handle = Handle {
        commands,
        snapshots,
        changes,
        waiters: waiters.clone(),
        stores: stores.clone(),
        history,
        operator: operator.clone(),
        saved,
        programs,
        written,
        confirmed: Arc::new(watch::channel((0, 0)).0),
        roles: roles.clone(),
        upstream,
        signals: signals.clone(),
        fresh: fresh.clone(),
        offers: Arc::default(),
        me: (settings.name.clone(), settings.advertise.clone()),
    };
    spawn.relay(&handle, upstream_sender);
    let owner = Owner {
        settings,
        identity,
        stores,
        state,
        started,
        snapshots: snapshot_sender,
        changes: change_sender,
        waiters,
        outbox,
        others: Vec::new(),
        logged: 0,
        saver,
        unsaved: Unsaved::default(),
        config: None,
        metrics,
        cluster,
        generation,
        signals,
        operator,
        fresh,
        _lock: lock,
    };
    let running = owner.run(receiver, from_feeds, roles, Restored { pin, published, damaged }, stop.clone());
    tasks.spawn(end_with(stop, running));
    Ok(handle)
}

/// Runs a task, and stops everything when it ends: a controller that only renews its record would keep others from leading.
fn end_with<T: Future<Output = ()>>(stop: &CancellationToken, task: T) -> impl Future<Output = ()> + use<T> {
    let end = stop.clone().drop_guard();
    async move {
        task.await;
        drop(end);
    }
}

/// The record of operators' actions, and the programs that have joined: shared with the API.
type Operated = (Arc<std::sync::Mutex<OperatorState>>, Arc<std::sync::Mutex<Programs>>);

/// A state that knows nothing of these stores yet.
fn state_of(settings: &Settings, stores: &[Arc<Store>], cluster: Option<String>) -> State {
    let names = stores.iter().map(|store| store.url.clone()).collect();
    let mut state = State::new(names, settings.limits.clone(), settings.guard.clone(), cluster);
    state.sources.iter_mut().zip(stores).for_each(|(source, store)| source.counts_up = store.adapter.only_counts_up());
    state
}

/// Events for configs of the history that cannot be read.
fn lost_configs(history: &History) -> Vec<Input> {
    history.damaged().iter().map(|(file, error)| Input::damaged(file, format!("{error}; this config of the history is lost"))).collect()
}

/// The content of the state directory, which is locked for this process from now on.
struct Opened {
    lock: std::fs::File,
    published: Option<Snapshot>,
    identity: Identity,
    previous_run: Option<String>,
    /// Events for files that cannot be used.
    damaged: Vec<Input>,
}

fn open(path: &Path) -> Result<Opened, StartError> {
    let failed = |reason: String| StartError::State { path: path.to_owned(), reason };
    std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
    let lock = lock(path).map_err(failed)?;
    let mut damaged = Vec::new();
    let (published, damage) = usable(PUBLISHED_FILE, load_published(path), "nothing is published before a store or another controller is heard");
    damaged.extend(damage);
    let (identity, previous_run) = begin_run(path, published.as_ref(), &mut damaged).map_err(|error| failed(error.to_string()))?;
    let published = published.filter(|snapshot| snapshot.cluster == identity.cluster);
    Ok(Opened { lock, published, identity, previous_run, damaged })
}

/// Starts tasks.
struct Spawn<'a> {
    settings: &'a Settings,
    identity: &'a Identity,
    stores: &'a Arc<Vec<Arc<Store>>>,
    inputs: mpsc::Sender<Input>,
    stop: &'a CancellationToken,
    tasks: &'a TaskTracker,
}

impl Spawn<'_> {
    /// Starts the tasks that read the stores and write below the status root of the first one.
    fn stores(&self, generations: &watch::Receiver<u64>, outbox: &Arc<Outbox>, roles: &watch::Receiver<Role>) {
        for (number, store) in self.stores.iter().enumerate() {
            self.tasks.spawn(feed::run(number, store.clone(), self.inputs.clone(), generations.clone(), self.stop.clone()));
        }
        let Some(first) = self.stores.first() else { return };
        let settling = identity::settle(first.clone(), self.identity.cluster_id(), self.inputs.clone());
        let announcing = identity::announce(first.clone(), self.settings.name.clone(), self.settings.advertise.clone(), self.inputs.clone());
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(settling));
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(announcing));
        self.tasks.spawn(verdicts::run(first.clone(), outbox.clone(), roles.clone(), self.stop.clone()));
    }

    /// Starts the task that takes part in the election.
    fn election(
        &self,
        roles: watch::Sender<Role>,
        previous_run: Option<String>,
        clusters: watch::Receiver<Option<String>>,
        signals: mpsc::Receiver<Signal>,
        started: Instant,
    ) {
        let Some(first) = self.stores.first() else { return };
        let sole = self.identity.peers.is_empty() && self.settings.peers.is_empty();
        // A controller that learns its cluster from the store need not be told whether the store answers, however late that is.
        let store_down = match (self.settings.store_down, sole && clusters.borrow().is_some()) {
            (true, _) => StoreDown::Named,
            (false, true) => StoreDown::Sole,
            (false, false) => StoreDown::Wait,
        };
        let elector = Elector { store: first.clone(), alone: sole, ttl: self.settings.leader_ttl, started, store_down, roles };
        let holder = Holder { name: self.settings.name.clone(), run: self.identity.run.clone() };
        let me = Candidate { cluster: String::new(), holder, previous_run, url: self.settings.advertise.clone() };
        self.tasks.spawn(elect(elector, me, self.identity.epoch, clusters, signals, self.stop.clone()));
    }

    /// The task that writes to the state directory: a sender of save requests, and a receiver of the number of the last that was written.
    fn disk(&self, history: &Arc<std::sync::Mutex<History>>, metrics: &Arc<Metrics>) -> (watch::Sender<Option<SaveRequest>>, watch::Receiver<u64>) {
        let ((saver, save_request), (written_to, written)) = (watch::channel(None), watch::channel(0));
        let stores = self.stores.iter().map(|store| store.url.clone()).collect();
        let files = Files { folder: self.settings.state.clone(), stores, history: history.clone(), metrics: metrics.clone(), written: written_to };
        self.tasks.spawn(files.save(save_request, self.stop.clone()));
        (saver, written)
    }

    /// Starts the task that carries out operators' requests. Returns the pin from before the restart as well.
    fn operator(
        &self,
        history: &Arc<std::sync::Mutex<History>>,
        (published, damaged): (Option<&Snapshot>, &mut Vec<Input>),
        owner: mpsc::Sender<Command>,
        (roles, started): (watch::Receiver<Role>, Instant),
    ) -> (Option<Pin>, mpsc::Sender<Request>, Operated) {
        let mut saved = load_operator(&self.settings.state);
        let programs = load_programs(&self.settings.state);
        let (mut programs, lost) =
            usable(PROGRAMS_FILE, programs, "names of programs that have joined can be taken by others until another controller tells them");
        damaged.extend(lost);
        // Release 0.1 had the programs in the record of operators' actions. They are on disk before that record is written without them.
        let before = saved.0.take_programs(now_millis());
        if programs.merge(before.since(None).0)
            && let Err(error) = save_programs(&self.settings.state, &programs)
        {
            tracing::error!(%error, "the programs that have joined could not be written to a file of their own");
            saved.0 = saved.0.with_programs(&programs);
        }
        let (pin, saved) = restore_pin(saved, &mut history.lock().unwrap_or_else(std::sync::PoisonError::into_inner), published, damaged);
        let (requests, from_operators) = mpsc::channel(INPUT_QUEUE_LENGTH);
        let (saved, programs) = (Arc::new(std::sync::Mutex::new(saved)), Arc::new(std::sync::Mutex::new(programs)));
        let operator = Operator {
            folder: self.settings.state.clone(),
            history: history.clone(),
            owner,
            saved: saved.clone(),
            programs: programs.clone(),
            roles,
            started,
            begun: AtomicU64::new(0),
        };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(operator.run(from_operators)));
        (pin, requests, (saved, programs))
    }

    /// Starts the task that follows the leader.
    fn relay(&self, handle: &Handle, upstream: watch::Sender<Upstream>) {
        let relay = Relay {
            handle: handle.clone(),
            peers: self.settings.peers.iter().map(|url| (url.clone(), url.clone())).chain(self.identity.peers.clone()).collect(),
            client: self.settings.client.clone(),
            roles: handle.roles(),
            upstream,
            renewal_at_contact: AtomicU64::new(u64::MAX),
            lost: Instant::now(),
            telling: AtomicU64::new(0),
            whole: AtomicBool::new(false),
            renewed: (0, Instant::now()),
        };
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(relay.run()));
    }
}

/// The state directory is for one process; the lock ends with it.
fn lock(folder: &Path) -> Result<std::fs::File, String> {
    let file = std::fs::File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err("another controller uses it; end that one first".to_owned()),
        Err(std::fs::TryLockError::Error(error)) => Err(error.to_string()),
    }
}

/// The identity of this controller, with a new run, and the run before it.
fn begin_run(folder: &Path, published: Option<&Snapshot>, damaged: &mut Vec<Input>) -> std::io::Result<(Identity, Option<String>)> {
    let (mut identity, damage): (Identity, _) = usable(IDENTITY_FILE, load_identity(folder), "the cluster's id and epoch are found out anew");
    damaged.extend(damage);
    let previous = Some(std::mem::replace(&mut identity.run, new_id())).filter(|run| !run.is_empty());
    identity.epoch = identity.epoch.max(published.map_or(0, |snapshot| snapshot.version.epoch));
    match save_identity(folder, &identity) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            // The next start will not know of this epoch. Adding the seconds since 1970 gives an epoch that no controller has had.
            identity.epoch = identity.epoch.saturating_add(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
            tracing::error!("the state directory is full: {error}; free some space: what is learned now would be lost in a restart");
        }
        saved => saved?,
    }
    Ok((identity, previous))
}

/// Takes part in the election as soon as the cluster is known.
async fn elect(
    elector: Elector,
    me: Candidate,
    highest: u64,
    mut clusters: watch::Receiver<Option<String>>,
    signals: mpsc::Receiver<Signal>,
    stop: CancellationToken,
) {
    let cluster = tokio::select! {
        () = stop.cancelled() => return,
        cluster = clusters.wait_for(Option::is_some) => match cluster {
            Ok(cluster) => cluster.clone().unwrap_or_default(),
            Err(_) => return,
        },
    };
    let jitter = jitter(elector.ttl / 40);
    let election = Election::new(Candidate { cluster, ..me }, elector.ttl, jitter, highest);
    elector.run(election, signals, stop).await;
}

/// The pin from before the restart, with its config. If a file cannot be used, the published config is pinned: it is the pinned one, or at least
/// nobody knows that it is not.
fn restore_pin(
    (mut saved, lost): (OperatorState, Option<String>),
    history: &mut History,
    published: Option<&Snapshot>,
    damaged: &mut Vec<Input>,
) -> (Option<Pin>, OperatorState) {
    let date = now_millis();
    // The loss is in the events and the audit.
    let mut tell = |saved: &mut OperatorState, what: String| {
        saved.audit.push(Audit { at: date, by: "waypost".to_owned(), what: what.clone() });
        damaged.push(Input::damaged(OPERATOR_FILE, what));
    };
    match (lost, published) {
        (None, _) => {}
        (Some(error), None) => tell(&mut saved, format!("{error}; what was frozen or pinned is not known any more")),
        (Some(error), Some(snapshot)) => {
            let digest = snapshot.config.digest().to_string();
            let number = history.records().iter().rev().find(|record| record.digest == digest).or(history.records().last()).map_or(0, |record| record.number);
            tell(&mut saved, format!("{error}; what was frozen or pinned is not known any more, and the config is frozen as it was published"));
            let digest = Some(snapshot.config.digest());
            let mark = PinRecord { reason: Reason::Frozen, config: number, by: "waypost".to_owned(), at: date, until: None, digest };
            saved.mark = Some(mark.clone());
            return (Some(Pin::new(mark, snapshot.config.clone(), date)), saved);
        }
    }
    // A pin whose time is over by the clock is ended by the leader.
    let Some(mark) = saved.mark.take() else { return (None, saved) };
    history.spare(Some(mark.config));
    let lane = match (history.pinned_lane(&mark), published) {
        (Ok(lane), _) => lane,
        (Err(error), Some(snapshot)) => {
            tell(&mut saved, format!("{}; its file cannot be used, and what was published last is held: {error}", mark.describe()));
            snapshot.config.clone()
        }
        (Err(error), None) => {
            tell(&mut saved, format!("{} no more, and what the store says is published: {error}", mark.describe()));
            return (None, saved);
        }
    };
    saved.mark = Some(mark.clone());
    (Some(Pin::new(mark, lane, date)), saved)
}

#[cfg(test)]
mod tests {
    use waypost_model::lane::{Change, Lane};
    use waypost_model::object::Object;
    use waypost_model::snapshot::Version;

    use super::*;

    #[test]
    fn the_config_stays_pinned_whichever_file_of_the_pin_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let lane = Lane::default().with([Change::Put(Object::read(r#"{"kind":"route","name":"r"}"#).unwrap())]);
        let published = Snapshot { config: lane.clone(), version: Version { epoch: 1, sequence: 2 }, ..Snapshot::default() };
        let (mut history, mut damaged) = (History::open(folder.path(), 3), Vec::new());
        let number = history.add(published.version, &lane, 1, &[]).unwrap();
        let mark = PinRecord { reason: Reason::Pinned, config: number, by: "alice".to_owned(), at: 1, until: None, digest: Some(lane.digest()) };
        let saved = OperatorState { mark: Some(mark.clone()), ..OperatorState::default() };
        let (pin, restored) = restore_pin((saved.clone(), None), &mut history, Some(&published), &mut damaged);
        assert_eq!((pin.map(|pin| pin.lane), restored), (Some(lane.clone()), saved.clone()));
        assert!(damaged.is_empty());
        // The file of the config.
        let file = std::fs::read_dir(folder.path().join("history")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, b"torn").unwrap();
        let (pin, restored) = restore_pin((saved.clone(), None), &mut history, Some(&published), &mut damaged);
        assert_eq!((pin.map(|pin| (pin.mark, pin.lane)), restored.mark), (Some((mark.clone(), lane.clone())), Some(mark)));
        assert!(restored.audit[0].what.contains("what was published last is held"), "{:?}", restored.audit);
        assert!(restore_pin((saved, None), &mut history, None, &mut damaged).0.is_none(), "there is nothing that could be held");
        // What operators did.
        let (pin, restored) = restore_pin((OperatorState::default(), Some("operator.json: torn".to_owned())), &mut history, Some(&published), &mut damaged);
        let pin = pin.unwrap();
        assert_eq!((pin.mark.reason, pin.mark.config, &pin.lane), (Reason::Frozen, number, &lane));
        assert_eq!(restored.mark, Some(pin.mark));
        assert_eq!(damaged.len(), 3, "each is an event");
    }
}

//! The API's side of the controller: commands in, answers out, and the snapshot to follow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use waypost_adapter::{AdapterError, Entry, Key};
use waypost_model::key::{Place, place};
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{ControllerInfo, Downstream, Heartbeat};

use super::disk::Exported;
use super::elect::Signal;
use super::election::Role;
use super::events::Event;
use super::fresh::Fresh;
use super::history::{ConfigRecord, History};
use super::hold::Action;
use super::operator::{ASKING, Audit, Current, Joining, Request, Saved};
use super::recall::{Recall, Seen};
use super::relay::Fed;
use super::replica::Replica;
use super::settings::Store;
use super::step::Input;
use super::view::{EntryAnswer, EntryInfo, ObjectDiff, ProxyInfo, ReadyInfo, StatusInfo};

/// A question to the one task that owns the state.
#[derive(Debug)]
pub enum Query {
    /// The status.
    Status(oneshot::Sender<StatusInfo>),
    /// Whether something is published, and how fresh the stores are.
    Ready(oneshot::Sender<ReadyInfo>),
    /// All entries of these keys' beginnings; relative to the root, empty for all.
    Entries(String, oneshot::Sender<Vec<EntryInfo>>),
    /// The entry under a key, relative to the root.
    Entry(String, oneshot::Sender<EntryAnswer>),
    /// The proxies.
    Proxies(oneshot::Sender<Vec<ProxyInfo>>),
    /// Events from this number on.
    Events(u64, oneshot::Sender<Vec<Event>>),
    /// The authors' bytes of what serves now; of what the guard holds alone, if that is asked for.
    Export(bool, oneshot::Sender<Vec<Exported>>),
    /// What would go if an operator let these keys go, or everything if there are none; now, or later too. With the keys of just that.
    Approvable(Vec<String>, bool, oneshot::Sender<Vec<(String, String)>>),
    /// What is published and what it came from; nothing before the first publication.
    Current(oneshot::Sender<Option<Current>>),
    /// Whether an operator holds the config.
    Held(oneshot::Sender<bool>),
    /// How much time is left of what an operator holds.
    Left(oneshot::Sender<Option<Duration>>),
    /// The other controllers: where they are, by name.
    Peers(oneshot::Sender<BTreeMap<String, String>>),
    /// Whether the store has said which other controllers there are.
    Met(oneshot::Sender<bool>),
    /// What there is to be recalled from proxies.
    Seen(oneshot::Sender<Seen>),
    /// Whether another controller follows us.
    Followed(oneshot::Sender<bool>),
    /// Whether nothing is known of some store.
    Empty(oneshot::Sender<bool>),
    /// The proxies that follow us, directly or not, with their last reports.
    Downstream(oneshot::Sender<Vec<Downstream>>),
    /// What followers keep; with all entries, if that is asked for.
    Replica(bool, oneshot::Sender<Replica>),
    /// The metrics.
    Metrics(oneshot::Sender<String>),
}

/// What reaches the controller's task.
#[derive(Debug)]
pub enum Command {
    /// Something happened.
    Input(Input),
    /// Somebody asks.
    Ask(Query),
    /// An operator holds the config, but only if what is published has this digest; gets whether it had.
    HoldIf(Input, Digest, oneshot::Sender<bool>),
    /// Something that followers keep has changed.
    Touch,
    /// An operator lets go what the guard holds; gets the paths of what went, and the number under which that goes to disk; nothing
    /// if we do not lead.
    Approve(Input, oneshot::Sender<Option<(Vec<String>, u64)>>),
}

/// How the API talks to the controller.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) stores: Arc<Vec<Arc<Store>>>,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) operator: mpsc::Sender<Request>,
    pub(super) saved: Arc<Mutex<Saved>>,
    /// The number of what was written to disk last.
    pub(super) written: watch::Receiver<u64>,
    /// How far another controller has what operators did here.
    pub(super) confirmed: Arc<watch::Sender<(u64, u64)>>,
    pub(super) roles: watch::Receiver<Role>,
    pub(super) fed: watch::Receiver<Fed>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) fresh: Fresh,
    /// What proxies hold, while that is asked for.
    pub(super) recall: Arc<Recall>,
    pub(super) me: (String, String),
}

/// What an operator did is on disk within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// And at another controller.
const CONFIRMED: Duration = Duration::from_secs(1);

/// A controller that was elected has asked the others within this time.
const ELECTED: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// The controller has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller is stopping")]
pub struct Gone;

/// Whether a key below the root is an endpoint's.
fn is_membership(key: &str) -> bool {
    matches!(place(key, false), Place::Resource { resource, .. } if resource.kind.is_membership())
}

/// The endpoints of a store, or everything else.
fn only(mut store: Exported, membership: bool) -> Exported {
    store.entries.retain(|(key, _)| is_membership(key) == membership);
    store
}

impl Handle {
    /// What we are in the election, and every change of it.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.roles.clone()
    }

    /// What proxies hold, while that is asked for.
    pub fn recall(&self) -> &Recall {
        &self.recall
    }

    /// Proxies that have seen more than this are asked for what they hold, by us or whoever leads; nothing while nobody is.
    pub fn recalls_above(&self) -> Option<Version> {
        match *self.roles.borrow() {
            Role::Leading { .. } => self.recall.above(true),
            Role::Following { .. } => self.recall.above(false),
            Role::Caretaking { .. } => None,
        }
    }

    /// Whom we follow, and every change of it.
    pub fn fed(&self) -> watch::Receiver<Fed> {
        self.fed.clone()
    }

    /// What there is to say with a heartbeat.
    pub fn heartbeat(&self) -> Heartbeat {
        let leads = self.roles.borrow().epoch().is_some();
        self.fresh.heartbeat(leads)
    }

    /// The URLs of our stores, in their order.
    pub fn store_urls(&self) -> Vec<String> {
        self.stores.iter().map(|store| store.url.clone()).collect()
    }

    /// Our name, and where our API is.
    pub const fn me(&self) -> &(String, String) {
        &self.me
    }

    /// What we are, for other controllers.
    pub fn info(&self) -> ControllerInfo {
        let snapshot = self.snapshots.borrow().clone();
        let upstream = match &*self.fed.borrow() {
            Fed::By(chain) => chain.clone(),
            Fed::ByNobody | Fed::CutOff => Vec::new(),
        };
        let role = self.roles.borrow().clone();
        ControllerInfo {
            name: self.me.0.clone(),
            url: self.me.1.clone(),
            cluster: snapshot.cluster.clone(),
            epoch: role.epoch(),
            leads: matches!(role, Role::Leading { until, .. } if until < Duration::MAX),
            version: Some(snapshot.version).filter(|version| version.sequence > 0),
            upstream,
        }
    }

    /// Lets go of leading; returns whether we led.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn step_down(&self) -> Result<bool, Gone> {
        let (to, answer) = oneshot::channel();
        self.signals.send(Signal::StepDown(to)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Clusters whose proxies may follow us.
    pub fn adopted(&self) -> Vec<String> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).adopted.clone()
    }

    /// We lead, and know what could be known of what operators did: that counts from now on.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn begin_operated(&self, epoch: u64) -> Result<(), Gone> {
        self.operator.send(Request::Begin(epoch)).await.map_err(|_| Gone)
    }

    /// We lead and wait for what was published before: operators are heard meanwhile. What others know of what operators did still counts.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn open_operated(&self, epoch: u64) -> Result<(), Gone> {
        self.operator.send(Request::Open(epoch)).await.map_err(|_| Gone)
    }

    /// Keeps what the leader's operators did, unless it is known; gets why that cannot be.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn adopt_operated(&self, saved: Saved, left: Option<Duration>) -> Result<Result<(), String>, Gone> {
        self.request(|to| Request::Adopt { saved, left, to }).await
    }

    /// Keeps a config of another controller's history, whose file is in base64: whatever we have if it is the `leader`'s.
    ///
    /// # Errors
    /// It is not what it says it is, or the disk refused.
    pub async fn adopt_config(&self, number: u64, digest: String, file: &str, leader: bool) -> Result<(), String> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(file).map_err(|error| error.to_string())?;
        let history = self.history.clone();
        let write = move || {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            if leader { history.adopt(number, &digest, &bytes) } else { history.learn(number, &digest, &bytes) }
        };
        tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?
    }

    /// Waits, not too long, until the store has said which other controllers there are; returns whether it has.
    pub async fn met(&self, patience: Duration) -> bool {
        let mut changes = self.changes();
        let met = async {
            while !self.ask(Query::Met).await.unwrap_or(true) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        timeout(patience, met).await.is_ok()
    }

    /// What operators did, and hold.
    pub fn operated(&self) -> Saved {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configs that `known` has not, with their files; oldest first. Forgets in `known` what we have no more.
    pub async fn missing_configs(&self, known: &mut BTreeMap<u64, String>) -> Vec<(ConfigRecord, Vec<u8>)> {
        let (history, mut has) = (self.history.clone(), std::mem::take(known));
        let read = move || {
            let history = history.lock().unwrap_or_else(PoisonError::into_inner);
            has.retain(|number, _| history.records().iter().any(|record| record.number == *number));
            let missing = history.missing(&has).into_iter();
            let files = missing.filter_map(|record| Some((record.clone(), history.content(record.number).ok()?))).collect();
            (has, files)
        };
        let (has, files) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        *known = has;
        files
    }

    /// Does what an operator asks for; returns one sentence about it.
    ///
    /// # Errors
    /// Why nothing was done.
    pub async fn operate(&self, action: Action, by: String) -> Result<String, String> {
        self.patiently(|to| Request::Do { action: action.clone(), by: by.clone(), to }).await
    }

    /// Keeps that somebody did something.
    ///
    /// # Errors
    /// The disk refused, or the controller has stopped.
    pub async fn record(&self, by: String, what: String) -> Result<(), String> {
        let audit = Audit { at: super::operator::date(), by, what };
        self.patiently(|to| Request::Record(audit.clone(), to)).await
    }

    /// Whether a program, such as `proxy edge-1`, has joined; and if so, whether that was with this key.
    pub fn has_joined(&self, program: &str, key: Option<Digest>) -> Option<bool> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.joined.contains(program).then(|| saved.has_room(program, key))
    }

    /// Keeps that a program joins; returns whether it may: its name is new, or its token is bound to that, or it asked before with
    /// the same key.
    ///
    /// # Errors
    /// The disk refused, or the controller has stopped.
    pub async fn joined(&self, joining: Joining) -> Result<bool, String> {
        self.request(|to| Request::Joined(joining, to)).await.map_err(|gone| gone.to_string())?
    }

    /// What needs the disk, in its turn.
    async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Gone> {
        let (to, answer) = oneshot::channel();
        self.operator.send(request(to)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// The same of what waits for a moment if we were elected just now and ask the others first.
    async fn patiently<T>(&self, request: impl Fn(oneshot::Sender<Result<T, String>>) -> Request) -> Result<T, String> {
        let begun = Instant::now();
        loop {
            let answer = self.request(&request).await.map_err(|gone| gone.to_string())?;
            if begun.elapsed() >= ELECTED || !answer.as_ref().is_err_and(|why| why == ASKING) {
                return answer;
            }
            sleep(PAUSE).await;
        }
    }

    /// Lets go what the guard holds: these keys below the root, or everything if there are none, and `later` what they name when it goes.
    /// That is in the audit before it is done. Returns the paths of what went now, and what whoever asked should know if it is not on disk.
    ///
    /// # Errors
    /// Why nothing was done; or the controller has stopped.
    pub async fn approve(&self, keys: Vec<String>, later: bool, by: String) -> Result<(Vec<String>, Option<&'static str>), String> {
        let would = self.ask(|to| Query::Approvable(keys.clone(), later, to)).await.map_err(|gone| gone.to_string())?;
        let (would, exactly): (Vec<String>, Vec<String>) = would.into_iter().unzip();
        if would.is_empty() && !later {
            return Ok((would, None));
        }
        let what = if later { format!("let go now or later: {}", keys.join(", ")) } else { format!("let go: {}", would.join(", ")) };
        self.record(by.clone(), what).await?;
        // What went meanwhile is in no audit.
        let keys = if later { keys } else { exactly };
        let (to, answer) = oneshot::channel();
        self.commands.send(Command::Approve(Input::Approve { keys, later, by }, to)).await.map_err(|_| Gone.to_string())?;
        let (went, number) = answer.await.map_err(|_| Gone.to_string())?.ok_or_else(|| super::operator::DEPOSED.to_owned())?;
        let mut written = self.written.clone();
        match timeout(PATIENCE, written.wait_for(|written| *written >= number)).await {
            Ok(Ok(_)) => Ok((went, None)),
            Ok(Err(_)) => Err(Gone.to_string()),
            Err(_) => Ok((went, Some("that could not be written to the state directory: free some space, or it may come back with a restart"))),
        }
    }

    /// Another controller has what operators did up to here.
    pub fn confirm(&self, rank: (u64, u64)) {
        self.confirmed.send_if_modified(|known| rank > std::mem::replace(known, rank.max(*known)));
    }

    /// Waits until another controller has what operators did here, if one follows; returns whether it has.
    pub async fn is_confirmed(&self) -> bool {
        if !self.ask(Query::Followed).await.unwrap_or_default() {
            return true;
        }
        let (wanted, mut confirmed) = (self.operated().rank(), self.confirmed.subscribe());
        timeout(CONFIRMED, confirmed.wait_for(|rank| *rank >= wanted)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Who did what, oldest first.
    pub fn audit(&self) -> Vec<Audit> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).audit.clone()
    }

    /// What differs between two configs of the history, or between one and what is published.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub async fn diff(&self, from: u64, to: Option<u64>) -> Result<Vec<ObjectDiff>, String> {
        let (history, published) = (self.history.clone(), self.snapshots.borrow().config.clone());
        let compare = move || {
            let history = history.lock().unwrap_or_else(PoisonError::into_inner);
            let before = history.lane(from)?;
            let after = to.map_or(Ok(published), |number| history.lane(number))?;
            Ok::<_, String>(ObjectDiff::between(&before, &after))
        };
        tokio::task::spawn_blocking(compare).await.map_err(|error| error.to_string())?
    }

    /// The snapshot, and every later one.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Changes whenever something changed that somebody may wait for.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Tells the controller something.
    ///
    /// # Errors
    /// It has stopped.
    pub async fn tell(&self, input: Input) -> Result<(), Gone> {
        self.commands.send(Command::Input(input)).await.map_err(|_| Gone)
    }

    /// Asks the controller something.
    ///
    /// # Errors
    /// It has stopped.
    pub async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Gone> {
        let (sender, answer) = oneshot::channel();
        self.commands.send(Command::Ask(query(sender))).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// A consistent read of an entry, in the first store that has it; `relative` is the key below the root.
    ///
    /// # Errors
    /// A store could not be read.
    pub async fn read(&self, relative: &str) -> Result<Option<Entry>, AdapterError> {
        for store in self.stores.iter() {
            if let Some(entry) = store.adapter.get(&Key::from(store.full_key(relative))).await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The key below the root that people mean, whichever store's root they wrote before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn relative(&self, typed: &str) -> Result<String, String> {
        let mut roots = self.stores.iter().map(|store| store.root.as_str());
        let below = |root: &&str| typed.strip_prefix(*root).is_some_and(|rest| rest.starts_with('/'));
        waypost_model::key::parse_key(roots.find(below).unwrap_or_default(), typed)
    }

    /// The configs of the history; read from memory, but perhaps only after a write of the disk.
    pub async fn history(&self) -> Vec<ConfigRecord> {
        let history = self.history.clone();
        let read = move || history.lock().unwrap_or_else(PoisonError::into_inner).records().to_vec();
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// The authors' bytes of what serves now: the endpoints as they are, and the config that an operator holds, if one does.
    ///
    /// # Errors
    /// The file of that config cannot be used, or the controller has stopped.
    pub async fn export(&self) -> Result<Vec<Exported>, String> {
        let now = self.ask(|to| Query::Export(false, to)).await.map_err(|gone| gone.to_string())?;
        // A pin that ended while nobody led is still kept, and holds nothing.
        let mark = self.saved.lock().unwrap_or_else(PoisonError::into_inner).mark.clone();
        let held = mark.filter(|mark| !mark.is_over(super::operator::date())).map(|mark| mark.config);
        let Some(held) = held else { return Ok(now) };
        let config = self.export_config(held).await?;
        Ok(config.into_iter().chain(now.into_iter().map(|store| only(store, true))).collect())
    }

    /// The authors' bytes of a config of the history: of listeners, routes and backends. Which endpoints there were then says nothing
    /// about now.
    ///
    /// # Errors
    /// There is no such config, or its file cannot be used.
    pub async fn export_config(&self, number: u64) -> Result<Vec<Exported>, String> {
        let history = self.history.clone();
        let read = move || history.lock().unwrap_or_else(PoisonError::into_inner).entries(number);
        let saved = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())??;
        Ok(saved.into_iter().map(|store| only(Exported::of(store), false)).collect())
    }
}

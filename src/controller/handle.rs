//! The API's side of the controller: commands in, answers out, and the snapshot to follow.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use waypost_adapter::{AdapterError, Entry, Key};
use waypost_model::snapshot::Snapshot;

use super::disk::ConfigRecord;
use super::events::Event;
use super::settings::Store;
use super::step::Input;
use super::view::{EntryInfo, ProxyInfo, StatusInfo};

/// A question to the one task that owns the state.
#[derive(Debug)]
pub enum Query {
    /// The status.
    Status(oneshot::Sender<StatusInfo>),
    /// All entries of these keys' beginnings; relative to the root, empty for all.
    Entries(String, oneshot::Sender<Vec<EntryInfo>>),
    /// The proxies.
    Proxies(oneshot::Sender<Vec<ProxyInfo>>),
    /// Events from this number on.
    Events(u64, oneshot::Sender<Vec<Event>>),
    /// The configs of the history.
    History(oneshot::Sender<Vec<ConfigRecord>>),
    /// The authors' bytes of a config, or of now: (store, [(key, value)]).
    Export(Option<u64>, oneshot::Sender<Result<Vec<Exported>, String>>),
    /// The metrics.
    Metrics(oneshot::Sender<String>),
}

/// The authors' bytes of one store.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The store's URL.
    pub store: String,
    /// Keys below the root, and values.
    pub entries: Vec<(String, Arc<[u8]>)>,
}

/// What reaches the controller's task.
#[derive(Debug)]
pub enum Command {
    /// Something happened.
    Input(Input),
    /// Somebody asks.
    Ask(Query),
}

/// How the API talks to the controller.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    changes: watch::Receiver<u64>,
    stores: Arc<Vec<Arc<Store>>>,
}

/// The controller has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller is stopping")]
pub struct Gone;

impl Handle {
    /// A handle on a controller's channels.
    pub fn new(
        commands: mpsc::Sender<Command>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        changes: watch::Receiver<u64>,
        stores: Arc<Vec<Arc<Store>>>,
    ) -> Self {
        Self { commands, snapshots, changes, stores }
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

    /// The root of the first store.
    pub fn root(&self) -> &str {
        self.stores.first().map_or("waypost", |store| store.root.as_str())
    }
}

//! The API's side of the controller: commands in, answers out, and the snapshot to follow.

use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use waypost_model::snapshot::Snapshot;

use crate::controller::disk::history::History;
use crate::controller::freshness::Freshness;
use crate::controller::message::{Command, Input, Signal, Stopped, Upstream};
use crate::controller::operator::Request;
use crate::controller::peers::offers::ProxyOffers;
use crate::controller::rules::election::Role;
use crate::controller::settings::Store;
use crate::controller::stored::operator::OperatorState;
use crate::controller::stored::programs::Programs;
use crate::controller::waiters::Waiters;

/// How the API talks to the controller.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) changes: watch::Receiver<u64>,
    pub(super) waiters: Waiters,
    pub(super) stores: Arc<Vec<Arc<Store>>>,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) operator: mpsc::Sender<Request>,
    pub(super) saved: Arc<Mutex<OperatorState>>,
    /// The programs that have joined.
    pub(super) programs: Arc<Mutex<Programs>>,
    /// The number of the save request that was written last.
    pub(super) written: watch::Receiver<u64>,
    /// The rank of the newest record of operators' actions here that another controller has confirmed.
    pub(super) confirmed: Arc<watch::Sender<(u64, u64)>>,
    pub(super) roles: watch::Receiver<Role>,
    pub(super) upstream: watch::Receiver<Upstream>,
    pub(super) signals: mpsc::Sender<Signal>,
    pub(super) fresh: Freshness,
    /// Snapshots that proxies offer, while a leader asks for them.
    pub(super) offers: Arc<ProxyOffers>,
    pub(super) me: (String, String),
}

mod operate;
mod peers;
mod read;

impl Handle {
    /// Sends the controller an input.
    ///
    /// # Errors
    /// It has stopped.
    pub async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.commands.send(Command::Input(input)).await.map_err(|_| Stopped)
    }
}

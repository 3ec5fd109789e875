//! The part of the handle that other controllers and their streams use.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use base64::Engine as _;
use tokio::sync::watch;
use tokio::time::timeout;
use waypost_model::snapshot::Version;
use waypost_wire::ControllerInfo;

use crate::controller::handle::Handle;
use crate::controller::message::{Query, Stopped, Upstream};
use crate::controller::operator::{OperateError, Request};
use crate::controller::peers::offers::ProxyOffers;
use crate::controller::rules::election::Role;
use crate::controller::stored::config::ConfigRecord;
use crate::controller::stored::operator::OperatorState;
use crate::controller::stored::programs::Program;

impl Handle {
    /// Our role in the election, and every change of it.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.roles.clone()
    }

    /// Snapshots that proxies offer, while a leader asks for them.
    pub fn offers(&self) -> &ProxyOffers {
        &self.offers
    }

    /// The version above which proxies are asked for their snapshots, by us or for the leader; `None` while nobody asks.
    pub fn offers_wanted_above(&self) -> Option<Version> {
        match *self.roles.borrow() {
            Role::Leading { .. } => self.offers.above(true),
            Role::Following { .. } => self.offers.above(false),
            Role::Caretaking { .. } => None,
        }
    }

    /// The controllers that we follow, and every change of them.
    pub fn upstream(&self) -> watch::Receiver<Upstream> {
        self.upstream.clone()
    }

    /// Our name, and where our API is.
    pub const fn me(&self) -> &(String, String) {
        &self.me
    }

    /// The description of this controller for other controllers.
    pub fn info(&self) -> ControllerInfo {
        let snapshot = self.snapshots.borrow().clone();
        let upstream = match &*self.upstream.borrow() {
            Upstream::Through(chain) => chain.clone(),
            Upstream::Nobody | Upstream::CutOff => Vec::new(),
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

    /// This controller leads and has recovered the record of operators' actions: its own record counts from now on.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn begin_operated(&self, epoch: u64) -> Result<(), Stopped> {
        self.operator.send(Request::Begin(epoch)).await.map_err(|_| Stopped)
    }

    /// This controller leads and waits for the snapshot that was published before. Meanwhile it carries out operators' requests, and the others'
    /// records of operators' actions still count.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn open_operated(&self, epoch: u64) -> Result<(), Stopped> {
        self.operator.send(Request::Open(epoch)).await.map_err(|_| Stopped)
    }

    /// Takes over the leader's record of operators' actions, unless ours is as new.
    ///
    /// # Errors
    /// The controller has stopped.
    pub async fn adopt_operated(&self, saved: OperatorState, left: Option<Duration>) -> Result<(), OperateError> {
        self.request(|to| Request::Adopt { saved, left, to }).await?
    }

    /// The joined programs that changed later than the change of number `after`, or all of them, and the number of the last change.
    pub fn programs_since(&self, after: Option<u64>) -> (BTreeMap<String, Program>, u64) {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).since(after)
    }

    /// The record of operators' actions with the programs, in the form that a follower of release 0.1 reads.
    pub fn operated_with_programs(&self) -> OperatorState {
        self.operated().with_programs(&self.programs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over another controller's record of the programs that have joined.
    ///
    /// # Errors
    /// The disk refused, or the controller has stopped.
    pub async fn adopt_programs(&self, joined: BTreeMap<String, Program>) -> Result<(), OperateError> {
        self.request(|to| Request::AdoptPrograms(joined, to)).await?
    }

    /// Takes over a config of another controller's history, whose file is in base64. A config of the `leader` replaces ours of the same number.
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

    /// Waits until the store has named the other controllers, for `patience` at most; returns whether it has.
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

    /// The configs that are not among `present` (digests by number), with their files; oldest first. Removes from `present` the configs that we do not
    /// have any more.
    pub async fn missing_configs(&self, present: &mut BTreeMap<u64, String>) -> Vec<(ConfigRecord, Vec<u8>)> {
        let (history, mut has) = (self.history.clone(), std::mem::take(present));
        let read = move || {
            let history = history.lock().unwrap_or_else(PoisonError::into_inner);
            has.retain(|number, _| history.records().iter().any(|record| record.number == *number));
            let missing = history.missing(&has).into_iter();
            let files = missing.filter_map(|record| Some((record.clone(), history.content(record.number).ok()?))).collect();
            (has, files)
        };
        let (has, files) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        *present = has;
        files
    }

    /// Another controller has the record of operators' actions up to this rank.
    pub fn confirm(&self, rank: (u64, u64)) {
        self.confirmed.send_if_modified(|confirmed| rank > std::mem::replace(confirmed, rank.max(*confirmed)));
    }
}

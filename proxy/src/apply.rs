//! From what a controller published to what is served: mark, build, swap, bind, and tell. One thread does this;
//! what comes while it works is merged into the next table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Content, Held, ObjectProblem, Probed};

use crate::active::Active;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::pool::IdleCap;
use crate::probe::Work;
use crate::save::Keep;
use crate::state::StateDir;
use crate::table::{Builder, Judged, Table};

/// How often a listener that could not be bound is tried again.
const REBIND: Duration = Duration::from_millis(250);
/// How often tables that nobody uses any more are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What the rest of the proxy knows of the work here.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    inner: Mutex<Applied>,
    /// Wakes the reporter.
    pub(crate) changed: Notify,
}

/// What is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// The cluster that it comes from; empty before the first snapshot.
    pub(crate) cluster: String,
    /// The version; `None` before the first snapshot.
    pub(crate) version: Option<Version>,
    /// The digests of that.
    pub(crate) content: Option<Content>,
    /// The highest version seen.
    pub(crate) highest: Version,
    /// Objects and listeners that could not be put to use.
    pub(crate) problems: Vec<ObjectProblem>,
    /// Why the last publication was refused, if it was.
    pub(crate) refused: Option<String>,
    /// What was found out of the endpoints that are this proxy's own to probe.
    pub(crate) probed: Probed,
    /// The version of the shared keys that are held.
    pub(crate) secrets: Version,
}

impl Progress {
    /// What is served now.
    pub(crate) fn get(&self) -> Applied {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it and wakes the reporter.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Applied)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// What was found out of the endpoints that are this proxy's own to probe; told at once if it is new.
    pub(crate) fn probed(&self, probed: Probed) {
        let mut applied = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (&applied.probed.failing, &applied.probed.unsure) != (&probed.failing, &probed.unsure);
        applied.probed = probed;
        drop(applied);
        if new {
            self.changed.notify_one();
        }
    }
}

/// What arrived, and when.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// What the controller published.
    pub held: Held,
    /// When it was whole.
    pub at: Instant,
    /// What was held before had drifted: nothing that was built from it is to be used again.
    pub anew: bool,
}

/// Everything that applying needs.
pub(crate) struct Applier {
    pub(crate) active: Arc<Active>,
    pub(crate) builder: Builder,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) state: StateDir,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: Arc<Metrics>,
    /// How many idle connections to endpoints are kept.
    pub(crate) idle: IdleCap,
    /// Where what is to be kept on disk goes.
    pub(crate) keep: watch::Sender<Option<Keep>>,
    /// The config that is served: what a quarantined one is replaced by.
    pub(crate) served: Option<(Lane, Version)>,
    /// Where endpoints that are names go, to be resolved.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Where what is to be probed goes.
    pub(crate) work: watch::Sender<Arc<Work>>,
    /// What this proxy found out by itself, while that counts.
    pub(crate) judged: watch::Receiver<Judged>,
    /// The snapshot that is served.
    pub(crate) current: Option<Snapshot>,
    /// Tables that requests may still use. They are dropped here once none does, never on a serving thread.
    pub(crate) retired: Vec<Arc<Table>>,
    /// There is no listener to bind, and that was told.
    pub(crate) silent: bool,
}

impl Applier {
    /// Works until the sender of snapshots is gone.
    pub(crate) async fn run(mut self, mut arrivals: watch::Receiver<Option<Arrived>>) {
        let mut unbound = false;
        loop {
            let arrival = tokio::time::timeout(if unbound { REBIND } else { SWEEP }, arrivals.changed());
            let arrived = tokio::select! {
                arrived = arrival => arrived,
                Ok(()) = self.judged.changed() => {
                    unbound = self.judge();
                    continue;
                }
            };
            match arrived {
                Ok(Ok(())) => {
                    let arrived = arrivals.borrow_and_update().clone();
                    if let Some(arrived) = arrived {
                        unbound = self.apply(&arrived);
                        self.keep.send_replace(Some(Keep { held: arrived.held, quarantined: self.state.quarantined().clone() }));
                    }
                }
                Ok(Err(_)) => return,
                Err(_) if unbound => unbound = self.bind(),
                Err(_) => {}
            }
            self.drop_retired();
        }
    }

    /// Serves a snapshot. Returns whether a listener could not be bound.
    pub(crate) fn apply(&mut self, arrived: &Arrived) -> bool {
        let snapshot = arrived.held.snapshot();
        let config = snapshot.config.digest();
        if self.state.is_quarantined(config) {
            let reason = format!("config {} crashed this proxy and is quarantined; write another config", config.short());
            return self.serve_without(&snapshot, reason);
        }
        // Also the first one after a start, which may come from disk: it may be what ended the run before.
        let changed = self.served.as_ref().map(|(lane, _)| lane.digest()) != Some(config);
        if changed && let Err(error) = self.state.begin(config) {
            tracing::warn!(%error, "the state directory cannot be written; this proxy will not start alone from this config");
        }
        if arrived.anew {
            self.builder = self.builder.anew();
        }
        let unbound = self.build(&snapshot).map(|table| self.serve(&snapshot, table, false));
        if changed && let Err(error) = self.state.end() {
            tracing::warn!(%error, "the state directory cannot be written");
        }
        let Some(unbound) = unbound else {
            self.state.quarantine(config);
            let reason = format!("config {} could not be made a table and is quarantined; this is an error of waypost-proxy, please report it", config.short());
            return self.serve_without(&snapshot, reason);
        };
        self.served = Some((snapshot.config.clone(), snapshot.version));
        self.progress.update(|applied| {
            if applied.cluster != snapshot.cluster {
                // Versions of another cluster say nothing about those of this one.
                (applied.cluster, applied.highest) = (snapshot.cluster.clone(), snapshot.version);
            }
            // Lanes from disk may be of different versions.
            applied.content = (!arrived.held.restored).then(|| Content::of(&snapshot));
            (applied.version, applied.highest, applied.refused) = (Some(snapshot.version), snapshot.version.max(applied.highest), None);
        });
        self.metrics.swap_seconds.observe(arrived.at.elapsed().as_secs_f64());
        unbound
    }

    /// Serves on, with what this proxy found out by itself of the endpoints. Returns whether a listener could not be bound.
    fn judge(&mut self) -> bool {
        let judged = self.judged.borrow_and_update().clone();
        self.builder.judge(judged);
        let Some(snapshot) = self.current.clone() else { return false };
        let refused = self.work.borrow().refused;
        self.build(&snapshot).is_some_and(|table| self.serve(&snapshot, table, refused))
    }

    /// Serves the membership of a snapshot whose config cannot be served, with the config that was.
    fn serve_without(&mut self, snapshot: &Snapshot, reason: String) -> bool {
        tracing::error!(version = %snapshot.version, "{reason}");
        self.progress.update(|applied| (applied.refused, applied.highest) = (Some(reason), snapshot.version.max(applied.highest)));
        let Some((config, version)) = self.served.clone() else { return false };
        let mixed = Snapshot { config, version, ..snapshot.clone() };
        match self.build(&mixed) {
            Some(table) => self.serve(&mixed, table, true),
            None => false,
        }
    }

    /// Builds a table; `None` if that panicked, which no object may cause.
    fn build(&mut self, snapshot: &Snapshot) -> Option<Arc<Table>> {
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.builder.build(snapshot)));
        if built.is_err() {
            // What it was in the middle of may be half done.
            self.builder = self.builder.anew();
        }
        built.ok().map(Arc::new)
    }

    /// Serves a table; `refused` says that its config is an older one than was published.
    fn serve(&mut self, snapshot: &Snapshot, table: Arc<Table>, refused: bool) -> bool {
        self.idle.follow(table.backends.values().map(|backend| backend.endpoints.len()).sum());
        let old = self.active.store(table);
        self.metrics.swaps.inc();
        self.metrics.epoch.set(i64::try_from(snapshot.version.epoch).unwrap_or(i64::MAX));
        self.metrics.sequence.set(i64::try_from(snapshot.version.sequence).unwrap_or(i64::MAX));
        self.retired.push(old);
        self.current = Some(snapshot.clone());
        let checks = self.builder.checks().all();
        if !(checks.is_empty() && self.work.borrow().checks.is_empty()) {
            self.work.send_replace(Arc::new(Work { version: snapshot.version, refused, checks }));
        }
        let names = self.builder.names();
        if !(names.is_empty() && self.names.borrow().is_empty()) {
            self.names.send_replace(Arc::new(names));
        }
        self.bind()
    }

    /// Drops the tables that nobody uses any more.
    fn drop_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }

    /// Binds what is wanted. Returns whether something could not be bound.
    fn bind(&mut self) -> bool {
        let table = self.active.load();
        let failed = self.listeners.reconcile(&table.listeners);
        let silent = table.listeners.is_empty();
        if silent && !std::mem::replace(&mut self.silent, silent) {
            tracing::warn!(
                "no listener is for this proxy, so it serves nothing; write listeners/NAME, or \"proxies\" of one so that it chooses this proxy's labels"
            );
        }
        self.silent = silent;
        let mut problems = self.builder.problems();
        problems.extend(failed.iter().map(|(name, reason)| ObjectProblem {
            kind: "listener".to_owned(),
            name: name.to_string(),
            reason: "AddressNotAvailable".to_owned(),
            message: reason.clone(),
        }));
        self.metrics.object_problems.set(i64::try_from(problems.len()).unwrap_or(i64::MAX));
        if self.progress.get().problems != problems {
            for problem in &problems {
                tracing::warn!(kind = problem.kind, name = problem.name, "{}", problem.message);
            }
            self.progress.update(|applied| applied.problems = problems);
        }
        !failed.is_empty()
    }
}

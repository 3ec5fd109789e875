//! Applies publications: marks the config on disk, builds the table, swaps it, binds listeners and reports. One thread does this; state
//! that is received while it works is merged into the next table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use waypost_model::lane::Lane;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Content, Findings, ObjectProblem, Probed, ReceivedState};

use crate::active::Active;
use crate::inbound::certificates::Watcher;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::probe::Work;
use crate::save::Keep;
use crate::state::StateDir;
use crate::table::{Builder, Judged, Table};
use crate::upstream::pool::IdleCap;

/// Interval of the attempts to bind a listener that could not be bound.
const REBIND_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of the search for tables that are not used any more.
const TABLE_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The state of applying, shared with the rest of the proxy.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    inner: Mutex<Applied>,
    /// The results of the health checks that are this proxy's own.
    findings: Mutex<Findings>,
    /// Wakes the reporter.
    pub(crate) changed: Notify,
}

/// The state that is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Applied {
    /// The cluster of the snapshot; empty before the first one.
    pub(crate) cluster: String,
    /// The version; `None` before the first snapshot.
    pub(crate) version: Option<Version>,
    /// The digests of the snapshot.
    pub(crate) content: Option<Content>,
    /// The highest version received.
    pub(crate) highest: Version,
    /// Objects and listeners that could not be used.
    pub(crate) problems: Vec<ObjectProblem>,
    /// Why the last publication was refused; `None` if it was not.
    pub(crate) refused: Option<String>,
    /// The last refusal that was not reported yet. It stays until it is reported, even if a later publication is applied first.
    pub(crate) unreported_refusal: Option<String>,
    /// The version of the shared keys.
    pub(crate) secrets: Version,
}

impl Applied {
    /// A publication is refused; the next report gives the reason.
    pub(crate) fn refuse(&mut self, reason: String) {
        (self.refused, self.unreported_refusal) = (Some(reason.clone()), Some(reason));
    }
}

impl Progress {
    /// The current state.
    pub(crate) fn get(&self) -> Applied {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the state and wakes the reporter.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Applied)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Changes the results of this proxy's own health checks; wakes the reporter if one of them is another.
    pub(crate) fn probed(&self, change: impl FnOnce(&mut Findings)) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        let before = findings.number();
        change(&mut findings);
        let new = findings.number() != before;
        drop(findings);
        if new {
            self.changed.notify_one();
        }
    }

    /// The results of this proxy's own health checks for a controller that has confirmed the change of number `base`, or none. One that does
    /// not take changes gets everything, if a report has room for that.
    pub(crate) fn probed_since(&self, base: Option<u64>, takes_changes: bool) -> Probed {
        let budget = if takes_changes { FINDINGS_BYTES } else { MOST_FINDINGS_BYTES };
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).next_message(base, budget)
    }

    /// Notes that this refusal was reported. Returns whether a later publication has been applied since the refusal.
    pub(crate) fn refusal_reported(&self, refused: Option<&String>) -> bool {
        let mut applied = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_none() || applied.unreported_refusal.as_ref() != refused {
            return false;
        }
        applied.unreported_refusal = None;
        applied.refused.is_none()
    }

    /// Whether there are changes after this number.
    pub(crate) fn probed_after(&self, confirmed: Option<u64>) -> bool {
        confirmed.is_some_and(|number| number != self.findings.lock().unwrap_or_else(PoisonError::into_inner).number())
    }

    /// The controller has all changes up to this number.
    pub(crate) fn probed_confirmed(&self, number: u64) {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).confirmed(number);
    }
}

/// Bytes of the results of health checks in one report. Controllers accept 2 MB.
const FINDINGS_BYTES: usize = 512 * 1024;
/// The same for a controller that takes no parts.
const MOST_FINDINGS_BYTES: usize = 1_500 * 1024;

/// The receiver's state after a publication, and when it was received.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The state.
    pub received: ReceivedState,
    /// When the publication was complete.
    pub at: Instant,
    /// Whether the previous state had drifted, so that nothing built from it may be reused.
    pub anew: bool,
}

/// The thread that applies publications.
pub(crate) struct Applier {
    pub(crate) active: Arc<Active>,
    pub(crate) builder: Builder,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) state: StateDir,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: Arc<Metrics>,
    /// The limit of idle connections to endpoints.
    pub(crate) idle: IdleCap,
    /// Receives the state to save on disk.
    pub(crate) keep: watch::Sender<Option<Keep>>,
    /// The config that is served; it stays in use when another one is quarantined.
    pub(crate) served: Option<(Lane, Version)>,
    /// Receives the endpoints with host names, to be resolved.
    pub(crate) names: watch::Sender<Arc<Names>>,
    /// Receives the endpoints to probe.
    pub(crate) work: watch::Sender<Arc<Work>>,
    /// Endpoint health that this proxy determined by itself; empty while the shared verdicts count.
    pub(crate) judged: watch::Receiver<Judged>,
    /// The snapshot that is served.
    pub(crate) current: Option<Snapshot>,
    /// Replaced tables that requests may still use. They are dropped here after their last request, never on a serving thread.
    pub(crate) retired: Vec<Arc<Table>>,
    /// Reads the certificates of the listeners.
    pub(crate) certificates: Watcher,
    /// Whether there is no listener to bind, and that was logged.
    pub(crate) silent: bool,
}

impl Applier {
    /// Runs until the sender of snapshots is dropped.
    pub(crate) async fn run(mut self, mut arrivals: watch::Receiver<Option<Arrived>>) {
        let mut unbound = false;
        loop {
            let arrival = tokio::time::timeout(if unbound { REBIND_INTERVAL } else { TABLE_SWEEP_INTERVAL }, arrivals.changed());
            let arrived = tokio::select! {
                arrived = arrival => arrived,
                Ok(()) = self.judged.changed() => {
                    unbound = self.judge();
                    continue;
                }
            };
            // Also while publications come without a pause.
            self.certificates.look_if_due();
            match arrived {
                Ok(Ok(())) => {
                    let arrived = arrivals.borrow_and_update().clone();
                    if let Some(arrived) = arrived {
                        unbound = self.apply(&arrived);
                        self.keep.send_replace(Some(Keep { received: arrived.received, quarantined: self.state.quarantined().clone() }));
                    }
                }
                Ok(Err(_)) => return,
                Err(_) => unbound = if unbound { self.bind() } else { self.tell(Vec::new()) },
            }
            self.drop_retired();
        }
    }

    /// Applies a snapshot. Returns whether a listener could not be bound.
    pub(crate) fn apply(&mut self, arrived: &Arrived) -> bool {
        let snapshot = arrived.received.snapshot();
        let config = snapshot.config.digest();
        if self.state.is_quarantined(config) {
            let reason = format!("config {} crashed this proxy and is quarantined; write another config", config.short());
            return self.serve_without(&snapshot, reason);
        }
        // The first config after a start counts as changed as well: it may come from disk, and may have ended the previous run.
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
                // Versions of another cluster cannot be compared with those of this one.
                (applied.cluster, applied.highest) = (snapshot.cluster.clone(), snapshot.version);
            }
            // Lanes from disk may be of different versions.
            applied.content = (!arrived.received.restored).then(|| Content::of(&snapshot));
            (applied.version, applied.highest, applied.refused) = (Some(snapshot.version), snapshot.version.max(applied.highest), None);
        });
        self.metrics.swap_seconds.observe(arrived.at.elapsed().as_secs_f64());
        unbound
    }

    /// Rebuilds the table with endpoint health that this proxy determined by itself. Returns whether a listener could not be bound.
    fn judge(&mut self) -> bool {
        let judged = self.judged.borrow_and_update().clone();
        self.builder.judge(judged);
        let Some(snapshot) = self.current.clone() else { return false };
        let refused = self.work.borrow().refused;
        self.build(&snapshot).is_some_and(|table| self.serve(&snapshot, table, refused))
    }

    /// Applies the membership of a snapshot whose config cannot be served, together with the config in use.
    fn serve_without(&mut self, snapshot: &Snapshot, reason: String) -> bool {
        tracing::error!(version = %snapshot.version, "{reason}");
        self.progress.update(|applied| {
            applied.refuse(reason);
            applied.highest = snapshot.version.max(applied.highest);
        });
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
            // The panic may have left the builder in an inconsistent state.
            self.builder = self.builder.anew();
        }
        built.ok().map(Arc::new)
    }

    /// Swaps in a table; `refused` says that its config is older than the published one.
    fn serve(&mut self, snapshot: &Snapshot, table: Arc<Table>, refused: bool) -> bool {
        self.certificates.watch(&self.builder.certificate_files(&table.listeners));
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

    /// Drops the tables that are not used any more.
    fn drop_retired(&mut self) {
        self.retired.retain(|table| Arc::strong_count(table) > 1);
    }

    /// Binds the table's listeners. Returns whether one could not be bound.
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
        self.tell(failed)
    }

    /// Tells the reporter what cannot be used. Returns whether a listener could not be bound.
    fn tell(&mut self, failed: Vec<(Arc<str>, String)>) -> bool {
        let mut problems = self.builder.problems();
        problems.extend(self.certificates.problems(SystemTime::now()));
        self.metrics.certificates(self.certificates.ends());
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

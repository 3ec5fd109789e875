//! Probes endpoints: normally this proxy's own share, for all proxies. It probes every endpoint for itself while there is no leader that
//! collects the results, or while it refuses a config, because the leader then ignores its results.

mod ask;
mod series;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use waypost_model::snapshot::Version;
use waypost_wire::Finding;

use crate::apply::Progress;
use crate::descriptors::Descriptors;
use crate::fresh::Fresh;
use crate::metrics::Metrics;
use crate::table::{Check, Judged};
use ask::Found;
use series::Series;

/// Time without contact to a leader after which the shared verdicts are out of date.
const VERDICT_LIFETIME: Duration = Duration::from_secs(10);
/// Time after which a new leader has received the results of all proxies.
const LEADER_SETTLE_TIME: Duration = Duration::from_secs(2);
/// Maximum concurrent probes, and the part of the descriptors that they may use.
const MAX_CONCURRENT_PROBES: usize = 256;
const DESCRIPTOR_SHARE: usize = 8;
/// Minimum interval between changes of the table for endpoint health that this proxy determined by itself.
const TABLE_CHANGE_INTERVAL: Duration = Duration::from_millis(100);

/// The endpoints to probe.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// The version that they are from.
    pub(crate) version: Version,
    /// Whether this proxy refuses a newer config: the leader then ignores its results.
    pub(crate) refused: bool,
    /// The endpoints, by backend.
    pub(crate) checks: BTreeMap<String, Arc<Vec<Check>>>,
}

/// The task that probes endpoints.
pub(crate) struct Prober {
    work: watch::Receiver<Arc<Work>>,
    fresh: watch::Receiver<Fresh>,
    judged: watch::Sender<Judged>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    descriptors: Arc<Descriptors>,
    /// The endpoints that are probed now, by name.
    probed: HashMap<Arc<str>, ProbedEndpoint>,
    /// The due times of probes, with the round of the endpoint; probes of an outdated round are skipped.
    queue: BinaryHeap<Reverse<(Instant, u64, Arc<str>)>>,
    running: JoinSet<(Arc<str>, u64, Found)>,
    /// Whether no leader collects this proxy's results.
    alone: bool,
    /// Since when a leader collects them again.
    back: Option<Instant>,
    /// When changed local results may be applied to the table; `None` if nothing has changed.
    gather: Option<Instant>,
    gathered: Instant,
    round: u64,
}

/// The state of an endpoint that is probed.
struct ProbedEndpoint {
    check: Check,
    series: Series,
    /// When its last probe began.
    began: Instant,
    /// Distinguishes its probes from those of an earlier endpoint of the same name.
    round: u64,
}

impl Prober {
    pub(crate) fn new(
        work: watch::Receiver<Arc<Work>>,
        fresh: watch::Receiver<Fresh>,
        judged: watch::Sender<Judged>,
        progress: Arc<Progress>,
        metrics: Arc<Metrics>,
        descriptors: Arc<Descriptors>,
    ) -> Self {
        Self {
            work,
            fresh,
            judged,
            progress,
            metrics,
            descriptors,
            probed: HashMap::new(),
            queue: BinaryHeap::new(),
            running: JoinSet::new(),
            alone: false,
            back: None,
            gather: None,
            gathered: Instant::now(),
            round: 0,
        }
    }

    /// Probes until the sender of the endpoints is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            if self.is_turning() {
                self.take();
            }
            self.begin();
            if self.gather.is_some_and(|at| at <= Instant::now()) {
                self.judge();
            }
            let next = self.next();
            tokio::select! {
                changed = self.work.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take();
                }
                Some(ended) = self.running.join_next() => {
                    if let Ok((name, round, found)) = ended {
                        self.observe(&name, round, found);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    }

    /// Updates whether this proxy is on its own; returns whether that changed.
    fn is_turning(&mut self) -> bool {
        let led_at = Instant::from(self.fresh.borrow().led);
        let (alone, now) = (led_at.elapsed() > VERDICT_LIFETIME || self.work.borrow().refused, Instant::now());
        self.back = if alone { None } else { self.back.or(Some(now)) };
        let settled = self.back.is_some_and(|back| now >= back + LEADER_SETTLE_TIME);
        let turns = if self.alone { settled } else { alone };
        if turns {
            self.alone = !self.alone;
            self.metrics.probing_alone.set(i64::from(self.alone));
            if self.alone && !self.work.borrow().checks.is_empty() {
                tracing::warn!("nobody is heard who gathers what this proxy finds out of endpoints, or it refuses a config; it probes all of them for itself");
            }
        }
        turns
    }

    /// When something is due next.
    fn next(&self) -> Instant {
        let led_at = Instant::from(self.fresh.borrow().led);
        let turn = if self.alone { Instant::now() + LEADER_SETTLE_TIME / 2 } else { led_at + VERDICT_LIFETIME + Duration::from_millis(1) };
        let due = self.queue.peek().map(|Reverse((due, _, _))| *due).filter(|_| self.running.len() < self.concurrent());
        // Without endpoints to probe, a change has no effect.
        let turn = Some(turn).filter(|_| !self.work.borrow().checks.is_empty());
        [due, turn, self.gather].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + VERDICT_LIFETIME)
    }

    /// Takes the new endpoints to probe: this proxy's share, or all of them.
    fn take(&mut self) {
        let work = self.work.borrow_and_update().clone();
        let mut before = std::mem::take(&mut self.probed);
        for check in work.checks.values().flat_map(|checks| checks.iter()).filter(|check| check.mine || self.alone) {
            let previous = before.remove(&check.name).filter(|previous| previous.check.how == check.how && previous.check.address == check.address);
            let endpoint = match previous {
                Some(previous) => ProbedEndpoint { check: check.clone(), ..previous },
                None => {
                    self.round += 1;
                    // The first probes are spread over an interval.
                    let now = Instant::now();
                    self.queue.push(Reverse((now + check.how.interval.get().mul_f64(fastrand::f64()), self.round, check.name.clone())));
                    ProbedEndpoint { check: check.clone(), series: Series::default(), began: now, round: self.round }
                }
            };
            self.probed.insert(check.name.clone(), endpoint);
        }
        self.note_all(work.version, before.into_keys());
        self.metrics.probing.set(i64::try_from(self.probed.len()).unwrap_or(i64::MAX));
        self.gather = Some(self.gathered);
    }

    /// How many probes may run at once.
    fn concurrent(&self) -> usize {
        (self.descriptors.limit() / DESCRIPTOR_SHARE).clamp(1, MAX_CONCURRENT_PROBES)
    }

    /// Starts the probes that are due.
    fn begin(&mut self) {
        let now = Instant::now();
        while self.running.len() < self.concurrent()
            && let Some(Reverse((due, round, name))) = self.queue.pop()
        {
            if due > now {
                self.queue.push(Reverse((due, round, name)));
                return;
            }
            let Some(endpoint) = self.probed.get_mut(&name).filter(|endpoint| endpoint.round == round) else { continue };
            endpoint.began = now;
            let (check, descriptors) = (endpoint.check.clone(), self.descriptors.clone());
            self.running.spawn(async move {
                let found = ask::ask(&check, &descriptors).await;
                (check.name, round, found)
            });
        }
    }

    fn observe(&mut self, name: &str, round: u64, found: Found) {
        let Some(endpoint) = self.probed.get_mut(name).filter(|endpoint| endpoint.round == round) else { return };
        let outcome = match found {
            Found::Healthy => Ok(()),
            Found::Failed(why) => Err(why),
            Found::Nothing => {
                tracing::debug!(endpoint = name, "a probe could not be made: this process ran short of descriptors, ports or memory");
                let pace = endpoint.series.pace(&endpoint.check.how);
                return self.queue.push(Reverse((endpoint.began + pace, round, endpoint.check.name.clone())));
            }
        };
        let good = outcome.is_ok();
        self.metrics.probes(good);
        let news = endpoint.series.observe(outcome, &endpoint.check.how);
        self.queue.push(Reverse((endpoint.began + endpoint.series.pace(&endpoint.check.how), round, endpoint.check.name.clone())));
        if !news {
            return;
        }
        if !good {
            tracing::debug!(endpoint = name, why = endpoint.series.why, "an endpoint fails its probes");
        }
        if endpoint.check.mine {
            let (name, finding) = (endpoint.check.name.clone(), endpoint.series.finding());
            self.progress.probed(|findings| findings.note(&name, finding));
        }
        self.gather = Some(self.gathered + TABLE_CHANGE_INTERVAL);
    }

    /// Reports the results of this proxy's share as of this version, and that it does not probe the `removed` endpoints any more.
    fn note_all(&self, version: Version, removed: impl Iterator<Item = Arc<str>>) {
        let finding = |endpoint: &ProbedEndpoint| if endpoint.check.mine { endpoint.series.finding() } else { Finding::Well };
        self.progress.probed(|findings| {
            findings.set_version(version);
            removed.for_each(|name| findings.note(&name, Finding::Well));
            self.probed.values().for_each(|endpoint| findings.note(&endpoint.check.name, finding(endpoint)));
        });
    }

    /// Applies the local results to the table, or withdraws them.
    fn judge(&mut self) {
        (self.gather, self.gathered) = (None, Instant::now());
        let own = |endpoint: &ProbedEndpoint| Some((endpoint.check.name.clone(), endpoint.series.healthy?));
        let judged: BTreeMap<Arc<str>, bool> = if self.alone { self.probed.values().filter_map(own).collect() } else { BTreeMap::new() };
        if **self.judged.borrow() != judged {
            self.judged.send_replace(Arc::new(judged));
        }
    }
}

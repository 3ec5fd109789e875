//! Follows the leader: relays its publications to our followers, replicates its state, and passes on the reports of our proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use url::Url;
use waypost_wire::{ControllerInfo, Frame, Incoming, Lane, MAX_LINE_BYTES, ReceivedState, SILENCE_SECONDS, WATCH_PATH, WatchRequest, decode};

use crate::controller::handle::Handle;
use crate::controller::jitter::jitter;
use crate::controller::message::{Input, Query, Signal, Upstream};
use crate::controller::peers::streams::{MAX_SILENCE, StreamError, join, next_line, turned};
use crate::controller::rules::election::{Holder, Record, Role};

/// Without a line for this long the leader may be dead: from then on, only a later renewal of its record shows that it lives.
const LEADER_QUIET: Duration = Duration::from_millis(1_000 * SILENCE_SECONDS / 3);
/// A renewal of the record that was on its way at the last contact with the leader has arrived after this time.
const RENEWAL_ARRIVAL_TIME: Duration = Duration::from_secs(1);
/// A record that was not renewed for this long may be that of a dead leader.
const RECORD_STALE_AFTER: Duration = Duration::from_secs(3);
/// Time limit of a question to another controller.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum pause between two tries; the actual pause is random and below it.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Interval in which a caretaker looks for a leader that has the store.
const SUCCESSOR_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Follows the leader.
#[derive(Debug)]
pub struct Relay {
    /// The controller.
    pub handle: Handle,
    /// URLs of controllers that are known without the store, by name: from flags, and from before a restart.
    pub peers: BTreeMap<String, String>,
    /// Asks other controllers.
    pub client: reqwest::Client,
    /// Our role.
    pub roles: watch::Receiver<Role>,
    /// Gets the chain of controllers that we follow.
    pub upstream: watch::Sender<Upstream>,
    /// The renewal of the leader's record at the last contact with the leader. A later renewal shows that the leader lives and that we cannot
    /// reach it.
    pub renewal_at_contact: AtomicU64,
    /// When somebody was followed last.
    pub lost: Instant,
    /// The number of the first event that was not passed on to the leader yet.
    pub telling: AtomicU64,
    /// The last publication did not match its digest: the next request compares everything from the ground up.
    pub whole: AtomicBool,
    /// The last renewal of the leader's record, and when it was noticed.
    pub renewed: (u64, Instant),
}

impl Relay {
    /// Follows until dropped.
    pub async fn run(mut self) {
        let (mut failed, mut recovered) = (None, None);
        loop {
            let role = self.roles.borrow_and_update().clone();
            match role {
                Role::Leading { epoch, .. } => {
                    self.upstream.send_replace(Upstream::Through(Vec::new()));
                    if recovered != Some(epoch) {
                        self.recover().await;
                        if self.recover_from_proxies().await.is_err() {
                            return;
                        }
                        recovered = Some(epoch);
                        if self.handle.begin_operated(epoch).await.is_err() || self.handle.send(Input::Recovered(epoch)).await.is_err() {
                            return;
                        }
                    }
                    if self.roles.changed().await.is_err() {
                        return;
                    }
                    // As leader it has passed on all events.
                    let (_, next) = self.own_events().await;
                    self.telling.store(next, Ordering::Relaxed);
                }
                Role::Caretaking { epoch, .. } => {
                    self.upstream.send_replace(Upstream::Through(Vec::new()));
                    self.look_for_successor(epoch).await;
                }
                Role::Following { leader } => self.follow_somebody(leader, &mut failed).await,
            }
        }
    }

    /// Follows the leader, or a controller that follows it, until that ends.
    async fn follow_somebody(&mut self, leader: Option<Record>, failed: &mut Option<Holder>) {
        let holder = leader.as_ref().map(|record| record.holder.clone());
        let led_by = leader.map(|record| (record.url, vec![record.holder.name]));
        // A leader that could not be reached from here just now may be reached through another controller.
        let upstream = if led_by.is_some() && *failed != holder {
            failed.clone_from(&holder);
            led_by
        } else {
            *failed = None;
            tokio::select! {
                chosen = self.choose() => chosen,
                () = turned(self.roles.clone(), holder.as_ref().map(|holder| holder.name.clone())) => return,
            }
        };
        let followed = match upstream {
            Some((url, chain)) => self.follow(&url, chain).await,
            None => false,
        };
        if followed {
            self.upstream.send_replace(Upstream::Nobody);
            self.lost = Instant::now();
            self.signal(Signal::Look).await;
        } else if self.holder() == holder {
            self.judge_silence();
        }
        tokio::select! {
            _ = self.roles.changed() => {}
            () = sleep(jitter(RETRY_PAUSE)) => {}
        }
    }

    /// Called when no controller could be followed. If the leader's record is renewed nevertheless, we are cut off. If it is not renewed any more,
    /// the leader has gone, and other controllers know no more than we.
    fn judge_silence(&mut self) {
        let renewal = self.renewal();
        if renewal != self.renewed.0 {
            self.renewed = (renewal, Instant::now());
        }
        let upstream = self.upstream.borrow().clone();
        match (upstream, self.renewal_at_contact.load(Ordering::Relaxed)) {
            (Upstream::Nobody, u64::MAX) if self.lost.elapsed() > RENEWAL_ARRIVAL_TIME => self.renewal_at_contact.store(renewal, Ordering::Relaxed),
            (Upstream::Nobody, at_contact) if renewal > at_contact => {
                tracing::warn!("the leader renews its record and cannot be reached from here; proxies are sent to other controllers");
                self.upstream.send_replace(Upstream::CutOff);
            }
            (Upstream::CutOff, _) if self.renewed.1.elapsed() > RECORD_STALE_AFTER => {
                self.renewal_at_contact.store(u64::MAX, Ordering::Relaxed);
                self.lost = Instant::now();
                self.upstream.send_replace(Upstream::Nobody);
            }
            _ => {}
        }
    }

    fn holder(&self) -> Option<Holder> {
        self.roles.borrow().leader().map(|record| record.holder.clone())
    }

    /// How often the record of leading was renewed, as far as this controller has read it.
    fn renewal(&self) -> u64 {
        self.roles.borrow().leader().map_or(0, |record| record.renewal)
    }

    /// Asks the other controllers for a leader under a higher epoch than ours, and signals it to the election: that one leads.
    pub(super) async fn look_for_successor(&self, epoch: u64) {
        let mut answers = self.ask_peers().await;
        while let Some(info) = answers.next().await {
            // Of two leaders under one epoch, the one whose name comes first goes on.
            let goes_before = |theirs: &u64| *theirs > epoch || *theirs == epoch && info.name < self.handle.me.0;
            if let Some(theirs) = info.epoch.filter(goes_before) {
                self.signal(Signal::Saw { epoch: theirs, living: true }).await;
                break;
            }
        }
        drop(answers);
        let mut roles = self.roles.clone();
        tokio::select! {
            _ = roles.changed() => {}
            () = sleep(SUCCESSOR_CHECK_INTERVAL) => {}
        }
    }

    pub(super) async fn signal(&self, signal: Signal) {
        if self.handle.signals.send(signal).await.is_err() {
            tracing::debug!("the election has ended");
        }
    }

    /// Asks all known controllers; yields the answers of those of our cluster as they arrive.
    pub(super) async fn ask_peers(&self) -> impl Stream<Item = ControllerInfo> + Unpin + '_ {
        let peers = self.handle.ask(Query::Peers).await.unwrap_or_default();
        let urls: BTreeSet<String> = peers.into_values().chain(self.peers.values().cloned()).filter(|url| *url != self.handle.me.1).collect();
        let own = self.handle.snapshots.borrow().cluster.clone();
        let ours = move |info: &ControllerInfo| info.name != self.handle.me.0 && (own.is_empty() || info.cluster == own);
        let asked: FuturesUnordered<_> = urls.into_iter().map(|url| async move { self.ask(&url).await }).collect();
        asked.filter_map(move |info| std::future::ready(info.filter(&ours)))
    }

    async fn ask(&self, url: &str) -> Option<ControllerInfo> {
        let answer = timeout(QUESTION_TIMEOUT, self.client.get(join(url, "/v1/controller")?).send()).await.ok()?.ok()?;
        timeout(QUESTION_TIMEOUT, answer.json()).await.ok()?.ok()
    }

    /// The best controller to follow when the leader is not known, or cannot be reached: the leader, else one that
    /// follows somebody, but not through us.
    async fn choose(&self) -> Option<(String, Vec<String>)> {
        let own = self.handle.snapshots.borrow().version;
        let useful = |info: &ControllerInfo| {
            let through_us = info.upstream.contains(&self.handle.me.0);
            !through_us && (info.epoch.is_some() || !info.upstream.is_empty() || info.version.is_some_and(|version| version > own))
        };
        let all: Vec<ControllerInfo> = self.ask_peers().await.collect().await;
        let best = all.into_iter().filter(useful).max_by_key(|info| (info.epoch, std::cmp::Reverse(info.upstream.len()), info.version))?;
        Some((best.url, [vec![best.name], best.upstream].concat()))
    }

    /// Follows one controller until that ends, or until another one is to be followed. Returns whether it began.
    async fn follow(&mut self, url: &str, chain: Vec<String>) -> bool {
        let (Some(watch), Some(replica), Some(report)) = (join(url, WATCH_PATH), join(url, "/v1/replica"), join(url, "/v1/relay")) else {
            tracing::warn!(url, "another controller has a URL that cannot be used");
            return false;
        };
        let turned = turned(self.roles.clone(), chain.last().cloned());
        tokio::pin!(turned);
        let opened = tokio::select! {
            opened = self.open(watch) => opened,
            () = &mut turned => Err(StreamError::Turned),
        };
        let mut response = match opened {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(url, %error, "another controller cannot be followed");
                return false;
            }
        };
        tracing::info!(url, "following {}", chain.join(", which follows "));
        self.upstream.send_replace(Upstream::Through(chain));
        let ended = tokio::select! {
            ended = self.relay(&mut response, false) => ended,
            () = self.replicate(replica) => Ok(()),
            () = self.pass_on(report) => Ok(()),
            () = &mut turned => Err(StreamError::Turned),
        };
        self.handle.offers.wanted_upstream(None);
        let why = ended.err().map(|error| error.to_string()).unwrap_or_default();
        tracing::info!(url, why, "not followed any more");
        true
    }

    fn received(&self) -> ReceivedState {
        let snapshot = self.handle.snapshots.borrow().clone();
        if snapshot.version.sequence == 0 {
            return ReceivedState { cluster: snapshot.cluster.clone(), ..ReceivedState::default() };
        }
        let lanes = BTreeMap::from([(Lane::Stable, snapshot.config.clone()), (Lane::Membership, snapshot.membership.clone())]);
        let highest_digests = lanes.iter().map(|(lane, objects)| (*lane, objects.digest())).collect();
        let (cluster, version) = (snapshot.cluster.clone(), snapshot.version);
        ReceivedState { cluster, highest: version, version, lanes, track: Some(Lane::Stable), restored: false, highest_digests }
    }

    pub(super) async fn open(&self, url: Url) -> Result<reqwest::Response, StreamError> {
        let received = self.received();
        let request = WatchRequest {
            controller: Some(self.handle.me.0.clone()),
            cluster: Some(received.cluster.clone()).filter(|cluster| !cluster.is_empty()),
            highest: Some(received.highest),
            from: Some(received.version).filter(|_| !received.lanes.is_empty() && !self.whole.swap(false, Ordering::Relaxed)),
            bucket_digests: received.bucket_digests(),
            level: u32::MAX,
            ..WatchRequest::default()
        };
        let response = timeout(QUESTION_TIMEOUT * 2, self.client.post(url).json(&request).send()).await.map_err(|_| StreamError::NoAnswer)??;
        if response.status().is_success() { Ok(response) } else { Err(StreamError::Refused(response.text().await.unwrap_or_default())) }
    }

    /// Relays what the other controller publishes until its stream ends, or only its first publication if that is enough (`once`).
    ///
    /// # Errors
    /// Why the stream ended.
    pub(super) async fn relay(&self, response: &mut reqwest::Response, once: bool) -> Result<(), StreamError> {
        let (mut received, mut incoming) = (self.received(), Incoming::default());
        let mut buffer = BytesMut::new();
        self.renewal_at_contact.store(self.renewal(), Ordering::Relaxed);
        let mut last = Instant::now();
        loop {
            let line = match timeout(LEADER_QUIET, next_line(response, &mut buffer, MAX_LINE_BYTES)).await {
                Ok(Ok(line)) => line,
                Ok(Err(error)) => {
                    if last.elapsed() < LEADER_QUIET {
                        // The stream ended while it was alive: only a later renewal of the leader's record shows that the leader lives.
                        self.renewal_at_contact.store(u64::MAX, Ordering::Relaxed);
                    }
                    return Err(error);
                }
                Err(_) if last.elapsed() >= MAX_SILENCE => return Err(StreamError::Silent),
                Err(_) => {
                    if last.elapsed() < LEADER_QUIET * 2 {
                        self.renewal_at_contact.store(self.renewal(), Ordering::Relaxed);
                    }
                    continue;
                }
            };
            last = Instant::now();
            let frame = decode(&line).map_err(|error| error.to_string());
            if let Ok(Frame::Heartbeat(heartbeat)) = &frame {
                self.handle.fresh.note_heartbeat(heartbeat.clone());
            }
            let result = frame.and_then(|frame| incoming.take(&received, frame).map_err(|error| error.to_string()));
            match result {
                Ok(None) => {}
                Ok(Some(next)) => {
                    received = next;
                    self.handle.send(Input::Relayed(Arc::new(received.snapshot()))).await?;
                    if once {
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.whole.store(true, Ordering::Relaxed);
                    tracing::warn!("a publication was not relayed: {error}");
                    return Err(StreamError::Unreadable(error));
                }
            }
        }
    }
}

//! Following the leader: what it publishes is relayed to whoever follows us, what it keeps is kept here too, and what our
//! proxies report is passed on to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use url::Url;
use waypost_wire::{
    Content, ControllerInfo, Frame, HEARTBEAT_SECONDS, Held, Incoming, Lane, MAX_LINE_BYTES, RelayAnswer, RelayReport, Report, SILENCE_SECONDS, Told,
    WATCH_PATH, WatchRequest, decode,
};

use super::elect::Signal;
use super::election::{Holder, Record, Role};
use super::events::Event;
use super::feed::jitter;
use super::handle::{Handle, Query};
use super::replica::{Document, Replica, ReplicaRequest};
use super::step::Input;

mod recall;
mod recover;

/// Without a line for this long the other controller is gone.
const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);
/// Without a line for this long a leader may have gone: what its record says now is what counts.
const QUIET: Duration = Duration::from_millis(1_000 * SILENCE_SECONDS / 3);
/// A record that was on its way when a leader was heard last has arrived after this time.
const SETTLED: Duration = Duration::from_secs(1);
/// A record that was not renewed for this long may be one of a leader that has gone.
const STALE: Duration = Duration::from_secs(3);
/// One question to another controller may take so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A pause between two tries; the real one is random below it.
const PAUSE: Duration = Duration::from_millis(500);
/// Who leads without the store looks this often for somebody who has it.
const LOOK: Duration = Duration::from_millis(200);
/// Reports are gathered for this long before they are passed on.
const GATHER: Duration = Duration::from_millis(20);
/// Documents of a leader can be as long as its whole history.
const MAX_DOCUMENT: usize = 256 * 1024 * 1024;

/// Whom we follow: the chain of controllers up to the leader, or nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// These, the nearest first; none if we lead.
    By(Vec<String>),
    /// Nobody: none leads, as far as we know.
    ByNobody,
    /// Nobody, although somebody leads: we are cut off, and others may know more.
    CutOff,
}

/// How much of what another controller keeps is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetch {
    /// Everything, and every change.
    Endlessly,
    /// Everything, once.
    All,
    /// What operators did, once.
    Operator,
}

/// Follows whoever leads.
#[derive(Debug)]
pub struct Relay {
    /// The controller.
    pub handle: Handle,
    /// Controllers that are known without the store: from flags, and from the last time.
    pub peers: BTreeMap<String, String>,
    /// Asks other controllers.
    pub client: reqwest::Client,
    /// What we are.
    pub roles: watch::Receiver<Role>,
    /// Gets whom we follow.
    pub fed: watch::Sender<Fed>,
    /// What the leader's record said a moment after the leader was heard last: a later renewal is one of a leader that lives
    /// and that we cannot hear.
    pub heard: AtomicU64,
    /// When somebody was followed last.
    pub lost: Instant,
    /// The number of the event that whoever leads is told next.
    pub telling: AtomicU64,
    /// What came last did not add up: what is asked for next is compared from the ground up.
    pub whole: AtomicBool,
    /// What the leader's record said last, and since when.
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
                    self.fed.send_replace(Fed::By(Vec::new()));
                    if recovered != Some(epoch) {
                        self.recover().await;
                        if self.recall().await.is_err() {
                            return;
                        }
                        recovered = Some(epoch);
                        if self.handle.begin_operated(epoch).await.is_err() || self.handle.tell(Input::Recovered(epoch)).await.is_err() {
                            return;
                        }
                    }
                    if self.roles.changed().await.is_err() {
                        return;
                    }
                    // Who led has told everybody.
                    let (_, next) = self.own_events().await;
                    self.telling.store(next, Ordering::Relaxed);
                }
                Role::Caretaking { epoch, .. } => {
                    self.fed.send_replace(Fed::By(Vec::new()));
                    self.look_for_successor(epoch).await;
                }
                Role::Following { leader } => self.follow_somebody(leader, &mut failed).await,
            }
        }
    }

    /// Follows the leader, or somebody who does, until that ends.
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
            self.fed.send_replace(Fed::ByNobody);
            self.lost = Instant::now();
            self.signal(Signal::Look).await;
        } else if self.holder() == holder {
            self.judge_silence();
        }
        tokio::select! {
            _ = self.roles.changed() => {}
            () = sleep(jitter(PAUSE)) => {}
        }
    }

    /// Nobody could be followed. If the leader's record is renewed all the same, we are cut off; if it is not any more, the
    /// leader has gone, and we are no worse than others.
    fn judge_silence(&mut self) {
        let renewal = self.renewal();
        if renewal != self.renewed.0 {
            self.renewed = (renewal, Instant::now());
        }
        let fed = self.fed.borrow().clone();
        match (fed, self.heard.load(Ordering::Relaxed)) {
            (Fed::ByNobody, u64::MAX) if self.lost.elapsed() > SETTLED => self.heard.store(renewal, Ordering::Relaxed),
            (Fed::ByNobody, heard) if renewal > heard => {
                tracing::warn!("the leader renews its record and cannot be reached from here; proxies are sent to other controllers");
                self.fed.send_replace(Fed::CutOff);
            }
            (Fed::CutOff, _) if self.renewed.1.elapsed() > STALE => {
                self.heard.store(u64::MAX, Ordering::Relaxed);
                self.lost = Instant::now();
                self.fed.send_replace(Fed::ByNobody);
            }
            _ => {}
        }
    }

    fn holder(&self) -> Option<Holder> {
        self.roles.borrow().leader().map(|record| record.holder.clone())
    }

    /// How often the record of leading was renewed, as far as is known.
    fn renewal(&self) -> u64 {
        self.roles.borrow().leader().map_or(0, |record| record.renewal)
    }

    /// Whoever leads under a higher epoch than ours is the leader.
    async fn look_for_successor(&self, epoch: u64) {
        let mut answers = self.ask_peers().await;
        while let Some(info) = answers.next().await {
            // Of two under one epoch, the one whose name comes first goes on.
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
            () = sleep(LOOK) => {}
        }
    }

    async fn signal(&self, signal: Signal) {
        if self.handle.signals.send(signal).await.is_err() {
            tracing::debug!("the election has ended");
        }
    }

    /// What every controller says that is known and answers, of our cluster; as the answers come.
    async fn ask_peers(&self) -> impl Stream<Item = ControllerInfo> + Unpin + '_ {
        let known = self.handle.ask(Query::Peers).await.unwrap_or_default();
        let urls: BTreeSet<String> = known.into_values().chain(self.peers.values().cloned()).filter(|url| *url != self.handle.me.1).collect();
        let own = self.handle.snapshots.borrow().cluster.clone();
        let ours = move |info: &ControllerInfo| info.name != self.handle.me.0 && (own.is_empty() || info.cluster == own);
        let asked: FuturesUnordered<_> = urls.into_iter().map(|url| async move { self.ask(&url).await }).collect();
        asked.filter_map(move |info| std::future::ready(info.filter(&ours)))
    }

    async fn ask(&self, url: &str) -> Option<ControllerInfo> {
        let answer = timeout(PATIENCE, self.client.get(join(url, "/v1/controller")?).send()).await.ok()?.ok()?;
        timeout(PATIENCE, answer.json()).await.ok()?.ok()
    }

    /// The best controller to follow when the leader is not known, or cannot be reached: whoever leads, else whoever
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

    /// Follows one controller until that ends, or somebody else is to be followed. Returns whether it began.
    async fn follow(&mut self, url: &str, chain: Vec<String>) -> bool {
        let (Some(watch), Some(replica), Some(report)) = (join(url, WATCH_PATH), join(url, "/v1/replica"), join(url, "/v1/relay")) else {
            tracing::warn!(url, "another controller has a URL that cannot be used");
            return false;
        };
        let turned = turned(self.roles.clone(), chain.last().cloned());
        tokio::pin!(turned);
        let opened = tokio::select! {
            opened = self.open(watch) => opened,
            () = &mut turned => Err("another one leads".to_owned()),
        };
        let mut response = match opened {
            Ok(response) => response,
            Err(reason) => {
                tracing::debug!(url, reason, "another controller cannot be followed");
                return false;
            }
        };
        tracing::info!(url, "following {}", chain.join(", which follows "));
        self.fed.send_replace(Fed::By(chain));
        let why = tokio::select! {
            why = self.relay(&mut response, false) => why,
            () = self.keep(replica) => String::new(),
            () = self.pass_on(report) => String::new(),
            () = &mut turned => "another one leads".to_owned(),
        };
        self.handle.recall.wanted_upstream(None);
        tracing::info!(url, why, "not followed any more");
        true
    }

    fn held(&self) -> Held {
        let snapshot = self.handle.snapshots.borrow().clone();
        if snapshot.version.sequence == 0 {
            return Held { cluster: snapshot.cluster.clone(), ..Held::default() };
        }
        let lanes = BTreeMap::from([(Lane::Stable, snapshot.config.clone()), (Lane::Membership, snapshot.membership.clone())]);
        let seen = lanes.iter().map(|(lane, objects)| (*lane, objects.digest())).collect();
        let (cluster, version) = (snapshot.cluster.clone(), snapshot.version);
        Held { cluster, highest: version, version, lanes, track: Some(Lane::Stable), restored: false, seen }
    }

    async fn open(&self, url: Url) -> Result<reqwest::Response, String> {
        let held = self.held();
        let request = WatchRequest {
            controller: Some(self.handle.me.0.clone()),
            cluster: Some(held.cluster.clone()).filter(|cluster| !cluster.is_empty()),
            highest: Some(held.highest),
            from: Some(held.version).filter(|_| !held.lanes.is_empty() && !self.whole.swap(false, Ordering::Relaxed)),
            held: held.bucket_digests(),
            level: u32::MAX,
            ..WatchRequest::default()
        };
        let response = timeout(PATIENCE * 2, self.client.post(url).json(&request).send()).await.map_err(|_| "no answer".to_owned())?;
        let response = response.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(response) } else { Err(response.text().await.unwrap_or_default()) }
    }

    /// Relays what the other controller publishes, or only its first publication; returns why that ended.
    async fn relay(&self, response: &mut reqwest::Response, once: bool) -> String {
        let (mut held, mut incoming) = (self.held(), Incoming::default());
        let mut buffer = BytesMut::new();
        self.heard.store(self.renewal(), Ordering::Relaxed);
        let mut last = Instant::now();
        loop {
            let line = match timeout(QUIET, next_line(response, &mut buffer, MAX_LINE_BYTES)).await {
                Ok(Ok(line)) => line,
                Ok(Err(why)) => {
                    if last.elapsed() < QUIET {
                        // It ended while it was heard: only what its record says later tells whether the leader lives.
                        self.heard.store(u64::MAX, Ordering::Relaxed);
                    }
                    return why;
                }
                Err(_) if last.elapsed() >= SILENCE => return "it went silent".to_owned(),
                Err(_) => {
                    if last.elapsed() < QUIET * 2 {
                        self.heard.store(self.renewal(), Ordering::Relaxed);
                    }
                    continue;
                }
            };
            last = Instant::now();
            let frame = decode(&line).map_err(|error| error.to_string());
            if let Ok(Frame::Heartbeat(heartbeat)) = &frame {
                self.handle.fresh.heard(heartbeat.clone());
            }
            let taken = frame.and_then(|frame| incoming.take(&held, frame).map_err(|error| error.to_string()));
            match taken {
                Ok(None) => {}
                Ok(Some(next)) => {
                    held = next;
                    if self.handle.tell(Input::Relayed(Arc::new(held.snapshot()))).await.is_err() {
                        return "we are stopping".to_owned();
                    }
                    if once {
                        return String::new();
                    }
                }
                Err(error) => {
                    self.whole.store(true, Ordering::Relaxed);
                    tracing::warn!("a publication was not relayed: {error}");
                    return error;
                }
            }
        }
    }

    /// Keeps what the leader keeps. Ends only with us: without it, relaying goes on.
    async fn keep(&self, url: Url) {
        loop {
            if let Err(why) = self.keep_once(url.clone(), Fetch::Endlessly).await {
                tracing::debug!(why, "what the leader keeps is not followed for a moment");
            }
            sleep(PAUSE / 2 + jitter(PAUSE)).await;
        }
    }

    /// Keeps what another controller keeps until it ends the stream, or until it has told all, if that is enough.
    async fn keep_once(&self, url: Url, what: Fetch) -> Result<(), String> {
        let empty = self.handle.ask(Query::Empty).await.map_err(|gone| gone.to_string())?;
        let configs = self.handle.history().await.into_iter().map(|record| (record.number, record.digest)).collect();
        let request = ReplicaRequest { empty, configs };
        let sent = timeout(SILENCE, self.client.post(url).json(&request).send()).await.map_err(|_| "no answer".to_owned())?;
        let mut response = sent.and_then(reqwest::Response::error_for_status).map_err(|error| error.to_string())?;
        let mut buffer = BytesMut::new();
        loop {
            let line = next_line(&mut response, &mut buffer, MAX_DOCUMENT).await?;
            match serde_json::from_slice(&line).map_err(|error| error.to_string())? {
                Document::State { .. } if what == Fetch::Operator => {}
                Document::State { at, kept, expected, entries } => {
                    let replica = Replica::read(at, kept, expected, entries, &self.handle.store_urls())?;
                    self.handle.tell(Input::Replica(Box::new(replica))).await.map_err(|gone| gone.to_string())?;
                }
                Document::Config { number, digest, file } => {
                    // What cannot be kept here is kept elsewhere; what comes next may be more important.
                    if let Err(error) = self.handle.adopt_config(number, digest, &file, what == Fetch::Endlessly).await {
                        tracing::warn!("C{number} of the leader's history was not kept: {error}");
                    }
                }
                Document::Operator { saved, left } => {
                    let left = left.map(Duration::from_millis);
                    if let Err(error) = self.handle.adopt_operated(saved, left).await.map_err(|gone| gone.to_string())? {
                        tracing::warn!("what operators hold was not kept: {error}");
                    }
                }
                Document::Heartbeat if what != Fetch::Endlessly => return Ok(()),
                Document::Heartbeat | Document::Unknown => {}
            }
        }
    }

    /// What whoever leads was not told yet, and the number of the event after that.
    async fn own_events(&self) -> (Vec<Told>, u64) {
        let from = self.telling.load(Ordering::Relaxed);
        let events = self.handle.ask(|to| Query::Events(from, to)).await.unwrap_or_default();
        let next = events.last().map_or(from, |last| last.number + 1);
        let told = |event: Event| Told { reason: event.reason, about: event.about, message: event.message };
        (events.into_iter().filter(Event::is_own).map(told).collect(), next)
    }

    /// Passes on which proxies follow us and what they report. Ends only with us.
    async fn pass_on(&self, url: Url) {
        let mut changes = self.handle.changes();
        let mut told: HashMap<String, Report> = HashMap::new();
        loop {
            let Ok(mut proxies) = self.handle.ask(Query::Downstream).await else { return std::future::pending().await };
            let mut fresh = HashMap::new();
            for proxy in &mut proxies {
                // One that came back and has not reported yet is as it was.
                let Some(report) = proxy.report.take().or_else(|| told.get(&proxy.name).cloned()) else { continue };
                if told.get(&proxy.name) != Some(&report) {
                    proxy.report = Some(report.clone());
                }
                fresh.insert(proxy.name.clone(), report);
            }
            let operated = Some(self.handle.operated().rank());
            let snapshot = Some(self.handle.snapshots.borrow().clone()).filter(|snapshot| snapshot.version.sequence > 0);
            let (version, content) = snapshot.map(|snapshot| (snapshot.version, Content::of(&snapshot))).unzip();
            let (events, next) = self.own_events().await;
            let message = RelayReport { controller: self.handle.me().0.clone(), proxies, operated, version, content, told: events };
            let sent = timeout(SILENCE, self.client.post(url.clone()).json(&message).send()).await;
            let mut arrived = false;
            told = match sent {
                Ok(Ok(response)) if response.status().is_success() => {
                    arrived = true;
                    self.telling.store(next, Ordering::Relaxed);
                    // One that knows nothing of it answers nothing.
                    let answer = timeout(SILENCE, response.json::<RelayAnswer>()).await;
                    self.handle.recall.wanted_upstream(answer.ok().and_then(Result::ok).and_then(|answer| answer.recall));
                    fresh
                }
                _ => HashMap::new(),
            };
            let heartbeat = sleep(Duration::from_secs(HEARTBEAT_SECONDS));
            if !arrived && !message.proxies.is_empty() {
                sleep(jitter(PAUSE)).await;
            } else {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = heartbeat => {}
                }
            }
            sleep(GATHER).await;
        }
    }
}

/// Ends when somebody else leads than `led_by`, we among them.
pub(super) async fn turned(mut roles: watch::Receiver<Role>, led_by: Option<String>) {
    loop {
        if roles.changed().await.is_err() {
            return;
        }
        match &*roles.borrow_and_update() {
            // It is the same one still, or nobody knows better.
            Role::Following { leader } if leader.as_ref().is_none_or(|record| Some(&record.holder.name) == led_by.as_ref()) => {}
            _ => return,
        }
    }
}

/// The next line of an endless answer.
pub(super) async fn next_line(response: &mut reqwest::Response, buffer: &mut BytesMut, longest: usize) -> Result<BytesMut, String> {
    let mut searched = 0;
    loop {
        if let Some(end) = buffer.get(searched..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            return Ok(buffer.split_to(searched + end + 1));
        }
        searched = buffer.len();
        if searched > longest {
            return Err(format!("a line has more than {longest} bytes"));
        }
        match timeout(SILENCE, response.chunk()).await {
            Err(_) => return Err("it went silent".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(None)) => return Err("it closed the stream".to_owned()),
            Ok(Ok(Some(chunk))) => buffer.extend_from_slice(&chunk),
        }
    }
}

/// A path of another controller's API.
pub(super) fn join(url: &str, path: &str) -> Option<Url> {
    Url::parse(url).ok()?.join(path).ok()
}

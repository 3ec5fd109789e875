//! Replicates the leader's state, and passes on the reports of our proxies.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{sleep, timeout};
use url::Url;
use waypost_wire::{Content, HEARTBEAT_SECONDS, Probed, RelayAnswer, RelayReport, RelayedEvent, Report};

use crate::controller::answers::shapes::Event;
use crate::controller::clock::now_millis;
use crate::controller::jitter::jitter;
use crate::controller::message::{Input, Query};
use crate::controller::operator::OperateError;
use crate::controller::peers::follow::{RETRY_PAUSE, Relay};
use crate::controller::peers::streams::{MAX_SILENCE, StreamError, next_line};
use crate::controller::stored::programs::Program;
use crate::controller::stored::replica::{Document, Replica, ReplicaRequest};

/// Time for which reports are gathered before they are passed on.
const REPORT_GATHER_TIME: Duration = Duration::from_millis(20);

/// Maximum bytes of a document: it can be as long as the leader's whole history.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024 * 1024;

/// How much of another controller's state is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetch {
    /// Everything, and every change.
    Endlessly,
    /// Everything, once.
    All,
    /// The record of operators' actions, once.
    Operator,
}

/// A report as it is remembered: of the results of health checks, only what identifies them.
fn without_findings(report: &Report) -> Report {
    let probed = report.probed.as_ref().map(|probed| Probed { version: probed.version, number: probed.number, ..Probed::default() });
    Report { probed, ..report.clone() }
}

impl Relay {
    /// Replicates the leader's state beside the snapshot. Never ends: relaying goes on where this fails.
    pub(super) async fn replicate(&self, url: Url) {
        loop {
            if let Err(error) = self.replicate_once(url.clone(), Fetch::Endlessly).await {
                tracing::debug!(%error, "what the leader keeps is not followed for a moment");
            }
            sleep(RETRY_PAUSE / 2 + jitter(RETRY_PAUSE)).await;
        }
    }

    /// Replicates another controller's state until it ends the stream, or until it has sent all of it, if that is enough.
    pub(super) async fn replicate_once(&self, url: Url, what: Fetch) -> Result<(), StreamError> {
        let empty = self.handle.ask(Query::Empty).await?;
        let configs = self.handle.history().await.into_iter().map(|record| (record.number, record.digest)).collect();
        let request = ReplicaRequest { empty, configs, programs: true };
        let sent = timeout(MAX_SILENCE, self.client.post(url).json(&request).send()).await.map_err(|_| StreamError::NoAnswer)?;
        let mut response = sent.and_then(reqwest::Response::error_for_status)?;
        let mut buffer = BytesMut::new();
        loop {
            let line = next_line(&mut response, &mut buffer, MAX_DOCUMENT_BYTES).await?;
            match serde_json::from_slice(&line)? {
                Document::State { .. } if what == Fetch::Operator => {}
                Document::State { at, removals, expected, entries } => {
                    let replica = Replica::read(at, removals, expected, entries, &self.handle.store_urls()).map_err(StreamError::Unreadable)?;
                    self.handle.send(Input::Replica(Box::new(replica))).await?;
                }
                Document::Config { number, digest, file } => {
                    // A config that cannot be written here is on another controller's disk; the next document may be more important.
                    if let Err(error) = self.handle.adopt_config(number, digest, &file, what == Fetch::Endlessly).await {
                        tracing::warn!("C{number} of the leader's history was not kept: {error}");
                    }
                }
                Document::Programs { joined } => self.adopt_programs(joined).await?,
                Document::Operator { mut saved, left } => {
                    // A leader of release 0.1 sends the programs in this record.
                    let (programs, _) = saved.take_programs(now_millis()).since(None);
                    self.adopt_programs(programs).await?;
                    let left = left.map(Duration::from_millis);
                    match self.handle.adopt_operated(saved, left).await {
                        Ok(()) => {}
                        Err(OperateError::Stopped(stopped)) => return Err(stopped.into()),
                        Err(error) => tracing::warn!("what operators hold was not kept: {error}"),
                    }
                }
                Document::Heartbeat if what != Fetch::Endlessly => return Ok(()),
                Document::Heartbeat | Document::Unknown => {}
            }
        }
    }

    async fn adopt_programs(&self, joined: BTreeMap<String, Program>) -> Result<(), StreamError> {
        if joined.is_empty() {
            return Ok(());
        }
        match self.handle.adopt_programs(joined).await {
            Ok(()) => Ok(()),
            Err(OperateError::Stopped(stopped)) => Err(stopped.into()),
            // They are sent again on the next stream.
            Err(error) => Err(StreamError::Unreadable(format!("which programs have joined was not kept: {error}"))),
        }
    }

    /// Events that were not passed on to the leader yet, and the number of the event after them.
    pub(super) async fn own_events(&self) -> (Vec<RelayedEvent>, u64) {
        let from = self.telling.load(Ordering::Relaxed);
        let events = self.handle.ask(|to| Query::Events(from, to)).await.unwrap_or_default();
        let next = events.last().map_or(from, |last| last.number + 1);
        let relayed = |event: Event| RelayedEvent { reason: event.reason, about: event.about, message: event.message };
        (events.into_iter().filter(Event::is_own).map(relayed).collect(), next)
    }

    /// Passes on which proxies follow us and what they report. Ends only when this controller stops.
    pub(super) async fn pass_on(&self, url: Url) {
        let mut changes = self.handle.changes();
        let mut sent_reports: HashMap<String, Report> = HashMap::new();
        let mut takes_changes = false;
        loop {
            let sent_before = if takes_changes { sent_reports.clone() } else { HashMap::new() };
            let Ok(mut proxies) = self.handle.ask(|to| Query::Downstream(sent_before, to)).await else { return std::future::pending().await };
            let mut fresh = HashMap::new();
            for proxy in &mut proxies {
                // A proxy that reconnected and has not reported yet is as in its last report.
                let sent_before = sent_reports.get(&proxy.name);
                let Some(reduced) = proxy.report.as_ref().map(without_findings).or_else(|| sent_before.cloned()) else { continue };
                if sent_before == Some(&reduced) {
                    proxy.report = None;
                }
                fresh.insert(proxy.name.clone(), reduced);
            }
            let operated = Some(self.handle.operated().rank());
            let snapshot = Some(self.handle.snapshots.borrow().clone()).filter(|snapshot| snapshot.version.sequence > 0);
            let (version, content) = snapshot.map(|snapshot| (snapshot.version, Content::of(&snapshot))).unzip();
            let (events, next) = self.own_events().await;
            let message = RelayReport { controller: self.handle.me().0.clone(), proxies, operated, version, content, events };
            let sent = timeout(MAX_SILENCE, self.client.post(url.clone()).json(&message).send()).await;
            let mut arrived = false;
            sent_reports = match sent {
                Ok(Ok(response)) if response.status().is_success() => {
                    arrived = true;
                    self.telling.store(next, Ordering::Relaxed);
                    // A controller of an earlier release answers nothing.
                    let answer = timeout(MAX_SILENCE, response.json::<RelayAnswer>()).await;
                    let RelayAnswer { recall, resend, takes_changes: takes } = answer.ok().and_then(Result::ok).unwrap_or_default();
                    takes_changes = takes;
                    self.handle.offers.wanted_upstream(recall);
                    resend.iter().for_each(|name| drop(fresh.remove(name)));
                    fresh
                }
                _ => HashMap::new(),
            };
            let heartbeat = sleep(Duration::from_secs(HEARTBEAT_SECONDS));
            if !arrived && !message.proxies.is_empty() {
                sleep(jitter(RETRY_PAUSE)).await;
            } else {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = heartbeat => {}
                }
            }
            sleep(REPORT_GATHER_TIME).await;
        }
    }
}

//! Follows a controller: one HTTP/2 connection for the watch stream and the reports.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http_body_util::BodyExt as _;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;
use waypost_model::object::LEVEL;
use waypost_wire::{ApplyError, Frame, Incoming, MAX_LINE_BYTES, ReceivedState, WATCH_PATH, WatchRequest, decode};

use crate::apply::{Arrived, Progress};
use crate::config::Config;
use crate::enrol::Enrolment;
use crate::fresh::Fresh;
use crate::link::{CONNECT_TIMEOUT, Ended, Lines, Link, MAX_SILENCE, post};
use crate::metrics::Metrics;

/// Buckets of each lane that are audited with every heartbeat.
const AUDITED_BUCKETS: u8 = 4;
/// Minimum and maximum of the backoff; the actual pause is random and below it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

#[derive(Debug, Error)]
enum WatchError {
    #[error("{url} cannot be reached: {reason}")]
    Connect { url: String, reason: String },
    #[error("{url} answered {status}: {reason}")]
    Refused { url: String, status: StatusCode, reason: String },
    #[error("{url} went silent")]
    Silent { url: String },
    #[error("{url} closed the stream")]
    Closed { url: String },
    #[error("{url}: {source}")]
    Publication { url: String, source: ApplyError },
    #[error("what is held is not what {url} had published; it is fetched again")]
    Drifted { url: String },
}

/// Follows the controllers, one after the other.
pub(crate) struct Subscriber {
    pub(crate) config: Arc<Config>,
    pub(crate) enrolment: Arc<Enrolment>,
    pub(crate) run_id: String,
    pub(crate) received: ReceivedState,
    pub(crate) arrivals: watch::Sender<Option<Arrived>>,
    pub(crate) link: watch::Sender<Option<Link>>,
    /// Receives the freshness that the controllers report.
    pub(crate) fresh: watch::Sender<Fresh>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: Arc<Metrics>,
    /// The bucket of each lane that is audited next.
    pub(crate) audited: u8,
    /// Whether the state has drifted, and was not replaced yet.
    pub(crate) drifted: bool,
}

impl Subscriber {
    /// Follows controllers until dropped. It never gives up; the last state stays in use.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        let mut logged = String::new();
        let mut whole = false;
        for at in 0.. {
            let Some(url) = self.config.controllers.get(at % self.config.controllers.len().max(1)).cloned() else { return std::future::pending().await };
            let mut received_data = false;
            let error = self.follow(&url, whole, &mut received_data).await;
            // If the last version and the delta did not give the published digest, the next request compares all buckets.
            whole = matches!(error, WatchError::Publication { .. } | WatchError::Drifted { .. });
            self.metrics.controller_connected.set(0);
            self.link.send_replace(None);
            if matches!(error, WatchError::Publication { .. }) {
                self.metrics.refused.inc();
                self.progress.update(|applied| applied.refuse(error.to_string()));
            }
            // The same error is logged once, not with every attempt.
            let text = error.to_string();
            if text != logged {
                tracing::warn!("{text}; serving goes on with version {}", self.received.version);
                logged = text;
            }
            // Every controller is tried before the pause grows. A refused publication counts as a failure, because asking again at once
            // does not help.
            failures = if received_data && !whole { 0 } else { failures + 1 };
            let rounds = u32::try_from(failures / self.config.controllers.len().max(1)).unwrap_or(u32::MAX);
            let pause = BACKOFF.0.saturating_mul(2_u32.saturating_pow(rounds)).min(BACKOFF.1);
            let millis = u64::try_from(pause.as_millis()).unwrap_or(1);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=millis))).await;
        }
    }

    /// Follows one controller until the stream ends; sets `received_data` if the controller sent anything.
    async fn follow(&mut self, url: &url::Url, whole: bool, received_data: &mut bool) -> WatchError {
        match self.open(url, whole).await {
            Ok(mut lines) => {
                let error = self.read(url, &mut lines).await;
                *received_data = lines.received_data;
                error
            }
            Err(error) => error,
        }
    }

    async fn open(&mut self, url: &url::Url, whole: bool) -> Result<Lines, WatchError> {
        let name = url.to_string();
        let mut link = self.enrolment.connect(url).await.map_err(|reason| WatchError::Connect { url: name.clone(), reason })?;
        let request = WatchRequest {
            name: self.config.name.clone(),
            controller: None,
            run_id: self.run_id.clone(),
            labels: self.config.labels.clone(),
            cluster: Some(self.received.cluster.clone()).filter(|cluster| !cluster.is_empty()),
            highest: Some(self.received.highest),
            from: Some(self.received.version).filter(|_| !whole && !self.received.restored && !self.received.lanes.is_empty()),
            bucket_digests: self.received.bucket_digests(),
            level: LEVEL,
        };
        let failed = |reason: String| WatchError::Connect { url: name.clone(), reason };
        let body = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
        let request = post(url, WATCH_PATH, body).map_err(|error| failed(error.to_string()))?;
        let response = timeout(MAX_SILENCE, link.sender.send_request(request)).await.map_err(|_| WatchError::Silent { url: name.clone() })?;
        let response = response.map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = timeout(CONNECT_TIMEOUT, response.into_body().collect()).await.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
            let reason = String::from_utf8_lossy(&body.unwrap_or_default()).trim().to_owned();
            return Err(WatchError::Refused { url: name, status, reason });
        }
        self.link.send_replace(Some(link));
        self.metrics.controller_connected.set(1);
        self.progress.changed.notify_one();
        Ok(Lines::of(response.into_body()))
    }

    /// Handles lines until the stream ends; returns the reason.
    async fn read(&mut self, url: &url::Url, lines: &mut Lines) -> WatchError {
        let url = url.to_string();
        let mut incoming = Incoming::default();
        loop {
            let result = match lines.next(MAX_LINE_BYTES).await {
                Ok(line) => self.take(&line, &mut incoming),
                Err(Ended::Silent) => return WatchError::Silent { url },
                Err(Ended::Closed) => return WatchError::Closed { url },
                Err(ended @ Ended::TooLong(_)) => Err(ApplyError::Protocol(ended.to_string())),
            };
            match result {
                Err(source) => return WatchError::Publication { url, source },
                Ok(true) if self.has_drifted() => return WatchError::Drifted { url },
                Ok(_) => {}
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.metrics.confirmed.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
    }

    /// Audits some buckets of each lane; all of them are audited within about a minute. Buckets that do not match their digests are
    /// dropped, so that they are fetched again.
    fn has_drifted(&mut self) -> bool {
        let buckets = (0..AUDITED_BUCKETS).map(|offset| self.audited.wrapping_add(offset));
        let sound = buckets.into_iter().all(|number| self.received.lanes.values().all(|lane| lane.is_sound(number)));
        self.audited = self.audited.wrapping_add(AUDITED_BUCKETS);
        if !sound {
            self.received.lanes.values_mut().for_each(|lane| *lane = lane.sound());
            self.metrics.drift.inc();
            self.drifted = true;
        }
        !sound
    }

    /// Handles a line; returns whether it was a heartbeat.
    fn take(&mut self, line: &[u8], incoming: &mut Incoming) -> Result<bool, ApplyError> {
        let frame = decode(line).map_err(|error| ApplyError::Protocol(error.to_string()))?;
        let beat = matches!(frame, Frame::Heartbeat(_));
        if let Frame::Heartbeat(heartbeat) = &frame {
            self.fresh.send_modify(|fresh| fresh.hear(heartbeat.clone()));
        }
        if let Some(next) = incoming.take(&self.received, frame)? {
            self.received = next.clone();
            self.arrivals.send_replace(Some(Arrived { received: next, at: Instant::now(), anew: std::mem::take(&mut self.drifted) }));
        }
        Ok(beat)
    }
}

//! Following a controller: one HTTP/2 connection for the watch stream and the reports.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming as IncomingBody;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use waypost_model::object::LEVEL;
use waypost_wire::{ApplyError, HEARTBEAT_SECONDS, Held, Incoming, MAX_LINE_BYTES, WATCH_PATH, WatchRequest, decode};

use crate::apply::{Arrived, Progress};
use crate::config::Config;
use crate::metrics::Metrics;

/// Without a line for this long the controller is gone.
const SILENCE: Duration = Duration::from_secs(3 * HEARTBEAT_SECONDS);
const CONNECT: Duration = Duration::from_secs(2);
/// Bounds of the pause before the next try, which is random below it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The sending side of the connection to a controller, and where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    /// The controller.
    pub(crate) url: url::Url,
    /// Takes requests.
    pub(crate) sender: http2::SendRequest<Full<Bytes>>,
}

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
}

/// Follows controllers, one after the other.
pub(crate) struct Subscriber {
    pub(crate) config: Arc<Config>,
    pub(crate) run_id: String,
    pub(crate) held: Held,
    pub(crate) arrivals: watch::Sender<Option<Arrived>>,
    pub(crate) link: watch::Sender<Option<Link>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Subscriber {
    /// Follows until dropped. Never gives up; what was served stays.
    pub(crate) async fn run(mut self) {
        let mut pause = BACKOFF.0;
        let mut told = String::new();
        let mut whole = false;
        for at in 0.. {
            let Some(url) = self.config.controllers.get(at % self.config.controllers.len().max(1)).cloned() else { return std::future::pending().await };
            let begun = Instant::now();
            let error = self.follow(&url, whole).await;
            // What the last version plus the delta did not add up to is compared from the ground up next time.
            whole = matches!(error, WatchError::Publication { .. });
            self.metrics.controller_connected.set(0);
            self.link.send_replace(None);
            if matches!(error, WatchError::Publication { .. }) {
                self.metrics.refused.inc();
                self.progress.update(|applied| applied.refused = Some(error.to_string()));
            }
            // The same trouble is told once, not with every try.
            let text = error.to_string();
            if text != told {
                tracing::warn!("{text}; serving goes on with version {}", self.held.version);
                told = text;
            }
            pause = if begun.elapsed() > SILENCE { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
            let millis = u64::try_from(pause.as_millis()).unwrap_or(1);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=millis))).await;
        }
    }

    /// Follows one controller until that ends.
    async fn follow(&mut self, url: &url::Url, whole: bool) -> WatchError {
        match self.open(url, whole).await {
            Ok(body) => self.read(url, body).await,
            Err(error) => error,
        }
    }

    async fn open(&mut self, url: &url::Url, whole: bool) -> Result<IncomingBody, WatchError> {
        let name = url.to_string();
        let mut link = connect(url).await.map_err(|reason| WatchError::Connect { url: name.clone(), reason })?;
        let request = WatchRequest {
            name: self.config.name.clone(),
            run_id: self.run_id.clone(),
            labels: self.config.labels.clone(),
            cluster: Some(self.held.cluster.clone()).filter(|cluster| !cluster.is_empty()),
            highest: Some(self.held.highest),
            from: Some(self.held.version).filter(|_| !whole && !self.held.restored && !self.held.lanes.is_empty()),
            held: self.held.bucket_digests(),
            level: LEVEL,
        };
        let failed = |reason: String| WatchError::Connect { url: name.clone(), reason };
        let body = serde_json::to_vec(&request).map_err(|error| failed(error.to_string()))?;
        let request = post(url, WATCH_PATH, body).map_err(|error| failed(error.to_string()))?;
        let response = timeout(SILENCE, link.sender.send_request(request)).await.map_err(|_| WatchError::Silent { url: name.clone() })?;
        let response = response.map_err(|error| failed(error.to_string()))?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = timeout(CONNECT, response.into_body().collect()).await.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
            let reason = String::from_utf8_lossy(&body.unwrap_or_default()).trim().to_owned();
            return Err(WatchError::Refused { url: name, status, reason });
        }
        self.link.send_replace(Some(link));
        self.metrics.controller_connected.set(1);
        self.progress.changed.notify_one();
        Ok(response.into_body())
    }

    async fn read(&mut self, url: &url::Url, mut body: IncomingBody) -> WatchError {
        let url = url.to_string();
        let mut buffer = BytesMut::new();
        let mut incoming = Incoming::default();
        loop {
            let data = match timeout(SILENCE, body.frame()).await {
                Err(_) => return WatchError::Silent { url },
                Ok(None | Some(Err(_))) => return WatchError::Closed { url },
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            buffer.extend_from_slice(&data);
            if let Err(source) = self.take_lines(&mut buffer, &mut incoming) {
                return WatchError::Publication { url, source };
            }
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.metrics.confirmed.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
    }

    /// Takes every whole line.
    fn take_lines(&mut self, buffer: &mut BytesMut, incoming: &mut Incoming) -> Result<(), ApplyError> {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let frame = decode(&line).map_err(|error| ApplyError::Protocol(error.to_string()))?;
            if let Some(next) = incoming.take(&self.held, frame)? {
                self.held = next.clone();
                self.arrivals.send_replace(Some(Arrived { held: next, at: Instant::now() }));
            }
        }
        if buffer.len() > MAX_LINE_BYTES {
            return Err(ApplyError::Protocol(format!("a line has more than {MAX_LINE_BYTES} bytes")));
        }
        Ok(())
    }
}

async fn connect(url: &url::Url) -> Result<Link, String> {
    let host = url.host_str().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(7400);
    let stream =
        timeout(CONNECT, TcpStream::connect((host, port))).await.map_err(|_| "no connection in time".to_owned())?.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(HEARTBEAT_SECONDS))).keep_alive_timeout(SILENCE);
    builder.initial_stream_window_size(4 * 1024 * 1024).initial_connection_window_size(8 * 1024 * 1024);
    let (sender, driver) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "the connection to a controller ended");
        }
    });
    Ok(Link { url: url.clone(), sender })
}

/// A POST of JSON to a controller.
pub(crate) fn post(url: &url::Url, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, http::Error> {
    let authority = url.authority();
    Request::builder().method(Method::POST).uri(format!("http://{authority}{path}")).header("content-type", "application/json").body(Full::from(body))
}

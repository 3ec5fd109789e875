//! The admin surface: health probes, metrics, the release and the live tail. It is never on the path of proxied requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::apply::Progress;
use crate::fresh::Fresh;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::tail::Tail;
use crate::worker::Workers;

/// Maximum number of connections, which is within the descriptors that are reserved for them.
const MAX_ADMIN_CONNECTIONS: usize = 40;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The parts of the proxy that the admin surface shows.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) progress: Arc<Progress>,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) workers: Workers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) fresh: watch::Receiver<Fresh>,
    pub(crate) leaving: AtomicBool,
}

impl Admin {
    /// Serves requests on `listener` until dropped.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_ADMIN_CONNECTIONS));
        loop {
            // At the limit, further ones wait in the kernel's queue until one of these ends: one without a request does so after half a minute.
            let place = places.clone().acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin surface could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let this = self.clone();
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(|request| {
                    let this = this.clone();
                    async move { Ok::<_, Infallible>(this.answer(&request)) }
                });
                let serving = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
                if let Err(error) = serving.await {
                    tracing::debug!(%error, "a connection to the admin surface broke off");
                }
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(request.uri().query().is_some_and(|query| query.contains("verbose"))),
            "/metrics" => text(StatusCode::OK, self.metrics.render(&self.workers.loads(), self.fresh.borrow().age())),
            "/version" => text(StatusCode::OK, format!("{{\"release\":\"{}\"}}\n", crate::RELEASE)),
            "/tail" => self.follow(),
            path => text(StatusCode::NOT_FOUND, format!("nothing at {path}; there are /livez, /readyz, /metrics, /version and /tail\n")),
        }
    }

    /// The proxy is ready if a snapshot is in use, every listener that was served before still is, and the process does not shut down.
    fn ready(&self, verbose: bool) -> Response<Body> {
        let applied = self.progress.get();
        let checks = [
            ("snapshot", applied.version.is_some(), applied.version.map_or("none yet".to_owned(), |version| format!("version {version} is live"))),
            ("listeners", self.listeners.serves_what_it_did(), self.listener_text()),
            (
                "leaving",
                !self.leaving.load(Ordering::Relaxed),
                if self.leaving.load(Ordering::Relaxed) { "the process was asked to stop" } else { "no" }.to_owned(),
            ),
        ];
        let ready = checks.iter().all(|(_, ok, _)| *ok);
        let mut lines: Vec<String> =
            checks.iter().filter(|(_, ok, _)| verbose || !ok).map(|(name, ok, why)| format!("[{}] {name}: {why}", if *ok { '+' } else { '-' })).collect();
        if verbose {
            lines.push(format!("freshness: {}", self.freshness()));
            lines.extend(self.fresh.borrow().sources.iter().map(|source| {
                let age = source.confirmed.map_or_else(|| "never read".to_owned(), |at| format!("confirmed {:.1} s ago", at.elapsed().as_secs_f64()));
                format!("store {}: revision {}, {age}", source.store, source.at)
            }));
        }
        lines.push(if ready { "ready".to_owned() } else { "not ready".to_owned() });
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, lines.join("\n") + "\n")
    }

    fn listener_text(&self) -> String {
        let states = self.listeners.states();
        if states.is_empty() {
            return "none; write listeners/NAME, such as {\"address\":\"0.0.0.0:80\"}, or start with --listen ADDRESS".to_owned();
        }
        let one = |state: waypost_wire::ListenerState| {
            if state.bound { format!("{} on {}", state.name, state.address) } else { format!("{} is not bound", state.name) }
        };
        states.into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn freshness(&self) -> String {
        let confirmed = u64::try_from(self.metrics.confirmed.get()).unwrap_or_default();
        if confirmed == 0 {
            return "no controller has been heard since the start; served from disk".to_owned();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        format!("a controller was heard {} s ago", now.saturating_sub(confirmed))
    }

    fn follow(&self) -> Response<Body> {
        let mut lines = self.tail.follow();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(64);
        tokio::spawn(async move {
            loop {
                let line = match lines.recv().await {
                    Ok(line) => format!("{line}\n"),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}\n"),
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                };
                if sender.send(line.into()).await.is_err() {
                    return;
                }
            }
        });
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|line| (Ok(Frame::data(line)), receiver)) });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
        response
    }
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

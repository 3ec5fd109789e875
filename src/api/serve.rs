//! The API's server: accepts connections, over TLS if there is a certificate, and notes the identity of the other end.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_trust::identity_of;

use super::caller::Caller;
use super::connections::{Admission, Admitted, BusyBody, Connections};
use super::refusals::Refusals;

/// Maximum number of concurrent TLS handshakes.
const MAX_HANDSHAKES: usize = 256;
/// The same per client address.
const MAX_HANDSHAKES_PER_ADDRESS: usize = 64;
/// Time limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for responses in progress at the end.
const FINISH_TIMEOUT: Duration = Duration::from_millis(100);
/// Pause after an error of `accept`, for example when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time limit for a request's head, and for the idle time before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection of HTTP/2 without a request in progress is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Interval of HTTP/2 keep-alive pings.
const PING_INTERVAL: Duration = Duration::from_secs(30);

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Serves until `stop`, over TLS if `tls` is given. Refused handshakes are recorded by `refusals`.
pub async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, router: Router, refusals: Arc<Refusals>, stop: CancellationToken) {
    let (sender, mut accepted) = mpsc::channel(MAX_HANDSHAKES);
    let accepting = tokio::spawn(accept(listener, tls.map(TlsAcceptor::from), sender, refusals.clone()));
    let (connections, tracker) = (Connections::of_process(), TaskTracker::new());
    loop {
        let (io, caller, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted.recv() => match accepted {
                Some(accepted) => accepted,
                None => break,
            },
        };
        let full = || format!("there are {} connections to the API, the most that are let in", connections.most());
        let admission = match connections.admit(peer, caller.is_identified()) {
            Admitted::Yes(admission) => admission,
            Admitted::InsteadOf(admission, idle) => {
                refusals.record(idle.to_string(), format!("{}: its idle connection was closed for another one", full())).await;
                admission
            }
            Admitted::No => {
                refusals.record(peer.to_string(), format!("{}, or too many of its address", full())).await;
                continue;
            }
        };
        tracker.spawn(converse(io, caller, router.clone(), admission, stop.clone()));
    }
    accepting.abort();
    tracker.close();
    tracker.wait().await;
}

/// Serves one connection. One that does not send its first head in time is closed, because its other end is not authenticated before that.
async fn converse(io: Io, caller: Caller, router: Router, admission: Admission, stop: CancellationToken) {
    let activity = admission.activity.clone();
    let (begun, counted) = (Arc::new(AtomicBool::new(false)), activity.clone());
    let first = begun.clone();
    let router = TowerToHyperService::new(router.layer(axum::Extension(ConnectInfo(caller))));
    let service = service_fn(move |request: Request<Incoming>| {
        first.store(true, Ordering::Relaxed);
        let (busy, answering) = (counted.begin(), router.call(request));
        async move { answering.await.map(|response| response.map(|body| BusyBody::around(body, busy))) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(HEAD_TIMEOUT);
    let serving = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    let idle = async {
        loop {
            sleep(HEAD_TIMEOUT).await;
            let limit = if begun.load(Ordering::Relaxed) { IDLE_TIMEOUT } else { Duration::ZERO };
            if activity.idle_for().is_some_and(|idle| idle >= limit) {
                return;
            }
        }
    };
    let result = tokio::select! {
        result = &mut serving => result,
        () = idle => return,
        () = admission.shed.cancelled() => return,
        () = stop.cancelled() => {
            sleep(FINISH_TIMEOUT).await;
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection to the API broke off");
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, sender: mpsc::Sender<(Io, Caller, IpAddr)>, refusals: Arc<Refusals>) {
    let (shaking, slots) = (Arc::new(Semaphore::new(MAX_HANDSHAKES)), Slots::default());
    loop {
        let Ok(permit) = shaking.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the API was not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Small frames are sent without delay.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection to the API may be slow");
        }
        let Some(slot) = Slot::take(&slots, peer.ip(), MAX_HANDSHAKES_PER_ADDRESS) else { continue };
        let Some(tls) = tls.clone() else {
            if sender.send((Either::Left(stream), Caller::Plain, peer.ip())).await.is_err() {
                return;
            }
            continue;
        };
        let (sender, refusals) = (sender.clone(), refusals.clone());
        tokio::spawn(async move {
            shake(tls, stream, peer, sender, &refusals).await;
            drop((permit, slot));
        });
    }
}

/// The number of handshakes or connections of each address.
type Slots = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One counted handshake or connection; dropping it ends the count. The limit per address keeps one client from locking out others.
struct Slot {
    slots: Slots,
    ip: IpAddr,
}

impl Slot {
    fn take(slots: &Slots, ip: IpAddr, most: usize) -> Option<Self> {
        let mut all = slots.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(ip).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { slots: slots.clone(), ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.ip) {
            *count = count.saturating_sub(1);
        }
        all.retain(|_, count| *count > 0);
    }
}

async fn shake(tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr, sender: mpsc::Sender<(Io, Caller, IpAddr)>, refusals: &Refusals) {
    let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        // A connection that is closed without a request, such as a TCP probe's, is not reported.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
        Ok(Err(error)) => return refusals.record(peer.ip().to_string(), handshake_failed(&error)).await,
        Err(_) => return refusals.record(peer.ip().to_string(), "it did not end its handshake".to_owned()).await,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Caller::Tls { identity: certificate.and_then(identity_of), ip: peer.ip() };
    if sender.send((Either::Right(Box::new(stream)), caller, peer.ip())).await.is_err() {
        tracing::debug!("the API ended before a connection did");
    }
}

fn handshake_failed(error: &std::io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let clear_text = matches!(cause, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)));
    format!("its handshake failed: {error}{}", if clear_text { "; it may speak HTTP in clear text: its URL needs https" } else { "" })
}

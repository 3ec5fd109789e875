//! Serving the API: accepting connections, over TLS if there is a certificate, and remembering who is at their other end.

use std::collections::HashMap;
use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use waypost_trust::identity_of;

use super::admit::{Caller, Refusals};

/// Connections that shake hands at the same time.
const SHAKING: usize = 256;
/// Of them, from one address.
const SHAKING_FROM_ONE: usize = 64;
/// A handshake takes at most this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers under way have this long at the end.
const LEAVE: Duration = Duration::from_millis(100);
/// After an error of the system, for instance for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Serves until `stop`; over TLS if there is a way for that. Refused handshakes are told to `refusals`.
pub async fn serve(listener: TcpListener, tls: Option<Arc<ServerConfig>>, router: Router, refusals: Arc<Refusals>, stop: CancellationToken) {
    let (sender, accepted) = mpsc::channel(SHAKING);
    let address = listener.local_addr();
    let accepting = tokio::spawn(accept(listener, tls.map(TlsAcceptor::from), sender, refusals));
    let incoming = Accepted { accepted, address: address.map_err(|error| error.kind()) };
    let serving = axum::serve(incoming, router.into_make_service_with_connect_info::<Caller>()).with_graceful_shutdown(async move {
        stop.cancelled().await;
        sleep(LEAVE).await;
    });
    if let Err(error) = serving.await {
        tracing::error!(%error, "the API ended");
    }
    accepting.abort();
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, sender: mpsc::Sender<(Io, Caller)>, refusals: Arc<Refusals>) {
    let (shaking, slots) = (Arc::new(Semaphore::new(SHAKING)), Slots::default());
    loop {
        let Ok(permit) = shaking.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the API was not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        // Small frames go out at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection to the API may be slow");
        }
        let Some(slot) = Slot::take(&slots, peer.ip()) else { continue };
        let Some(tls) = tls.clone() else {
            if sender.send((Either::Left(stream), Caller::Plain)).await.is_err() {
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

/// How many handshakes there are from each address.
type Slots = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The right to one of them. Nobody keeps others out who silently opens connections.
struct Slot {
    slots: Slots,
    ip: IpAddr,
}

impl Slot {
    fn take(slots: &Slots, ip: IpAddr) -> Option<Self> {
        let mut all = slots.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(ip).or_default();
        if *count >= SHAKING_FROM_ONE {
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

async fn shake(tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr, sender: mpsc::Sender<(Io, Caller)>, refusals: &Refusals) {
    let stream = match timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        // What only opens a connection, as a probe does, is not worth a word.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
        Ok(Err(error)) => return refusals.tell(peer.ip().to_string(), handshake_failed(&error)).await,
        Err(_) => return refusals.tell(peer.ip().to_string(), "it did not end its handshake".to_owned()).await,
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Caller::Tls { identity: certificate.and_then(identity_of), ip: peer.ip() };
    if sender.send((Either::Right(Box::new(stream)), caller)).await.is_err() {
        tracing::debug!("the API ended before a connection did");
    }
}

fn handshake_failed(error: &std::io::Error) -> String {
    let told = error.to_string();
    let clear_text = told.contains("InvalidContentType");
    format!("its handshake failed: {told}{}", if clear_text { "; it may speak HTTP in clear text: its URL needs https" } else { "" })
}

/// Connections that are there.
struct Accepted {
    accepted: mpsc::Receiver<(Io, Caller)>,
    address: Result<SocketAddr, std::io::ErrorKind>,
}

impl Listener for Accepted {
    type Io = Io;
    type Addr = Caller;

    async fn accept(&mut self) -> (Io, Caller) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Caller> {
        self.address.map(|_| Caller::Plain).map_err(Into::into)
    }
}

impl Connected<IncomingStream<'_, Accepted>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Accepted>) -> Self {
        stream.remote_addr().clone()
    }
}

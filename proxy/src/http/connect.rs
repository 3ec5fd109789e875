//! Connections to endpoints: one that was used before, or a new one.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::balance::Endpoint;
use crate::config::DEFAULT_HEAD_BYTES;
use crate::endpoint::Peer;
use crate::http::forward::{Failure, Limits};
use crate::http::stall::Stalling;
use crate::listener::keep_alive;
use crate::pool::Sender;
use crate::worker::Core;

/// A connection of the pool that cannot take a request by then is not worth waiting for.
const READY: Duration = Duration::from_millis(100);

/// A connection that takes a request.
pub(super) struct Connected {
    /// Takes it.
    pub(super) sender: Sender,
    /// Whether it was used before.
    pub(super) reused: bool,
    /// Under which it is kept when it is idle.
    pub(super) key: Arc<str>,
}

/// Where an endpoint's connections go.
enum Peers<'e> {
    /// It is an address.
    One(&'e Peer),
    /// It is a name that was resolved.
    Many(Arc<[Peer]>),
    /// It is a name that was not resolved yet.
    Unknown,
}

impl Deref for Peers<'_> {
    type Target = [Peer];

    fn deref(&self) -> &[Peer] {
        match self {
            Self::One(peer) => std::slice::from_ref(peer),
            Self::Many(peers) => peers,
            Self::Unknown => &[],
        }
    }
}

impl Peers<'_> {
    fn of(endpoint: &Endpoint) -> Peers<'_> {
        match &endpoint.peer {
            Some(peer) => Peers::One(peer),
            None => endpoint.state.peers().map_or(Peers::Unknown, Peers::Many),
        }
    }

    /// All of them, beginning with any.
    fn any_first(&self) -> impl Iterator<Item = &Peer> {
        let start = if self.len() > 1 { fastrand::usize(0..self.len()) } else { 0 };
        self.iter().cycle().skip(start).take(self.len())
    }
}

/// A connection to an endpoint: an idle one, unless it is to be `fresh`, else a new one.
pub(super) async fn connection(core: &Arc<Core>, endpoint: &Endpoint, limits: &Limits, fresh: bool) -> Result<Connected, Failure> {
    let peers = Peers::of(endpoint);
    if !fresh {
        let mut waited = false;
        for peer in peers.any_first() {
            while let Some(mut sender) = core.pool.take(&peer.text) {
                // Waited for once: of the next one that is not ready no more is to be expected.
                let ready = sender.is_ready() || !std::mem::replace(&mut waited, true) && within(READY, sender.ready()).await;
                if ready {
                    return Ok(Connected { sender, reused: true, key: peer.text.clone() });
                }
            }
        }
    }
    // Rare and large: on the heap, so that the requests that find a connection do not carry its room along.
    Box::pin(open(core, endpoint, &peers, limits)).await
}

async fn open(core: &Arc<Core>, endpoint: &Endpoint, peers: &Peers<'_>, limits: &Limits) -> Result<Connected, Failure> {
    let descriptors = &core.shared.descriptors;
    // At the limit an idle connection to another endpoint makes room.
    if descriptors.are_exhausted() && !core.pool.evict() {
        let limit = descriptors.limit();
        return Err(Failure::Local(format!("all {limit} descriptors for connections are in use; raise the limit of open files, or lower --max-connections")));
    }
    let descriptor = descriptors.endpoint();
    let connecting = connect(endpoint, peers);
    let limit = limits.connect.map(|limit| Instant::now() + limit).into_iter().chain(limits.deadline).min();
    let connected = match limit {
        Some(limit) => timeout_at(limit, connecting).await.map_err(|_| limits.connect_failure())?,
        None => connecting.await,
    };
    let (stream, key) = connected.map_err(|error| {
        let reason = error.to_string();
        if is_local(&error) { Failure::Local(reason) } else { Failure::Connect { reason, slow: false } }
    })?;
    let broken = |error: hyper::Error| Failure::Connect { reason: error.to_string(), slow: false };
    let (sender, driver) =
        http1::Builder::new().max_buf_size(DEFAULT_HEAD_BYTES).handshake(TokioIo::new(Stalling::counted(stream, descriptor))).await.map_err(broken)?;
    endpoint.state.connected();
    core.shared.metrics.connects.inc();
    tokio::spawn(async move {
        if let Err(error) = driver.with_upgrades().await {
            tracing::debug!(%error, "a connection to an endpoint broke off");
        }
    });
    Ok(Connected { sender, reused: false, key })
}

/// Connects to the first of an endpoint's addresses that takes it.
async fn connect(endpoint: &Endpoint, peers: &Peers<'_>) -> std::io::Result<(TcpStream, Arc<str>)> {
    let mut last = None;
    for peer in peers.any_first() {
        match TcpStream::connect(peer.socket).await {
            Ok(stream) => return ready(stream).map(|stream| (stream, peer.text.clone())),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error),
        // A name that was just written: the C library knows it as well.
        None => {
            let stream = ready(TcpStream::connect(&*endpoint.address).await?)?;
            let key = stream.peer_addr()?.to_string().into();
            Ok((stream, key))
        }
    }
}

/// Whether a connection gets ready in this time.
async fn within(time: Duration, ready: impl Future<Output = hyper::Result<()>>) -> bool {
    tokio::time::timeout(time, ready).await.is_ok_and(|ready| ready.is_ok())
}

/// Whether an error says that this machine or process ran short of something, and nothing about the endpoint.
fn is_local(error: &std::io::Error) -> bool {
    const SHORTAGES: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

fn ready(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    keep_alive(&socket2::SockRef::from(&stream))?;
    Ok(stream)
}

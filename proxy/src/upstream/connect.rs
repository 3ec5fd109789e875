//! Connections to endpoints: one that was used before, or a new one.

use std::ops::Deref;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::balance::Endpoint;
use crate::descriptors::is_local;
use crate::endpoint::Peer;
use crate::http::limits::TimeLimits;
use crate::listener::keep_alive;
use crate::upstream::connection::Connection;
use crate::upstream::pool::Need;
use crate::worker::Core;

/// Why there is no connection. Nothing was sent.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The endpoint refused it, or did not answer.
    Refused {
        reason: String,
        /// Whether it took its whole time.
        is_slow: bool,
    },
    /// This proxy ran short of descriptors, ports or memory.
    Local(String),
    /// The time for the whole request was over.
    Deadline,
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

/// An idle connection to an endpoint, if there is one that fits, else a new one.
pub(crate) async fn connection(core: &Arc<Core>, endpoint: &Endpoint, limits: &TimeLimits, need: Option<Need>) -> Result<Connection, ConnectError> {
    let peers = Peers::of(endpoint);
    if let Some(idle) = need.and_then(|need| peers.any_first().find_map(|peer| core.pool.take(&peer.text, need))) {
        return Ok(idle);
    }
    // Rare and large: on the heap, so that the requests that find a connection do not carry its room along.
    Box::pin(open(core, endpoint, &peers, limits)).await
}

async fn open(core: &Arc<Core>, endpoint: &Endpoint, peers: &Peers<'_>, limits: &TimeLimits) -> Result<Connection, ConnectError> {
    let descriptors = &core.shared.descriptors;
    // At the limit an idle connection to another endpoint makes room.
    if descriptors.are_exhausted() && !core.pool.evict() {
        let limit = descriptors.limit();
        return Err(ConnectError::Local(format!(
            "all {limit} descriptors for connections are in use; raise the limit of open files, or lower --max-connections"
        )));
    }
    let descriptor = descriptors.take();
    let connecting = connect(endpoint, peers);
    let limit = limits.connect.map(|limit| Instant::now() + limit).into_iter().chain(limits.deadline).min();
    let connected = match limit {
        Some(limit) => timeout_at(limit, connecting).await.map_err(|_| late(limits))?,
        None => connecting.await,
    };
    let (stream, key) = connected.map_err(|error| {
        let reason = error.to_string();
        if is_local(&error) { ConnectError::Local(reason) } else { ConnectError::Refused { reason, is_slow: false } }
    })?;
    endpoint.state.connected();
    core.shared.metrics.connects.inc();
    Ok(Connection::new(stream, key, core.shared.limits.stall_timeout, descriptor))
}

/// Why there is no connection in time: the endpoint's fault, or the end of the rule's own time.
fn late(limits: &TimeLimits) -> ConnectError {
    if limits.are_over() { ConnectError::Deadline } else { ConnectError::Refused { reason: "no connection in time".to_owned(), is_slow: true } }
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

fn ready(stream: TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    keep_alive(&socket2::SockRef::from(&stream))?;
    Ok(stream)
}

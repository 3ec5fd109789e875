//! Listeners: bound, accepted from and closed as the table says, one by one. A listener that cannot be bound hurts
//! only itself and is tried again.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use waypost_wire::ListenerState;

use crate::table::ListenerConfig;
use crate::worker::{Accepted, Workers};

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 4_096;
/// Connections under way when a listener closes have this long to arrive.
const CLOSE_GRACE: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Bound {
    config: Arc<ListenerConfig>,
    /// The listener that the socket's new connections belong to: a socket outlives a change of everything but its
    /// address.
    current: watch::Sender<Arc<ListenerConfig>>,
    /// Stops accepting.
    stop: CancellationToken,
    /// Ends the listener's connections in peace.
    end: CancellationToken,
}

/// All listeners of a proxy.
#[derive(Debug)]
pub(crate) struct Listeners {
    workers: Workers,
    runtime: tokio::runtime::Handle,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bound: HashMap<Arc<str>, Bound>,
    failed: HashMap<Arc<str>, String>,
    closed: bool,
}

impl Listeners {
    /// No listeners yet; they will accept on `runtime`.
    pub(crate) fn new(workers: Workers, runtime: tokio::runtime::Handle) -> Self {
        Self { workers, runtime, inner: Mutex::default() }
    }

    /// Makes the bound listeners those of `wanted`. A socket whose address is still wanted goes on, whatever its
    /// listener is called now; a new one is bound before the old one closes, and if it cannot be, the old one stays.
    /// Returns what could not be bound.
    pub(crate) fn reconcile(&self, wanted: &HashMap<Arc<str>, Arc<ListenerConfig>>) -> Vec<(Arc<str>, String)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Vec::new();
        }
        let mut before: HashMap<SocketAddr, Bound> = std::mem::take(&mut inner.bound).into_values().map(|bound| (bound.config.address, bound)).collect();
        inner.failed.clear();
        let mut sorted: Vec<_> = wanted.values().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let mut moved = Vec::new();
        for config in sorted {
            match before.remove(&config.address) {
                Some(bound) => drop(inner.bound.insert(config.name.clone(), bound.renamed(config))),
                None => moved.push(config),
            }
        }
        for config in moved {
            match self.bind(config, &inner) {
                Ok(bound) => drop(inner.bound.insert(config.name.clone(), bound)),
                Err(reason) => {
                    // What it was bound to before is better than nothing.
                    let old = before.values().find(|bound| bound.config.name == config.name).map(|bound| bound.config.address);
                    if let Some(old) = old.and_then(|address| before.remove(&address)) {
                        inner.bound.insert(config.name.clone(), old);
                    }
                    inner.failed.insert(config.name.clone(), reason);
                }
            }
        }
        for bound in before.into_values() {
            tracing::info!(listener = &*bound.config.name, address = %bound.config.address, "listener closes");
            bound.stop.cancel();
        }
        inner.failed.iter().map(|(name, reason)| (name.clone(), reason.clone())).collect()
    }

    fn bind(&self, config: &Arc<ListenerConfig>, inner: &Inner) -> Result<Bound, String> {
        let holder = inner.bound.values().find(|bound| bound.config.address == config.address);
        if let Some(holder) = holder {
            return Err(format!("address {} is already bound by listeners/{}; give one of them another port", config.address, holder.config.name));
        }
        let socket = bind(config.address).map_err(|error| explain(config.address, &error))?;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let (current, follow) = watch::channel(config.clone());
        let acceptor = Acceptor { current: follow, stop: stop.clone(), end: end.clone(), workers: self.workers.clone() };
        self.runtime.spawn(acceptor.run(socket));
        tracing::info!(listener = &*config.name, address = %config.address, "listener bound");
        Ok(Bound { config: config.clone(), current, stop, end })
    }

    /// What became of each wanted listener.
    pub(crate) fn states(&self) -> Vec<ListenerState> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let bound = inner.bound.iter().filter(|(name, _)| !inner.failed.contains_key(*name)).map(|(name, bound)| ListenerState {
            name: name.to_string(),
            address: bound.config.address.to_string(),
            bound: true,
        });
        let failed = inner.failed.keys().map(|name| ListenerState { name: name.to_string(), address: String::new(), bound: false });
        let mut all: Vec<_> = bound.chain(failed).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether there are listeners, and all of them are bound.
    pub(crate) fn all_bound(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        !inner.bound.is_empty() && inner.failed.is_empty()
    }

    /// Stops accepting everywhere, for good.
    pub(crate) fn close_all(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        for (_, bound) in inner.bound.drain() {
            bound.stop.cancel();
            bound.end.cancel();
        }
    }
}

impl Bound {
    /// The same socket for a listener that may have another name or other settings.
    fn renamed(self, config: &Arc<ListenerConfig>) -> Self {
        if !Arc::ptr_eq(&self.config, config) {
            self.current.send_replace(config.clone());
        }
        Self { config: config.clone(), ..self }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Connections inherit both.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A peer that has vanished without a word is found out within two minutes.
pub(crate) fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    socket.set_tcp_keepalive(&probes)
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it; end that process or write another port",
        io::ErrorKind::PermissionDenied => "ports below 1024 need the capability CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address; write 0.0.0.0 or one it has",
        _ => "write another address",
    };
    format!("address {address} cannot be bound: {error}; {remedy}")
}

struct Acceptor {
    current: watch::Receiver<Arc<ListenerConfig>>,
    stop: CancellationToken,
    end: CancellationToken,
    workers: Workers,
}

impl Acceptor {
    async fn run(self, socket: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener could not be watched"),
        };
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => self.take(accepted).await,
            }
        }
        // New connections are no longer begun, those that were are still served, then the socket goes: nobody who
        // was let in is turned away.
        if let Err(error) = refuse_new(&listener) {
            tracing::debug!(%error, "a listener closes without a filter");
        }
        sleep(CLOSE_GRACE).await;
        while let Some(accepted) = listener.accept().now_or_never() {
            self.take(accepted).await;
        }
        self.end.cancel();
    }

    async fn take(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => {
                let listener = self.current.borrow().clone();
                self.workers.hand_over(Accepted { stream, peer, listener, end: self.end.clone() }).await;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // Out of file descriptors, most likely: let some go before trying again.
                tracing::warn!(%error, listener = &*self.current.borrow().name, "a connection could not be accepted; raise the limit of open files");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Lets no new connection begin on a listening socket: its SYN is dropped, whereas the last packet of a handshake
/// under way passes. The client tries again and meets a closed port, not a reset connection.
fn refuse_new(listener: &tokio::net::TcpListener) -> io::Result<()> {
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    const FLAGS: u32 = 13;
    let instruction = |code: u32, jt, jf, k| socket2::SockFilter::new(u16::try_from(code).unwrap_or_default(), jt, jf, k);
    let program = [
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_OR_ACK),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&program)
}

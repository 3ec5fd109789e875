//! Listeners: binds, accepts and closes them as the table says, each independently. A listener that cannot be bound affects no other, and
//! is tried again.

mod owner;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use waypost_model::value::overlap;
use waypost_wire::ListenerState;

use crate::clients::Clients;
use crate::descriptors::Descriptor;
use crate::table::ListenerConfig;
use crate::worker::{Accepted, Workers};

/// Connections that the kernel queues for a listener.
const BACKLOG: i32 = 4_096;
/// Time for connections in progress to arrive after a listener stops.
const CLOSE_GRACE: Duration = Duration::from_millis(200);
/// Minimum interval between lookups of the process that has bound a wanted address.
const OWNER_LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Bound {
    config: Arc<ListenerConfig>,
    /// The listener of the socket's new connections: a socket survives every change of its listener except one of the address.
    current: watch::Sender<Arc<ListenerConfig>>,
    /// The listening socket, so that another one can take its port over.
    socket: TcpListener,
    /// Stops accepting.
    stop: CancellationToken,
    /// Ends the listener's connections gracefully.
    end: CancellationToken,
    /// The socket's, and the acceptor's.
    _descriptors: [Descriptor; 2],
}

/// All listeners of a proxy.
#[derive(Debug)]
pub(crate) struct Listeners {
    workers: Workers,
    clients: Arc<Clients>,
    runtime: tokio::runtime::Handle,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    bound: HashMap<Arc<str>, Bound>,
    failed: HashMap<Arc<str>, Failed>,
    /// Names of listeners that were served, or were in the first table: the proxy is not ready if one of them is missing.
    expected: HashSet<Arc<str>>,
    /// Whether the first table was received.
    begun: bool,
    closed: bool,
}

/// A listener that could not be bound.
#[derive(Debug, Clone)]
struct Failed {
    address: SocketAddr,
    reason: String,
    at: Instant,
}

impl Listeners {
    /// Creates an empty set of listeners, which accept on `runtime`.
    pub(crate) fn new(workers: Workers, clients: Arc<Clients>, runtime: tokio::runtime::Handle) -> Self {
        Self { workers, clients, runtime, inner: Mutex::default() }
    }

    /// Makes the bound listeners equal to `wanted`. A socket whose address is still wanted stays, even if its listener has another name
    /// now. A new socket is bound before the old one closes; if that fails, the old one stays. Returns the listeners that could not be
    /// bound.
    pub(crate) fn reconcile(&self, wanted: &HashMap<Arc<str>, Arc<ListenerConfig>>) -> Vec<(Arc<str>, String)> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed {
            return Vec::new();
        }
        let mut before: HashMap<SocketAddr, Bound> = std::mem::take(&mut inner.bound).into_values().map(|bound| (bound.config.address, bound)).collect();
        let earlier_failures = std::mem::take(&mut inner.failed);
        let mut sorted: Vec<_> = wanted.values().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        // A socket stays with its listener; otherwise it passes to a listener of another name with the same address.
        let keeps = |config: &&&Arc<ListenerConfig>| before.get(&config.address).is_some_and(|bound| bound.config.name == config.name);
        let (staying, others): (Vec<_>, Vec<_>) = sorted.into_iter().partition(|config| keeps(&config));
        let mut moved = Vec::new();
        for config in staying.into_iter().chain(others) {
            match before.remove(&config.address) {
                Some(bound) => drop(inner.bound.insert(config.name.clone(), bound.renamed(config))),
                None => moved.push(config),
            }
        }
        for config in moved {
            match self.bind(config, &inner, &before, earlier_failures.get(&config.name)) {
                Ok(bound) => drop(inner.bound.insert(config.name.clone(), bound)),
                Err(failed) => {
                    // The socket of the previous address stays, which is better than none.
                    let old = before.values().find(|bound| bound.config.name == config.name).map(|bound| bound.config.address);
                    if let Some(old) = old.and_then(|address| before.remove(&address)) {
                        inner.bound.insert(config.name.clone(), old);
                    }
                    inner.failed.insert(config.name.clone(), failed);
                }
            }
        }
        for bound in before.into_values() {
            tracing::info!(listener = &*bound.config.name, address = %bound.config.address, "listener closes");
            bound.stop.cancel();
        }
        inner.expect(wanted);
        inner.failed.iter().map(|(name, failed)| (name.clone(), failed.reason.clone())).collect()
    }

    /// Binds a listener. The sockets in `closing` are about to close, and let their ports be taken over.
    fn bind(
        &self,
        config: &Arc<ListenerConfig>,
        inner: &Inner,
        closing: &HashMap<SocketAddr, Bound>,
        earlier_failure: Option<&Failed>,
    ) -> Result<Bound, Failed> {
        let address = config.address;
        let failed = |reason: String| Failed { address, reason, at: Instant::now() };
        if let Some(holder) = inner.bound.values().find(|bound| overlap(bound.config.address, address)) {
            let (other, name) = (holder.config.address, &holder.config.name);
            return Err(failed(format!("address {address} is taken by {other} of listeners/{name}; give one of them another port")));
        }
        let leaving: Vec<&Bound> = closing.values().filter(|bound| overlap(bound.config.address, address)).collect();
        let socket = match bind_beside(address, &leaving) {
            Ok(socket) => socket,
            Err(error) => {
                // Binding is tried four times a second; the process that has the address is looked up less often.
                let same = earlier_failure.filter(|earlier_failure| {
                    earlier_failure.address == address && error.kind() == io::ErrorKind::AddrInUse && earlier_failure.at.elapsed() < OWNER_LOOKUP_INTERVAL
                });
                return Err(same.cloned().unwrap_or_else(|| failed(explain(address, &error))));
            }
        };
        let accepting = socket.try_clone().map_err(|error| failed(explain(address, &error)))?;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let (current, follow) = watch::channel(config.clone());
        let acceptor = Acceptor { current: follow, stop: stop.clone(), end: end.clone(), workers: self.workers.clone(), clients: self.clients.clone() };
        self.runtime.spawn(acceptor.run(accepting));
        tracing::info!(listener = &*config.name, %address, "listener bound");
        let descriptors = [self.clients.descriptors().take(), self.clients.descriptors().take()];
        Ok(Bound { config: config.clone(), current, socket, stop, end, _descriptors: descriptors })
    }

    /// The state of each wanted listener.
    pub(crate) fn states(&self) -> Vec<ListenerState> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener that could not move to its new address is still served at the old one.
        let bound = inner.bound.iter().map(|(name, bound)| ListenerState { name: name.to_string(), address: bound.config.address.to_string(), bound: true });
        let failed = inner.failed.keys().filter(|name| !inner.bound.contains_key(*name));
        let failed = failed.map(|name| ListenerState { name: name.to_string(), address: String::new(), bound: false });
        let mut all: Vec<_> = bound.chain(failed).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether every listener is bound that was served before, or was in the first table. A listener that was added later and cannot be
    /// bound makes its entry's verdict negative, not the proxy unready: it serves no less than before.
    pub(crate) fn serves_what_it_did(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expected.iter().all(|name| inner.bound.contains_key(name))
    }

    /// The open client connections.
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Stops accepting on all listeners, finally.
    pub(crate) fn close_all(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.closed = true;
        for (_, bound) in inner.bound.drain() {
            bound.stop.cancel();
            bound.end.cancel();
        }
    }
}

impl Inner {
    /// Adds the listeners that are served now, or were wanted at the start, to the expected ones.
    fn expect(&mut self, wanted: &HashMap<Arc<str>, Arc<ListenerConfig>>) {
        self.expected.retain(|name| wanted.contains_key(name));
        if !std::mem::replace(&mut self.begun, true) {
            self.expected.extend(wanted.keys().cloned());
        }
        self.expected.extend(self.bound.keys().cloned());
    }
}

/// Binds an address whose port is still bound by sockets that are about to close, so that no connection is refused in between.
fn bind_beside(address: SocketAddr, leaving: &[&Bound]) -> io::Result<TcpListener> {
    if leaving.is_empty() {
        return bind(address, false);
    }
    for bound in leaving {
        SockRef::from(&bound.socket).set_reuse_port(true)?;
    }
    let socket = bind(address, true).inspect_err(|_| {
        // The old ones stay, and share with nobody.
        leaving.iter().for_each(|bound| drop(SockRef::from(&bound.socket).set_reuse_port(false)));
    })?;
    // From now on no other socket may share the port.
    SockRef::from(&socket).set_reuse_port(false)?;
    Ok(socket)
}

impl Bound {
    /// The same socket for a listener with another name or other settings.
    fn renamed(self, config: &Arc<ListenerConfig>) -> Self {
        if !Arc::ptr_eq(&self.config, config) {
            self.current.send_replace(config.clone());
        }
        Self { config: config.clone(), ..self }
    }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Accepted connections inherit both options.
    socket.set_tcp_nodelay(true)?;
    keep_alive(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Enables keep-alive probes, which detect a vanished peer within two minutes.
pub(crate) fn keep_alive(socket: &SockRef<'_>) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    socket.set_tcp_keepalive(&probes)
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrInUse {
        let owner = owner::of(address).unwrap_or_else(|| "another process has it; end that process or write another port".to_owned());
        return format!("address {address} cannot be bound: {error}; {owner}");
    }
    let remedy = match error.kind() {
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
    clients: Arc<Clients>,
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
        // New connections are not accepted any more. Those that were begun before are still served, then the socket closes, so that no
        // admitted client is refused.
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
                // At the limit the connection is closed: the client sees that at once, and may try another proxy.
                let Some(admission) = self.clients.admit(peer, &listener) else { return };
                self.workers.hand_over(Accepted { stream, peer, listener, end: self.end.clone(), admission }).await;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // Most likely the process has no file descriptors left: wait until some are released.
                tracing::warn!(%error, listener = &*self.current.borrow().name, "a connection could not be accepted; raise the limit of open files");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Makes the kernel drop the SYN of new connections, but not the last packet of a handshake in progress. The client repeats its SYN and
/// finds a closed port, instead of a reset connection.
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

//! Serving threads: one per core, each with its own runtime and pool, and no work that moves between them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::active::Active;
use crate::clients::Admission;
use crate::config::ConnectionLimits;
use crate::descriptors::Descriptors;
use crate::fresh::Fresh;
use crate::http::connection::Accepting;
use crate::inbound::serve;
use crate::metrics::Metrics;
use crate::table::ListenerConfig;
use crate::tail::Tail;
use crate::upstream::pool::Pool;

/// Connections that wait for a busy core; beyond it the acceptor waits, and then the kernel's own queue.
const CONNECTION_QUEUE_LENGTH: usize = 1_024;
/// How often idle connections to endpoints are looked at.
const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// What all cores share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The table.
    pub(crate) active: Arc<Active>,
    /// The counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Where request records go.
    pub(crate) tail: Arc<Tail>,
    /// What connections may take.
    pub(crate) limits: ConnectionLimits,
    /// Whether responses carry the version.
    pub(crate) version_header: bool,
    /// How fresh what is served is, if responses carry that.
    pub(crate) age_header: Option<watch::Receiver<Fresh>>,
    /// Ends everything at once.
    pub(crate) abort: CancellationToken,
    /// Idle connections to endpoints that all cores together keep.
    pub(crate) idle_cap: Arc<AtomicUsize>,
    /// What connections may use.
    pub(crate) descriptors: Arc<Descriptors>,
}

/// One core.
#[derive(Debug)]
pub(crate) struct Core {
    /// What all cores share.
    pub(crate) shared: Arc<Shared>,
    /// Idle connections to endpoints.
    pub(crate) pool: Arc<Pool>,
}

/// A connection on its way to a core.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The socket.
    pub(crate) stream: TcpStream,
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// The listener.
    pub(crate) listener: Arc<ListenerConfig>,
    /// Ends the connection in peace.
    pub(crate) end: CancellationToken,
    /// Its place among all connections.
    pub(crate) admission: Admission,
}

/// A core, seen by the acceptors.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    queue: mpsc::Sender<Accepted>,
    /// Connections that it has or is about to get.
    load: Arc<AtomicUsize>,
}

/// All cores.
#[derive(Debug, Clone)]
pub(crate) struct Workers(Arc<Vec<Worker>>);

impl Workers {
    /// Starts so many serving threads.
    pub(crate) fn start(threads: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let start = |number| {
            let (queue, accepted) = mpsc::channel(CONNECTION_QUEUE_LENGTH);
            let load = Arc::new(AtomicUsize::new(0));
            let core = Arc::new(Core { shared: shared.clone(), pool: Arc::new(Pool::new(shared.idle_cap.clone(), threads)) });
            let counted = load.clone();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            std::thread::Builder::new().name(format!("serve-{number}")).spawn(move || runtime.block_on(work(core, accepted, counted)))?;
            Ok(Worker { queue, load })
        };
        (0..threads).map(start).collect::<std::io::Result<Vec<_>>>().map(|workers| Self(Arc::new(workers)))
    }

    /// Hands a connection to the less loaded of two random cores.
    pub(crate) async fn hand_over(&self, accepted: Accepted) {
        let count = self.0.len();
        let first = fastrand::usize(0..count.max(1));
        let second = if count > 1 { (first + fastrand::usize(1..count)) % count } else { first };
        let load = |at: usize| self.0.get(at).map_or(usize::MAX, |worker| worker.load.load(Ordering::Relaxed));
        let at = if load(second) < load(first) { second } else { first };
        if let Some(worker) = self.0.get(at) {
            worker.load.fetch_add(1, Ordering::Relaxed);
            if worker.queue.send(accepted).await.is_err() {
                tracing::error!("a serving thread has ended");
            }
        }
    }

    /// Connections per core.
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.0.iter().map(|worker| worker.load.load(Ordering::Relaxed)).collect()
    }
}

/// A connection's place on a core; given back when dropped, however the connection ends.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn work(core: Arc<Core>, mut accepted: mpsc::Receiver<Accepted>, load: Arc<AtomicUsize>) {
    let (pool, active) = (core.pool.clone(), core.shared.active.clone());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(IDLE_SWEEP_INTERVAL);
        loop {
            tick.tick().await;
            pool.sweep();
            // A core without requests lets an old table go as well.
            drop(active.pin());
        }
    });
    while let Some(Accepted { stream, peer, listener, end, admission }) = accepted.recv().await {
        let place = Place(load.clone());
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => {
                let core = core.clone();
                tokio::spawn(serve(core, stream, Accepting { peer, listener, end, place, admission }));
            }
            Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
        }
    }
}

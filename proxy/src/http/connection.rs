//! What the requests of a client's connection have in common.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::clients::{Admission, Busy};
use crate::http::client::Client;
use crate::metrics::Metrics;
use crate::table::ListenerConfig;
use crate::worker::{Core, Place};

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The core that serves it.
    pub(crate) core: Arc<Core>,
    /// The listener as it was when the connection came.
    pub(crate) listener: Arc<ListenerConfig>,
    /// Who is at the other end.
    pub(crate) client: Client,
    is_ending: AtomicBool,
    open: Open,
}

/// What comes with a connection.
pub(crate) struct Accepting {
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerConfig>,
    pub(crate) end: CancellationToken,
    pub(crate) place: Place,
    pub(crate) admission: Admission,
}

/// Counts a connection until dropped, and gives its place on the core back.
#[derive(Debug)]
struct Open {
    metrics: Arc<Metrics>,
    _place: Place,
    admission: Admission,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connection {
    /// A connection of this core.
    pub(crate) fn new(core: Arc<Core>, peer: SocketAddr, listener: Arc<ListenerConfig>, place: Place, admission: Admission) -> Self {
        core.shared.metrics.connections.inc();
        let open = Open { metrics: core.shared.metrics.clone(), _place: place, admission };
        Self {
            core,
            client: Client::new(peer, listener.address, if listener.tls.is_some() { "https" } else { "http" }),
            listener,
            is_ending: AtomicBool::new(false),
            open,
        }
    }

    /// A request is under way: the connection is not closed for others until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.open.admission.activity.begin()
    }

    /// Cancelled when its place is needed.
    pub(crate) fn shed(&self) -> CancellationToken {
        self.open.admission.activity.shed.clone()
    }

    /// The next response is to be the last.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }
}

//! A client's connection, from accept to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clients::{Admission, Busy};
use crate::http::headers::Client;
use crate::http::route;
use crate::http::stall::Stalling;
use crate::metrics::Metrics;
use crate::table::ListenerConfig;
use crate::worker::{Core, Place};

/// A head, and the wait for the next one, may take this long.
const HEAD: Duration = Duration::from_secs(60);
/// After this long without another request a connection that is to end is closed: until then the answer to the next
/// request says so, and no request is lost on its way.
const LINGER: Duration = Duration::from_secs(3);

/// What a connection's requests have in common.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The core that serves it.
    pub(crate) core: Arc<Core>,
    /// The listener as it was when the connection came.
    pub(crate) listener: Arc<ListenerConfig>,
    /// Who is at the other end.
    pub(crate) client: Client,
    end: CancellationToken,
    /// Held as long as the connection, or what became of it, lives.
    open: Open,
}

/// A client's connection as hyper has it.
pub(crate) type ClientIo = TokioIo<Stalling>;

/// Counts a connection until dropped, and gives its place on the core back.
#[derive(Debug)]
struct Open {
    metrics: Arc<Metrics>,
    _place: Place,
    admission: Admission,
}

impl Open {
    fn new(metrics: &Arc<Metrics>, place: Place, admission: Admission) -> Self {
        metrics.connections.inc();
        Self { metrics: metrics.clone(), _place: place, admission }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

impl Connection {
    /// A request is under way: the connection is not closed for others until the guard is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.open.admission.activity.begin()
    }

    /// Whether the next response is to be the last.
    pub(crate) fn ending(&self) -> bool {
        self.end.is_cancelled()
    }
}

/// What comes with a connection.
pub(crate) struct Accepting {
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerConfig>,
    pub(crate) end: CancellationToken,
    pub(crate) place: Place,
    pub(crate) admission: Admission,
}

/// Serves a connection until it ends, or until `end` and a grace, or until it is idle and its place is needed.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream, accepting: Accepting) {
    let Accepting { peer, listener, end, place, admission } = accepting;
    let activity = admission.activity.clone();
    let open = Open::new(&core.shared.metrics, place, admission);
    let (abort, max_head) = (core.shared.abort.clone(), core.shared.max_head_bytes);
    let connection = Arc::new(Connection { core, client: Client::new(peer, listener.address), listener, end, open });
    let shared = connection.clone();
    let service = service_fn(move |request| {
        let connection = shared.clone();
        async move { Ok::<_, Infallible>(route::answer(&connection, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(max_head)
        .serve_connection(TokioIo::new(Stalling::new(stream)), service);
    tokio::select! {
        () = run(serving.with_upgrades(), &connection.end) => {}
        () = abort.cancelled() => {}
        () = activity.shed.cancelled() => {}
    }
}

async fn run<I, S>(serving: http1::UpgradeableConnection<I, S>, end: &CancellationToken)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::http::body::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = end.cancelled() => match timeout(LINGER, &mut serving).await {
            Ok(result) => result,
            Err(_) => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        },
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection broke off");
    }
}

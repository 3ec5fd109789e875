//! Assembles the proxy, and shuts it down gracefully.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::active::Active;
use crate::admin::Admin;
use crate::apply::{Applier, Arrived, Progress};
use crate::clients::Clients;
use crate::config::Config;
use crate::descriptors::{Descriptors, raise_descriptor_limit};
use crate::enrol::Enrolment;
use crate::fresh::Fresh;
use crate::inbound::certificates::Watcher;
use crate::listener::Listeners;
use crate::metrics::Metrics;
use crate::names::{self, Names};
use crate::probe::Prober;
use crate::report::Reporter;
use crate::save::{Keep, Saver};
use crate::secrets::Secrets;
use crate::state::StateDir;
use crate::subscribe::Subscriber;
use crate::table::{Builder, Judged, Table};
use crate::tail::Tail;
use crate::upstream::pool::IdleCap;
use crate::worker::{Shared, Workers};

/// Why a proxy could not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// The state directory cannot be used.
    #[error("the state directory {path} cannot be used: {source}; make it writable for this user, or name another with --state")]
    State {
        /// The directory.
        path: std::path::PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The admin address cannot be bound.
    #[error("the admin address {address} cannot be bound: {source}; end what has it, or name another with --admin")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The access log cannot be opened.
    #[error("the access log cannot be opened: {0}; correct --access-log")]
    AccessLog(std::io::Error),
    /// A controller would be reached in clear text over a network.
    #[error("{0} would be talked to in clear text; write https://, or say --insecure if the network is trusted")]
    ClearText(String),
    /// A thread of the proxy panicked.
    #[error("the proxy's control thread panicked; this is an error of waypost-proxy, please report it")]
    Panicked,
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// A running proxy, on threads of its own.
#[derive(Debug)]
pub struct Running {
    /// The address of the admin surface.
    pub admin: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

impl Running {
    /// Asks the proxy to shut down: it becomes unready, then refuses new connections, then ends.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// The token that [`Running::stop`] cancels.
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until the proxy has ended.
    ///
    /// # Errors
    /// The proxy ended because of an error.
    pub fn join(self) -> Result<(), RunError> {
        self.thread.join().map_err(|_| RunError::Panicked)
    }
}

/// Starts a proxy. It serves the state on disk at once, and that of the controllers as soon as it receives it.
///
/// # Errors
/// A setting cannot be used. Unreachable controllers are not an error.
pub fn start(config: Config) -> Result<Running, RunError> {
    if let (false, Some(url)) = (config.insecure, config.clear_text_controllers().first()) {
        return Err(RunError::ClearText(url.clone()));
    }
    let parts = put_together(config)?;
    let (stop, admin) = (CancellationToken::new(), parts.admin.1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Thread)?;
    let asked = stop.clone();
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || runtime.block_on(parts.run(asked))).map_err(RunError::Thread)?;
    Ok(Running { admin, stop, thread })
}

/// Binds the admin surface.
fn bind_admin(address: SocketAddr) -> Result<(std::net::TcpListener, SocketAddr), RunError> {
    let failed = |source| RunError::Admin { address, source };
    let admin = std::net::TcpListener::bind(address).map_err(failed)?;
    admin.set_nonblocking(true).map_err(failed)?;
    let bound = admin.local_addr().map_err(failed)?;
    Ok((admin, bound))
}

fn builder(config: &Config) -> Builder {
    Builder::new(config.name.clone(), config.labels.clone(), config.bind, config.listen)
}

/// Assembles everything except the thread that runs it.
fn put_together(config: Config) -> Result<Parts, RunError> {
    let (state, found) = StateDir::open(&config.state).map_err(|source| RunError::State { path: config.state.clone(), source })?;
    found.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let metrics = Arc::new(Metrics::default());
    let tail = Arc::new(Tail::new(config.access_log.clone(), metrics.clone()).map_err(RunError::AccessLog)?);
    let admin = bind_admin(config.admin)?;
    let (active, progress, abort, (fresh, freshness)) =
        (Active::new(Table::default()), Arc::new(Progress::default()), CancellationToken::new(), watch::channel(Fresh::default()));
    let idle = IdleCap::new(config.max_idle_connections, config.threads, raise_descriptor_limit());
    let shared = Arc::new(Shared {
        active: active.clone(),
        metrics: metrics.clone(),
        tail: tail.clone(),
        version_header: config.version_header,
        age_header: config.age_header.then(|| freshness.clone()),
        limits: config.limits,
        abort: abort.clone(),
        idle_cap: idle.cap.clone(),
        descriptors: Descriptors::of_process(),
    });
    let (workers, listeners) = start_serving(&config, &shared)?;
    let ((keep, to_save), (names, named)) = (watch::channel(None), watch::channel(Arc::default()));
    let ((work, to_probe), (judgements, judged)) = (watch::channel(Arc::default()), watch::channel(Judged::default()));
    let saver = Saver::new(&state, &found.received);
    let builder = builder(&config);
    let applier = Applier {
        active: active.clone(),
        certificates: Watcher::new(builder.usable_certificates().clone()),
        builder,
        listeners: listeners.clone(),
        idle,
        keep,
        served: None,
        names,
        work,
        judged,
        current: None,
        retired: Vec::new(),
        silent: false,
        state,
        progress: progress.clone(),
        metrics: metrics.clone(),
    };
    let surface = Arc::new(Admin {
        progress: progress.clone(),
        listeners: listeners.clone(),
        workers,
        metrics: metrics.clone(),
        tail,
        fresh: freshness.clone(),
        leaving: AtomicBool::new(false),
    });
    Ok(Parts {
        config: Arc::new(config),
        received: found.received,
        applier,
        saver,
        to_save,
        named,
        prober: Prober::new(to_probe, freshness, judgements, progress.clone(), metrics.clone(), shared.descriptors.clone()),
        fresh,
        surface,
        listeners,
        progress,
        metrics,
        active,
        abort,
        admin,
    })
}

/// Starts the serving threads, and the listeners that hand connections to them.
fn start_serving(config: &Config, shared: &Arc<Shared>) -> Result<(Workers, Arc<Listeners>), RunError> {
    let workers = Workers::start(config.threads, shared).map_err(RunError::Thread)?;
    let accept = start_runtime("accept", CancellationToken::new()).map_err(RunError::Thread)?;
    let limit = config.max_connections.unwrap_or_else(|| shared.descriptors.default_client_limit(raise_descriptor_limit()));
    let clients = Clients::new(limit, shared.descriptors.clone(), shared.metrics.clone());
    Ok((workers.clone(), Arc::new(Listeners::new(workers, clients, accept))))
}

/// A thread with a runtime that runs until `end`.
fn start_runtime(name: &str, end: CancellationToken) -> std::io::Result<tokio::runtime::Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(handle)
}

struct Parts {
    config: Arc<Config>,
    received: waypost_wire::ReceivedState,
    applier: Applier,
    saver: Saver,
    to_save: watch::Receiver<Option<Keep>>,
    named: watch::Receiver<Arc<Names>>,
    prober: Prober,
    fresh: watch::Sender<Fresh>,
    surface: Arc<Admin>,
    listeners: Arc<Listeners>,
    progress: Arc<Progress>,
    metrics: Arc<Metrics>,
    active: Arc<Active>,
    abort: CancellationToken,
    /// The admin surface's socket, and its address.
    admin: (std::net::TcpListener, SocketAddr),
}

impl Parts {
    /// Serves the state that was found on disk.
    fn begin(&mut self, found: &Arrived) {
        self.progress.update(|applied| (applied.cluster, applied.highest) = (self.received.cluster.clone(), self.received.highest));
        if self.received.lanes.contains_key(&waypost_wire::Lane::Stable) {
            tracing::info!(version = %self.received.version, "serving from disk until a controller is heard");
            self.applier.apply(found);
        } else if self.config.listen.is_some() {
            self.applier.apply(found);
            self.progress.update(|applied| applied.version = None);
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        // The state from disk counts as received: it is the initial value of the channel.
        let found = Arrived { received: self.received.clone(), at: Instant::now(), anew: false };
        let ((arrivals, arrived), (link, links)) = (watch::channel(Some(found.clone())), watch::channel(None));
        let reported_arrivals = arrivals.subscribe();
        let run_id = uuid::Uuid::new_v4().to_string();
        self.begin(&found);
        match tokio::net::TcpListener::from_std(self.admin.0) {
            Ok(listener) => drop(tokio::spawn(self.surface.clone().run(listener))),
            Err(error) => tracing::error!(%error, "the admin surface could not start"),
        }
        tokio::spawn(names::run(self.named));
        let applying = spawn("apply", self.applier.run(arrived));
        let saving = spawn("save", self.saver.run(self.to_save));
        let probing = spawn("probe", self.prober.run());
        let enrolment = Arc::new(Enrolment::new(self.config.name.clone(), self.config.certified.clone(), self.config.state.join("trust")));
        tokio::spawn(enrolment.clone().renew(self.config.controllers.clone()));
        let freshness = self.fresh.subscribe();
        tokio::spawn(Secrets::open(self.config.name.clone(), &self.config.state.join("trust"), self.progress.clone()).run(links.clone()));
        let subscriber = Subscriber {
            config: self.config.clone(),
            enrolment,
            run_id: run_id.clone(),
            received: self.received,
            audited: fastrand::u8(..),
            drifted: false,
            arrivals,
            link,
            fresh: self.fresh,
            progress: self.progress.clone(),
            metrics: self.metrics.clone(),
        };
        let subscribing = tokio::spawn(subscriber.run());
        let reporter = Reporter {
            config: self.config.clone(),
            run_id,
            admin: format!("http://{}", self.admin.1),
            link: links,
            progress: self.progress.clone(),
            listeners: self.listeners.clone(),
            active: self.active,
            metrics: self.metrics.clone(),
            fresh: freshness,
            arrivals: reported_arrivals,
            confirmed: None,
            takes_changes: true,
        };
        let reporting = tokio::spawn(reporter.run());
        stop.cancelled().await;
        self.surface.leaving.store(true, Ordering::Relaxed);
        tracing::info!(delay = ?self.config.drain_delay, "leaving: not ready any more, still accepting");
        tokio::time::sleep(self.config.drain_delay).await;
        self.listeners.close_all();
        drain(&self.metrics, self.config.drain_deadline).await;
        self.abort.cancel();
        subscribing.abort();
        reporting.abort();
        // The subscriber had the sender of snapshots; without it the applier finishes its work and ends.
        drop(subscribing.await);
        for (what, thread) in [("applies snapshots", applying), ("saves them", saving), ("probes endpoints", probing)] {
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("the thread that {what} panicked");
            }
        }
        tracing::info!("left");
    }
}

/// Starts a thread for work that must delay neither requests nor the watch stream.
fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> Option<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let spawned = runtime.and_then(|runtime| std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(work)));
    spawned.inspect_err(|error| tracing::error!(%error, "the thread {name:?} could not start")).ok()
}

async fn drain(metrics: &Metrics, deadline: Duration) {
    let end = Instant::now() + deadline;
    // A listener ends its connections a moment after it stops accepting.
    tokio::time::sleep(Duration::from_millis(300)).await;
    while (metrics.connections.get() > 0 || metrics.in_flight.get() > 0) && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let left = metrics.connections.get();
    if left > 0 {
        tracing::warn!(left, "connections are cut at the drain deadline");
    }
}

//! `waypost run` and `waypost controller`: the programs that run until a signal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Deserialize as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use waypost_model::limits::Limits;
use waypost_proxy::Certified;
use waypost_proxy::cli::{ServingFlags, host_name, signal};
use waypost_trust::Joining;
use waypost_wire::KeyRing;

use super::client::{CredentialFlags, web_url};
use super::outcome::{Failure, Outcome};
use super::tls::{ApiTlsFlags, Place, advertised};
use crate::api::{Refusals, Secured, serve};
use crate::controller::peers::keys::KeyRingTask;
use crate::controller::settings::{Settings, StatusWrites, Store};
use crate::controller::start::start;
use crate::stores;
use crate::stores::StoreFlags;
use crate::trust::{TokenRequest, Trust, now};

/// The flags of every controller.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonFlags {
    /// URL of a store to watch: file://, etcd://, consul:// or zookeeper://; repeat for more, in order of rank
    #[arg(long, value_name = "URL", env = "WAYPOST_STORE")]
    pub(super) store: Vec<String>,
    /// Directory for last good values, history and epoch; it is created
    #[arg(long, value_name = "DIR", env = "WAYPOST_STATE")]
    pub(super) state: PathBuf,
    /// Address of the API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "WAYPOST_API")]
    pub(super) api: SocketAddr,
    /// URL at which other controllers reach the API [default: --api]
    #[arg(long, value_name = "URL", env = "WAYPOST_ADVERTISE")]
    advertise: Option<String>,
    #[command(flatten)]
    pub(super) tls: ApiTlsFlags,
    /// Verdicts to write to the first store, below ROOT-status/verdicts/
    #[arg(long, value_enum, default_value = "problems", env = "WAYPOST_STATUS_WRITES")]
    pub(super) status_writes: StatusWrites,
    /// Lease time of the leader's record; must be the same on every controller
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = leader_ttl, env = "WAYPOST_LEADER_TTL")]
    leader_ttl: Duration,
    /// Lead at once although the store does not answer; use it only if no other controller runs
    #[arg(long, env = "WAYPOST_STORE_DOWN")]
    store_down: bool,
    /// URL of another controller's API, in addition to those in the store; repeat for more
    #[arg(long, value_name = "URL", env = "WAYPOST_PEER", value_delimiter = ',', value_parser = web_url)]
    peer: Vec<url::Url>,
    /// Number of configs in the history
    #[arg(long, value_name = "N", default_value_t = 50, env = "WAYPOST_HISTORY")]
    history: usize,
    /// Read flags, [[store]] tables and [limits] from a TOML file
    #[arg(long, value_name = "FILE", env = "WAYPOST_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    credentials: CredentialFlags,
}

#[derive(Debug, Args)]
pub(super) struct ControllerFlags {
    #[command(flatten)]
    common: CommonFlags,
    /// Name of this controller [default: the host's name]
    #[arg(long, value_name = "NAME", env = "WAYPOST_NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RunFlags {
    #[command(flatten)]
    common: CommonFlags,
    #[command(flatten)]
    serving: ServingFlags,
}

pub(super) async fn controller(flags: ControllerFlags) -> Outcome {
    init_log();
    let running = Controller::start(&flags.common, flags.name).await?;
    let ended = tokio::select! {
        () = signal() => Ok(()),
        () = running.stop.cancelled() => Err(Failure::failed("the controller ended by an error of its own; the log has it, please report it")),
    };
    tokio::spawn(exit_on_second_signal());
    running.stop().await;
    ended
}

pub(super) async fn run(flags: RunFlags) -> Outcome {
    init_log();
    run_both(flags.common, flags.serving).await
}

/// A controller and a proxy that follows it, until a signal.
pub(super) async fn run_both(mut common: CommonFlags, serving: ServingFlags) -> Outcome {
    let state = common.state.clone();
    common.state = state.join("controller");
    let url = format!("{}://{}", common.tls.scheme(common.api), loopback(common.api));
    let url = url.parse().map_err(Failure::usage)?;
    let config = serving.clone().into_config(vec![url], state.join("proxy")).map_err(Failure::usage)?;
    let controller = Controller::start(&common, serving.name).await?;
    let certified = controller.certified(&config.name, &common.tls)?;
    let config = waypost_proxy::Config { insecure: common.tls.insecure, certified, ..config };
    let proxy = waypost_proxy::start(config).map_err(Failure::failed)?;
    signal().await;
    tokio::spawn(exit_on_second_signal());
    proxy.stop();
    // The proxy drains first, so that the controller receives its last reports.
    tokio::task::spawn_blocking(move || proxy.join()).await.map_err(Failure::failed)?.map_err(Failure::failed)?;
    controller.stop().await;
    Ok(())
}

/// An address at which this machine reaches its own API.
fn loopback(api: SocketAddr) -> SocketAddr {
    match api.ip() {
        ip if ip.is_unspecified() && ip.is_ipv4() => SocketAddr::from(([127, 0, 0, 1], api.port())),
        ip if ip.is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, api.port())),
        _ => api,
    }
}

async fn exit_on_second_signal() {
    signal().await;
    std::process::exit(1);
}

/// A running controller with its API.
pub(super) struct Controller {
    stop: CancellationToken,
    tasks: TaskTracker,
    trust: Option<Arc<Trust>>,
}

impl Controller {
    pub(super) async fn start(flags: &CommonFlags, name: Option<String>) -> Result<Self, Failure> {
        let (stores, limits) = stores_of(flags)?;
        let name = name.unwrap_or_else(host_name);
        waypost_model::key::check_name("controller", &name).map_err(Failure::usage)?;
        let advertise = flags.advertise.clone().unwrap_or_else(|| advertised(flags.tls.scheme(flags.api), flags.api));
        let place = Place { name: &name, state: &flags.state, api: flags.api, advertise: &advertise, peers: &flags.peer };
        flags.tls.check(&place)?;
        let listener = listen(flags.api).await?;
        let trust = flags.tls.open(&place).await?;
        let settings = Settings {
            stores,
            state: flags.state.clone(),
            name,
            advertise,
            status_writes: flags.status_writes,
            limits,
            guard: table_of_file("guard")?,
            history: flags.history,
            leader_ttl: flags.leader_ttl,
            store_down: flags.store_down,
            peers: flags.peer.iter().map(ToString::to_string).collect(),
            client: controllers_client(trust.as_deref())?,
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let client = settings.client.clone();
        let folder = settings.state.join("trust");
        let handle = start(settings, &stop, &tasks).map_err(Failure::failed)?;
        let tls = trust.as_ref().map(|trust| trust.keyring().server()).transpose().map_err(Failure::failed)?;
        let refusals = Arc::new(Refusals::new(handle.clone()));
        let secured = trust.clone().map(|trust| {
            let (ring, rings) = watch::channel(KeyRing::default());
            let keeper = KeyRingTask { handle: handle.clone(), client: client.clone(), file: folder.join("ring.json"), rotation: flags.tls.key_rotation, ring };
            tasks.spawn(stop.clone().run_until_cancelled_owned(keeper.run()));
            let renewed = trust.clone();
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move { renewed.renew().await }));
            Secured { trust, ring: rings }
        });
        let router = crate::api::router(handle, client, secured, refusals.clone(), stop.clone());
        tasks.spawn(serve(listener, tls, router, refusals, stop.clone()));
        Ok(Self { stop, tasks, trust })
    }

    /// How the proxy in the same process gets its certificate.
    fn certified(&self, proxy: &str, flags: &ApiTlsFlags) -> Result<Certified, Failure> {
        if let Some(files) = flags.files() {
            return Ok(Certified::Files(files));
        }
        let Some(trust) = &self.trust else { return Ok(Certified::Joining { token: None }) };
        let request = TokenRequest { join: Some(Joining::Proxy), name: Some(proxy.to_owned()), seconds: 600, ..TokenRequest::default() };
        let token = trust.signer.make(&request, now()).map_err(Failure::failed)?.token;
        Ok(Certified::Joining { token: Some(token) })
    }

    /// Stops it and waits until everything is on disk.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(std::time::Duration::from_secs(10), self.tasks.wait()).await.is_err() {
            tracing::warn!("something did not end in time");
        }
    }
}

async fn listen(api: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(api).await;
    bound.map_err(|error| Failure::failed(format!("the API address {api} cannot be bound: {error}; end what has it, or name another with --api")))
}

/// The client for other controllers: one HTTP/2 connection to each, with TLS and this controller's certificate if it has one.
fn controllers_client(trust: Option<&Trust>) -> Result<reqwest::Client, Failure> {
    let beat = Duration::from_secs(waypost_wire::HEARTBEAT_SECONDS);
    let builder = reqwest::Client::builder().no_proxy().http2_prior_knowledge();
    let builder = match trust {
        Some(trust) => builder.https_only(true).tls_backend_preconfigured(trust.keyring().client().map_err(Failure::failed)?),
        None => builder.tls_certs_only(Vec::<reqwest::Certificate>::new()),
    };
    let builder = builder.connect_timeout(Duration::from_secs(1)).tcp_nodelay(true).http2_keep_alive_interval(beat).http2_keep_alive_timeout(beat * 3);
    builder.build().map_err(Failure::failed)
}

/// Parses the lease time: at least a second, because a leader needs time to renew.
fn leader_ttl(text: &str) -> Result<Duration, String> {
    let ttl = waypost_proxy::cli::duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(600);
    if range.contains(&ttl) { Ok(ttl) } else { Err("a leader's TTL is between 1s and 10m".to_owned()) }
}

/// The stores from the flags and the file, and the limits from the file.
fn stores_of(flags: &CommonFlags) -> Result<(Vec<Store>, Limits), Failure> {
    let mut wanted: Vec<StoreFlags> = flags.store.iter().map(|url| flags.credentials.with(url)).collect();
    if let Some(path) = &flags.config {
        let table = waypost_settings::read(path).map_err(Failure::usage)?;
        let named = |error: toml::de::Error| Failure::usage(format!("{}: {}", path.display(), error.message()));
        if let Some(value) = table.get("store").filter(|_| wanted.is_empty()) {
            wanted = match value {
                toml::Value::String(url) => vec![flags.credentials.with(url)],
                other => Vec::<StoreFlags>::deserialize(other.clone()).map_err(named)?,
            };
        }
    }
    let limits = limits_of_file()?;
    if wanted.is_empty() {
        return Err(Failure::usage("no store is given; write --store URL, such as --store consul://127.0.0.1:8500/waypost"));
    }
    if flags.store.len() > 1 && flags.credentials.any() {
        return Err(Failure::usage(
            "one credential for several stores would tell each of them the others' secret; give every store its own in a [[store]] table of --config",
        ));
    }
    Ok((stores::open_all(&wanted).map_err(Failure::usage)?, limits))
}

/// The limits in the file of `--config`, if there are any.
pub(super) fn limits_of_file() -> Result<Limits, Failure> {
    let limits: Limits = table_of_file("limits")?;
    limits.check().map_err(Failure::usage)?;
    Ok(limits)
}

/// A table in the file of `--config`; the defaults if there is none.
fn table_of_file<T: serde::de::DeserializeOwned + Default>(name: &str) -> Result<T, Failure> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let Some(path) = waypost_settings::config_path(&arguments) else { return Ok(T::default()) };
    let table = waypost_settings::read(std::path::Path::new(&path)).map_err(Failure::usage)?;
    let Some(value) = table.get(name) else { return Ok(T::default()) };
    T::deserialize(value.clone()).map_err(|error| Failure::usage(format!("{path}: [{name}]: {}", error.message())))
}

/// Logs to standard error, filtered by `WAYPOST_LOG`.
pub(super) fn init_log() {
    let filter = EnvFilter::try_from_env("WAYPOST_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A second start in the same process, as in tests, keeps the first subscriber.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init()
        .unwrap_or_default();
}

//! `waypost run` and `waypost controller`: the programs that stay.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_model::limits::Limits;
use waypost_proxy::cli::{ServingFlags, host_name, signal};

use super::client::CredentialFlags;
use super::{Failure, Outcome, init_log};
use crate::controller::settings::StatusWrites;
use crate::controller::{Handle, Settings, Store, start};
use crate::stores::{self, StoreFlags};

/// What every controller is told.
#[derive(Debug, Clone, Args)]
pub(super) struct CommonFlags {
    /// Store to watch: file://, etcd://, consul:// or zookeeper:// URL; repeat for more, the first one first in rank
    #[arg(long, value_name = "URL", env = "WAYPOST_STORE")]
    pub(super) store: Vec<String>,
    /// Directory for last good values, history and epoch; created
    #[arg(long, value_name = "DIR", env = "WAYPOST_STATE")]
    pub(super) state: PathBuf,
    /// Address of the API
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "WAYPOST_API")]
    pub(super) api: SocketAddr,
    /// Where others reach the API [default: --api]
    #[arg(long, value_name = "URL", env = "WAYPOST_ADVERTISE")]
    advertise: Option<String>,
    /// Let the API be plain HTTP beyond loopback
    #[arg(long, env = "WAYPOST_INSECURE")]
    insecure: bool,
    /// Verdicts that are written to the first store, below ROOT-status/verdicts/
    #[arg(long, value_enum, default_value = "problems", env = "WAYPOST_STATUS_WRITES")]
    pub(super) status_writes: StatusWrites,
    /// Configs that are kept in the history
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
    signal().await;
    tokio::spawn(exit_on_second_signal());
    running.stop().await;
    Ok(())
}

pub(super) async fn run(flags: RunFlags) -> Outcome {
    init_log();
    run_both(flags.common, flags.serving).await
}

/// A controller and a proxy that follows it, until a signal.
pub(super) async fn run_both(mut common: CommonFlags, serving: ServingFlags) -> Outcome {
    let state = common.state.clone();
    common.state = state.join("controller");
    let url = format!("http://{}", loopback(common.api));
    let url = url.parse().map_err(Failure::usage)?;
    let config = serving.clone().into_config(vec![url], state.join("proxy")).map_err(Failure::usage)?;
    let config = waypost_proxy::Config { insecure: common.insecure, ..config };
    let controller = Controller::start(&common, serving.name).await?;
    let proxy = waypost_proxy::start(config).map_err(Failure::failed)?;
    signal().await;
    tokio::spawn(exit_on_second_signal());
    proxy.stop();
    // The proxy drains first: it does not need the controller, but nobody should miss its last reports.
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

/// A controller that runs, with its API.
pub(super) struct Controller {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Controller {
    pub(super) async fn start(flags: &CommonFlags, name: Option<String>) -> Result<Self, Failure> {
        if !flags.api.ip().is_loopback() && !flags.insecure {
            return Err(Failure::usage(format!(
                "--api {} would be plain HTTP beyond loopback; use a loopback address, or say --insecure if the network is trusted",
                flags.api
            )));
        }
        let (stores, limits) = stores_of(flags)?;
        let name = name.unwrap_or_else(host_name);
        waypost_model::key::check_name("controller", &name).map_err(Failure::usage)?;
        let advertise = flags.advertise.clone().unwrap_or_else(|| format!("http://{}", flags.api));
        let settings = Settings {
            stores,
            state: flags.state.clone(),
            name,
            advertise,
            status_writes: flags.status_writes,
            limits,
            guard: table_of_file("guard")?,
            history: flags.history,
        };
        let listener = TcpListener::bind(flags.api).await;
        let listener = listener
            .map_err(|error| Failure::failed(format!("the API address {} cannot be bound: {error}; end what has it, or name another with --api", flags.api)))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let handle = start(settings, &stop, &tasks).map_err(Failure::failed)?;
        tasks.spawn(serve_api(listener, handle, stop.clone()));
        Ok(Self { stop, tasks })
    }

    /// Ends it, and waits until everything is on disk.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(std::time::Duration::from_secs(10), self.tasks.wait()).await.is_err() {
            tracing::warn!("something did not end in time");
        }
    }
}

async fn serve_api(listener: TcpListener, handle: Handle, stop: CancellationToken) {
    let router = crate::api::router(handle, stop.clone());
    let serving = axum::serve(tcp_nodelay(listener), router).with_graceful_shutdown(async move {
        stop.cancelled().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    });
    match tokio::time::timeout(std::time::Duration::MAX, serving.into_future()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the API ended"),
        Err(_) => {}
    }
}

/// Small frames go out at once.
fn tcp_nodelay(listener: TcpListener) -> impl axum::serve::Listener<Addr = SocketAddr> {
    use axum::serve::ListenerExt as _;
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection to the API may be slow");
        }
    })
}

/// The stores of the flags and of the file, and the limits of the file.
fn stores_of(flags: &CommonFlags) -> Result<(Vec<Store>, Limits), Failure> {
    let mut wanted: Vec<StoreFlags> = flags.store.iter().map(|url| flags.credentials.with(url)).collect();
    if let Some(path) = &flags.config {
        let table = waypost_proxy::flags::read(path).map_err(Failure::usage)?;
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

/// The limits of the file that `--config` names, if one is named and has any.
pub(super) fn limits_of_file() -> Result<Limits, Failure> {
    let limits: Limits = table_of_file("limits")?;
    limits.check().map_err(Failure::usage)?;
    Ok(limits)
}

/// A table of the file that `--config` names; the defaults if none is named or it has none.
fn table_of_file<T: serde::de::DeserializeOwned + Default>(name: &str) -> Result<T, Failure> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let Some(path) = waypost_proxy::flags::config_path(&arguments) else { return Ok(T::default()) };
    let table = waypost_proxy::flags::read(std::path::Path::new(&path)).map_err(Failure::usage)?;
    let Some(value) = table.get(name) else { return Ok(T::default()) };
    T::deserialize(value.clone()).map_err(|error| Failure::usage(format!("{path}: [{name}]: {}", error.message())))
}

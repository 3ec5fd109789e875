//! The flags of a proxy: those of `waypost-proxy`, and the ones that `waypost run` shares.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use waypost_trust::Files;

use crate::config::{AccessLog, Config, ConnectionLimits};
use crate::enrol::Certified;
use crate::run::Running;

/// A thin proxy that follows a Waypost controller, and continues to serve without it.
#[derive(Debug, Parser)]
#[command(name = "waypost-proxy", version, about)]
pub struct Flags {
    /// Controller to follow; repeat for more
    #[arg(long, value_name = "URL", required = true, env = "WAYPOST_CONTROLLER", value_delimiter = ',')]
    pub controller: Vec<url::Url>,
    /// Directory for the last good config and membership; created
    #[arg(long, value_name = "DIR", env = "WAYPOST_STATE")]
    pub state: PathBuf,
    /// The flags of serving.
    #[command(flatten)]
    pub serving: ServingFlags,
    /// File with the token with which this proxy joins, once; or set WAYPOST_JOIN to the token
    #[arg(long, value_name = "FILE", env = "WAYPOST_JOIN_FILE")]
    pub join_file: Option<PathBuf>,
    /// Certificates from files, for a proxy that does not get them by joining.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Talk to controllers in clear text beyond loopback
    #[arg(long, env = "WAYPOST_INSECURE")]
    pub insecure: bool,
    /// Read flags from a TOML file
    #[arg(long, value_name = "FILE", env = "WAYPOST_CONFIG")]
    pub config: Option<PathBuf>,
}

/// A certificate from PEM files, instead of one from the cluster's own authority. The files are read again when they change.
#[derive(Debug, Clone, Default, Args)]
pub struct TlsFlags {
    /// File with our own certificate and its intermediate certificates (PEM); read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], env = "WAYPOST_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// File with its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "WAYPOST_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// File with the authorities that other programs' certificates are checked against (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "WAYPOST_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
}

impl TlsFlags {
    /// The paths of the files; `None` if none are given.
    pub fn files(self) -> Option<Files> {
        Some(Files { cert: self.tls_cert?, key: self.tls_key?, ca: self.tls_ca? })
    }
}

/// The token of `WAYPOST_JOIN`, or of the named file. The file may be missing: a program that has joined does not need it.
///
/// # Errors
/// The file cannot be read.
pub fn joining_token(file: Option<&std::path::Path>) -> Result<Option<String>, String> {
    let Some(path) = file else { return Ok(std::env::var("WAYPOST_JOIN").ok().filter(|token| !token.is_empty())) };
    if !path.exists() {
        eprintln!("{} is not there; it is needed only by a program that has not joined yet", path.display());
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}; --join-file names the file with the token", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// The flags that every form of the proxy has.
#[derive(Debug, Clone, Args)]
pub struct ServingFlags {
    /// Address of the admin surface: probes, metrics, tail
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7410", env = "WAYPOST_ADMIN")]
    pub admin: SocketAddr,
    /// Name of this proxy, unique in its cluster [default: the host's name]
    #[arg(long, value_name = "NAME", env = "WAYPOST_NAME")]
    pub name: Option<String>,
    /// Label k=v that chooses listeners; repeat for more
    #[arg(long, value_name = "K=V", value_parser = label, env = "WAYPOST_LABEL", value_delimiter = ',')]
    pub label: Vec<(String, String)>,
    /// Serving threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), env = "WAYPOST_THREADS")]
    pub threads: Option<u16>,
    /// Bind every listener on this address, with its own port
    #[arg(long, value_name = "IP", env = "WAYPOST_BIND")]
    pub bind: Option<IpAddr>,
    /// Serve this address while there is no listener in the stores
    #[arg(long, value_name = "ADDR", env = "WAYPOST_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Add waypost-version: EPOCH.SEQUENCE to every response
    #[arg(long, env = "WAYPOST_VERSION_HEADER")]
    pub version_header: bool,
    /// Add waypost-age: SECONDS to every response: the time since the stores confirmed the data that is served
    #[arg(long, env = "WAYPOST_AGE_HEADER")]
    pub age_header: bool,
    /// Write the access log (JSON lines) to this file, or - for standard output
    #[arg(long, value_name = "FILE", env = "WAYPOST_ACCESS_LOG")]
    pub access_log: Option<String>,
    /// Bytes of a request's head; a larger one is refused with 431
    #[arg(long, value_name = "N", default_value_t = 81_920, value_parser = clap::value_parser!(u32).range(8_192..=1_048_576), env = "WAYPOST_MAX_HEAD_BYTES")]
    pub max_head_bytes: u32,
    /// Fields of a request's head; one with more is refused with 431
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(16..=1_000), env = "WAYPOST_MAX_HEAD_FIELDS")]
    pub max_head_fields: u16,
    /// From the first byte of a request's head to its last; a slower one is refused with 408
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "WAYPOST_HEAD_TIMEOUT")]
    pub head_timeout: Duration,
    /// Close a client's connection without a request after this time; longer than what is in front keeps its connections
    #[arg(long, value_name = "DURATION", default_value = "10m20s", value_parser = duration, env = "WAYPOST_IDLE_TIMEOUT")]
    pub idle_timeout: Duration,
    /// Close a connection whose other side takes nothing of what it is sent for this time
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration, env = "WAYPOST_STALL_TIMEOUT")]
    pub stall_timeout: Duration,
    /// Close a tunnel, such as a WebSocket, in which nothing moves for this time
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration, env = "WAYPOST_TUNNEL_TIMEOUT")]
    pub tunnel_timeout: Duration,
    /// Bytes a second that the body of a request brings on average, once it was waited for over a minute; a slower one is refused with 408 [0: off]
    #[arg(long, value_name = "N", default_value_t = 256, env = "WAYPOST_MIN_BODY_RATE")]
    pub min_body_rate: u32,
    /// Client connections; at the limit the oldest idle one is closed [default: at most four fifths of the limit of open files, which is raised]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(8..), env = "WAYPOST_MAX_CONNECTIONS")]
    pub max_connections: Option<u32>,
    /// Idle connections to endpoints [default: 1024, more with threads × endpoints, within descriptors and memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), env = "WAYPOST_MAX_IDLE_CONNECTIONS")]
    pub max_idle_connections: Option<u32>,
    /// After SIGTERM, continue to accept connections for this long while the readiness probe fails
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, env = "WAYPOST_DRAIN_DELAY")]
    pub drain_delay: Duration,
    /// After that, time that requests in progress may take
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration, env = "WAYPOST_DRAIN_DEADLINE")]
    pub drain_deadline: Duration,
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write it as KEY=VALUE, such as tier=edge".to_owned())
}

/// Parses a duration in the format of the keys: `10s`, `250ms`.
///
/// # Errors
/// Says what to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    waypost_model::duration::Duration::try_from(text.to_owned()).map(waypost_model::duration::Duration::get)
}

/// The host's name, in a form that is valid as a proxy's name.
pub fn host_name() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = text.trim().chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    if name.is_empty() { "proxy".to_owned() } else { name }
}

impl ServingFlags {
    /// The settings of a proxy that follows `controllers`.
    ///
    /// # Errors
    /// Describes a flag that cannot be used.
    pub fn into_config(self, controllers: Vec<url::Url>, state: PathBuf) -> Result<Config, String> {
        let name = self.name.unwrap_or_else(host_name);
        waypost_model::key::check_name("proxy", &name)?;
        if let Some(url) = controllers.iter().find(|url| !matches!(url.scheme(), "http" | "https") || url.host().is_none()) {
            return Err(format!("the controller {url} cannot be followed; write https://HOST:PORT, or http://HOST:PORT on loopback"));
        }
        let defaults = Config::new(name, controllers, state);
        Ok(Config {
            admin: self.admin,
            labels: self.label.into_iter().collect::<BTreeMap<_, _>>(),
            threads: self.threads.map_or(defaults.threads, usize::from),
            bind: self.bind,
            listen: self.listen,
            version_header: self.version_header,
            age_header: self.age_header,
            access_log: self.access_log.map(|path| if path == "-" { AccessLog::Stdout } else { AccessLog::File(path.into()) }),
            limits: ConnectionLimits {
                max_head_bytes: usize::try_from(self.max_head_bytes).map_err(|error| error.to_string())?,
                max_head_fields: usize::from(self.max_head_fields),
                head_timeout: self.head_timeout,
                idle_timeout: self.idle_timeout,
                stall_timeout: self.stall_timeout,
                tunnel_timeout: self.tunnel_timeout,
                min_body_rate: self.min_body_rate,
            },
            max_connections: self.max_connections.and_then(|number| number.try_into().ok()),
            max_idle_connections: self.max_idle_connections.and_then(|number| number.try_into().ok()),
            drain_delay: self.drain_delay,
            drain_deadline: self.drain_deadline,
            ..defaults
        })
    }
}

impl Flags {
    /// The settings of the flags.
    ///
    /// # Errors
    /// Describes a flag that cannot be used.
    pub fn into_config(self) -> Result<Config, String> {
        let insecure = self.insecure;
        let certified = match self.tls.files() {
            Some(files) => Certified::Files(files),
            None => Certified::Joining { token: joining_token(self.join_file.as_deref())? },
        };
        self.serving.into_config(self.controller, self.state).map(|config| Config { insecure, certified, ..config })
    }
}

/// Shuts down gracefully on SIGTERM or SIGINT, and at once on the second one.
pub fn stop_on_signal(running: &Running) {
    let stop = running.stopper();
    let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                signal().await;
                stop.cancel();
                signal().await;
                std::process::exit(1);
            }),
            Err(error) => tracing::error!(%error, "signals cannot be heard"),
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "signals cannot be heard");
    }
}

/// Waits for SIGTERM or SIGINT. SIGHUP is ignored: the access log is reopened within a second anyway.
pub async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup())) {
        (Ok(mut terminate), Ok(mut interrupt), Ok(_hangup)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

//! All settings of a proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::enrol::Certified;

/// Default of [`ConnectionLimits::max_head_bytes`]. It also limits a single read: a head and 64 KiB of body, which many servers write at once, arrive
/// in one read. Buffers start with 8 KiB and grow only while reads fill them.
pub const DEFAULT_HEAD_BYTES: usize = 80 * 1024;

/// A proxy's settings, validated before anything is bound.
#[derive(Debug, Clone)]
pub struct Config {
    /// The controllers to follow, in the order of preference.
    pub controllers: Vec<url::Url>,
    /// The directory for the last good config and membership.
    pub state: PathBuf,
    /// The address of the admin surface: probes, metrics, tail.
    pub admin: SocketAddr,
    /// The proxy's name; unique in its cluster.
    pub name: String,
    /// Labels, which choose the listeners that it binds.
    pub labels: BTreeMap<String, String>,
    /// Serving threads.
    pub threads: usize,
    /// The address on which every listener is bound instead of its own.
    pub bind: Option<IpAddr>,
    /// The address to serve while there is no listener.
    pub listen: Option<SocketAddr>,
    /// Adds `waypost-version` to every response.
    pub version_header: bool,
    /// Adds `waypost-age` to every response.
    pub age_header: bool,
    /// The target of the access log; `None` for no log.
    pub access_log: Option<AccessLog>,
    /// What the connections of clients may take.
    pub limits: ConnectionLimits,
    /// Maximum client connections of the process; by default as many as the limit of open files allows.
    pub max_connections: Option<usize>,
    /// Maximum idle connections of the process to endpoints; by default a number that grows with the endpoints.
    pub max_idle_connections: Option<usize>,
    /// How long connections are still accepted after the readiness probe fails.
    pub drain_delay: Duration,
    /// How long requests in progress may take after that.
    pub drain_deadline: Duration,
    /// Whether controllers may be reached in clear text beyond loopback.
    pub insecure: bool,
    /// The source of this proxy's certificate, which controllers with `https` require.
    pub certified: Certified,
}

/// What a client's connection may take. What is over a limit is refused or closed, with the reason in the answer or the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Bytes of a request's head; a larger one is refused with 431.
    pub max_head_bytes: usize,
    /// Fields of a request's head; one with more is refused with 431.
    pub max_head_fields: usize,
    /// From the first byte of a head to its last; a slower one is refused with 408.
    pub head_timeout: Duration,
    /// A connection without a request is closed after this time.
    pub idle_timeout: Duration,
    /// A connection whose other side takes nothing for this time is closed.
    pub stall_timeout: Duration,
    /// A tunnel (WebSocket, another upgrade) in which nothing moves for this time is closed.
    pub tunnel_timeout: Duration,
    /// Bytes a second that a request's body of known length brings on average, once it was waited for over a minute and while no response has
    /// begun; a slower one is refused with 408. 0 switches that off.
    pub min_body_rate: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_head_bytes: DEFAULT_HEAD_BYTES,
            max_head_fields: 200,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(620),
            stall_timeout: Duration::from_secs(60),
            tunnel_timeout: Duration::from_secs(3_600),
            min_body_rate: 256,
        }
    }
}

/// The target of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// A file. It is reopened every second, so that it may be renamed.
    File(PathBuf),
}

impl Config {
    /// A proxy of this name that follows `controllers`, with the production defaults.
    pub fn new(name: impl Into<String>, controllers: Vec<url::Url>, state: PathBuf) -> Self {
        Self {
            controllers,
            state,
            admin: SocketAddr::from(([127, 0, 0, 1], 7410)),
            name: name.into(),
            labels: BTreeMap::new(),
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            bind: None,
            listen: None,
            version_header: false,
            age_header: false,
            access_log: None,
            limits: ConnectionLimits::default(),
            max_connections: None,
            max_idle_connections: None,
            drain_delay: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(30),
            insecure: false,
            certified: Certified::Joining { token: None },
        }
    }

    /// All controllers that would be reached in clear text over a network, which requires `--insecure`.
    pub fn clear_text_controllers(&self) -> Vec<String> {
        let loopback = |url: &url::Url| match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        self.controllers.iter().filter(|url| url.scheme() == "http" && !loopback(url)).map(ToString::to_string).collect()
    }
}

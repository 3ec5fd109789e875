//! Everything that a proxy is told at its start.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::enrol::Certified;

/// Default of [`Config::max_head_bytes`]. Also the most that is read at once: a head and 64 KiB of body, which is what
/// many servers write at once, come in one read. Buffers begin at 8 KiB and grow only while reads fill them.
pub const DEFAULT_HEAD_BYTES: usize = 80 * 1024;

/// A proxy's settings, checked before anything is bound.
#[derive(Debug, Clone)]
pub struct Config {
    /// The controllers to follow, in the order of preference.
    pub controllers: Vec<url::Url>,
    /// Where the last good config and membership are kept.
    pub state: PathBuf,
    /// The admin surface: probes, metrics, tail.
    pub admin: SocketAddr,
    /// The proxy's name; unique in its cluster.
    pub name: String,
    /// Labels, which choose the listeners that it binds.
    pub labels: BTreeMap<String, String>,
    /// Serving threads.
    pub threads: usize,
    /// Binds every listener on this address instead of its own.
    pub bind: Option<IpAddr>,
    /// The listener to serve while none is written.
    pub listen: Option<SocketAddr>,
    /// Adds `waypost-version` to every response.
    pub version_header: bool,
    /// Adds `waypost-age` to every response.
    pub age_header: bool,
    /// Where to write the access log, if anywhere.
    pub access_log: Option<AccessLog>,
    /// Bytes of a request's head; a larger one is refused with 431.
    pub max_head_bytes: usize,
    /// Client connections of the process; if absent, as many as the limit of open files allows beside everything else.
    pub max_connections: Option<usize>,
    /// Idle connections to endpoints of the process; if absent, a number that grows with the endpoints.
    pub max_idle_connections: Option<usize>,
    /// How long to go on accepting after the readiness probe fails.
    pub drain_delay: Duration,
    /// How long requests under way may take after that.
    pub drain_deadline: Duration,
    /// Talks to controllers in clear text beyond loopback.
    pub insecure: bool,
    /// Where the certificate comes from that controllers with `https` want to see.
    pub certified: Certified,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// A file, opened again every second, so that it may be renamed away.
    File(PathBuf),
}

impl Config {
    /// A proxy of this name that follows `controllers`, with the defaults of production.
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
            max_head_bytes: DEFAULT_HEAD_BYTES,
            max_connections: None,
            max_idle_connections: None,
            drain_delay: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(30),
            insecure: false,
            certified: Certified::Joining { token: None },
        }
    }

    /// Every controller that would be talked to in clear text over a network, which needs `--insecure`.
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

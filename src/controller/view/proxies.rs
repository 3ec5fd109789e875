//! The proxies, as people see them.

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;
use waypost_wire::ObjectProblem;

use super::super::proxies::{Proxies, Proxy};
use super::super::step::{Now, State};

/// One proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyInfo {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Whether it follows the controller now.
    pub connected: bool,
    /// Whether it is connected and serves an old version for too long.
    pub behind: bool,
    /// Whether it serves other content than was published under its version.
    #[serde(default)]
    pub drifted: bool,
    /// How long ago the stores were confirmed, as far as it has heard, in seconds. From half a minute on it hears too little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// The version of the shared keys that it holds, if it follows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Version>,
    /// The version that it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Version>,
    /// Its release.
    pub release: String,
    /// Its admin surface.
    pub admin: String,
    /// Why it refused the last publication, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Objects that it could not put to use.
    pub problems: Vec<ObjectProblem>,
    /// Its listeners.
    pub listeners: Vec<waypost_wire::ListenerState>,
    /// How busy it is.
    pub load: waypost_wire::Load,
    /// Endpoints that drain and still have requests there.
    pub draining: Vec<waypost_wire::DrainingEndpoint>,
    /// Seconds since it was heard.
    pub heard_seconds: u64,
}

/// What a connected proxy has heard of the stores is old after so many seconds.
const STALE: u64 = 30;

impl ProxyInfo {
    /// Whether it follows a controller and has heard nothing of the stores for long.
    pub fn is_stale(&self) -> bool {
        self.connected && self.age_seconds.is_some_and(|age| age >= STALE)
    }
}

/// All proxies.
pub fn proxies(state: &State, now: Now) -> Vec<ProxyInfo> {
    let one = |(name, proxy): (&String, &Proxy)| ProxyInfo {
        name: name.clone(),
        labels: proxy.report.labels.clone(),
        connected: proxy.connected(now.since_start),
        behind: Proxies::behind(proxy, state.snapshot.version, state.published, now.since_start),
        drifted: proxy.drifted,
        secrets: proxy.report.secrets,
        age_seconds: proxy.report.age_millis.map(|age| age / 1_000 + now.since_start.saturating_sub(proxy.heard).as_secs()),
        applied: proxy.report.applied,
        release: proxy.report.release.clone(),
        admin: proxy.report.admin.clone(),
        refused: proxy.report.refused.clone(),
        problems: proxy.report.problems.clone(),
        listeners: proxy.report.listeners.clone(),
        load: proxy.report.load,
        draining: proxy.report.draining.clone(),
        heard_seconds: now.since_start.saturating_sub(proxy.heard).as_secs(),
    };
    state.proxies.all().map(one).collect()
}

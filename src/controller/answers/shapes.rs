//! The shapes of answers: what `-o json` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waypost_model::lane::{Change, Lane};
use waypost_model::problem::Problem;
use waypost_model::snapshot::Version;
use waypost_model::verdict::Condition;
use waypost_wire::ObjectProblem;

use crate::controller::rules::pins::PinRecord;

/// One entry with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryInfo {
    /// The whole key.
    pub key: String,
    /// The key below the store's root.
    pub path: String,
    /// The store it is in.
    pub store: String,
    /// `route`, `endpoint` and so on; absent for keys that name no resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The resource's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The store's revision of the current value.
    pub revision: u64,
    /// The current value; bytes that are not UTF-8 are replaced.
    pub value: String,
    /// The answer.
    pub conditions: Vec<Condition>,
    /// What is wrong, in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// The revision that serves although the current value was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good_revision: Option<u64>,
    /// Where it is served.
    pub live: Live,
    /// Of an endpoint whose backend has a health check: how it fares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<EndpointHealth>,
}

/// On which proxies an entry is live.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// The first version that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Proxies that serve that version or a later one.
    pub on: usize,
    /// Proxies that follow the controller.
    pub of: usize,
    /// Those that do not serve it, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lagging: Vec<String>,
    /// Milliseconds from the controller's first sight of it until it was live everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<f64>,
}

/// The answer for one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryAnswer {
    /// The entry, if it is there.
    pub entry: Option<EntryInfo>,
    /// Of an entry that was deleted a moment ago: the proxies that still serve it.
    pub serving: Vec<String>,
    /// For a deleted entry that serves on until an operator approves its removal: the reason, and how to approve it.
    pub serves_on: Option<String>,
    /// Whether a deleted entry serves on until its removal is judged or confirmed.
    pub judged_soon: bool,
}

/// A removal that is held: its store does not have it any more, and it serves on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldInfo {
    /// The key below the root, such as `routes/shop`.
    pub key: String,
    /// The store that it left.
    pub store: String,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Why; absent while it is not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether something is published, and how fresh the stores are.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyInfo {
    /// What is published; absent before the first publication.
    pub version: Option<Version>,
    /// The stores.
    pub sources: Vec<SourceInfo>,
}

/// One store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceInfo {
    /// Its URL.
    pub url: String,
    /// The root of the keys.
    pub root: String,
    /// Whether it was confirmed to be current a moment ago.
    pub current: bool,
    /// Seconds since it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Its revision.
    pub at: u64,
    /// Entries below the root.
    pub entries: usize,
    /// Entries in which the watch had been wrong, ever.
    pub drift: u64,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Keys under the other spelling of the root, which nobody reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_spelling: Option<String>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderInfo {
    /// The controller's name.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// Its epoch.
    pub epoch: u64,
    /// It leads without the store: only what operators ask for is published.
    #[serde(default)]
    pub caretaker: bool,
}

/// Another controller of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherController {
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// Whether it follows the one that answers, and so is ready to lead.
    pub follows: bool,
    /// The version of what it relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Whether it follows and has not got what was published a while ago.
    #[serde(default)]
    pub behind: bool,
    /// Whether it relays other content than was published under its version.
    #[serde(default)]
    pub drifted: bool,
}

/// Use of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitInfo {
    /// The setting.
    pub name: String,
    /// What is used.
    pub used: usize,
    /// What is allowed.
    pub limit: usize,
}

/// An object that differs between two configs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ObjectDiff {
    /// `kind/name`.
    pub path: String,
    /// What it was; absent if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<RawValue>>,
    /// What it is; absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Box<RawValue>>,
}

impl ObjectDiff {
    /// What differs, by path.
    pub fn between(before: &Lane, after: &Lane) -> Vec<Self> {
        let json = |lane: &Lane, path: &str| lane.get(path).and_then(|object| RawValue::from_string(object.bytes().to_owned()).ok());
        let one = |change: &Change| Self { path: change.path().to_owned(), before: json(before, change.path()), after: json(after, change.path()) };
        let mut all: Vec<Self> = before.changes_to(after).iter().map(one).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

/// Everything in one screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusInfo {
    /// Who leads.
    pub leader: Option<LeaderInfo>,
    /// Why the leader did not answer; the whole status is then the view of another controller.
    #[serde(rename = "unheard", default, skip_serializing_if = "Option::is_none")]
    pub leader_failure: Option<String>,
    /// The other controllers.
    #[serde(default)]
    pub controllers: Vec<OtherController>,
    /// The cluster's id.
    pub cluster: String,
    /// What is published; absent before the first publication.
    pub version: Option<Version>,
    /// The digest of the published config.
    pub config: String,
    /// The digest of the published membership.
    pub membership: String,
    /// The stores.
    pub sources: Vec<SourceInfo>,
    /// Removals that are held: each serves on although its store does not have it any more. At most [`MAX_LISTED`].
    pub held: Vec<HeldInfo>,
    /// How many removals wait for an operator's approval or their store's return.
    #[serde(default)]
    pub held_count: usize,
    /// Number of removals that are not judged or confirmed yet; their objects serve on until then.
    #[serde(default)]
    pub judged_count: usize,
    /// The pin of the config, if an operator set one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "hold")]
    pub pin: Option<PinRecord>,
    /// Whether a written change waits behind the pin.
    #[serde(default)]
    pub waiting: bool,
    /// The proxies.
    pub proxies: Vec<ProxyInfo>,
    /// Backends of which endpoints are unhealthy.
    #[serde(default)]
    pub unhealthy: Vec<UnhealthyBackend>,
    /// Keys of refused entries, at most [`MAX_LISTED`].
    pub rejected: Vec<String>,
    /// How many entries are refused.
    #[serde(default)]
    pub rejected_count: usize,
    /// The active tree, if `current` names one.
    pub active_tree: Option<String>,
    /// Use of the limits.
    pub limits: Vec<LimitInfo>,
}

/// Maximum number of keys of each sort in the status; the rest is counted, because the task that publishes produces the status.
pub const MAX_LISTED: usize = 1_000;

impl StatusInfo {
    /// Controllers of release 0.1 list everything and count nothing.
    #[must_use]
    pub fn counted(mut self) -> Self {
        self.rejected_count = self.rejected_count.max(self.rejected.len());
        self.held_count = self.held_count.max(self.held.iter().filter(|held| held.why.is_some()).count());
        self.judged_count = self.judged_count.max(self.held.iter().filter(|held| held.why.is_none()).count());
        self.unhealthy.iter_mut().for_each(|backend| backend.count = backend.count.max(backend.unhealthy.len()));
        self
    }

    /// Whether somebody should look: a removal is held, the config is pinned, too few endpoints of a backend are healthy, a store or a connected
    /// proxy is behind or cannot do its part, nothing is published, no controller leads, or the leader cannot be asked.
    pub fn needs_attention(&self) -> bool {
        self.leader.is_none()
            || self.version.is_none()
            || self.leader_failure.is_some()
            || self.pin.is_some()
            || self.held_count > 0
            || self.unhealthy.iter().any(|backend| backend.panics)
            || self.sources.iter().any(|source| !source.current)
            || self.controllers.iter().any(|other| other.behind || other.drifted)
            || self.proxies.iter().any(|proxy| proxy.behind || proxy.connected && (proxy.drifted || proxy.is_stale() || !proxy.problems.is_empty()))
    }
}

/// How an endpoint fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHealth {
    /// Whether it is healthy. An unhealthy endpoint takes requests all the same if too few endpoints of its backend are healthy.
    pub healthy: bool,
    /// Why it is unhealthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when, in milliseconds since 1970; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The proxies that probe it.
    pub probers: Vec<String>,
}

/// A backend of which endpoints are unhealthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnhealthyBackend {
    /// Its name.
    pub backend: String,
    /// Its endpoints that are probed.
    pub endpoints: usize,
    /// Those that are unhealthy, by id, and why; at most [`MAX_LISTED`] of all backends together.
    pub unhealthy: BTreeMap<String, String>,
    /// How many are unhealthy.
    pub count: usize,
    /// So few are healthy that all are used as if they were.
    pub panics: bool,
}

/// One proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyInfo {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it follows the controller now.
    pub connected: bool,
    /// Whether it is connected and serves an old version for too long.
    pub behind: bool,
    /// Whether it serves other content than was published under its version.
    #[serde(default)]
    pub drifted: bool,
    /// Seconds since the last confirmation of the stores that has reached the proxy. From half a minute on it is stale.
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
    /// Seconds since it last opened a stream or reported.
    #[serde(rename = "heardSeconds")]
    pub contact_age_seconds: u64,
}

/// Age in seconds from which on the last confirmation of the stores that has reached a connected proxy is stale.
const STALE_SECONDS: u64 = 30;

impl ProxyInfo {
    /// Whether it follows a controller and no confirmation of the stores has reached it for long.
    pub fn is_stale(&self) -> bool {
        self.connected && self.age_seconds.is_some_and(|age| age >= STALE_SECONDS)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number; grows by one.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// One word: `Rejected`, `Deleted`, `StoreLost`, `StoreBack`, `ProxyConnected` and so on.
    pub reason: String,
    /// What it is about: a key, a store, a proxy.
    pub about: String,
    /// One sentence.
    pub message: String,
}

impl Event {
    /// Whether only the controller on which it happened can know of it, so that it is passed on to the leader.
    pub fn is_own(&self) -> bool {
        ["ForeignStore", "HoldLost", "Refused", "StateDamaged"].contains(&self.reason.as_str())
    }

    /// Whether somebody should look.
    pub fn is_trouble(&self) -> bool {
        const TROUBLE: [&str; 13] = [
            "BackendPanics",
            "Drift",
            "EndpointUnhealthy",
            "ForeignStore",
            "Held",
            "HoldLost",
            "NoListener",
            "ProxyProblem",
            "ProxyRefused",
            "Refused",
            "Rejected",
            "StateDamaged",
            "StoreLost",
        ];
        TROUBLE.contains(&self.reason.as_str())
    }
}

//! What the API shows of the state. These shapes are what `-o json` prints.

mod health;
mod proxies;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waypost_model::compile::{EntryId, EntryView};
use waypost_model::lane::{Change, Lane};
use waypost_model::problem::Problem;
use waypost_model::snapshot::Version;
use waypost_model::verdict::{Condition, ConditionType};
use waypost_wire::ObjectProblem;

use super::guard::{Fate, Gone};
use super::hold::Mark;
use super::settings::Store;
use super::step::{Now, State, object_path};

pub use health::{EndpointHealth, UnhealthyBackend};
pub use proxies::{ProxyInfo, proxies};

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

/// What is to be said of one key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryAnswer {
    /// The entry, if it is there.
    pub entry: Option<EntryInfo>,
    /// Of an entry that was deleted a moment ago: the proxies that still serve it.
    pub serving: Vec<String>,
    /// Of an entry that was deleted and serves on until somebody lets it go: why, and how.
    pub serves_on: Option<String>,
    /// Of an entry that was deleted: it serves on until that is judged or confirmed.
    pub judged_soon: bool,
}

/// Something that is gone from its store and serves on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldInfo {
    /// The key below the root, such as `routes/shop`.
    pub key: String,
    /// The store it is gone from.
    pub store: String,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Why; absent while it is not decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl HeldInfo {
    fn of(gone: &Gone, stores: &[std::sync::Arc<Store>]) -> Self {
        let why = match &gone.fate {
            Fate::Held { why } => Some(why.clone()),
            Fate::Waiting | Fate::Confirming | Fate::Released => None,
        };
        let store = stores.get(gone.origin.id.source).map(|store| store.url.clone()).unwrap_or_default();
        Self { key: gone.origin.id.key.clone(), store, since: gone.date, why }
    }
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
    /// Why the leader did not answer; all of this is what another controller knows then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<String>,
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
    /// What is gone from its store and serves on, because that may not be meant.
    pub held: Vec<HeldInfo>,
    /// What an operator holds the config at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Mark>,
    /// Whether something that was written waits behind that.
    #[serde(default)]
    pub waiting: bool,
    /// The proxies.
    pub proxies: Vec<ProxyInfo>,
    /// Backends of which endpoints are unhealthy.
    #[serde(default)]
    pub unhealthy: Vec<UnhealthyBackend>,
    /// Keys of refused entries.
    pub rejected: Vec<String>,
    /// The active tree, if `current` names one.
    pub active_tree: Option<String>,
    /// Use of the limits.
    pub limits: Vec<LimitInfo>,
}

impl StatusInfo {
    /// Whether somebody should look: something is held, too few endpoints of a backend are healthy, a store or a connected proxy is behind or cannot do its part, nothing is published, or nobody leads or the leader cannot be asked.
    pub fn needs_attention(&self) -> bool {
        self.leader.is_none()
            || self.version.is_none()
            || self.unheard.is_some()
            || self.hold.is_some()
            || self.held.iter().any(|held| held.why.is_some())
            || self.unhealthy.iter().any(|backend| backend.panics)
            || self.sources.iter().any(|source| !source.current)
            || self.controllers.iter().any(|other| other.behind || other.drifted)
            || self.proxies.iter().any(|proxy| proxy.behind || proxy.connected && (proxy.drifted || proxy.is_stale() || !proxy.problems.is_empty()))
    }
}

/// A store is current if it was confirmed within this time.
const CURRENT: Duration = Duration::from_secs(15);

/// What is to be said of a key below the root.
pub fn answer(state: &State, stores: &[std::sync::Arc<Store>], key: &str, now: Now) -> EntryAnswer {
    let found = state.compiler.entry_at(key).and_then(|id| state.compiler.view(&id));
    let gone = |source| state.tracks.get(&EntryId { source, key: key.to_owned() }).filter(|track| track.gone);
    let serving = match (&found, (0..stores.len()).find_map(gone)) {
        (None, Some(track)) => {
            let proxies = state.proxies.connected(now.since_start);
            proxies.filter(|(_, proxy)| !track.version.is_some_and(|version| proxy.serves(version))).map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    };
    let kept = state.guard.kept().find(|gone| found.is_none() && gone.origin.id.key == key);
    let by_guard = kept.and_then(|gone| HeldInfo::of(gone, stores).why).map(|why| format!("{why}; `waypost approve {key}` lets it go"));
    let resource = match waypost_model::key::place(key, false) {
        waypost_model::key::Place::Resource { resource, .. } if found.is_none() => Some(resource),
        _ => None,
    };
    let by_hold = state.hold().filter(|hold| resource.as_ref().is_some_and(|resource| hold.lane.get(&object_path(resource)).is_some()));
    let serves_on = by_guard.or_else(|| by_hold.map(|hold| hold.mark.told()));
    EntryAnswer { entry: found.map(|view| entry(state, stores, &view, now)), serving, judged_soon: kept.is_some() && serves_on.is_none(), serves_on }
}

/// Whether there is something to follow, and how fresh it is.
pub fn ready(state: &State, stores: &[std::sync::Arc<Store>], now: Now) -> ReadyInfo {
    ReadyInfo { version: Some(state.snapshot.version).filter(|_| state.is_ready()), sources: sources(state, stores, now) }
}

/// The shape of one entry.
pub fn entry(state: &State, stores: &[std::sync::Arc<Store>], view: &EntryView, now: Now) -> EntryInfo {
    let store = stores.get(view.id.source);
    let live = live(state, view, now);
    let mut conditions = conditions(state, view);
    let open = !conditions.iter().any(|condition| condition.r#type == ConditionType::Programmed);
    if open && view.verdict.accepted() {
        conditions.push(programmed(&live, trouble(state, view, now)));
    }
    EntryInfo {
        key: store.map_or_else(|| view.id.key.clone(), |store| store.full_key(&view.id.key)),
        path: view.id.key.clone(),
        store: store.map(|store| store.url.clone()).unwrap_or_default(),
        kind: view.resource.as_ref().map(|resource| resource.kind.singular().to_owned()),
        name: view.resource.as_ref().map(|resource| resource.name.clone()),
        revision: view.written.revision,
        value: String::from_utf8_lossy(&view.written.value).into_owned(),
        conditions,
        problem: view.problem.clone(),
        last_good_revision: view.last_good,
        live,
        health: health::of_entry(state, view),
    }
}

/// The verdict of an entry, with what an operator holds.
pub fn conditions(state: &State, view: &EntryView) -> Vec<Condition> {
    let mut conditions = view.verdict.conditions.clone();
    let Some(hold) = state.hold().filter(|_| view.in_snapshot) else { return conditions };
    // What is no resource is `current`: it chooses all of them.
    if view.resource.as_ref().map_or_else(|| state.waits(), |resource| state.is_held_back(resource)) {
        conditions.retain(|condition| condition.r#type != ConditionType::Programmed);
        conditions.push(hold.condition());
    }
    conditions
}

/// What keeps a proxy that follows us from serving an entry, if anything does.
fn trouble<'a>(state: &'a State, view: &EntryView, now: Now) -> Option<&'a ObjectProblem> {
    let resource = view.resource.as_ref()?;
    let problems = state.proxies.connected(now.since_start).flat_map(|(_, proxy)| &proxy.report.problems);
    problems.into_iter().find(|problem| problem.kind == resource.kind.singular() && problem.name == resource.name)
}

fn programmed(live: &Live, trouble: Option<&ObjectProblem>) -> Condition {
    let told = format!("live on {}/{} proxies", live.on, live.of);
    match (&live.version, live.on, live.of) {
        (Some(version), on, of) if on == of && of > 0 => Condition::yes(ConditionType::Programmed, "Programmed", format!("{told} at version {version}")),
        (_, _, 0) => Condition {
            r#type: ConditionType::Programmed,
            status: waypost_model::verdict::Status::Unknown,
            reason: "NoProxies".to_owned(),
            message: live.lagging.first().cloned().unwrap_or_else(|| "no proxy is connected".to_owned()),
        },
        _ if trouble.is_some() => {
            let reason = trouble.map_or("Invalid", |problem| problem.reason.as_str());
            Condition::no(ConditionType::Programmed, reason, format!("{told}; {}", live.lagging.join("; ")))
        }
        _ => Condition {
            r#type: ConditionType::Programmed,
            status: waypost_model::verdict::Status::Unknown,
            reason: "Pending".to_owned(),
            message: format!("{told}; {}", live.lagging.join("; ")),
        },
    }
}

fn live(state: &State, view: &EntryView, now: Now) -> Live {
    let track = state.tracks.get(&view.id).copied();
    let mut live = Live { version: track.and_then(|track| track.version).filter(|_| view.in_snapshot && view.verdict.accepted()), ..Live::default() };
    if view.resource.as_ref().map_or_else(|| state.waits(), |resource| state.is_held_back(resource)) {
        live.version = None;
    }
    let (labels, mut others) = (labels_wanted(state, view), 0);
    for (name, proxy) in state.proxies.connected(now.since_start) {
        if !labels.iter().all(|(label, value)| proxy.report.labels.get(label) == Some(value)) {
            others += 1;
            continue;
        }
        live.of += 1;
        let troubled = view
            .resource
            .as_ref()
            .and_then(|resource| proxy.report.problems.iter().find(|problem| problem.kind == resource.kind.singular() && problem.name == resource.name));
        let serves = live.version.is_some_and(|version| proxy.serves(version));
        match (serves, troubled) {
            (true, None) => live.on += 1,
            (true, Some(problem)) => live.lagging.push(format!("{name}: {}", problem.message)),
            (false, _) => {
                let told = proxy.report.refused.as_ref().map(|refused| format!("{name}: {refused}"));
                let applied = || format!("{name} serves {}", proxy.report.applied.map_or("nothing yet".to_owned(), |version| format!("version {version}")));
                live.lagging.push(told.unwrap_or_else(applied));
            }
        }
    }
    if live.of == 0 && others > 0 {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        live.lagging.push(format!("none of {others} connected proxies has the labels {}", labels.join(", ")));
    }
    live.millis = track.and_then(|track| Some(track.live?.saturating_sub(track.seen).as_secs_f64() * 1_000.0));
    live
}

/// The labels that a proxy must have to serve this: those of a listener.
fn labels_wanted(state: &State, view: &EntryView) -> std::collections::BTreeMap<String, String> {
    let listener = view.resource.as_ref().filter(|resource| resource.kind == waypost_model::key::Kind::Listener);
    let object = listener.and_then(|resource| state.snapshot.config.get(&object_path(resource)));
    let parsed = object.and_then(|object| object.decode::<waypost_model::resource::Listener>().ok());
    parsed.map(|listener| listener.spec.proxies).unwrap_or_default()
}

/// All stores.
pub fn sources(state: &State, stores: &[std::sync::Arc<Store>], now: Now) -> Vec<SourceInfo> {
    let one = |(number, (store, source)): (usize, (&std::sync::Arc<Store>, &super::step::SourceState))| {
        let age = source.confirmed.map(|at| now.since_start.saturating_sub(at));
        SourceInfo {
            url: store.url.clone(),
            root: store.root.clone(),
            current: source.error.is_none() && age.is_some_and(|age| age < CURRENT),
            age_seconds: age.map(|age| age.as_secs_f64()),
            at: source.at.0,
            entries: state.compiler.entries_of(number),
            drift: source.drift,
            error: source.error.as_ref().map(ToString::to_string),
            other_spelling: source.other_spelling.as_ref().map(|(count, key)| {
                let other = store.other_spelling.clone().unwrap_or_default();
                format!("{count} keys such as {key:?} are written under {other:?}, which nobody reads; write them under {:?}", store.root)
            }),
        }
    };
    stores.iter().zip(&state.sources).enumerate().map(one).collect()
}

fn controllers(state: &State, now: Now) -> Vec<OtherController> {
    let one = |(name, url): (&String, &String)| OtherController {
        name: name.clone(),
        url: url.clone(),
        follows: state.follows(name, now),
        version: state.followers.get(name).and_then(|follower| follower.version),
        behind: state.is_behind(name, now),
        drifted: state.follows(name, now) && state.followers.get(name).is_some_and(|follower| follower.drifted),
    };
    state.peers.iter().map(one).collect()
}

/// The status, but for who leads.
pub fn status(state: &State, stores: &[std::sync::Arc<Store>], leader: Option<LeaderInfo>, now: Now) -> StatusInfo {
    let rejected = state.compiler.views().filter(|view| !view.verdict.accepted());
    let full = |id: &EntryId| stores.get(id.source).map_or_else(|| id.key.clone(), |store| store.full_key(&id.key));
    StatusInfo {
        leader,
        unheard: None,
        controllers: controllers(state, now),
        cluster: state.snapshot.cluster.clone(),
        version: Some(state.snapshot.version).filter(|_| state.is_ready()),
        config: state.snapshot.config.digest().short(),
        membership: state.snapshot.membership.digest().short(),
        sources: sources(state, stores, now),
        held: state.guard.kept().map(|gone| HeldInfo::of(gone, stores)).collect(),
        hold: state.hold().map(|hold| hold.mark.clone()),
        waiting: state.waits(),
        proxies: proxies(state, now),
        unhealthy: health::unhealthy(state),
        rejected: rejected.map(|view| full(&view.id)).collect(),
        active_tree: state.compiler.active_tree().map(str::to_owned),
        limits: used(state, stores.len()),
    }
}

/// How far every limit that counts something across entries is used.
fn used(state: &State, stores: usize) -> Vec<LimitInfo> {
    let limits = state.compiler.limits();
    let most = state.compiler.most_used();
    let entries = (0..stores).map(|number| state.compiler.entries_of(number)).max().unwrap_or_default();
    let info = |name: &str, used, limit| LimitInfo { name: name.to_owned(), used, limit };
    vec![
        info("entries", entries, limits.entries),
        info("routesPerHost", most.routes_per_host, limits.routes_per_host),
        info("endpointsPerBackend", most.endpoints_per_backend, limits.endpoints_per_backend),
        info("valueBytes", most.value_bytes, limits.value_bytes),
        info("objectBytes", most.object_bytes, limits.object_bytes),
        info("rulesPerRoute", most.rules_per_route, limits.rules_per_route),
        info("matchesPerRule", most.matches_per_rule, limits.matches_per_rule),
        info("hostnamesPerRoute", most.hostnames_per_route, limits.hostnames_per_route),
    ]
}

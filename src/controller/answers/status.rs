//! The status: what is published, how the stores, the controllers and the proxies fare, and what is held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use waypost_model::compile::EntryId;

use crate::controller::answers::proxies;
use crate::controller::answers::shapes::{HeldInfo, LeaderInfo, LimitInfo, MAX_LISTED, OtherController, ReadyInfo, SourceInfo, StatusInfo, UnhealthyBackend};
use crate::controller::message::Now;
use crate::controller::metrics::Counts;
use crate::controller::rules::guard::{Judgement, Removal};
use crate::controller::rules::health::BackendHealth;
use crate::controller::settings::Store;
use crate::controller::state::State;
use crate::controller::state::proxies::Proxies;
use crate::controller::state::source::SourceState;

/// A store is current if it was confirmed within this time.
const CONFIRMATION_LIFETIME: Duration = Duration::from_secs(15);

/// Whether there is something to follow, and how fresh it is.
pub fn ready(state: &State, stores: &[Arc<Store>], now: Now) -> ReadyInfo {
    ReadyInfo { version: Some(state.snapshot.version).filter(|_| state.is_ready()), sources: sources(state, stores, now) }
}

/// All stores.
pub fn sources(state: &State, stores: &[Arc<Store>], now: Now) -> Vec<SourceInfo> {
    let one = |(number, (store, source)): (usize, (&Arc<Store>, &SourceState))| {
        let age = source.confirmed.map(|at| now.since_start.saturating_sub(at));
        SourceInfo {
            url: store.url.clone(),
            root: store.root.clone(),
            current: source.error.is_none() && age.is_some_and(|age| age < CONFIRMATION_LIFETIME),
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

/// The status; the leader is given.
pub fn status(state: &State, stores: &[Arc<Store>], leader: Option<LeaderInfo>, now: Now) -> StatusInfo {
    let held_count = held_count(state);
    // Removals that need an operator's decision are listed first.
    let is = |wanted: bool| state.guard.removals().filter(move |removal| is_held(removal) == wanted);
    let full = |id: &EntryId| stores.get(id.source).map_or_else(|| id.key.clone(), |store| store.full_key(&id.key));
    StatusInfo {
        leader,
        leader_failure: None,
        controllers: controllers(state, now),
        cluster: state.snapshot.cluster.clone(),
        version: Some(state.snapshot.version).filter(|_| state.is_ready()),
        config: state.snapshot.config.digest().short(),
        membership: state.snapshot.membership.digest().short(),
        sources: sources(state, stores, now),
        held: is(true).chain(is(false)).take(MAX_LISTED).map(|removal| held_info(removal, stores)).collect(),
        held_count,
        judged_count: state.guard.removals().count() - held_count,
        pin: state.pin().map(|pin| pin.mark.clone()),
        waiting: state.waits(),
        proxies: proxies::proxies(state, now),
        unhealthy: unhealthy(state),
        rejected: state.compiler.rejected().iter().take(MAX_LISTED).map(full).collect(),
        rejected_count: state.compiler.rejected().len(),
        active_tree: state.compiler.active_tree().map(str::to_owned),
        limits: used(state, stores.len()),
    }
}

/// Whether a removal waits for an operator or for its store.
const fn is_held(removal: &Removal) -> bool {
    matches!(removal.judgement, Judgement::Held { .. })
}

/// How many removals wait for an operator or for their store.
fn held_count(state: &State) -> usize {
    state.guard.removals().filter(|removal| is_held(removal)).count()
}

/// The numbers for `/metrics`. They are counted without lists, so that a scrape takes hardly any time of the task that publishes.
pub fn counts(state: &State, stores: &[Arc<Store>], now: Now) -> Counts {
    let troubled = state.health.troubled().values();
    let connected = || state.proxies.connected(now.since_start).map(|(_, proxy)| proxy);
    let leading = state.role().epoch().is_some();
    Counts {
        leading,
        followers: state.peers.keys().filter(|name| state.follows(name, now)).count(),
        sources: sources(state, stores, now),
        rejected: state.compiler.rejected().len(),
        held: held_count(state),
        // Only the leader judges endpoints.
        unhealthy: if leading { state.health.count_out() } else { 0 },
        panics: troubled.filter(|health| leading && health.panics).count(),
        proxies: connected().count(),
        proxies_behind: connected().filter(|proxy| Proxies::behind(proxy, state.snapshot.version, state.published, now.since_start)).count(),
        version: Some(state.snapshot.version).filter(|_| state.is_ready()).unwrap_or_default(),
    }
}

/// The use of every limit that applies across entries.
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
        info("patternsPerHost", most.patterns_per_host, limits.patterns_per_host),
    ]
}

/// A removal that serves on.
pub fn held_info(removal: &Removal, stores: &[Arc<Store>]) -> HeldInfo {
    let why = match &removal.judgement {
        Judgement::Held { why } => Some(why.clone()),
        Judgement::Waiting | Judgement::Confirming | Judgement::Released => None,
    };
    let store = stores.get(removal.origin.id.source).map(|store| store.url.clone()).unwrap_or_default();
    HeldInfo { key: removal.origin.id.key.clone(), store, since: removal.date, why }
}

fn unhealthy(state: &State) -> Vec<UnhealthyBackend> {
    let id = |path: &String| path.split_once('/').map_or_else(|| path.clone(), |(_, id)| id.to_owned());
    let mut room = MAX_LISTED;
    let one = |(backend, health): (&String, &BackendHealth)| {
        let listed: BTreeMap<String, String> = state.health.out_of(backend).take(room).map(|(path, out)| (id(path), out.why.clone())).collect();
        room -= listed.len();
        UnhealthyBackend { backend: backend.clone(), endpoints: health.endpoints, unhealthy: listed, count: health.unhealthy, panics: health.panics }
    };
    state.health.troubled().iter().map(one).collect()
}

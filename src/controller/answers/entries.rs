//! What the API shows of the state. These shapes are what `-o json` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::compile::{EntryId, EntryView};
use waypost_model::key::Kind;
use waypost_model::object::Object;
use waypost_model::verdict::{Condition, ConditionType};
use waypost_wire::ObjectProblem;

use crate::controller::answers::shapes::{EndpointHealth, EntryAnswer, EntryInfo, Live};
use crate::controller::answers::status::held_info;
use crate::controller::message::Now;
use crate::controller::rules::objects::object_path;
use crate::controller::settings::Store;
use crate::controller::state::State;
use crate::controller::state::proxies::Proxy;

/// The answer for a key below the root.
pub fn answer(state: &State, stores: &[std::sync::Arc<Store>], key: &str, now: Now) -> EntryAnswer {
    let found = state.compiler.entry_at(key).and_then(|id| state.compiler.view(&id));
    let deleted_track = |source| state.tracks.get(&EntryId { source, key: key.to_owned() }).filter(|track| track.deleted);
    let serving = match (&found, (0..stores.len()).find_map(deleted_track)) {
        (None, Some(track)) => {
            let proxies = state.proxies.connected(now.since_start);
            proxies.filter(|(_, proxy)| !track.version.is_some_and(|version| proxy.serves(version))).map(|(name, _)| name.clone()).collect()
        }
        _ => Vec::new(),
    };
    let removal = state.guard.removals().find(|removal| found.is_none() && removal.origin.id.key == key);
    let by_guard = removal.and_then(|removal| held_info(removal, stores).why).map(|why| format!("{why}; `waypost approve {key}` lets it go"));
    let resource = match waypost_model::key::place(key, false) {
        waypost_model::key::Place::Resource { resource, .. } if found.is_none() => Some(resource),
        _ => None,
    };
    let by_pin = state.pin().filter(|pin| resource.as_ref().is_some_and(|resource| pin.lane.get(&object_path(resource)).is_some()));
    let serves_on = by_guard.or_else(|| by_pin.map(|pin| pin.mark.describe()));
    EntryAnswer { entry: found.map(|view| entry(state, stores, &view, now)), serving, judged_soon: removal.is_some() && serves_on.is_none(), serves_on }
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
        health: health(state, view),
    }
}

/// The verdict of an entry, with what an operator pinned.
pub fn conditions(state: &State, view: &EntryView) -> Vec<Condition> {
    let mut conditions = view.verdict.conditions.clone();
    let Some(pin) = state.pin().filter(|_| view.in_snapshot) else { return conditions };
    // An entry without a resource is `current`: it affects every resource.
    if view.resource.as_ref().map_or_else(|| state.waits(), |resource| state.is_behind_pin(resource)) {
        conditions.retain(|condition| condition.r#type != ConditionType::Programmed);
        conditions.push(pin.condition());
    }
    conditions
}

/// A problem that keeps a proxy that follows us from serving an entry, if there is one.
fn trouble<'a>(state: &'a State, view: &EntryView, now: Now) -> Option<&'a ObjectProblem> {
    let resource = view.resource.as_ref()?;
    let problems = state.proxies.connected(now.since_start).flat_map(|(_, proxy)| &proxy.report.problems);
    problems.into_iter().find(|problem| problem.kind == resource.kind.singular() && problem.name == resource.name)
}

fn programmed(live: &Live, trouble: Option<&ObjectProblem>) -> Condition {
    let text = format!("live on {}/{} proxies", live.on, live.of);
    match (&live.version, live.on, live.of) {
        (Some(version), on, of) if on == of && of > 0 => Condition::yes(ConditionType::Programmed, "Programmed", format!("{text} at version {version}")),
        (_, _, 0) => Condition {
            r#type: ConditionType::Programmed,
            status: waypost_model::verdict::Status::Unknown,
            reason: "NoProxies".to_owned(),
            message: live.lagging.first().cloned().unwrap_or_else(|| "no proxy is connected".to_owned()),
        },
        _ if trouble.is_some() => {
            let reason = trouble.map_or("Invalid", |problem| problem.reason.as_str());
            Condition::no(ConditionType::Programmed, reason, format!("{text}; {}", live.lagging.join("; ")))
        }
        _ => Condition {
            r#type: ConditionType::Programmed,
            status: waypost_model::verdict::Status::Unknown,
            reason: "Pending".to_owned(),
            message: format!("{text}; {}", live.lagging.join("; ")),
        },
    }
}

fn live(state: &State, view: &EntryView, now: Now) -> Live {
    let track = state.tracks.get(&view.id).copied();
    let mut live = Live { version: track.and_then(|track| track.version).filter(|_| view.in_snapshot && view.verdict.accepted()), ..Live::default() };
    if view.resource.as_ref().map_or_else(|| state.waits(), |resource| state.is_behind_pin(resource)) {
        live.version = None;
    }
    let (labels, mut others) = (labels_wanted(state, view), 0);
    let listeners = listeners_wanted(state, view);
    for (name, proxy) in state.proxies.connected(now.since_start) {
        let has_labels = labels.iter().all(|(label, value)| proxy.report.labels.get(label) == Some(value));
        // The listeners of a proxy that refuses what is published are not those that it should have.
        let has_listener = proxy.report.refused.is_some() || listeners.as_ref().is_none_or(|listeners| listeners.any_of(proxy));
        if !has_labels || !has_listener {
            others += 1;
            continue;
        }
        live.of += 1;
        let troubled = view
            .resource
            .as_ref()
            .and_then(|resource| proxy.report.problems.iter().find(|problem| problem.kind == resource.kind.singular() && problem.name == resource.name));
        let serves = live.version.is_some_and(|version| proxy.serves(version));
        let unbound = listeners.as_ref().and_then(|listeners| unbound(listeners, proxy));
        match (serves, troubled) {
            (true, None) if unbound.is_none() => live.on += 1,
            (true, None) => live.lagging.push(format!("{name}: {}", unbound.unwrap_or_default())),
            (true, Some(problem)) => live.lagging.push(format!("{name}: {}", problem.message)),
            (false, _) => {
                let refusal = proxy.report.refused.as_ref().map(|refused| format!("{name}: {refused}"));
                let applied = || format!("{name} serves {}", proxy.report.applied.map_or("nothing yet".to_owned(), |version| format!("version {version}")));
                live.lagging.push(refusal.unwrap_or_else(applied));
            }
        }
    }
    if live.of == 0 && others > 0 {
        live.lagging.push(not_meant_for(others, listeners.as_ref(), &labels));
    }
    live.millis = track.and_then(|track| Some(track.live?.saturating_sub(track.read_at).as_secs_f64() * 1_000.0));
    live
}

/// Why none of so many connected proxies is to serve an entry: a route by its listeners, a listener by its labels.
fn not_meant_for(proxies: usize, listeners: Option<&ListenersOf>, labels: &BTreeMap<String, String>) -> String {
    let why = match listeners {
        Some(listeners) if listeners.names.is_empty() => "no listener serves it",
        Some(_) => "none of them has a listener that serves it",
        None => {
            let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            return format!("none of {proxies} connected proxies has the labels {}", labels.join(", "));
        }
    };
    format!("{proxies} proxies are connected, and {why}; write listeners/NAME, or check the route's listeners and explicitOnly")
}

/// The listeners that serve a route.
struct ListenersOf {
    /// The names of the published ones.
    names: BTreeSet<String>,
    /// No listener is published: proxies may have one of their own (`--listen`), which serves every route that names none.
    is_any: bool,
}

impl ListenersOf {
    /// The states of those that a proxy should have.
    fn on<'p>(&self, proxy: &'p Proxy) -> impl Iterator<Item = &'p waypost_wire::ListenerState> {
        proxy.report.listeners.iter().filter(|state| self.is_any || self.names.contains(&state.name))
    }

    fn any_of(&self, proxy: &Proxy) -> bool {
        self.on(proxy).next().is_some()
    }
}

/// The published listeners that serve a route; nothing for other resources.
fn listeners_wanted(state: &State, view: &EntryView) -> Option<ListenersOf> {
    let resource = view.resource.as_ref().filter(|resource| resource.kind == Kind::Route)?;
    let route = state.snapshot.config.get(&object_path(resource))?.decode::<waypost_model::resource::Route>().ok()?.spec;
    let serves = |object: &&Arc<Object>| {
        let explicit_only = || object.decode::<waypost_model::resource::Listener>().is_ok_and(|listener| listener.spec.explicit_only);
        if route.listeners.is_empty() { !explicit_only() } else { route.listeners.iter().any(|name| name.as_str() == object.name()) }
    };
    let all = || state.snapshot.config.of_kind("listener");
    Some(ListenersOf {
        names: all().filter(serves).map(|object| object.name().to_owned()).collect(),
        is_any: route.listeners.is_empty() && all().next().is_none(),
    })
}

/// Why requests cannot reach a route on a proxy that should bind some of its listeners, and has bound none.
fn unbound(listeners: &ListenersOf, proxy: &Proxy) -> Option<String> {
    if listeners.on(proxy).any(|state| state.bound) {
        return None;
    }
    listeners.on(proxy).next().map(|state| format!("listener {} is not bound there, so that no request reaches the route", state.name))
}

/// The labels that a proxy must have to serve this: those of a listener.
fn labels_wanted(state: &State, view: &EntryView) -> BTreeMap<String, String> {
    let listener = view.resource.as_ref().filter(|resource| resource.kind == waypost_model::key::Kind::Listener);
    let object = listener.and_then(|resource| state.snapshot.config.get(&object_path(resource)));
    let parsed = object.and_then(|object| object.decode::<waypost_model::resource::Listener>().ok());
    parsed.map(|listener| listener.spec.proxies).unwrap_or_default()
}

fn health(state: &State, view: &EntryView) -> Option<EndpointHealth> {
    let resource = view.resource.as_ref().filter(|resource| resource.kind == Kind::Endpoint)?;
    let probers: Vec<String> = state.health.probers(&resource.name)?.map(str::to_owned).collect();
    let out = state.health.out(&resource.name);
    let since = out.map(|out| out.since).filter(|since| *since > 0);
    Some(EndpointHealth { healthy: out.is_none(), why: out.map(|out| out.why.clone()), since, probers })
}

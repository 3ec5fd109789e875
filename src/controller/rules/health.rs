//! Decides which endpoints can take requests: which proxies probe them, and the majority of these probers. Pure.
//!
//! Membership has two more kinds of objects while a backend has a health check: a `prober` for every proxy that probes, from which each proxy works
//! out its own share, and a `health` for every unhealthy endpoint. An endpoint's state changes only when more than half of its probers agree; without
//! a majority it stays as it was. See `docs/decisions/11-health.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::lane::{Change, Lane};
use waypost_model::object::Object;
use waypost_model::probing::Fleet;
use waypost_model::resource::{Backend, Endpoint, Fitness, HealthCheck};
use waypost_model::snapshot::{Snapshot, Version};
use waypost_wire::{Finding, Findings};

use crate::controller::rules::objects::{backend, takes_requests};

/// An endpoint that is out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unhealthy {
    /// Why, in a few words.
    pub why: String,
    /// Since when, in milliseconds since 1970; 0 if it was out before we led.
    pub since: u64,
}

/// An endpoint turned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthChange {
    /// `BACKEND/ID`.
    pub endpoint: String,
    /// Its new state.
    pub healthy: bool,
    /// The probers' findings, in one sentence.
    pub message: String,
}

/// How a backend that has a health check fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendHealth {
    /// The number of its endpoints that are probed.
    pub endpoints: usize,
    /// The number of those that are out.
    pub unhealthy: usize,
    /// So few are healthy that all are used as if they were.
    pub panics: bool,
}

/// An endpoint that is probed.
#[derive(Debug, Clone, Default)]
struct ProbedEndpoint {
    /// Its probers, and the version with which each of them was given it.
    probers: Vec<(String, Version)>,
    /// Whether it takes requests, as far as it is written.
    takes_requests: bool,
}

/// The assignment of endpoints to probing proxies, and the probers' judgement.
#[derive(Debug, Default)]
pub struct Health {
    /// Membership as it is published, without the marks.
    base: Lane,
    /// Membership as it is published.
    shown: Lane,
    /// The published marks: the `prober` and `health` objects.
    marks: BTreeMap<String, Arc<Object>>,
    /// Whether all marks have to be derived anew.
    stale: bool,
    /// Endpoints that became unhealthy, or healthy again, since the last publication.
    turned: BTreeSet<String>,
    /// The config from which the checks come.
    config: Lane,
    checks: BTreeMap<String, HealthCheck>,
    members: BTreeMap<String, Option<String>>,
    /// Whether the assignment of endpoints to probers has to be derived anew.
    moved: bool,
    probed: BTreeMap<String, ProbedEndpoint>,
    /// Endpoints that a prober was given and has not reported on yet, by prober.
    awaited: BTreeMap<String, BTreeSet<String>>,
    out: BTreeMap<String, Unhealthy>,
    /// Backends of which endpoints are out, as of the last publication.
    troubled: BTreeMap<String, BackendHealth>,
    /// Backends that are to be looked at with the next publication.
    changed: BTreeSet<String>,
}

/// The published endpoints that take no requests because they are unhealthy and their backends have enough others.
pub fn unhealthy_endpoints(snapshot: &Snapshot) -> BTreeSet<String> {
    let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for object in snapshot.membership.of_kind("health") {
        out.entry(backend(object)).or_default().insert(object.name());
    }
    if out.is_empty() {
        return BTreeSet::new();
    }
    let mut all: BTreeMap<&str, Vec<Fitness>> = BTreeMap::new();
    for endpoint in snapshot.membership.of_kind("endpoint") {
        if let Some(out) = out.get(backend(endpoint)) {
            all.entry(backend(endpoint)).or_default().extend(fitness(&snapshot.membership, endpoint, out.contains(endpoint.name())));
        }
    }
    let enough = |backend: &str| {
        let written = snapshot.config.get(&format!("backend/{backend}")).and_then(|object| object.decode::<Backend>().ok());
        let check = written.and_then(|body| body.spec.health_check);
        let all = all.get(backend).into_iter().flatten();
        check.is_some_and(|check| !check.panics(all.clone().copied()) && all.clone().any(|one| !one.unhealthy))
    };
    out.into_iter().filter(|(backend, _)| enough(backend)).flat_map(|(_, names)| names).map(str::to_owned).collect()
}

/// The fitness of an endpoint as proxies see it, if it takes requests.
fn fitness(membership: &Lane, endpoint: &Object, unhealthy: bool) -> Option<Fitness> {
    let suspect = || membership.get(&format!("suspect/{}", endpoint.name())).is_some();
    takes_requests(endpoint).then(|| Fitness { unhealthy, suspect: suspect() })
}

impl Health {
    /// Begins with a snapshot that another controller published, or an earlier run of this one.
    pub fn inherit(&mut self, snapshot: &Snapshot) {
        let added = |object: &&Arc<Object>| matches!(object.kind(), "health" | "prober");
        let marks: BTreeMap<String, Arc<Object>> =
            snapshot.membership.objects().filter(added).map(|object| (object.path().to_owned(), object.clone())).collect();
        let without: Vec<Change> = marks.keys().map(|path| Change::Delete(path.clone())).collect();
        let names = |kind: &'static str| marks.values().filter(move |object| object.kind() == kind);
        let zone = |object: &Object| object.decode::<serde_json::Value>().ok().and_then(|body| Some(body.spec.get("zone")?.as_str()?.to_owned()));
        *self = Self {
            base: if without.is_empty() { snapshot.membership.clone() } else { snapshot.membership.with(without) },
            shown: snapshot.membership.clone(),
            members: names("prober").map(|object| (object.name().to_owned(), zone(object))).collect(),
            out: names("health").map(|object| (object.name().to_owned(), Unhealthy::default())).collect(),
            moved: true,
            stale: true,
            changed: names("health").map(|object| backend(object).to_owned()).collect(),
            marks,
            ..Self::default()
        };
    }

    /// Membership as it was published last, without the marks.
    pub const fn base(&self) -> &Lane {
        &self.base
    }

    /// Whether something waits to be published.
    pub fn waits(&self) -> bool {
        self.stale || self.moved || !self.turned.is_empty()
    }

    /// Whether any backend has a health check.
    pub fn is_used(&self) -> bool {
        !self.checks.is_empty()
    }

    /// The proxies that may probe. Returns whether they are others than before.
    pub fn set_fleet(&mut self, members: BTreeMap<String, Option<String>>) -> bool {
        let changed = members != self.members;
        if changed {
            self.members = members;
            (self.moved, self.stale) = (true, true);
        }
        changed
    }

    /// The proxies that may probe.
    pub const fn fleet(&self) -> &BTreeMap<String, Option<String>> {
        &self.members
    }

    /// Membership as it is to be published with `config` under `version`: `base` and the marks.
    pub fn overlay(&mut self, config: &Lane, base: Lane, version: Version) -> Lane {
        let mut changes = self.base.changes_to(&base);
        let backends = self.take_config(config);
        self.base = base;
        if self.is_used() || !backends.is_empty() || !self.out.is_empty() {
            self.watch(&changes, &backends, version);
        }
        if std::mem::take(&mut self.stale) {
            let marks = self.wanted();
            changes.extend(self.marks.keys().filter(|path| !marks.contains_key(*path)).map(|path| Change::Delete(path.clone())));
            let new = marks.iter().filter(|(path, object)| self.marks.get(*path).map(|earlier| earlier.digest()) != Some(object.digest()));
            changes.extend(new.map(|(_, object)| Change::Put(object.clone())));
            self.marks = marks;
            self.turned.clear();
        }
        for name in std::mem::take(&mut self.turned) {
            changes.extend(self.mark(&name));
        }
        self.note_troubled(&changes, backends);
        if !changes.is_empty() {
            self.shown = self.shown.with(changes);
        }
        self.shown.clone()
    }

    /// The change of an endpoint's mark, if there is one.
    fn mark(&mut self, name: &str) -> Option<Change> {
        let path = format!("health/{name}");
        if self.out.contains_key(name) && self.is_used() {
            let object = Object::unhealthy(name);
            let is_new = self.marks.insert(path, object.clone()).is_none();
            return is_new.then_some(Change::Put(object));
        }
        self.marks.remove(&path).map(|_| Change::Delete(path))
    }

    /// Brings up to date which backends have endpoints that are out, and whether too few are left.
    fn note_troubled(&mut self, changes: &[Change], backends: BTreeSet<String>) {
        let mut changed = std::mem::take(&mut self.changed);
        changed.extend(backends);
        let of = |path: &str| Some(path.split('/').nth(1)?.to_owned()).filter(|name| self.troubled.contains_key(name));
        changed.extend(changes.iter().filter_map(|change| of(change.path())));
        for name in changed {
            let health = self.backend(&name);
            if health.unhealthy > 0 {
                self.troubled.insert(name, health);
            } else {
                self.troubled.remove(&name);
            }
        }
    }

    /// Takes the checks of a config; returns the backends whose check is another one.
    fn take_config(&mut self, config: &Lane) -> BTreeSet<String> {
        let mut differ = BTreeSet::new();
        for change in self.config.changes_to(config) {
            let Some(name) = change.path().strip_prefix("backend/") else { continue };
            let check = match &change {
                Change::Put(object) => object.decode::<Backend>().ok().and_then(|body| body.spec.health_check),
                Change::Delete(_) => None,
            };
            let before = match check.clone() {
                Some(check) => self.checks.insert(name.to_owned(), check),
                None => self.checks.remove(name),
            };
            if before != check {
                differ.insert(name.to_owned());
            }
        }
        self.config = config.clone();
        self.stale |= !differ.is_empty();
        differ
    }

    /// Assigns endpoints to probers: those that changed, those of some backends, or all if proxies connected or left.
    fn watch(&mut self, changes: &[Change], backends: &BTreeSet<String>, version: Version) {
        let fleet = Fleet::new(self.members.clone());
        if std::mem::take(&mut self.moved) || !backends.is_empty() {
            let base = self.base.clone();
            let removal = |name: &String| base.get(&format!("endpoint/{name}")).is_none();
            let names: Vec<String> = self.probed.keys().filter(|name| removal(name)).cloned().collect();
            names.iter().for_each(|name| self.forget(name));
            for endpoint in base.of_kind("endpoint") {
                self.assign(endpoint, &fleet, version);
            }
        }
        for change in changes {
            match change {
                Change::Put(object) if object.kind() == "endpoint" => self.assign(object, &fleet, version),
                Change::Delete(path) => {
                    if let Some(name) = path.strip_prefix("endpoint/") {
                        self.forget(name);
                    }
                }
                Change::Put(_) => {}
            }
        }
        // Some of the inherited endpoints may not exist any more.
        let lost: Vec<String> = self.out.keys().filter(|name| !self.probed.contains_key(*name)).cloned().collect();
        lost.iter().for_each(|name| self.forget(name));
    }

    fn assign(&mut self, object: &Object, fleet: &Fleet, version: Version) {
        let name = object.name();
        let check = name.split_once('/').and_then(|(backend, _)| self.checks.get(backend));
        let (Some(check), Ok(endpoint)) = (check, object.decode::<Endpoint>()) else { return self.forget(name) };
        // A draining endpoint takes no new requests, healthy or not.
        if endpoint.spec.drain {
            return self.forget(name);
        }
        let chosen = fleet.probers(name, endpoint.spec.zone.as_deref(), check.probers);
        let before = self.probed.remove(name).unwrap_or_default().probers;
        let since = |prober: &str| before.iter().find(|(other, _)| other == prober).map(|(_, since)| *since);
        let probers: Vec<(String, Version)> = chosen.into_iter().map(|prober| (prober.to_owned(), since(prober).unwrap_or(version))).collect();
        for (prober, since) in &probers {
            if *since == version {
                self.awaited.entry(prober.clone()).or_default().insert(name.to_owned());
            }
        }
        self.probed.insert(name.to_owned(), ProbedEndpoint { probers, takes_requests: endpoint.spec.weight.get() > 0 });
    }

    fn forget(&mut self, name: &str) {
        self.probed.remove(name);
        if self.out.remove(name).is_some() {
            self.turned(name);
        }
    }

    /// The marks as they should be.
    fn wanted(&self) -> BTreeMap<String, Arc<Object>> {
        if !self.is_used() {
            return BTreeMap::new();
        }
        let existing = |name: &String| self.marks.get(&format!("health/{name}")).cloned();
        let out = self.out.keys().map(|name| existing(name).unwrap_or_else(|| Object::unhealthy(name)));
        let probers = self.members.iter().map(|(name, zone)| Object::prober(name, zone.as_deref()));
        out.chain(probers).map(|object| (object.path().to_owned(), object)).collect()
    }

    /// The prober's findings do not count until it has reported as of the version with which it was given its endpoints.
    pub fn await_all(&mut self, prober: &str) {
        let all = self.probed_by(prober);
        self.awaited.insert(prober.to_owned(), all);
    }

    /// Takes a report as of this version. Returns the endpoints that the prober was given since its last report and now reports on for the first time.
    pub fn take_report(&mut self, prober: &str, version: Version) -> BTreeSet<String> {
        let Some(awaited) = self.awaited.get_mut(prober) else { return BTreeSet::new() };
        let probed = &self.probed;
        let is_new = |name: &String| probed.get(name).is_some_and(|all| all.probers.iter().any(|(other, since)| other == prober && *since > version));
        let (still, reported) = std::mem::take(awaited).into_iter().partition(is_new);
        *awaited = still;
        reported
    }

    /// Judges endpoints by the findings of their probers; `says` has none for proxies that do not follow us. Unless `met`, such proxies count as
    /// unable to tell: we have led for so short a time that they may not have found us yet.
    pub fn judge<'a>(&mut self, names: &BTreeSet<String>, says: &dyn Fn(&str) -> Option<&'a Findings>, met: bool, date: u64) -> Vec<HealthChange> {
        let mut turns = Vec::new();
        for name in names {
            let Some(probers) = self.probed.get(name) else { continue };
            let mut votes = Votes::default();
            for (prober, since) in &probers.probers {
                votes.count(says(prober), name, *since, met);
            }
            let is_out = self.out.contains_key(name);
            let turn = |healthy, message: String| HealthChange { endpoint: name.clone(), healthy, message };
            if !is_out && votes.failing * 2 > votes.all {
                let why = votes.why.clone();
                turns.push(turn(false, format!("{} of {} probers: {why}", votes.failing, votes.all)));
                self.out.insert(name.clone(), Unhealthy { why, since: date });
                self.turned(name);
            } else if is_out && votes.healthy * 2 > votes.all {
                turns.push(turn(true, format!("{} of {} probers had good answers", votes.healthy, votes.all)));
                self.out.remove(name);
                self.turned(name);
            } else if let Some(out) = self.out.get_mut(name).filter(|_| votes.failing > 0) {
                out.why = votes.why;
            }
        }
        turns
    }

    /// An endpoint came to be out, or is not any more.
    fn turned(&mut self, name: &str) {
        self.turned.insert(name.to_owned());
        self.changed.extend(name.split_once('/').map(|(backend, _)| backend.to_owned()));
    }

    /// The endpoints that are probed.
    pub fn names(&self) -> BTreeSet<String> {
        self.probed.keys().cloned().collect()
    }

    /// Those of them that this proxy probes.
    pub fn probed_by(&self, prober: &str) -> BTreeSet<String> {
        let probes = |probed: &ProbedEndpoint| probed.probers.iter().any(|(other, _)| other == prober);
        self.probed.iter().filter(|(_, probed)| probes(probed)).map(|(name, _)| name.clone()).collect()
    }

    /// The proxies that probe an endpoint, if it is probed.
    pub fn probers(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        self.probed.get(name).map(|probed| probed.probers.iter().map(|(prober, _)| prober.as_str()))
    }

    /// Why an endpoint is out, if it is.
    pub fn out(&self, name: &str) -> Option<&Unhealthy> {
        self.out.get(name)
    }

    /// The present state of a backend. Reads all its endpoints.
    pub fn backend(&self, name: &str) -> BackendHealth {
        let own = below(&self.probed, name);
        let unhealthy = self.out_of(name).count();
        let suspects: BTreeSet<&str> = self.base.of_kind("suspect").map(|object| object.name()).collect();
        let mut out = self.out_of(name).map(|(name, _)| name).peekable();
        let fit = |(name, probed): (&String, &ProbedEndpoint)| {
            // Both are sorted by name.
            while out.next_if(|other| *other < name).is_some() {}
            let fitness = Fitness { unhealthy: out.peek() == Some(&name), suspect: !suspects.is_empty() && suspects.contains(name.as_str()) };
            Some(fitness).filter(|_| probed.takes_requests)
        };
        let panics = unhealthy > 0 && self.checks.get(name).is_some_and(|check| check.panics(own.clone().filter_map(fit)));
        BackendHealth { endpoints: own.count(), unhealthy, panics }
    }

    /// The endpoints of a backend that are out.
    pub fn out_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a String, &'a Unhealthy)> {
        below(&self.out, name)
    }

    /// The number of endpoints that are out.
    pub fn count_out(&self) -> usize {
        self.out.len()
    }

    /// Backends of which something is out, as of the last publication.
    pub const fn troubled(&self) -> &BTreeMap<String, BackendHealth> {
        &self.troubled
    }
}

/// The items of a backend's endpoints.
fn below<'a, T>(all: &'a BTreeMap<String, T>, backend: &'a str) -> impl Iterator<Item = (&'a String, &'a T)> + Clone {
    let own = move |path: &str| path.strip_prefix(backend).is_some_and(|rest| rest.starts_with('/'));
    all.range(format!("{backend}/")..).take_while(move |(path, _)| own(path))
}

#[derive(Debug, Default)]
struct Votes {
    all: usize,
    failing: usize,
    healthy: usize,
    why: String,
}

impl Votes {
    /// Counts the findings of one prober, if it follows us.
    fn count(&mut self, says: Option<&Findings>, endpoint: &str, since: Version, met: bool) {
        let Some(said) = says else {
            self.all += usize::from(!met);
            return;
        };
        self.all += 1;
        if said.version() < since {
            return;
        }
        match said.of(endpoint) {
            Finding::Failing(why) => {
                self.failing += 1;
                self.why.clone_from(why);
            }
            Finding::Well => self.healthy += 1,
            Finding::Unsure => {}
        }
    }
}

#[cfg(test)]
mod tests;

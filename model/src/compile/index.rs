//! References between resources and claims on requests: the part of verdicts that depends on other entries.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::entry::{Departed, Origin};
use crate::key::{Kind, ResourceKey};
use crate::limits::Limits;
use crate::object::Object;
use crate::order::{Claim, Conditions, MatchRank, patterns};
use crate::resource::{Filter, PathMatch, PathNormalization, PathRewrite, Redirect, Resource, Route, RouteMatch};
use crate::value::Address;
use crate::verdict::{Condition, ConditionType};

#[derive(Debug)]
struct Installed {
    object: Arc<Object>,
    /// The entry that the object was compiled from.
    origin: Origin,
    /// Backends and listeners that a route refers to, and certificates of a listener.
    refers: Vec<ResourceKey>,
    /// The claims of a route, by hostname and listener.
    claims: Vec<Claimed>,
    hostnames: Vec<String>,
    /// The number of regular expressions of a route.
    patterns: usize,
    /// Warnings about an accepted value that is probably not what the author wants.
    warnings: Vec<String>,
    /// Whether this is a listener that serves only routes which name it.
    explicit_only: bool,
    /// The address of an endpoint.
    address: Option<Arc<str>>,
}

#[derive(Debug)]
struct Claimed {
    claim: Claim,
    /// For a claim on one listener: the listener, and the same claim on all listeners.
    narrow: Option<(Arc<str>, Claim)>,
    rank: MatchRank,
    /// The numbers of the rule and of the match in it.
    place: (usize, usize),
}

/// The number of routes and regular expressions of a hostname.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    routes: usize,
    patterns: usize,
}

/// The installed resources and the relations between them.
#[derive(Debug, Default)]
pub(super) struct Index {
    installed: BTreeMap<ResourceKey, Installed>,
    /// The routes and listeners that refer to a resource.
    referrers: HashMap<ResourceKey, BTreeSet<ResourceKey>>,
    /// Number of endpoints per backend.
    endpoints: HashMap<String, usize>,
    /// Number of endpoints per address, over all backends.
    addresses: HashMap<Arc<str>, usize>,
    /// Number of routes and of their regular expressions, per hostname.
    hosts: HashMap<String, Host>,
    /// The routes with this claim, in the order of their ranks.
    claims: HashMap<Claim, BTreeMap<MatchRank, Arc<str>>>,
    /// Routes that have, on one listener, the claim which the key has on all listeners; with the number of such claims.
    narrow: HashMap<Claim, HashMap<Arc<str>, usize>>,
    /// Resources that found no room.
    waiting: BTreeSet<ResourceKey>,
    /// Resources whose verdict may have changed since [`Index::take_affected`] was called last.
    affected: BTreeSet<ResourceKey>,
    /// Objects that were removed or replaced since [`Index::take_departed`] was called last.
    departed: Vec<Departed>,
}

impl Index {
    /// Whether the resource is part of the snapshot.
    pub(super) fn has(&self, resource: &ResourceKey) -> bool {
        self.installed.contains_key(resource)
    }

    /// All installed listeners, routes and backends.
    pub(super) fn config_resources(&self) -> Vec<ResourceKey> {
        self.installed.keys().filter(|resource| !resource.kind.is_membership()).cloned().collect()
    }

    /// Takes the resources that found no room, to try them again.
    pub(super) fn waiting_for_room(&mut self) -> BTreeSet<ResourceKey> {
        std::mem::take(&mut self.waiting)
    }

    /// Takes the resources whose verdict may have changed.
    pub(super) fn take_affected(&mut self) -> BTreeSet<ResourceKey> {
        std::mem::take(&mut self.affected)
    }

    /// The number of routes of the hostname that has most.
    pub(super) fn most_routes_per_host(&self) -> usize {
        self.hosts.values().map(|host| host.routes).max().unwrap_or_default()
    }

    /// The number of regular expressions of the hostname that has most.
    pub(super) fn most_patterns_per_host(&self) -> usize {
        self.hosts.values().map(|host| host.patterns).max().unwrap_or_default()
    }

    /// The number of endpoints of the backend that has most.
    pub(super) fn most_endpoints(&self) -> usize {
        self.endpoints.values().copied().max().unwrap_or_default()
    }

    /// Whether an endpoint of any backend has this address.
    pub(super) fn is_registered(&self, address: &Address) -> bool {
        self.addresses.contains_key(address.canonical().as_str())
    }

    /// Whether an object was removed or replaced since the last call of [`Index::take_departed`].
    pub(super) fn made_room(&self) -> bool {
        !self.departed.is_empty()
    }

    /// Takes the objects that were removed or replaced.
    pub(super) fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    /// The resources that wait for room.
    pub(super) const fn waiting(&self) -> &BTreeSet<ResourceKey> {
        &self.waiting
    }

    /// Whether a resource waits for room.
    pub(super) fn is_waiting(&self, resource: &ResourceKey) -> bool {
        self.waiting.contains(resource)
    }

    /// Whether a resource fits, in place of the one installed under its name. If it does not, it is added to the waiting ones.
    pub(super) fn has_room(&mut self, resource: &ResourceKey, parsed: &Resource, limits: &Limits) -> bool {
        let installed = self.installed.get(resource);
        let full = match parsed {
            Resource::Endpoint(_) => {
                installed.is_none() && resource.backend().and_then(|name| self.endpoints.get(name)).is_some_and(|n| *n >= limits.endpoints_per_backend)
            }
            Resource::Route(route) => {
                let patterns: usize = pattern_count(route);
                hostnames(route).iter().any(|host| {
                    let own = installed.filter(|installed| installed.hostnames.contains(host));
                    let counts = self.hosts.get(host).copied().unwrap_or_default();
                    let others =
                        Host { routes: counts.routes - usize::from(own.is_some()), patterns: counts.patterns - own.map_or(0, |installed| installed.patterns) };
                    others.routes >= limits.routes_per_host || patterns > 0 && others.patterns + patterns > limits.patterns_per_host
                })
            }
            Resource::Listener(_) | Resource::Backend(_) | Resource::Certificate(_) => false,
        };
        if full {
            self.waiting.insert(resource.clone());
        }
        !full
    }

    /// The message for a resource that found no room.
    pub(super) fn room_message(resource: &ResourceKey, limits: &Limits) -> String {
        match resource.backend() {
            Some(backend) => {
                format!("backend {backend} has {} endpoints already, the most that are accepted (setting endpointsPerBackend)", limits.endpoints_per_backend)
            }
            None => format!(
                "one of these hostnames would have more than {} routes (setting routesPerHost) or {} regular expressions (setting patternsPerHost)",
                limits.routes_per_host, limits.patterns_per_host
            ),
        }
    }

    /// Installs a resource; returns whether it differs from the installed one.
    pub(super) fn put(&mut self, resource: &ResourceKey, object: &Arc<Object>, parsed: &Resource, origin: Origin) -> bool {
        if let Some(same) = self.installed.get_mut(resource).filter(|installed| installed.object.digest() == object.digest()) {
            same.origin = origin;
            return false;
        }
        self.take_out(resource, true);
        let route = match parsed {
            Resource::Route(route) => Some(route),
            _ => None,
        };
        let claims = route.map(|route| claims(&resource.name, object, route)).unwrap_or_default();
        let installed = Installed {
            object: object.clone(),
            origin,
            refers: references(parsed),
            warnings: warnings(parsed, &claims),
            claims,
            hostnames: route.map(hostnames).unwrap_or_default(),
            patterns: route.map(pattern_count).unwrap_or_default(),
            address: match parsed {
                Resource::Endpoint(endpoint) => Some(endpoint.address.canonical().into()),
                _ => None,
            },
            explicit_only: matches!(parsed, Resource::Listener(listener) if listener.explicit_only),
        };
        self.link(resource, &installed);
        self.installed.insert(resource.clone(), installed);
        true
    }

    fn link(&mut self, resource: &ResourceKey, installed: &Installed) {
        for target in &installed.refers {
            self.referrers.entry(target.clone()).or_default().insert(resource.clone());
        }
        let name: Arc<str> = resource.name.as_str().into();
        for claimed in &installed.claims {
            let claimants = self.claims.entry(claimed.claim).or_default();
            // Only the first claimant shadows others, so only its change affects their verdicts.
            let is_first = claimants.keys().next().is_none_or(|first| claimed.rank < *first);
            if is_first {
                let others = claimants.values().filter(|other| **other != name);
                self.affected.extend(others.map(|name| ResourceKey::new(Kind::Route, &**name)));
            }
            claimants.insert(claimed.rank.clone(), name.clone());
            if let Some((_, everywhere)) = &claimed.narrow {
                *self.narrow.entry(*everywhere).or_default().entry(name.clone()).or_default() += 1;
            }
            if is_first {
                self.touch_narrower(claimed.claim);
            }
        }
        for host in &installed.hostnames {
            let host = self.hosts.entry(host.clone()).or_default();
            host.routes += 1;
            host.patterns += installed.patterns;
        }
        if let (Kind::Endpoint, Some(backend)) = (resource.kind, resource.backend()) {
            *self.endpoints.entry(backend.to_owned()).or_default() += 1;
        }
        if let Some(address) = &installed.address {
            *self.addresses.entry(address.clone()).or_default() += 1;
        }
        self.touch_referrers(resource);
    }

    /// Removes a resource; returns the object that was installed.
    pub(super) fn remove(&mut self, resource: &ResourceKey) -> Option<Arc<Object>> {
        self.take_out(resource, false)
    }

    fn take_out(&mut self, resource: &ResourceKey, replaced: bool) -> Option<Arc<Object>> {
        let installed = self.installed.remove(resource)?;
        for target in &installed.refers {
            if let Some(names) = self.referrers.get_mut(target) {
                names.remove(resource);
            }
        }
        for claimed in &installed.claims {
            let mut was_first = false;
            if let Some(claimants) = self.claims.get_mut(&claimed.claim) {
                was_first = claimants.keys().next() == Some(&claimed.rank);
                claimants.remove(&claimed.rank);
                if was_first {
                    self.affected.extend(claimants.values().map(|name| ResourceKey::new(Kind::Route, &**name)));
                }
                if claimants.is_empty() {
                    self.claims.remove(&claimed.claim);
                }
            }
            if let Some((_, everywhere)) = &claimed.narrow
                && let Some(routes) = self.narrow.get_mut(everywhere)
            {
                decrease(routes, resource.name.as_str());
                if routes.is_empty() {
                    self.narrow.remove(everywhere);
                }
            }
            if was_first {
                self.touch_narrower(claimed.claim);
            }
        }
        for name in &installed.hostnames {
            if let Some(host) = self.hosts.get_mut(name) {
                host.routes -= 1;
                host.patterns -= installed.patterns;
                if host.routes == 0 {
                    self.hosts.remove(name);
                }
            }
        }
        if let (Kind::Endpoint, Some(backend)) = (resource.kind, resource.backend()) {
            decrease(&mut self.endpoints, backend);
        }
        if let Some(address) = &installed.address {
            decrease(&mut self.addresses, address);
        }
        self.touch_referrers(resource);
        self.departed.push(Departed { object: installed.object.clone(), origin: installed.origin, replaced });
        Some(installed.object)
    }

    /// Marks the routes that have the same claim on a single listener: their verdicts may have changed.
    fn touch_narrower(&mut self, claim: Claim) {
        let names = self.narrow.get(&claim).into_iter().flat_map(HashMap::keys);
        self.affected.extend(names.map(|name| ResourceKey::new(Kind::Route, &**name)));
    }

    /// Marks what refers to a resource, or to an endpoint's backend: their verdicts may have changed.
    fn touch_referrers(&mut self, resource: &ResourceKey) {
        let target = match (resource.kind, resource.backend()) {
            (Kind::Endpoint, Some(backend)) => ResourceKey::new(Kind::Backend, backend),
            _ => resource.clone(),
        };
        self.affected.extend(self.referrers.get(&target).into_iter().flatten().cloned());
    }

    /// Whether a reference to `target` is resolved. A backend without an entry exists as soon as it has an endpoint.
    fn resolves(&self, target: &ResourceKey) -> bool {
        self.has(target) || (target.kind == Kind::Backend && self.endpoints.contains_key(&target.name))
    }

    /// The conditions of an installed resource.
    pub(super) fn conditions(&self, resource: &ResourceKey, conditions: &mut Vec<Condition>) {
        use ConditionType::{Accepted, Programmed, ResolvedRefs};
        let Some(installed) = self.installed.get(resource) else { return };
        let shadows: Vec<(&Claimed, &str)> = installed.claims.iter().filter_map(|claimed| self.shadow(resource, claimed).map(|by| (claimed, by))).collect();
        let place = |(rule, found): (usize, usize)| format!("rules[{rule}].matches[{found}]");
        let lines: Vec<String> = shadows.iter().take(3).map(|(claimed, by)| format!("{} is shadowed by routes/{by}", place(claimed.place))).collect();
        let all = !shadows.is_empty() && shadows.len() == installed.claims.len();
        conditions.push(match installed.warnings.is_empty() {
            _ if !shadows.is_empty() && !all => Condition::yes(Accepted, "PartiallyShadowed", lines.join("; ")),
            true => Condition::yes(Accepted, "Accepted", "the value is valid"),
            false => Condition::yes(Accepted, "AcceptedWithWarning", installed.warnings.join("; ")),
        });
        if resource.kind == Kind::Route || !installed.refers.is_empty() {
            let missing: Vec<String> = installed.refers.iter().filter(|target| !self.resolves(target)).map(missing).collect();
            conditions.push(match missing.is_empty() {
                true => Condition::yes(ResolvedRefs, "ResolvedRefs", "every reference is resolved"),
                false => {
                    let is_missing = |kind: Kind| installed.refers.iter().any(|target| target.kind == kind && !self.resolves(target));
                    let reason = match resource.kind {
                        Kind::Listener => "CertificateNotFound",
                        _ if is_missing(Kind::Backend) => "BackendNotFound",
                        _ => "ListenerNotFound",
                    };
                    Condition::no(ResolvedRefs, reason, some_of(&missing))
                }
            });
        }
        if let (true, Some((_, by))) = (all, shadows.first()) {
            conditions.push(Condition::no(Programmed, "Shadowed", format!("shadowed by routes/{by}, which claims the same match")));
        }
    }

    /// The route that takes every request of this claim instead of `resource`.
    fn shadow(&self, resource: &ResourceKey, claimed: &Claimed) -> Option<&str> {
        // A listener with `explicitOnly` does not serve routes without listeners, so these shadow nothing on it.
        let is_shared = |listener: &str| !self.installed.get(&ResourceKey::new(Kind::Listener, listener)).is_some_and(|installed| installed.explicit_only);
        let everywhere = claimed.narrow.as_ref().filter(|(listener, _)| is_shared(listener)).map(|(_, claim)| claim);
        std::iter::once(&claimed.claim)
            .chain(everywhere)
            .filter_map(|claim| self.claims.get(claim)?.iter().next())
            .find(|(rank, name)| **rank < claimed.rank && ***name != *resource.name)
            .map(|(_, name)| &**name)
    }
}

/// The first few findings as text, and how many more there are: a route may refer to thousands of resources.
fn some_of(findings: &[String]) -> String {
    const FEW: usize = 5;
    let text = findings.iter().take(FEW).cloned().collect::<Vec<_>>().join("; ");
    match findings.len().saturating_sub(FEW) {
        0 => text,
        more => format!("{text}; and {more} more"),
    }
}

fn missing(target: &ResourceKey) -> String {
    match target.kind {
        Kind::Listener => format!("there is no listener {}; write listeners/{}", target.name, target.name),
        Kind::Certificate => format!("there is no certificate {}; write certificates/{}", target.name, target.name),
        _ => format!(
            "there is no backend {name}; register an endpoint under endpoints/{name}/, until then it takes no requests, and a rule without another backend answers 503",
            name = target.name
        ),
    }
}

fn decrease<K: std::hash::Hash + Eq + std::borrow::Borrow<str>>(counts: &mut HashMap<K, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The hosts of a route; `*` for a route without hostnames, which serves every host.
fn hostnames(route: &Route) -> Vec<String> {
    let mut hosts: Vec<String> = route.hostnames.iter().map(|host| host.as_str().to_owned()).collect();
    hosts.sort();
    hosts.dedup();
    if hosts.is_empty() {
        hosts.push("*".to_owned());
    }
    hosts
}

fn references(parsed: &Resource) -> Vec<ResourceKey> {
    let unique: BTreeSet<ResourceKey> = match parsed {
        Resource::Route(route) => references_of_route(route).collect(),
        Resource::Listener(listener) => {
            listener.tls.iter().flat_map(|tls| &tls.certificates).map(|name| ResourceKey::new(Kind::Certificate, name.as_str())).collect()
        }
        Resource::Backend(_) | Resource::Certificate(_) | Resource::Endpoint(_) => BTreeSet::new(),
    };
    unique.into_iter().collect()
}

fn references_of_route(route: &Route) -> impl Iterator<Item = ResourceKey> {
    let listeners = route.listeners.iter().map(|name| ResourceKey::new(Kind::Listener, name.as_str()));
    let backends = route.rules.iter().flat_map(|rule| &rule.backend_refs).map(|target| ResourceKey::new(Kind::Backend, target.name.as_str()));
    listeners.chain(backends)
}

fn pattern_count(route: &Route) -> usize {
    route.rules.iter().map(|rule| patterns(rule).count()).sum()
}

/// Warnings about an accepted value that is probably not what the author wants.
fn warnings(parsed: &Resource, claims: &[Claimed]) -> Vec<String> {
    match parsed {
        Resource::Route(route) => [unmatchable(route), repeated(claims), weightless(route), growing(route)].concat(),
        Resource::Listener(listener) if listener.path_normalization == PathNormalization::None => {
            vec![
                "pathNormalization is None: other spellings of a path, such as /x/../internal, pass its rules by; rules are compared in their one spelling, so that \
                 none matches a path with //, dot segments or escapes in lower case"
                    .to_owned(),
            ]
        }
        Resource::Listener(_) | Resource::Backend(_) | Resource::Certificate(_) | Resource::Endpoint(_) => Vec::new(),
    }
}

/// Matches that no request can fulfil, at most three of them.
fn unmatchable(route: &Route) -> Vec<String> {
    let all = route.rules.iter().enumerate().flat_map(|(rule_at, rule)| rule.matches.iter().enumerate().map(move |(at, found)| ((rule_at, at), found)));
    let never = all.filter_map(|((rule, at), found)| Some(format!("rules[{rule}].matches[{at}]: {}", found.path.never_matches()?)));
    never.take(3).collect()
}

/// Matches that an earlier one of the same route has as well, at most three of them.
fn repeated(claims: &[Claimed]) -> Vec<String> {
    let mut first: HashMap<Claim, (usize, usize)> = HashMap::new();
    let mut found = BTreeSet::new();
    for claimed in claims {
        let place = *first.entry(claimed.claim).or_insert(claimed.place);
        if place != claimed.place {
            found.insert((claimed.place, place));
        }
    }
    let text = |(rule, at): (usize, usize)| format!("rules[{rule}].matches[{at}]");
    found.into_iter().take(3).map(|(place, by)| format!("{} is the same as {}, which takes its requests", text(place), text(by))).collect()
}

/// Rules whose backends all have weight 0, at most three of them.
fn weightless(route: &Route) -> Vec<String> {
    let rules =
        route.rules.iter().enumerate().filter(|(_, rule)| !rule.backend_refs.is_empty() && rule.backend_refs.iter().all(|target| target.weight.get() == 0));
    rules.take(3).map(|(at, _)| format!("rules[{at}]: every backend has weight 0, so that it answers 503")).collect()
}

/// Redirects whose target the same match takes again, longer each time; at most three of them.
fn growing(route: &Route) -> Vec<String> {
    let mut found = Vec::new();
    for (at, rule) in route.rules.iter().enumerate() {
        let redirects = rule.filters.iter().filter_map(|filter| match filter {
            Filter::RequestRedirect(Redirect { path: Some(PathRewrite::Prefix(to)), hostname: None, scheme: None, port: None, .. }) => {
                Some(to.trim_end_matches('/'))
            }
            _ => None,
        });
        for to in redirects {
            let grows = |found: &RouteMatch| matches!(&found.path, PathMatch::Prefix(prefix) if !to.is_empty() && to.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/')));
            if let Some(taken) = rule.matches.iter().position(grows) {
                found.push(format!("rules[{at}]: the redirect to {to:?} leads to paths that its matches[{taken}] takes again, longer each time"));
            }
        }
    }
    found.truncate(3);
    found
}

fn claims(name: &str, object: &Object, route: &Route) -> Vec<Claimed> {
    let order = object.decode::<serde::de::IgnoredAny>().map(|body| body.order).unwrap_or_default();
    let name: Arc<str> = name.into();
    let hosts: Vec<_> = if route.hostnames.is_empty() { vec![None] } else { route.hostnames.iter().map(Some).collect() };
    let listeners: Vec<Option<Arc<str>>> =
        if route.listeners.is_empty() { vec![None] } else { route.listeners.iter().map(|name| Some(name.as_str().into())).collect() };
    let any = [RouteMatch::default()];
    let mut claims = Vec::new();
    for (rule_at, rule) in route.rules.iter().enumerate() {
        let matches = if rule.matches.is_empty() { any.as_slice() } else { &rule.matches };
        for (match_at, found) in matches.iter().enumerate() {
            let rank = MatchRank::of(found, order, &name, (rule_at, match_at));
            let conditions = Conditions::of(found);
            for (host, listener) in hosts.iter().flat_map(|host| listeners.iter().map(move |listener| (*host, listener))) {
                claims.push(Claimed {
                    claim: conditions.on(listener.as_deref(), host),
                    narrow: listener.clone().map(|listener| (listener, conditions.on(None, host))),
                    rank: rank.clone(),
                    place: (rule_at, match_at),
                });
            }
        }
    }
    claims
}

//! Builds the next table from the changes. An invalid object keeps its last good form and affects no other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use waypost_model::lane::{Change, Lane};
use waypost_model::object::{LEVEL, Object};
use waypost_model::resource::{self, CertificateFiles, Route, RouteMatch};
use waypost_model::snapshot::Snapshot;
use waypost_wire::ObjectProblem;

use super::checks::{Checks, Judged};
use super::unreadable;
use super::{Backend, Candidate, Host, Hosts, ListenerConfig, Table, rule};
use crate::balance::{Balancer, Endpoint};
use crate::endpoint::{EndpointState, Peer, States};
use crate::inbound::Tls;
use crate::inbound::certificates::Certificates;
use crate::names::Names;

/// The name of the listener of `--listen`, which exists while no store has a listener.
const DEFAULT_LISTENER: &str = "default";

/// The kind of hostname that a match belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum HostKey {
    Exact(Arc<str>),
    Wildcard(Arc<str>),
    Any,
}

/// An endpoint with a host name: `host:port`, and its state.
type Named = (Arc<str>, Weak<EndpointState>);

/// The state from which the next table is built.
#[derive(Debug)]
pub struct Builder {
    name: String,
    labels: BTreeMap<String, String>,
    bind: Option<IpAddr>,
    listen: Option<std::net::SocketAddr>,
    config: Lane,
    membership: Lane,
    states: States,
    listeners: BTreeMap<String, resource::Listener>,
    /// TLS of the listeners that have it; it stays as long as they say the same, with the sessions that clients resume.
    tls: HashMap<String, Arc<Tls>>,
    certificates: BTreeMap<String, resource::Certificate>,
    /// Those that can be used.
    usable: Arc<Certificates>,
    /// Each route's matches, by host.
    routes: HashMap<String, Vec<(HostKey, Vec<Candidate>)>>,
    policies: HashMap<String, resource::Backend>,
    /// Endpoints by backend and id, built once: a backend may have thousands, of which one changes.
    endpoints: HashMap<String, BTreeMap<String, Endpoint>>,
    /// Suspect endpoints, as `BACKEND/ID`.
    suspects: BTreeSet<String>,
    /// The health of endpoints, and the assignment of probers.
    checks: Checks,
    /// Backends to rebuild although no object of them changed.
    turned: BTreeSet<String>,
    /// Routes per host, so that only changed hosts are sorted again.
    by_host: HashMap<HostKey, BTreeSet<String>>,
    hosts: Hosts,
    /// Held routes and listeners, which left their store, as `kind/name`.
    held: BTreeSet<String>,
    held_hosts: Hosts,
    backends: HashMap<Arc<str>, Arc<Backend>>,
    /// Endpoints with host names, by backend.
    named: HashMap<String, Vec<Named>>,
    problems: BTreeMap<String, ObjectProblem>,
    /// Paths of routes and backends that could never be read. They may need features that this proxy lacks, so their requests are refused.
    unreadable: BTreeSet<String>,
}

impl Builder {
    /// A builder for a proxy of this name with these labels. It binds all listeners on `bind` if given, and `listen` while no store has a
    /// listener.
    pub fn new(name: String, labels: BTreeMap<String, String>, bind: Option<IpAddr>, listen: Option<std::net::SocketAddr>) -> Self {
        Self {
            checks: Checks::new(name.clone()),
            turned: BTreeSet::new(),
            name,
            labels,
            bind,
            listen,
            config: Lane::default(),
            membership: Lane::default(),
            states: States::default(),
            listeners: BTreeMap::new(),
            tls: HashMap::new(),
            certificates: BTreeMap::new(),
            usable: Arc::default(),
            routes: HashMap::new(),
            policies: HashMap::new(),
            endpoints: HashMap::new(),
            suspects: BTreeSet::new(),
            by_host: HashMap::new(),
            hosts: Hosts::default(),
            held: BTreeSet::new(),
            held_hosts: Hosts::default(),
            backends: HashMap::new(),
            named: HashMap::new(),
            problems: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        }
    }

    /// A new builder of the same proxy, which has built nothing yet.
    pub fn anew(&self) -> Self {
        let mut new = Self::new(self.name.clone(), self.labels.clone(), self.bind, self.listen);
        new.usable = self.usable.clone();
        new.judge(self.checks.judged().clone());
        new
    }

    /// Sets the endpoint health that this proxy determined by itself while there is no leader to collect it. It takes effect with the next
    /// build.
    pub fn judge(&mut self, judged: Judged) {
        self.turned.extend(self.checks.judge(judged));
    }

    /// The health checks, as of the last build.
    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The objects that could not be used, as of the last build.
    pub fn problems(&self) -> Vec<ObjectProblem> {
        self.problems.values().cloned().collect()
    }

    /// The endpoints with host names, as of the last build.
    pub(crate) fn names(&self) -> Names {
        let mut names = Names::new();
        for (address, state) in self.named.values().flatten() {
            names.entry(address.clone()).or_default().push(state.clone());
        }
        names
    }

    /// Builds the table of a snapshot. Only the changes since the last one are processed.
    pub fn build(&mut self, snapshot: &Snapshot) -> Table {
        let mut dirty_hosts = HashSet::new();
        let mut dirty_backends = std::mem::take(&mut self.turned);
        let changes = self.config.changes_to(&snapshot.config).into_iter().chain(self.membership.changes_to(&snapshot.membership));
        for change in changes.collect::<Vec<_>>() {
            self.take(change, &mut dirty_hosts, &mut dirty_backends);
        }
        self.config = snapshot.config.clone();
        self.membership = snapshot.membership.clone();
        dirty_hosts.iter().for_each(|host| self.rebuild_host(host));
        dirty_backends.iter().for_each(|name| self.rebuild_backend(name));
        self.checks.settle();
        if !dirty_backends.is_empty() {
            self.states.sweep();
        }
        Table {
            version: snapshot.version,
            version_text: snapshot.version.to_string().into(),
            listeners: self.chosen_listeners(),
            backends: self.backends.clone(),
            hosts: self.hosts.clone(),
            held: self.held_hosts.clone(),
        }
    }

    fn take(&mut self, change: Change, hosts: &mut HashSet<HostKey>, backends: &mut BTreeSet<String>) {
        self.problems.remove(change.path());
        match change {
            Change::Put(object) => {
                if let Err((reason, message)) = self.put(&object, hosts, backends) {
                    self.refuse(&object, hosts, backends);
                    let problem = ObjectProblem { kind: object.kind().to_owned(), name: object.name().to_owned(), reason: reason.to_owned(), message };
                    self.problems.insert(object.path().to_owned(), problem);
                }
            }
            Change::Delete(path) => self.delete(&path, hosts, backends),
        }
    }

    fn put(&mut self, object: &Object, hosts: &mut HashSet<HostKey>, backends: &mut BTreeSet<String>) -> Result<(), (&'static str, String)> {
        if object.min_level() > LEVEL {
            return Err(("UnsupportedLevel", format!("this proxy has level {LEVEL}, the object needs {}; upgrade the proxy", object.min_level())));
        }
        let name = object.name().to_owned();
        let invalid = |message: String| ("Invalid", message);
        match object.kind() {
            "listener" => {
                let listener = object.decode::<resource::Listener>().map_err(invalid)?.spec;
                self.put_listener(name, listener).map_err(invalid)?;
            }
            "certificate" => drop(self.certificates.insert(name, object.decode::<resource::Certificate>().map_err(invalid)?.spec)),
            "route" => {
                let body = object.decode::<Route>().map_err(invalid)?;
                let matches = candidates(&name, body.order, &body.spec).map_err(invalid)?;
                self.put_route(name, matches, hosts);
                self.unreadable.remove(object.path());
            }
            "backend" => {
                self.policies.insert(name.clone(), object.decode::<resource::Backend>().map_err(invalid)?.spec);
                self.unreadable.remove(object.path());
                backends.insert(name);
            }
            "endpoint" => {
                let endpoint = object.decode::<resource::Endpoint>().map_err(invalid)?.spec;
                let (backend, id) = name.split_once('/').ok_or_else(|| invalid("an endpoint's name is BACKEND/ID".to_owned()))?;
                let state = self.states.of(backend, &endpoint.address);
                self.endpoints.entry(backend.to_owned()).or_default().insert(id.to_owned(), made(id, &endpoint, state));
                backends.insert(backend.to_owned());
            }
            "suspect" => {
                backends.extend(name.split_once('/').map(|(backend, _)| backend.to_owned()));
                self.suspects.insert(name);
            }
            "health" => {
                let healthy = object.decode::<resource::Health>().map_err(invalid)?.spec.healthy;
                backends.extend(name.split_once('/').map(|(backend, _)| backend.to_owned()));
                self.checks.shared(&name, healthy);
            }
            "held" => {
                hosts.extend(name.strip_prefix("route/").into_iter().flat_map(|route| self.hosts_of(route)));
                self.held.insert(name);
            }
            "prober" => self.checks.prober(name, object.decode::<resource::Prober>().map_err(invalid)?.spec.zone),
            // A kind of a newer release: nothing that this proxy serves depends on it.
            _ => {}
        }
        Ok(())
    }

    fn put_listener(&mut self, name: String, listener: resource::Listener) -> Result<(), String> {
        match &listener.tls {
            Some(terms) if self.tls.get(&name).is_some_and(|tls| tls.terms() == terms) => {}
            Some(terms) => {
                let tls = Tls::new(terms.clone(), self.usable.clone()).map_err(|error| error.to_string())?;
                self.tls.insert(name.clone(), Arc::new(tls));
            }
            None => drop(self.tls.remove(&name)),
        }
        self.listeners.insert(name, listener);
        Ok(())
    }

    /// The certificates that can be used, which handshakes look at.
    pub(crate) const fn usable_certificates(&self) -> &Arc<Certificates> {
        &self.usable
    }

    /// The files of the certificates that these listeners name.
    pub(crate) fn certificate_files(&self, listeners: &HashMap<Arc<str>, Arc<ListenerConfig>>) -> BTreeMap<Arc<str>, CertificateFiles> {
        let named = listeners.values().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.terms().certificates);
        named.filter_map(|name| Some((name.as_str().into(), self.certificates.get(name.as_str())?.files.clone()))).collect()
    }

    fn put_route(&mut self, name: String, matches: Vec<(HostKey, Vec<Candidate>)>, hosts: &mut HashSet<HostKey>) {
        self.forget_route(&name, hosts);
        for (host, _) in &matches {
            hosts.insert(host.clone());
            self.by_host.entry(host.clone()).or_default().insert(name.clone());
        }
        self.routes.insert(name, matches);
    }

    /// Makes an unreadable object without a last good form let no request through.
    fn refuse(&mut self, object: &Object, hosts: &mut HashSet<HostKey>, backends: &mut BTreeSet<String>) {
        let name = object.name().to_owned();
        let path = object.path();
        match object.kind() {
            "route" if !self.routes.contains_key(&name) || self.unreadable.contains(path) => {
                let body = unreadable::refusing(object);
                let matches = body.and_then(|body| candidates(&name, body.order, &body.spec).ok()).unwrap_or_default();
                self.put_route(name, matches, hosts);
                self.unreadable.insert(path.to_owned());
            }
            "backend" if !self.policies.contains_key(&name) => {
                self.unreadable.insert(path.to_owned());
                backends.insert(name);
            }
            _ => {}
        }
    }

    fn delete(&mut self, path: &str, hosts: &mut HashSet<HostKey>, backends: &mut BTreeSet<String>) {
        let Some((kind, name)) = path.split_once('/') else { return };
        self.unreadable.remove(path);
        match kind {
            "listener" => {
                self.listeners.remove(name);
                self.tls.remove(name);
            }
            "certificate" => drop(self.certificates.remove(name)),
            "route" => self.forget_route(name, hosts),
            "backend" => {
                self.policies.remove(name);
                backends.insert(name.to_owned());
            }
            "suspect" => {
                backends.extend(name.split_once('/').map(|(backend, _)| backend.to_owned()));
                self.suspects.remove(name);
            }
            "health" => {
                backends.extend(name.split_once('/').map(|(backend, _)| backend.to_owned()));
                self.checks.shared(name, true);
            }
            "held" if self.held.remove(name) => hosts.extend(name.strip_prefix("route/").into_iter().flat_map(|route| self.hosts_of(route))),
            "prober" => self.checks.no_prober(name),
            "endpoint" => {
                let Some((backend, id)) = name.split_once('/') else { return };
                if let Some(endpoints) = self.endpoints.get_mut(backend) {
                    endpoints.remove(id);
                    if endpoints.is_empty() {
                        self.endpoints.remove(backend);
                    }
                }
                backends.insert(backend.to_owned());
            }
            _ => {}
        }
    }

    fn forget_route(&mut self, name: &str, hosts: &mut HashSet<HostKey>) {
        for (host, _) in self.routes.remove(name).into_iter().flatten() {
            if let Some(names) = self.by_host.get_mut(&host) {
                names.remove(name);
                if names.is_empty() {
                    self.by_host.remove(&host);
                }
            }
            hosts.insert(host);
        }
    }

    /// The hosts that a route has matches for.
    fn hosts_of(&self, route: &str) -> Vec<HostKey> {
        self.routes.get(route).into_iter().flatten().map(|(host, _)| host.clone()).collect()
    }

    fn rebuild_host(&mut self, host: &HostKey) {
        let (held, written): (Vec<_>, Vec<_>) = self.by_host.get(host).into_iter().flatten().partition(|name| self.held.contains(&format!("route/{name}")));
        let of = |names: Vec<&String>| {
            let matches = names.into_iter().filter_map(|name| self.routes.get(name)).flatten().filter(|(key, _)| key == host);
            Arc::new(Host::new(matches.flat_map(|(_, candidates)| candidates).cloned().collect()))
        };
        let (written, held) = (of(written), of(held));
        self.hosts.set(host, written);
        self.held_hosts.set(host, held);
    }

    fn rebuild_backend(&mut self, name: &str) {
        let policy = self.policies.get(name).cloned();
        let members = self.endpoints.get(name);
        self.named.remove(name);
        if policy.is_none() && (members.is_none() || self.unreadable.contains(&format!("backend/{name}"))) {
            self.backends.remove(name);
            self.checks.set(name, Vec::new());
            return;
        }
        let policy = policy.unwrap_or_default();
        let (suspects, checks) = (&self.suspects, &self.checks);
        let endpoint = |(id, made): (&String, &Endpoint)| {
            let suspect = !suspects.is_empty() && suspects.contains(&format!("{name}/{id}"));
            if !suspect {
                made.state.include_suspect();
            }
            Endpoint { suspect, unhealthy: checks.is_unhealthy(name, id), ..made.clone() }
        };
        let endpoints: Vec<Endpoint> = members.into_iter().flatten().map(endpoint).collect();
        let names = endpoints.iter().filter(|endpoint| endpoint.peer.is_none());
        let names: Vec<_> = names.map(|endpoint| (endpoint.address.clone(), Arc::downgrade(&endpoint.state))).collect();
        if !names.is_empty() {
            self.named.insert(name.to_owned(), names);
        }
        let balancer = Balancer::new(&endpoints, policy.balancing, policy.health_check.as_ref(), self.states.turn(name));
        self.checks.set(name, policy.health_check.map(|check| super::checks::of_backend(name, check, &endpoints)).unwrap_or_default());
        self.backends.insert(name.into(), Arc::new(Backend { endpoints, balancer, timeouts: policy.timeouts, ejects: policy.outlier_detection.enabled }));
    }

    /// The listeners whose labels this proxy has; that of `--listen` while no store has a listener.
    fn chosen_listeners(&self) -> HashMap<Arc<str>, Arc<ListenerConfig>> {
        let config = |name: &str, listener: &resource::Listener| {
            let (name, address): (Arc<str>, _) = (name.into(), listener.address.get());
            let address = self.bind.map_or(address, |ip| std::net::SocketAddr::new(ip, address.port()));
            let config = ListenerConfig {
                tls: self.tls.get(&*name).cloned(),
                name: name.clone(),
                address,
                explicit_only: listener.explicit_only,
                trusted: listener.trusted_proxies.clone(),
                paths: listener.path_normalization,
            };
            (name, Arc::new(config))
        };
        if let (true, Some(address)) = (self.listeners.is_empty(), self.listen) {
            return HashMap::from([config(DEFAULT_LISTENER, &resource::Listener::at(address.into()))]);
        }
        let mine = |listener: &resource::Listener| listener.proxies.iter().all(|(key, value)| self.labels.get(key) == Some(value));
        let chosen = self.listeners.iter().filter(|(_, listener)| mine(listener)).map(|(name, listener)| config(name, listener));
        // The controller lets held listeners give way to written ones of their address; with `--bind` more of them have the same.
        let (held, written): (Vec<_>, Vec<_>) = chosen.partition(|(name, _)| self.held.contains(&format!("listener/{name}")));
        let written_addresses: HashSet<_> = written.iter().map(|(_, listener)| listener.address).collect();
        held.into_iter().filter(|(_, listener)| !written_addresses.contains(&listener.address)).chain(written).collect()
    }
}

/// An endpoint without any marks.
fn made(id: &str, spec: &resource::Endpoint, state: Arc<EndpointState>) -> Endpoint {
    Endpoint {
        id: id.into(),
        address: spec.address.as_str().into(),
        peer: spec.address.socket().map(Peer::new),
        weight: spec.weight.get(),
        zone: spec.zone.as_deref().map(Into::into),
        drain: spec.drain,
        suspect: false,
        unhealthy: false,
        state,
    }
}

impl Hosts {
    /// Sets the matches of a host, or removes the host if it has none.
    fn set(&mut self, key: &HostKey, host: Arc<Host>) {
        let (map, name) = match key {
            HostKey::Exact(name) => (&mut self.exact, name),
            HostKey::Wildcard(suffix) => (&mut self.wildcards, suffix),
            HostKey::Any => {
                self.any = host;
                return;
            }
        };
        if host.candidates().is_empty() {
            map.remove(name);
        } else {
            map.insert(name.clone(), host);
        }
    }
}

/// A route's compiled matches, by host.
fn candidates(name: &str, order: usize, route: &Route) -> Result<Vec<(HostKey, Vec<Candidate>)>, String> {
    let route_name: Arc<str> = name.into();
    let listeners: Arc<BTreeSet<Arc<str>>> = Arc::new(route.listeners.iter().map(|name| name.as_str().into()).collect());
    let mut all = Vec::new();
    for (rule_at, rule) in route.rules.iter().enumerate() {
        let any = [RouteMatch::default()];
        let matches = if rule.matches.is_empty() { any.as_slice() } else { &rule.matches };
        for pattern in waypost_model::order::patterns(rule) {
            pattern.compile()?;
        }
        let compiled = Arc::new(rule::compile((&route_name, rule_at), &listeners, rule)?);
        for (match_at, found) in matches.iter().enumerate() {
            all.push(Candidate {
                rank: waypost_model::order::MatchRank::of(found, order, &route_name, (rule_at, match_at)),
                found: Arc::new(found.clone()),
                rule: compiled.clone(),
            });
        }
    }
    let key = |host: &waypost_model::value::Hostname| match host.wildcard_suffix() {
        Some(suffix) => HostKey::Wildcard(suffix.into()),
        None => HostKey::Exact(host.as_str().into()),
    };
    let hosts: BTreeMap<String, HostKey> = route.hostnames.iter().map(|host| (host.as_str().to_owned(), key(host))).collect();
    if hosts.is_empty() {
        return Ok(vec![(HostKey::Any, all)]);
    }
    Ok(hosts.into_values().map(|host| (host, all.clone())).collect())
}

#[cfg(test)]
mod tests;

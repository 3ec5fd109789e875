//! Which endpoints can take requests, as far as is known here, and which of them are this proxy's own to probe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::probing::Fleet;
use waypost_model::resource::HealthCheck;

use crate::balance::Endpoint;
use crate::endpoint::{EndpointState, Peer};

/// What this proxy found out by itself, by `BACKEND/ID`: whether an endpoint can take requests.
pub type Judged = Arc<BTreeMap<Arc<str>, bool>>;

/// An endpoint that is probed.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// `BACKEND/ID`.
    pub(crate) name: Arc<str>,
    /// `host:port`.
    pub(crate) address: Arc<str>,
    /// The same as a socket's address, unless the host is a name.
    pub(crate) peer: Option<Peer>,
    /// Where its name leads, if it is one.
    pub(crate) state: Arc<EndpointState>,
    zone: Option<Arc<str>>,
    /// How it is probed.
    pub(crate) how: Arc<HealthCheck>,
    /// Whether it is this proxy's own to probe.
    pub(crate) mine: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// This proxy's name.
    name: String,
    /// Those that their probers agree on taking out.
    unhealthy: BTreeSet<String>,
    judged: Judged,
    probers: BTreeMap<String, Option<String>>,
    fleet: Fleet,
    /// Proxies that probe came or went since the last build.
    moved: bool,
    /// Backends that changed since the last build.
    fresh: BTreeSet<String>,
    by_backend: BTreeMap<String, Arc<Vec<Check>>>,
}

impl Checks {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// What the probers of an endpoint agree on.
    pub(super) fn shared(&mut self, endpoint: &str, healthy: bool) {
        if healthy {
            self.unhealthy.remove(endpoint);
        } else {
            self.unhealthy.insert(endpoint.to_owned());
        }
    }

    pub(super) fn prober(&mut self, name: String, zone: Option<String>) {
        self.probers.insert(name, zone);
        self.moved = true;
    }

    pub(super) fn no_prober(&mut self, name: &str) {
        self.probers.remove(name);
        self.moved = true;
    }

    /// What this proxy found out by itself, while that counts.
    pub(super) const fn judged(&self) -> &Judged {
        &self.judged
    }

    /// Takes what this proxy found out by itself; returns the backends for which that is something else than before.
    pub(super) fn judge(&mut self, judged: Judged) -> BTreeSet<String> {
        let before = std::mem::replace(&mut self.judged, judged);
        let differs = |one: &BTreeMap<Arc<str>, bool>, other: &BTreeMap<Arc<str>, bool>| {
            let names = one.iter().filter(|(name, healthy)| other.get(*name) != Some(healthy));
            names.filter_map(|(name, _)| Some(name.split_once('/')?.0.to_owned())).collect::<Vec<_>>()
        };
        differs(&before, &self.judged).into_iter().chain(differs(&self.judged, &before)).collect()
    }

    /// Whether an endpoint cannot take requests: what was found out here comes before what is published.
    pub(super) fn is_unhealthy(&self, backend: &str, id: &str) -> bool {
        if self.judged.is_empty() && self.unhealthy.is_empty() {
            return false;
        }
        let name = format!("{backend}/{id}");
        self.judged.get(name.as_str()).map_or_else(|| self.unhealthy.contains(&name), |healthy| !healthy)
    }

    /// What is to be probed of a backend.
    pub(super) fn set(&mut self, backend: &str, checks: Vec<Check>) {
        if checks.is_empty() {
            self.by_backend.remove(backend);
        } else {
            self.by_backend.insert(backend.to_owned(), Arc::new(checks));
            self.fresh.insert(backend.to_owned());
        }
    }

    /// Works out what is this proxy's own to probe, where that may have changed.
    pub(super) fn settle(&mut self) {
        let (moved, fresh) = (std::mem::take(&mut self.moved), std::mem::take(&mut self.fresh));
        if !moved && fresh.is_empty() {
            return;
        }
        if moved {
            self.fleet = Fleet::new(self.probers.clone());
        }
        for (backend, checks) in &mut self.by_backend {
            if !moved && !fresh.contains(backend) {
                continue;
            }
            let mine = |check: &Check| self.fleet.probers(&check.name, check.zone.as_deref(), check.how.probers).contains(&self.name.as_str());
            *checks = Arc::new(checks.iter().map(|check| Check { mine: mine(check), ..check.clone() }).collect());
        }
    }

    /// What is to be probed, by backend.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<Vec<Check>>> {
        self.by_backend.clone()
    }
}

/// The checks of a backend's endpoints; what drains takes no new requests, whether it could or not.
pub(super) fn of_backend(backend: &str, how: HealthCheck, endpoints: &[Endpoint]) -> Vec<Check> {
    let how = Arc::new(how);
    let check = |endpoint: &Endpoint| Check {
        name: format!("{backend}/{}", endpoint.id).into(),
        address: endpoint.address.clone(),
        peer: endpoint.peer.clone(),
        state: endpoint.state.clone(),
        zone: endpoint.zone.clone(),
        how: how.clone(),
        mine: false,
    };
    endpoints.iter().filter(|endpoint| !endpoint.drain).map(check).collect()
}

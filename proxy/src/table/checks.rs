//! The health of endpoints, and which of them this proxy probes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::probing::Fleet;
use waypost_model::resource::HealthCheck;

use crate::balance::Endpoint;
use crate::endpoint::{EndpointState, Peer};

/// Endpoint health that this proxy determined by itself: by `BACKEND/ID`, whether the endpoint can take requests.
pub type Judged = Arc<BTreeMap<Arc<str>, bool>>;

/// An endpoint that is probed.
#[derive(Debug, Clone)]
pub(crate) struct Check {
    /// `BACKEND/ID`.
    pub(crate) name: Arc<str>,
    /// `host:port`.
    pub(crate) address: Arc<str>,
    /// The address as a socket address; `None` if the host is a name.
    pub(crate) peer: Option<Peer>,
    /// The endpoint's state, which has the resolved addresses of a host name.
    pub(crate) state: Arc<EndpointState>,
    zone: Option<Arc<str>>,
    /// The health check of its backend.
    pub(crate) how: Arc<HealthCheck>,
    /// Whether this proxy probes it for all proxies.
    pub(crate) mine: bool,
}

/// All health checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// This proxy's name.
    name: String,
    /// Endpoints that are unhealthy by the shared verdict of their probers.
    unhealthy: BTreeSet<String>,
    judged: Judged,
    probers: BTreeMap<String, Option<String>>,
    fleet: Fleet,
    /// Whether probing proxies joined or left since the last build.
    moved: bool,
    /// Backends that changed since the last build.
    fresh: BTreeSet<String>,
    by_backend: BTreeMap<String, Arc<Vec<Check>>>,
}

impl Checks {
    pub(super) fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// Sets the shared verdict of an endpoint's probers.
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

    /// Endpoint health that this proxy determined by itself; empty while the shared verdicts count.
    pub(super) const fn judged(&self) -> &Judged {
        &self.judged
    }

    /// Sets the endpoint health that this proxy determined by itself; returns the backends for which it changed.
    pub(super) fn judge(&mut self, judged: Judged) -> BTreeSet<String> {
        let before = std::mem::replace(&mut self.judged, judged);
        let differs = |one: &BTreeMap<Arc<str>, bool>, other: &BTreeMap<Arc<str>, bool>| {
            let names = one.iter().filter(|(name, healthy)| other.get(*name) != Some(healthy));
            names.filter_map(|(name, _)| Some(name.split_once('/')?.0.to_owned())).collect::<Vec<_>>()
        };
        differs(&before, &self.judged).into_iter().chain(differs(&self.judged, &before)).collect()
    }

    /// Whether an endpoint cannot take requests: this proxy's own result takes precedence over the shared verdict.
    pub(super) fn is_unhealthy(&self, backend: &str, id: &str) -> bool {
        if self.judged.is_empty() && self.unhealthy.is_empty() {
            return false;
        }
        let name = format!("{backend}/{id}");
        self.judged.get(name.as_str()).map_or_else(|| self.unhealthy.contains(&name), |healthy| !healthy)
    }

    /// Sets the health checks of a backend.
    pub(super) fn set(&mut self, backend: &str, checks: Vec<Check>) {
        if checks.is_empty() {
            self.by_backend.remove(backend);
        } else {
            self.by_backend.insert(backend.to_owned(), Arc::new(checks));
            self.fresh.insert(backend.to_owned());
        }
    }

    /// Determines which endpoints this proxy probes, where that may have changed.
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

    /// The health checks of all endpoints, by backend.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<Vec<Check>>> {
        self.by_backend.clone()
    }
}

/// The health checks of a backend's endpoints. Draining endpoints take no new requests, so they are not probed.
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

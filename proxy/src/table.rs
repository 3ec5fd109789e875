//! The routing table: what a request needs, and nothing that it would have to parse.

mod build;
mod checks;
mod host;
mod index;
mod rule;
mod unreadable;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use waypost_model::resource::{BackendTimeouts, PathNormalization, TrustedNetwork};
use waypost_model::snapshot::Version;

pub use build::Builder;
pub(crate) use checks::Check;
pub use checks::Judged;
pub use host::{Candidate, Host, Request};
pub use rule::{Action, CompiledRule, HeaderChanges, PathChange, RedirectTo, Target};

use crate::balance::{Balancer, Endpoint};

/// Everything that is served, of one version.
#[derive(Debug, Default)]
pub struct Table {
    /// The version it was built from.
    pub version: Version,
    /// The version as a header value's text.
    pub version_text: Arc<str>,
    /// The listeners that this proxy binds, by name.
    pub listeners: HashMap<Arc<str>, Arc<ListenerConfig>>,
    /// Backends by name.
    pub backends: HashMap<Arc<str>, Arc<Backend>>,
    /// What is written.
    hosts: Hosts,
    /// What left its store and is held: it takes the requests that nothing written takes.
    held: Hosts,
}

/// Hosts by name, by wildcard suffix, and the one for every host.
#[derive(Debug, Default, Clone)]
struct Hosts {
    exact: HashMap<Arc<str>, Arc<Host>>,
    wildcards: HashMap<Arc<str>, Arc<Host>>,
    any: Arc<Host>,
}

/// A listener as it is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is bound.
    pub address: SocketAddr,
    /// Only routes that name it are served.
    pub explicit_only: bool,
    /// Proxies in front whose forwarding headers are believed.
    pub trusted: Vec<TrustedNetwork>,
    /// How paths are compared with those of rules.
    pub paths: PathNormalization,
}

/// A backend with what may take requests.
#[derive(Debug, Default)]
pub struct Backend {
    /// All its endpoints, the draining ones included.
    pub endpoints: Vec<Endpoint>,
    /// Those that take requests.
    pub balancer: Balancer,
    /// Time-outs towards them.
    pub timeouts: BackendTimeouts,
    /// Whether endpoints whose attempts fail are taken out for a while.
    pub ejects: bool,
}

impl Table {
    /// What now stands for the listener that accepted a connection: the one that has its socket, whatever it is called
    /// by now, else the one of its name; of a listener that is gone, what it was.
    pub fn listener_of<'a>(&'a self, accepted: &'a Arc<ListenerConfig>) -> &'a Arc<ListenerConfig> {
        let named = self.listeners.get(&accepted.name);
        let holds = |listener: &&Arc<ListenerConfig>| listener.address == accepted.address;
        named.filter(holds).or_else(|| self.listeners.values().find(holds)).or(named).unwrap_or(accepted)
    }

    /// The rule for a request: the most specific hostname that has a match, then the first match in order; of what is held only
    /// where nothing written matches.
    pub fn find(&self, request: &Request<'_>) -> Option<&Arc<CompiledRule>> {
        self.hosts.find(request).or_else(|| self.held.find(request))
    }
}

impl Hosts {
    fn find(&self, request: &Request<'_>) -> Option<&Arc<CompiledRule>> {
        let exact = self.exact.get(request.host).and_then(|found| found.find(request));
        exact.or_else(|| self.find_wildcard(request)).or_else(|| self.any.find(request))
    }

    fn find_wildcard(&self, request: &Request<'_>) -> Option<&Arc<CompiledRule>> {
        if self.wildcards.is_empty() {
            return None;
        }
        let suffixes = request.host.match_indices('.').filter_map(|(at, _)| request.host.get(at + 1..));
        suffixes.filter_map(|suffix| self.wildcards.get(suffix)).find_map(|found| found.find(request))
    }
}

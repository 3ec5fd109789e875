//! The routing table: everything that a request needs, in parsed form.

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
pub use host::{Candidate, Fields, Host, Request};
pub(crate) use rule::rewritten;
pub use rule::{Action, CompiledRule, HeaderChanges, RedirectTo, Target};

use crate::balance::{Balancer, Endpoint};
use crate::inbound::Tls;

/// All resources of one version, ready to serve.
#[derive(Debug, Default)]
pub struct Table {
    /// The version it was built from.
    pub version: Version,
    /// The version as text, for the response header.
    pub version_text: Arc<str>,
    /// The listeners that this proxy binds, by name.
    pub listeners: HashMap<Arc<str>, Arc<ListenerConfig>>,
    /// Backends by name.
    pub backends: HashMap<Arc<str>, Arc<Backend>>,
    /// The routes that are in a store.
    hosts: Hosts,
    /// Held routes, which left their store: they take only requests that match no route in a store.
    held: Hosts,
}

/// Hosts by name, by wildcard suffix, and the one for every host.
#[derive(Debug, Default, Clone)]
struct Hosts {
    exact: HashMap<Arc<str>, Arc<Host>>,
    wildcards: HashMap<Arc<str>, Arc<Host>>,
    any: Arc<Host>,
}

/// A listener with its settings for this proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The address that it binds.
    pub address: SocketAddr,
    /// Whether only routes that name it are served.
    pub explicit_only: bool,
    /// Trusted proxies in front of it, whose forwarding headers are used.
    pub trusted: Vec<TrustedNetwork>,
    /// How paths are compared with those of rules.
    pub paths: PathNormalization,
    /// TLS, if clients speak it.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// A backend with its balancer.
#[derive(Debug, Default)]
pub struct Backend {
    /// All endpoints, including draining ones.
    pub endpoints: Vec<Endpoint>,
    /// The balancer over the endpoints that take requests.
    pub balancer: Balancer,
    /// Time-outs for its endpoints.
    pub timeouts: BackendTimeouts,
    /// Whether outlier detection ejects endpoints.
    pub ejects: bool,
}

impl Table {
    /// The current settings of the listener that accepted a connection: those of the listener that has its socket, under any name,
    /// otherwise those of the listener of its name. If the listener was removed, its last settings.
    pub fn listener_of<'a>(&'a self, accepted: &'a Arc<ListenerConfig>) -> &'a Arc<ListenerConfig> {
        let named = self.listeners.get(&accepted.name);
        let holds = |listener: &&Arc<ListenerConfig>| listener.address == accepted.address;
        named.filter(holds).or_else(|| self.listeners.values().find(holds)).or(named).unwrap_or(accepted)
    }

    /// The match for a request, with its rule: the most specific hostname with a match, then the first match in order. Held routes are searched only if no
    /// route in a store matches. What is found counts only if the request's [`Work`](waypost_model::resource::Work) sufficed.
    pub fn find(&self, request: &Request<'_>) -> Option<&Candidate> {
        self.hosts.find(request).or_else(|| self.held.find(request))
    }
}

impl Hosts {
    fn find(&self, request: &Request<'_>) -> Option<&Candidate> {
        let exact = self.exact.get(request.host).and_then(|found| found.find(request));
        exact.or_else(|| self.find_wildcard(request)).or_else(|| self.any.find(request))
    }

    fn find_wildcard(&self, request: &Request<'_>) -> Option<&Candidate> {
        if self.wildcards.is_empty() {
            return None;
        }
        let suffixes = request.host.match_indices('.').filter_map(|(at, _)| request.host.get(at + 1..));
        suffixes.filter_map(|suffix| self.wildcards.get(suffix)).find_map(|found| found.find(request))
    }
}

//! The types of the values under each kind of key. Every type is valid by construction.
//!
//! Deserializing ignores unknown fields, because an object of a newer controller must be readable. [`crate::parse`] refuses unknown fields
//! in the values that people write.

mod backend;
mod certificate;
mod endpoint;
mod filter;
mod health;
mod listener;
mod matching;
mod optional;
mod pattern;
mod removals;
mod route;

use crate::key::Kind;

pub use backend::{Backend, BackendTimeouts, Balancing, OutlierDetection};
pub use certificate::{Certificate, CertificateFiles, FilePath};
pub use endpoint::{Endpoint, Weight};
pub use filter::{Filter, FixedResponse, HeaderModifier, HeaderPair, PathRewrite, Redirect, Scheme, UrlRewrite};
pub use health::{CheckType, Fitness, Health, HealthCheck, Prober};
pub use listener::{Listener, ListenerTls, MinVersion, PathNormalization, Protocol, StrictTransport, TrustedNetwork};
pub use matching::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};
pub use pattern::{Pattern, Work};
pub use removals::BackendGuard;
pub use route::{BackendRef, Route, RouteTimeouts, Rule};

/// A parsed value of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// An address that proxies bind.
    Listener(Listener),
    /// Hostnames and rules.
    Route(Route),
    /// The policy of a set of endpoints.
    Backend(Backend),
    /// What HTTPS listeners show to clients.
    Certificate(Certificate),
    /// One address of a backend.
    Endpoint(Endpoint),
}

impl Resource {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Listener,
            Self::Route(_) => Kind::Route,
            Self::Backend(_) => Kind::Backend,
            Self::Certificate(_) => Kind::Certificate,
            Self::Endpoint(_) => Kind::Endpoint,
        }
    }
}

#[cfg(test)]
mod tests;

//! Listeners: the addresses that proxies bind.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::BindAddress;

/// An address and protocol that proxies bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a listener, such as {\"address\":\"0.0.0.0:80\",\"protocol\":\"HTTP\"}")]
pub struct Listener {
    /// Where to listen: `IPv4:port` or `[IPv6]:port`.
    pub address: BindAddress,
    /// The protocol that clients speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// Labels that a proxy must have to bind this listener; none means every proxy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub proxies: BTreeMap<String, String>,
    /// Only routes that name this listener are served on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub explicit_only: bool,
    /// Networks of proxies in front of this one whose X-Forwarded-* and Forwarded headers are trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<TrustedNetwork>,
    /// Whether paths are compared in one spelling. `None` compares and sends them as received, so that `/x/../internal` and `/%69nternal`
    /// bypass a rule for `/internal`: only for services that need it and protect themselves.
    #[serde(default, skip_serializing_if = "PathNormalization::is_default")]
    pub path_normalization: PathNormalization,
}

impl Listener {
    /// A listener with nothing but an address.
    pub const fn at(address: BindAddress) -> Self {
        Self {
            address,
            protocol: Protocol::Http,
            proxies: BTreeMap::new(),
            explicit_only: false,
            trusted_proxies: Vec::new(),
            path_normalization: PathNormalization::Standard,
        }
    }
}

/// How paths of requests are compared with those of rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathNormalization {
    /// Dot segments are resolved, and all spellings of a path are compared as one.
    #[default]
    Standard,
    /// Paths are compared as received.
    None,
}

impl PathNormalization {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
}

/// A network in CIDR form, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustedNetwork(IpNet);

impl TrustedNetwork {
    /// Whether `address` lies inside; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl TryFrom<String> for TrustedNetwork {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
            .map(Self)
            .map_err(|_| format!("{text:?} is not a network; write it as in \"10.0.0.0/8\" or \"fd00::/8\""))
    }
}

impl From<TrustedNetwork> for String {
    fn from(network: TrustedNetwork) -> Self {
        network.0.to_string()
    }
}

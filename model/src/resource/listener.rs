//! Listeners: the addresses that proxies bind.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::value::{BindAddress, Name};

/// An address and protocol that proxies bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a listener, such as {\"address\":\"0.0.0.0:80\",\"protocol\":\"HTTP\"}")]
pub struct Listener {
    /// Where to listen: `IPv4:port` or `[IPv6]:port`.
    pub address: BindAddress,
    /// The protocol that clients speak.
    #[serde(default)]
    pub protocol: Protocol,
    /// What an HTTPS listener shows to clients; only with the protocol `HTTPS`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<ListenerTls>")]
    pub tls: Option<ListenerTls>,
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
            tls: None,
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
    /// HTTP in clear text.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP over TLS.
    #[serde(rename = "HTTPS")]
    Https,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "TLS of a listener, such as {\"certificates\":[\"shop\"]}")]
pub struct ListenerTls {
    /// Names of `certificates/NAME`. A client gets the one that is for the name it asks for, by a name or a wildcard; the first one in the list if none
    /// is, or if it asks for no name.
    pub certificates: Vec<Name>,
    /// The lowest version that is spoken. Ciphers are those of Mozilla's intermediate configuration.
    #[serde(default, skip_serializing_if = "MinVersion::is_default")]
    pub min_version: MinVersion,
    /// Strict-Transport-Security in every response (RFC 6797); absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<StrictTransport>")]
    pub hsts: Option<StrictTransport>,
}

/// The lowest version of TLS that a listener speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

impl MinVersion {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The content of Strict-Transport-Security: how browsers reach the host from then on (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "hsts, such as {\"maxAge\":\"8760h\"}")]
pub struct StrictTransport {
    /// For how long they use HTTPS only.
    pub max_age: Duration,
    /// Whether that is so for all names below the host as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_subdomains: bool,
    /// Whether the host may be built into browsers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preload: bool,
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

//! Routes: which requests go to which backends.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{Weight, is_one, one};
use super::filter::Filter;
use super::matching::RouteMatch;
use crate::duration::Duration;
use crate::value::{Hostname, Name, UpgradeProtocol};

/// Hostnames and rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a route, such as {\"hostnames\":[\"shop.example.com\"],\"rules\":[{\"backendRefs\":[{\"name\":\"shop\"}]}]}")]
pub struct Route {
    /// The listeners that serve it; all but the `explicitOnly` ones if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Name>,
    /// The hosts it serves; every host if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Hostname>,
    /// The rules. The most specific match wins, not the first.
    pub rules: Vec<Rule>,
}

/// What happens to the requests that match a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "WrittenRule")]
#[schemars(with = "WrittenRule")]
pub struct Rule {
    /// A request matches if it fulfils any of these; every request matches if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RouteMatch>,
    /// The filters, at most one of each type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filter>,
    /// The backends that take the requests, in proportion to the weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<BackendRef>,
    /// Time-outs of this rule; the backend's own if absent.
    #[serde(skip_serializing_if = "RouteTimeouts::is_none")]
    pub timeouts: RouteTimeouts,
    /// Protocols that a connection may switch to by an `Upgrade` header. Other upgrades are removed from the request, which is then served
    /// without.
    #[serde(skip_serializing_if = "is_default_upgrades")]
    pub upgrades: Vec<UpgradeProtocol>,
}

/// The written form of a rule.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a rule, such as {\"backendRefs\":[{\"name\":\"shop\"}]}")]
struct WrittenRule {
    /// A request matches if it fulfils any of these; every request matches if absent.
    #[serde(default)]
    matches: Vec<RouteMatch>,
    /// The filters, at most one of each type.
    #[serde(default)]
    filters: Vec<Filter>,
    /// The backends that take the requests, in proportion to the weights.
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    /// Time-outs of this rule; the backend's own if absent.
    #[serde(default)]
    timeouts: RouteTimeouts,
    /// Protocols that a connection may switch to by an `Upgrade` header, such as `websocket` (the default, alone) or `SPDY/3.1`. Other
    /// upgrades are removed from the request, which is then served without.
    #[serde(default = "default_upgrades")]
    upgrades: Vec<UpgradeProtocol>,
}

/// The default: WebSocket alone.
fn default_upgrades() -> Vec<UpgradeProtocol> {
    UpgradeProtocol::try_from("websocket".to_owned()).into_iter().collect()
}

fn is_default_upgrades(upgrades: &Vec<UpgradeProtocol>) -> bool {
    *upgrades == default_upgrades()
}

impl Rule {
    /// Whether a proxy that ignores `upgrades` would let through an upgrade that the rule does not allow.
    pub fn restricts_upgrades(&self) -> bool {
        !is_default_upgrades(&self.upgrades)
    }
}

impl TryFrom<WrittenRule> for Rule {
    type Error = String;

    fn try_from(written: WrittenRule) -> Result<Self, String> {
        let answering = written.filters.iter().filter(|filter| filter.answers()).count();
        if answering > 1 {
            return Err("the rule has two filters that answer; keep one RequestRedirect or FixedResponse".to_owned());
        }
        if answering == 1 && !written.backend_refs.is_empty() {
            return Err("the rule has backendRefs and a filter that answers by itself; take one of them out".to_owned());
        }
        if answering == 0 && written.backend_refs.is_empty() {
            return Err("the rule goes nowhere; write backendRefs, or a filter of type RequestRedirect or FixedResponse".to_owned());
        }
        let WrittenRule { matches, filters, backend_refs, timeouts, upgrades } = written;
        Ok(Self { matches, filters, backend_refs, timeouts, upgrades })
    }
}

/// A backend and its share of a rule's requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a backend reference, such as {\"name\":\"shop\",\"weight\":9}")]
pub struct BackendRef {
    /// The backend's name.
    pub name: Name,
    /// Share relative to the rule's other references; 0 takes none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: Weight,
}

/// Time-outs of a rule; `0s` switches one off, absent means the backend's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "time-outs, such as {\"request\":\"30s\"}")]
pub struct RouteTimeouts {
    /// From the first byte of the request to the last of the response; none by default.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Duration>")]
    pub request: Option<Duration>,
    /// From the end of the request to the first byte of the response.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Duration>")]
    pub first_byte: Option<Duration>,
    /// Between two pieces of a body, in either direction.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Duration>")]
    pub idle: Option<Duration>,
}

impl RouteTimeouts {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

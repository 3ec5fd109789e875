//! Backends: the policy of a named set of endpoints. A backend's entry is optional; the defaults suit most services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::health::HealthCheck;
use super::removals::BackendGuard;
use crate::duration::Duration;

/// How requests reach the endpoints of one backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a backend, such as {\"balancing\":\"LeastRequest\"}")]
pub struct Backend {
    /// Which endpoint takes a request.
    #[serde(default)]
    pub balancing: Balancing,
    /// Time-outs towards the endpoints; a route's own come first.
    #[serde(default)]
    pub timeouts: BackendTimeouts,
    /// How it is found out which endpoints can take requests; they are not probed if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<HealthCheck>")]
    pub health_check: Option<HealthCheck>,
    /// When a proxy takes an endpoint out because its attempts fail while those at other endpoints do not.
    #[serde(default, skip_serializing_if = "OutlierDetection::is_default")]
    pub outlier_detection: OutlierDetection,
    /// When removals of its endpoints are held, where that differs from the controller's own settings.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<BackendGuard>")]
    pub guard: Option<BackendGuard>,
}

/// Whether a proxy takes an endpoint out because its attempts at it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "outlier detection, such as {\"enabled\":false}")]
pub struct OutlierDetection {
    /// Whether it is on. An endpoint is taken out after 5 attempts in a row without a response, or half of the last 20, or if its share of
    /// 5xx is 50 points above that of most others; for 5 s, doubling to 5 min; at most half of the endpoints. Default true.
    pub enabled: bool,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl OutlierDetection {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Which endpoint takes a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Balancing {
    /// The one with the fewest requests in flight on this proxy, in proportion to its weight.
    #[default]
    LeastRequest,
    /// In turn, evenly interleaved in proportion to the weights.
    WeightedRoundRobin,
    /// At random, in proportion to the weights.
    Random,
}

/// Time-outs of a backend; `0s` switches one off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, expecting = "time-outs, such as {\"connect\":\"2s\"}")]
pub struct BackendTimeouts {
    /// Time to open a connection; after it the next endpoint is tried. Default 2s.
    pub connect: Duration,
    /// From the end of the request to the first byte of the response. Default 1m.
    pub first_byte: Duration,
    /// Between two pieces of a body, in either direction. Default 5m.
    pub idle: Duration,
}

impl Default for BackendTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_millis(2_000), first_byte: Duration::from_millis(60_000), idle: Duration::from_millis(300_000) }
    }
}

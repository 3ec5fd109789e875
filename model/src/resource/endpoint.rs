//! Endpoints: what services register.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::value::Address;

/// One address of a backend. It may also be written as the bare address, or as an empty value below a key that is the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "an endpoint, such as \"10.0.0.5:8080\" or {\"address\":\"10.0.0.5:8080\",\"weight\":2}")]
pub struct Endpoint {
    /// Where requests go: `IPv4:port`, `[IPv6]:port` or `host:port`.
    pub address: Address,
    /// Share of requests relative to the backend's other endpoints; 0 takes none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: Weight,
    /// The zone the endpoint runs in; shown, and written to the access log.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    pub zone: Option<String>,
    /// Whether the endpoint takes no new requests. Requests in progress are completed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drain: bool,
}

impl Endpoint {
    /// An endpoint with nothing but an address.
    pub const fn at(address: Address) -> Self {
        Self { address, weight: Weight(1), zone: None, drain: false }
    }
}

/// A share, from 0 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u32")]
pub struct Weight(u32);

impl Weight {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for Weight {
    type Error = String;

    fn try_from(number: u64) -> Result<Self, String> {
        match u32::try_from(number) {
            Ok(small @ 0..=1_000_000) => Ok(Self(small)),
            _ => Err(format!("weight {number} is over 1000000; weights are 0 to 1000000")),
        }
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

/// The default weight.
pub(super) const fn one() -> Weight {
    Weight(1)
}

/// Whether this is the default weight.
pub(super) const fn is_one(weight: &Weight) -> bool {
    weight.0 == 1
}

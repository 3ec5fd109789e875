//! How a program gets its first certificate from a controller, and the next one before that expires.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a program with a token requests its first certificate.
pub const JOIN_PATH: &str = "/v1/join";

/// Where a proxy requests its next certificate, authenticated by the one that it has.
pub const RENEW_PATH: &str = "/v1/renew";

/// A program's request for its first certificate.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JoinRequest {
    /// The token that admits it.
    pub token: String,
    /// The name that it requests.
    pub name: String,
    /// The public half of its key: an uncompressed point of P-256, base64. A proxy gets a certificate for it; a controller gets the
    /// authority itself. A program that asks again with the same key, as after a lost answer, is admitted again.
    pub public_key: String,
}

/// A proxy's request for its next certificate, under its present name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RenewRequest {
    /// The public half of its new key.
    pub public_key: String,
}

/// The answer to both: a certificate for a proxy, or the authority itself for a controller.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificate {
    /// The certificate followed by the authority's, PEM.
    pub chain: String,
    /// The authority's certificate alone, as the trust anchor, PEM.
    pub authority: String,
    /// When it was issued, in seconds since 1970.
    pub from: u64,
    /// When it expires, in seconds since 1970.
    pub until: u64,
    /// The cluster's authority with its keys, for a controller that joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Box<RawValue>>,
}

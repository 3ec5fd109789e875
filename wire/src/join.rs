//! How a program gets its certificate from a controller, and a new one before that runs out.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Where a program that has a token gets its first certificate.
pub const JOIN_PATH: &str = "/v1/join";

/// Where a proxy gets the next one, showing the one it has.
pub const RENEW_PATH: &str = "/v1/renew";

/// A program wants its first certificate.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JoinRequest {
    /// The token that lets it in.
    pub token: String,
    /// The name that it wants to have.
    pub name: String,
    /// The public half of its key: an uncompressed point of P-256, base64. A proxy's is certified; a controller gets the authority
    /// itself. Who asks again with the same key, as after a lost answer, is let in again.
    pub public_key: String,
}

/// A proxy wants its next certificate, under the name it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RenewRequest {
    /// The public half of its new key.
    pub public_key: String,
}

/// A certificate, for a proxy; or the authority itself, for a controller.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificate {
    /// It, and the authority's, PEM.
    pub chain: String,
    /// The authority's alone: whom to trust, PEM.
    pub authority: String,
    /// When it was made, in seconds since 1970.
    pub from: u64,
    /// When it ends, in seconds since 1970.
    pub until: u64,
    /// The cluster's authority itself, for a controller that joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<Box<RawValue>>,
}

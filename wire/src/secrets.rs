//! The keys that all proxies share, on a stream of their own, which exists over TLS only. They are in no snapshot, no digest
//! and no history.

use std::fmt;

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;

/// Where a program with a certificate follows the keys: JSON lines, each a [`SecretsFrame`].
pub const SECRETS_PATH: &str = "/v1/secrets";

/// Who follows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretsRequest {
    /// The proxy's name; empty if a controller asks.
    pub name: String,
    /// The controller's name, if one asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum SecretsFrame {
    /// All keys, whenever one of them changed.
    Ring(KeyRing),
    /// Nothing has changed.
    Heartbeat,
    /// Something that a newer controller says.
    #[serde(other)]
    Unknown,
}

/// The keys. Whoever needs one for a purpose derives it from these, so that purposes do not share keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRing {
    /// Which ring it is: another one has nothing in common with it.
    pub id: String,
    /// Grows with every change, and with every change of leader.
    pub version: Version,
    /// The keys, oldest first.
    pub keys: Vec<RingKey>,
}

impl KeyRing {
    /// Whether this is to be held instead of `held`.
    pub fn replaces(&self, held: &Self) -> bool {
        !self.keys.is_empty() && (self.id != held.id || self.version > held.version)
    }

    /// The key that seals what is new, if there is one.
    pub fn active(&self) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.phase == Phase::Active)
    }
}

/// One key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingKey {
    /// Its number in the ring.
    pub id: u64,
    /// What it is used for now.
    pub phase: Phase,
    /// When it came into this phase, in seconds since 1970.
    pub since: u64,
    /// 32 random bytes, base64.
    pub key: String,
}

/// Secrets do not belong into logs.
impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingKey").field("id", &self.id).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// What a key is used for. Each key goes through these in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It opens what others may have sealed with it; nobody seals with it before everybody has it.
    DecryptOnly,
    /// It seals and opens.
    Active,
    /// It opens what it has sealed, until it goes.
    Retired,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_replaces_an_older_one_and_another_one_and_shows_no_key() {
        let key = RingKey { id: 1, phase: Phase::Active, since: 1, key: "c2VjcmV0".to_owned() };
        let ring = |id: &str, epoch, sequence| KeyRing { id: id.to_owned(), version: Version { epoch, sequence }, keys: vec![key.clone()] };
        assert!(ring("a", 1, 2).replaces(&ring("a", 1, 1)) && ring("a", 2, 1).replaces(&ring("a", 1, 9)) && ring("b", 1, 1).replaces(&ring("a", 9, 9)));
        assert!(!ring("a", 1, 1).replaces(&ring("a", 1, 1)) && !ring("a", 1, 9).replaces(&ring("a", 2, 1)) && !KeyRing::default().replaces(&ring("a", 1, 1)));
        assert!(ring("a", 1, 1).replaces(&KeyRing::default()));
        let told = format!("{:?}", SecretsFrame::Ring(ring("a", 1, 1)));
        assert!(!told.contains("c2VjcmV0"), "{told}");
        let line = serde_json::to_string(&SecretsFrame::Ring(ring("a", 1, 1))).unwrap();
        assert_eq!(line, r#"{"type":"ring","id":"a","version":"1.1","keys":[{"id":1,"phase":"active","since":1,"key":"c2VjcmV0"}]}"#);
        assert_eq!(serde_json::from_str::<SecretsFrame>(r#"{"type":"song"}"#).unwrap(), SecretsFrame::Unknown);
    }
}

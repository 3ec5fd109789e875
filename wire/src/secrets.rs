//! The keys that all proxies share. They have a stream of their own, which is served over TLS only, and are part of no snapshot, digest or
//! history.

use std::fmt;

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;

/// Where a program with a certificate follows the keys: JSON lines, each a [`SecretsFrame`].
pub const SECRETS_PATH: &str = "/v1/secrets";

/// The request of a program that follows the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretsRequest {
    /// The proxy's name; empty if a controller asks.
    pub name: String,
    /// The controller's name, if one asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
}

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum SecretsFrame {
    /// All keys, sent whenever one of them changed.
    Ring(KeyRing),
    /// Nothing has changed; the sender is alive.
    Heartbeat,
    /// A line of a type that a newer release introduced.
    #[serde(other)]
    Unknown,
}

/// The keys. A program derives a separate key for each purpose from them, so that purposes do not share keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyRing {
    /// Identifies the ring: rings with different ids have no key in common.
    pub id: String,
    /// Grows with every change, and with every change of leader.
    pub version: Version,
    /// The keys, oldest first.
    pub keys: Vec<RingKey>,
}

impl KeyRing {
    /// Whether this ring replaces `present`, the one that the receiver has.
    pub fn replaces(&self, present: &Self) -> bool {
        !self.keys.is_empty() && (self.id != present.id || self.version > present.version)
    }

    /// The key that encrypts new data, if there is one.
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
    /// Its present phase.
    pub phase: Phase,
    /// When this phase began, in seconds since 1970.
    pub since: u64,
    /// 32 random bytes, base64.
    pub key: String,
}

/// Secrets must not appear in logs.
impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingKey").field("id", &self.id).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// The phases of a key. Each key passes through them in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// It decrypts data of other proxies; no proxy encrypts with it before all have it.
    DecryptOnly,
    /// It encrypts and decrypts.
    Active,
    /// It decrypts the data that it encrypted, until it is deleted.
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
        let message = format!("{:?}", SecretsFrame::Ring(ring("a", 1, 1)));
        assert!(!message.contains("c2VjcmV0"), "{message}");
        let line = serde_json::to_string(&SecretsFrame::Ring(ring("a", 1, 1))).unwrap();
        assert_eq!(line, r#"{"type":"ring","id":"a","version":"1.1","keys":[{"id":1,"phase":"active","since":1,"key":"c2VjcmV0"}]}"#);
        assert_eq!(serde_json::from_str::<SecretsFrame>(r#"{"type":"song"}"#).unwrap(), SecretsFrame::Unknown);
    }
}

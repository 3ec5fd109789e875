//! Compiled objects: the digested, opaque form in which resources are sent and stored.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::resource::Resource;
use kind::ObjectKind;

pub mod kind;

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several pieces, concatenated.
    pub fn of_all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        pieces.into_iter().for_each(|piece| hash.update(piece));
        Self(hash.finalize().into())
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits, without a formatter: a lane's digest is computed from thousands of them.
    pub fn hex(&self) -> [u8; 64] {
        let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        digits
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let mut bytes = [0u8; 32];
        let ok = text.len() == 64
            && bytes.iter_mut().zip(text.as_bytes().chunks(2)).all(|(byte, pair)| match pair {
                [high, low] => digit(*high).zip(digit(*low)).map(|(high, low)| *byte = high * 16 + low).is_some(),
                _ => false,
            });
        if ok { Ok(Self(bytes)) } else { Err(format!("{text:?} is not a SHA-256 digest of 64 hexadecimal digits")) }
    }
}

/// The feature level that proxies of this release understand. An object with a higher `minLevel` keeps its previous form on such a proxy.
pub const LEVEL: u32 = 2;

/// The lowest feature level of proxies that may serve a resource.
fn level_of(resource: &Resource) -> u32 {
    match resource {
        // Proxies of level 1 let every upgrade through.
        Resource::Route(route) if route.rules.iter().any(crate::resource::Rule::restricts_upgrades) => 2,
        // Those of level 1 know clear text only.
        Resource::Listener(listener) if listener.tls.is_some() => 2,
        other => other.kind().object_kind().minimum_level,
    }
}

/// The content of an object. Only the builder of a routing table decodes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Body<T> {
    /// The resource's kind, in the singular.
    pub kind: String,
    /// The resource's name.
    pub name: String,
    /// The lowest feature level of proxies that understand it.
    pub min_level: u32,
    /// The store it comes from, counted from 0: earlier stores win conflicts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub order: usize,
    /// The resource itself.
    pub spec: T,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The canonical bytes of an object (RFC 8785).
fn canonical<T: Serialize>(kind: &str, name: &str, min_level: u32, order: usize, spec: T) -> String {
    let body = Body { kind: kind.to_owned(), name: name.to_owned(), min_level, order, spec };
    serde_json_canonicalizer::to_string(&body).unwrap_or_default()
}

/// The fields that are read of every object, also of an unknown kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    kind: String,
    name: String,
    #[serde(default)]
    min_level: u32,
}

/// One compiled resource: RFC 8785 JSON and its digest. Unknown kinds and fields pass through unchanged.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// `kind/name`.
    path: Box<str>,
    kind_length: usize,
    min_level: u32,
    bytes: Box<str>,
    digest: Digest,
}

impl Object {
    /// Compiles a resource of the store with the number `order`.
    pub fn compile(name: &str, order: usize, resource: &Resource) -> Arc<Self> {
        let min_level = level_of(resource);
        let kind = resource.kind().singular();
        let bytes = match resource {
            Resource::Listener(it) => canonical(kind, name, min_level, order, it),
            Resource::Route(it) => canonical(kind, name, min_level, order, it),
            Resource::Backend(it) => canonical(kind, name, min_level, order, it),
            Resource::Certificate(it) => canonical(kind, name, min_level, order, it),
            Resource::Endpoint(it) => canonical(kind, name, min_level, order, it),
        };
        Arc::new(Self::new(kind, name, min_level, bytes))
    }

    /// Marks an endpoint as suspect: it is missing in its store, and it is not known yet whether that is meant. The mark is of a kind of
    /// its own, so that a proxy which does not know the kind uses the endpoint as before.
    pub fn suspect(endpoint: &str) -> Arc<Self> {
        Self::mark(kind::SUSPECT, endpoint, &serde_json::json!({}))
    }

    /// Marks a route, by its path, as held: it left its store and takes only requests that no route in a store matches. The mark is of a
    /// kind of its own, so that a proxy which does not know the kind serves the route as before.
    pub fn held(path: &str) -> Arc<Self> {
        Self::mark(kind::HELD, path, &serde_json::json!({}))
    }

    /// Marks an endpoint as unhealthy, by the shared verdict of its probers. Healthy endpoints have no such object.
    pub fn unhealthy(endpoint: &str) -> Arc<Self> {
        Self::mark(kind::HEALTH, endpoint, &serde_json::json!({"healthy": false}))
    }

    /// Announces a proxy that probes endpoints, and its zone.
    pub fn prober(proxy: &str, zone: Option<&str>) -> Arc<Self> {
        Self::mark(kind::PROBER, proxy, &zone.map_or_else(|| serde_json::json!({}), |zone| serde_json::json!({ "zone": zone })))
    }

    fn mark(kind: ObjectKind, name: &str, spec: &serde_json::Value) -> Arc<Self> {
        let level = kind.minimum_level;
        Arc::new(Self::new(kind.name, name, level, canonical(kind.name, name, level, 0, spec)))
    }

    /// Reads the bytes of an object, from the wire or from disk.
    ///
    /// # Errors
    /// The bytes are not an object with kind and name, or one of these does not fit into a line of the digest.
    pub fn read(bytes: &str) -> Result<Arc<Self>, String> {
        let head: Head = serde_json::from_str(bytes).map_err(|error| error.to_string())?;
        let plain = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_control() || c == ' ');
        if !plain(&head.kind) || head.kind.contains('/') || !plain(&head.name) {
            return Err(format!("{:?}/{:?} is not a kind and a name", head.kind, head.name));
        }
        Ok(Arc::new(Self::new(&head.kind, &head.name, head.min_level, bytes.to_owned())))
    }

    fn new(kind: &str, name: &str, min_level: u32, bytes: String) -> Self {
        let digest = Digest::of(bytes.as_bytes());
        Self { path: format!("{kind}/{name}").into(), kind_length: kind.len(), min_level, bytes: bytes.into(), digest }
    }

    #[cfg(test)]
    pub(crate) fn with_bytes_of(&self, other: &Self) -> Self {
        Self { bytes: other.bytes.clone(), path: self.path.clone(), ..*self }
    }

    /// `kind/name`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The kind, in the singular.
    pub fn kind(&self) -> &str {
        self.path.get(..self.kind_length).unwrap_or_default()
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.path.get(self.kind_length + 1..).unwrap_or_default()
    }

    /// The lowest feature level of proxies that understand it.
    pub const fn min_level(&self) -> u32 {
        self.min_level
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &str {
        &self.bytes
    }

    /// The digest of the bytes.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the bytes still match the digest.
    pub fn is_sound(&self) -> bool {
        Digest::of(self.bytes.as_bytes()) == self.digest
    }

    /// Decodes the object's content.
    ///
    /// # Errors
    /// Describes what is wrong with the content.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Body<T>, String> {
        serde_json::from_str(&self.bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Endpoint, Route};
    use crate::value::Address;

    #[test]
    fn an_object_is_canonical_json_and_survives_the_wire() {
        let endpoint = Endpoint::at(Address::try_from("10.0.0.5:80".to_owned()).unwrap());
        let object = Object::compile("shop/a", 0, &Resource::Endpoint(endpoint.clone()));
        assert_eq!(object.bytes(), r#"{"kind":"endpoint","minLevel":1,"name":"shop/a","spec":{"address":"10.0.0.5:80"}}"#);
        let again = Object::read(object.bytes()).unwrap();
        assert_eq!(again, object);
        assert_eq!(again.decode::<Endpoint>().unwrap().spec, endpoint);
    }

    #[test]
    fn unknown_kinds_and_fields_pass_and_known_ones_are_still_read() {
        let future = r#"{"extra":1,"kind":"route","minLevel":1,"name":"a","spec":{"new":true,"rules":[]}}"#;
        let object = Object::read(future).unwrap();
        assert_eq!(object.bytes(), future);
        assert!(object.decode::<Route>().unwrap().spec.rules.is_empty());
        assert_eq!(Object::read(r#"{"kind":"tap","name":"x"}"#).unwrap().kind(), "tap");
        assert!(Object::read(r#"{"kind":"a/b","name":"x"}"#).is_err());
    }

    #[test]
    fn digests_are_read_back_from_their_text() {
        let digest = Digest::of(b"x");
        assert_eq!(Digest::try_from(digest.to_string()).unwrap(), digest);
        assert!(Digest::try_from("zz".to_owned()).is_err());
    }
}

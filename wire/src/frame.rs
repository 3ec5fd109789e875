//! The frames of the watch stream, one per line.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waypost_model::object::{Digest, Object};
use waypost_model::snapshot::Version;

/// The request that begins a watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// The proxy's name; empty for a person who only reads.
    pub name: String,
    /// The name of the controller that asks in order to relay; absent for a proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Identifies one run of one process.
    pub run_id: String,
    /// The proxy's labels, which choose its listeners.
    pub labels: BTreeMap<String, String>,
    /// The cluster it belongs to, once it knows it.
    pub cluster: Option<String>,
    /// The highest version that it has received.
    pub highest: Option<Version>,
    /// The version that it has now.
    pub from: Option<Version>,
    /// The 256 bucket digests of its state, per lane.
    #[serde(rename = "held")]
    pub bucket_digests: BTreeMap<Lane, Vec<Digest>>,
    /// The feature level that it understands.
    pub level: u32,
}

/// The set of objects that a line belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Endpoints and their health (M).
    Membership,
    /// The config (C) that has been rolled out.
    Stable,
    /// The config (C) that is being rolled out.
    Candidate,
}

/// One line of the stream.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Frame {
    /// The beginning of a publication.
    Begin(Begin),
    /// An object to add or replace.
    Put(Put),
    /// An object to remove.
    Delete(Delete),
    /// The config lane that this proxy follows.
    Track(Track),
    /// The end of a publication.
    Commit(Commit),
    /// A sign that the sender is alive, with the age of its data.
    Heartbeat(Heartbeat),
    /// A line of a type that a newer release introduced.
    Unknown,
}

/// The beginning of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// The publication's version.
    pub version: Version,
    /// The cluster that publishes.
    pub cluster: String,
    /// Buckets, per lane, that are sent completely: the receiver empties them first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replace: BTreeMap<Lane, Vec<u8>>,
    /// The other config lane that a lane starts from, if not from the receiver's state of the lane itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<Lane, Lane>,
    /// Other clusters whose proxies may follow this one, by an operator's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopts: Vec<String>,
}

/// An object to add or replace.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Put {
    /// The lane of the object.
    pub lane: Lane,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its canonical bytes.
    pub object: Box<RawValue>,
}

/// An object to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The lane of the object.
    pub lane: Lane,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The config lane that this proxy follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// `stable` or `candidate`.
    pub lane: Lane,
}

/// The end of a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The publication's version.
    pub version: Version,
    /// The digests of all lanes; a lane without a digest is removed.
    pub digests: BTreeMap<Lane, Digest>,
}

/// The age of the sender's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    /// Milliseconds since the sender last heard from a leader or caretaker; absent if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub led_millis: Option<u64>,
    /// The stores as the leader has read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceAge>,
}

impl Default for Heartbeat {
    /// The meaning of a heartbeat of releases without these fields: the data is current.
    fn default() -> Self {
        Self { led_millis: Some(0), sources: Vec::new() }
    }
}

/// The age of the data of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceAge {
    /// The store's URL, without secrets.
    pub store: String,
    /// The revision that was read.
    pub at: u64,
    /// Milliseconds since the data was confirmed as current; absent if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_millis: Option<u64>,
}

impl Put {
    /// The frame of an object.
    ///
    /// # Errors
    /// The object's bytes are not JSON; this cannot happen for objects that were read or compiled.
    pub fn of(lane: Lane, object: &Object) -> Result<Self, serde_json::Error> {
        Ok(Self { lane, digest: object.digest(), object: RawValue::from_string(object.bytes().to_owned())? })
    }

    /// The object, if its bytes match the digest of the frame.
    ///
    /// # Errors
    /// Describes the mismatch, or why the bytes are not an object.
    pub fn object(&self) -> Result<Arc<Object>, String> {
        let object = Object::read(self.object.get())?;
        if object.digest() == self.digest { Ok(object) } else { Err(format!("{} does not have the digest {}", object.path(), self.digest)) }
    }
}

/// A frame as one line, with its line feed.
///
/// # Errors
/// None for valid frames.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(frame)?;
    line.push(b'\n');
    Ok(line)
}

/// Decodes one line. It reads the type first, and then the line in the form of that type, so that the bytes of objects stay unchanged.
///
/// # Errors
/// The line is not a frame.
pub fn decode(line: &[u8]) -> Result<Frame, serde_json::Error> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        r#type: std::borrow::Cow<'a, str>,
    }
    let head: Head<'_> = serde_json::from_slice(line)?;
    Ok(match head.r#type.as_ref() {
        "begin" => Frame::Begin(serde_json::from_slice(line)?),
        "put" => Frame::Put(serde_json::from_slice(line)?),
        "delete" => Frame::Delete(serde_json::from_slice(line)?),
        "track" => Frame::Track(serde_json::from_slice(line)?),
        "commit" => Frame::Commit(serde_json::from_slice(line)?),
        "heartbeat" => Frame::Heartbeat(serde_json::from_slice(line)?),
        _ => Frame::Unknown,
    })
}

//! The lines of the watch stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use waypost_model::object::{Digest, Object};
use waypost_model::snapshot::Version;

/// What a proxy says of itself when it begins to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// The proxy's name; empty for a person who only looks.
    pub name: String,
    /// The name of the controller that asks in order to relay; a proxy has none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// One run of one process.
    pub run_id: String,
    /// The proxy's labels, which choose its listeners.
    pub labels: BTreeMap<String, String>,
    /// The cluster it belongs to, once it knows.
    pub cluster: Option<String>,
    /// The highest version it has seen.
    pub highest: Option<Version>,
    /// The version that it holds now.
    pub from: Option<Version>,
    /// The 256 bucket digests of what it holds, per lane.
    pub held: BTreeMap<Lane, Vec<Digest>>,
    /// The level of features that it understands.
    pub level: u32,
}

/// Which set of objects a line is about.
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
    /// A publication begins.
    Begin(Begin),
    /// An object.
    Put(Put),
    /// An object is gone.
    Delete(Delete),
    /// Which config this proxy follows.
    Track(Track),
    /// The publication is whole.
    Commit(Commit),
    /// The sender is alive, and this is how fresh what it says is.
    Heartbeat(Heartbeat),
    /// A line of a newer release.
    Unknown,
}

/// A publication begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// The publication's version.
    pub version: Version,
    /// The cluster that publishes.
    pub cluster: String,
    /// Buckets, per lane, that are sent whole: the receiver empties them first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub replace: BTreeMap<Lane, Vec<u8>>,
    /// Which other C a lane starts from, if not from what the receiver holds for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base: BTreeMap<Lane, Lane>,
    /// Other clusters whose proxies may follow: an operator said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopts: Vec<String>,
}

/// An object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Put {
    /// Where it belongs.
    pub lane: Lane,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Its canonical bytes.
    pub object: Box<RawValue>,
}

/// An object is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// Where it was.
    pub lane: Lane,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Which config this proxy follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// `stable` or `candidate`.
    pub lane: Lane,
}

/// The publication is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The publication's version.
    pub version: Version,
    /// The digest of every lane that there is now; a lane that is not named is gone.
    pub digests: BTreeMap<Lane, Digest>,
}

/// How fresh what was said is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Heartbeat {
    /// Milliseconds since somebody was heard who leads, or takes care without the store; absent if nobody was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub led_millis: Option<u64>,
    /// The stores, as far as the leader has read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceAge>,
}

impl Default for Heartbeat {
    /// What a release that said nothing of this meant: all is well.
    fn default() -> Self {
        Self { led_millis: Some(0), sources: Vec::new() }
    }
}

/// How fresh what was read of a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceAge {
    /// The store's URL, without secrets.
    pub store: String,
    /// Its revision.
    pub at: u64,
    /// Milliseconds since it was confirmed to be current; absent if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_millis: Option<u64>,
}

impl Put {
    /// The line's form of an object.
    ///
    /// # Errors
    /// The object's bytes are not JSON, which none that was read or compiled can be.
    pub fn of(lane: Lane, object: &Object) -> Result<Self, serde_json::Error> {
        Ok(Self { lane, digest: object.digest(), object: RawValue::from_string(object.bytes().to_owned())? })
    }

    /// The object, if its bytes have the digest that the line names.
    ///
    /// # Errors
    /// What does not fit.
    pub fn object(&self) -> Result<Arc<Object>, String> {
        let object = Object::read(self.object.get())?;
        if object.digest() == self.digest { Ok(object) } else { Err(format!("{} does not have the digest {}", object.path(), self.digest)) }
    }
}

/// A frame as one line, with its line feed.
///
/// # Errors
/// None for frames that can be made.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(frame)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads one line. The type is read first, and the line once more in its form: objects stay the bytes they are.
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

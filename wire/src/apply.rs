//! The receiver's side: turns frames into the next snapshot, or into the reason why there is none.

use std::collections::BTreeMap;

use thiserror::Error;
use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

use crate::frame::{Begin, Commit, Frame, Lane};

/// Why a publication was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// The publication is older than one that was received before.
    #[error("version {offered} is below {highest}, the highest that was seen; a deposed leader published it")]
    Fenced {
        /// The version of the publication.
        offered: Version,
        /// The highest version received so far.
        highest: Version,
    },
    /// The publication has the version of another one and different content.
    #[error("version {0} came a second time with other content; two leaders published it")]
    Conflict(Version),
    /// The publication is from another cluster.
    #[error("the controller belongs to cluster {offered}, this proxy to {own}; if it is to move: waypost adopt {own}")]
    ForeignCluster {
        /// The cluster of the publication.
        offered: String,
        /// The proxy's own.
        own: String,
    },
    /// The result does not have the announced digests.
    #[error("version {0} does not have the digest that was announced; asking for the buckets that differ")]
    Digest(Version),
    /// A line that is not allowed at its position, or a malformed object.
    #[error("the stream is broken: {0}")]
    Protocol(String),
}

/// The state of a receiver.
#[derive(Debug, Clone, Default)]
pub struct ReceivedState {
    /// The cluster it belongs to; empty before the first publication.
    pub cluster: String,
    /// The highest version that it has received.
    pub highest: Version,
    /// The version of the lanes.
    pub version: Version,
    /// All lanes of that version.
    pub lanes: BTreeMap<Lane, Objects>,
    /// The config lane that it follows.
    pub track: Option<Lane>,
    /// Whether the state is from disk, where the lanes may be of different versions.
    pub restored: bool,
    /// The digests of the highest version, once it was received completely: that version must not come with other content.
    pub highest_digests: BTreeMap<Lane, Digest>,
}

impl ReceivedState {
    /// The snapshot to serve: the config lane that it follows, and the membership.
    pub fn snapshot(&self) -> Snapshot {
        let lane = |lane: Lane| self.lanes.get(&lane).cloned().unwrap_or_default();
        let track = self.track.filter(|track| self.lanes.contains_key(track)).unwrap_or(Lane::Stable);
        Snapshot { cluster: self.cluster.clone(), version: self.version, config: lane(track), membership: lane(Lane::Membership) }
    }

    /// The newest version that certainly has all of this content. Lanes from disk are written separately, so they may be older than the
    /// highest version. Unless their digests are those of the highest version, the membership may be older than the config. A receiver that
    /// has the version completely then has newer content, so this state counts as the version before.
    pub fn newest(&self) -> Version {
        let own = self.digests();
        let is_same = |(lane, digest): (&Lane, &Digest)| own.get(lane).copied().unwrap_or_else(|| Objects::default().digest()) == *digest;
        let is_highest = !self.restored || !self.highest_digests.is_empty() && self.highest_digests.iter().all(is_same);
        let before = Version { sequence: self.version.sequence.saturating_sub(1).max(1), ..self.version };
        if is_highest { self.highest } else { before }
    }

    /// The bucket digests of all lanes, for the next request.
    pub fn bucket_digests(&self) -> BTreeMap<Lane, Vec<Digest>> {
        self.lanes.iter().map(|(lane, objects)| (*lane, objects.bucket_digests())).collect()
    }

    fn digests(&self) -> BTreeMap<Lane, Digest> {
        self.lanes.iter().map(|(lane, objects)| (*lane, objects.digest())).collect()
    }
}

/// Collects the frames of a publication.
#[derive(Debug, Default)]
pub struct Incoming {
    begin: Option<Begin>,
    changes: BTreeMap<Lane, Vec<Change>>,
    track: Option<Lane>,
}

impl Incoming {
    /// Takes the next frame. Returns the new state after a commit; `received` itself does not change.
    ///
    /// # Errors
    /// The publication is refused; the stream must be opened again.
    pub fn take(&mut self, received: &ReceivedState, frame: Frame) -> Result<Option<ReceivedState>, ApplyError> {
        match frame {
            Frame::Begin(begin) => self.begin(received, begin).map(|()| None),
            Frame::Put(put) => {
                let object = put.object().map_err(ApplyError::Protocol)?;
                self.add(put.lane, Change::Put(object)).map(|()| None)
            }
            Frame::Delete(delete) => self.add(delete.lane, Change::Delete(format!("{}/{}", delete.kind, delete.name))).map(|()| None),
            Frame::Track(track) => {
                self.track = Some(track.lane);
                Ok(None)
            }
            Frame::Commit(commit) => self.commit(received, &commit).map(Some),
            Frame::Heartbeat(_) | Frame::Unknown => Ok(None),
        }
    }

    fn begin(&mut self, received: &ReceivedState, begin: Begin) -> Result<(), ApplyError> {
        let foreign = !received.cluster.is_empty() && received.cluster != begin.cluster;
        if foreign && !begin.adopts.contains(&received.cluster) {
            return Err(ApplyError::ForeignCluster { offered: begin.cluster, own: received.cluster.clone() });
        }
        // Versions of another cluster cannot be compared with ours.
        if !foreign && begin.version < received.highest {
            return Err(ApplyError::Fenced { offered: begin.version, highest: received.highest });
        }
        *self = Self { begin: Some(begin), changes: BTreeMap::new(), track: self.track };
        Ok(())
    }

    fn add(&mut self, lane: Lane, change: Change) -> Result<(), ApplyError> {
        if self.begin.is_none() {
            return Err(ApplyError::Protocol(format!("{} came before begin", change.path())));
        }
        self.changes.entry(lane).or_default().push(change);
        Ok(())
    }

    fn commit(&mut self, received: &ReceivedState, commit: &Commit) -> Result<ReceivedState, ApplyError> {
        let begin = self.begin.take().ok_or_else(|| ApplyError::Protocol("commit came before begin".to_owned()))?;
        if begin.version != commit.version {
            return Err(ApplyError::Protocol(format!("begin has version {}, commit {}", begin.version, commit.version)));
        }
        let mut lanes = BTreeMap::new();
        for lane in commit.digests.keys() {
            let base = begin.base.get(lane).unwrap_or(lane);
            let mut objects = received.lanes.get(base).cloned().unwrap_or_default();
            if let Some(buckets) = begin.replace.get(lane) {
                objects = objects.without_buckets(buckets.iter().copied());
            }
            lanes.insert(*lane, objects.with(self.changes.remove(lane).unwrap_or_default()));
        }
        let next = ReceivedState {
            cluster: begin.cluster,
            highest: commit.version,
            version: commit.version,
            lanes,
            track: self.track.or(received.track),
            restored: false,
            highest_digests: commit.digests.clone(),
        };
        if next.digests() != commit.digests {
            return Err(ApplyError::Digest(commit.version));
        }
        if received.cluster == next.cluster
            && received.highest == next.version
            && !received.highest_digests.is_empty()
            && received.highest_digests != commit.digests
        {
            return Err(ApplyError::Conflict(commit.version));
        }
        Ok(next)
    }
}

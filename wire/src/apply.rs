//! The receiver's side: from frames to the next snapshot, or to the reason why there is none.

use std::collections::BTreeMap;

use thiserror::Error;
use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

use crate::frame::{Begin, Commit, Frame, Lane};

/// Why a publication was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// It is older than one that was seen before.
    #[error("version {offered} is below {highest}, the highest that was seen; a deposed leader published it")]
    Fenced {
        /// The version that came.
        offered: Version,
        /// The highest version so far.
        highest: Version,
    },
    /// It has the version of another one with other content.
    #[error("version {0} came a second time with other content; two leaders published it")]
    Conflict(Version),
    /// It is from another cluster.
    #[error("the controller belongs to cluster {offered}, this proxy to {own}; if it is to move: waypost adopt {own}")]
    ForeignCluster {
        /// The cluster that came.
        offered: String,
        /// The proxy's own.
        own: String,
    },
    /// The result does not have the digests that were announced.
    #[error("version {0} does not have the digest that was announced; asking for the buckets that differ")]
    Digest(Version),
    /// A line that cannot stand where it stands, or an object that is not one.
    #[error("the stream is broken: {0}")]
    Protocol(String),
}

/// What a receiver holds.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The cluster it belongs to; empty before the first publication.
    pub cluster: String,
    /// The highest version it has seen.
    pub highest: Version,
    /// The version of what it holds.
    pub version: Version,
    /// All lanes of that version.
    pub lanes: BTreeMap<Lane, Objects>,
    /// Which config it follows.
    pub track: Option<Lane>,
    /// It comes from disk, where the lanes may be of different versions.
    pub restored: bool,
    /// The digests of the highest version, once it was whole: no other content may come under that version.
    pub seen: BTreeMap<Lane, Digest>,
}

impl Held {
    /// What it serves: the config it follows and the membership.
    pub fn snapshot(&self) -> Snapshot {
        let lane = |lane: Lane| self.lanes.get(&lane).cloned().unwrap_or_default();
        let track = self.track.filter(|track| self.lanes.contains_key(track)).unwrap_or(Lane::Stable);
        Snapshot { cluster: self.cluster.clone(), version: self.version, config: lane(track), membership: lane(Lane::Membership) }
    }

    /// The newest version that had all of this. Lanes from disk, which are written apart, may be older than what was seen last. Unless they
    /// are just that, the membership may be older than the config: whoever has that version whole has more, so this counts as the one before.
    pub fn newest(&self) -> Version {
        let own = self.digests();
        let is_same = |(lane, digest): (&Lane, &Digest)| own.get(lane).copied().unwrap_or_else(|| Objects::default().digest()) == *digest;
        let is_highest = !self.restored || !self.seen.is_empty() && self.seen.iter().all(is_same);
        let before = Version { sequence: self.version.sequence.saturating_sub(1).max(1), ..self.version };
        if is_highest { self.highest } else { before }
    }

    /// Bucket digests of all lanes, for the next request.
    pub fn bucket_digests(&self) -> BTreeMap<Lane, Vec<Digest>> {
        self.lanes.iter().map(|(lane, objects)| (*lane, objects.bucket_digests())).collect()
    }

    fn digests(&self) -> BTreeMap<Lane, Digest> {
        self.lanes.iter().map(|(lane, objects)| (*lane, objects.digest())).collect()
    }
}

/// A publication on its way in.
#[derive(Debug, Default)]
pub struct Incoming {
    begin: Option<Begin>,
    changes: BTreeMap<Lane, Vec<Change>>,
    track: Option<Lane>,
}

impl Incoming {
    /// Takes the next frame. Returns what is held after a commit; `held` itself is not touched.
    ///
    /// # Errors
    /// The publication is refused; the stream must be opened again.
    pub fn take(&mut self, held: &Held, frame: Frame) -> Result<Option<Held>, ApplyError> {
        match frame {
            Frame::Begin(begin) => self.begin(held, begin).map(|()| None),
            Frame::Put(put) => {
                let object = put.object().map_err(ApplyError::Protocol)?;
                self.add(put.lane, Change::Put(object)).map(|()| None)
            }
            Frame::Delete(delete) => self.add(delete.lane, Change::Delete(format!("{}/{}", delete.kind, delete.name))).map(|()| None),
            Frame::Track(track) => {
                self.track = Some(track.lane);
                Ok(None)
            }
            Frame::Commit(commit) => self.commit(held, &commit).map(Some),
            Frame::Heartbeat(_) | Frame::Unknown => Ok(None),
        }
    }

    fn begin(&mut self, held: &Held, begin: Begin) -> Result<(), ApplyError> {
        let foreign = !held.cluster.is_empty() && held.cluster != begin.cluster;
        if foreign && !begin.adopts.contains(&held.cluster) {
            return Err(ApplyError::ForeignCluster { offered: begin.cluster, own: held.cluster.clone() });
        }
        // Versions of another cluster say nothing about ours.
        if !foreign && begin.version < held.highest {
            return Err(ApplyError::Fenced { offered: begin.version, highest: held.highest });
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

    fn commit(&mut self, held: &Held, commit: &Commit) -> Result<Held, ApplyError> {
        let begin = self.begin.take().ok_or_else(|| ApplyError::Protocol("commit came before begin".to_owned()))?;
        if begin.version != commit.version {
            return Err(ApplyError::Protocol(format!("begin has version {}, commit {}", begin.version, commit.version)));
        }
        let mut lanes = BTreeMap::new();
        for lane in commit.digests.keys() {
            let base = begin.base.get(lane).unwrap_or(lane);
            let mut objects = held.lanes.get(base).cloned().unwrap_or_default();
            if let Some(buckets) = begin.replace.get(lane) {
                objects = objects.without_buckets(buckets.iter().copied());
            }
            lanes.insert(*lane, objects.with(self.changes.remove(lane).unwrap_or_default()));
        }
        let next = Held {
            cluster: begin.cluster,
            highest: commit.version,
            version: commit.version,
            lanes,
            track: self.track.or(held.track),
            restored: false,
            seen: commit.digests.clone(),
        };
        if next.digests() != commit.digests {
            return Err(ApplyError::Digest(commit.version));
        }
        if held.cluster == next.cluster && held.highest == next.version && !held.seen.is_empty() && held.seen != commit.digests {
            return Err(ApplyError::Conflict(commit.version));
        }
        Ok(next)
    }
}

//! The sender's side: turns snapshots into the frames that update a receiver.

use std::collections::BTreeMap;

use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::object::Digest;
use waypost_model::snapshot::Snapshot;

use crate::apply::{Incoming, ReceivedState};
use crate::frame::{Begin, Commit, Delete, Frame, Lane, Put, Track, decode, encode};

/// The frames that update a receiver to `snapshot`: the changes since `base` if the receiver has that, otherwise the buckets that differ,
/// by the receiver's 256 digests of each lane (`received`).
pub fn publication(snapshot: &Snapshot, base: Option<&Snapshot>, received: &BTreeMap<Lane, Vec<Digest>>) -> Vec<Frame> {
    let lanes = [(Lane::Stable, &snapshot.config, base.map(|base| &base.config)), (Lane::Membership, &snapshot.membership, base.map(|base| &base.membership))];
    let mut replace = BTreeMap::new();
    let mut lines = Vec::new();
    for (lane, objects, before) in lanes {
        match before {
            Some(before) => lines.extend(before.changes_to(objects).into_iter().filter_map(|change| line(lane, change))),
            None => {
                let buckets = objects.differing(received.get(&lane).map_or(&[], Vec::as_slice));
                lines.extend(objects_of(lane, objects, &buckets));
                replace.insert(lane, buckets);
            }
        }
    }
    let digests = BTreeMap::from([(Lane::Stable, snapshot.config.digest()), (Lane::Membership, snapshot.membership.digest())]);
    let mut frames =
        vec![Frame::Begin(Begin { version: snapshot.version, cluster: snapshot.cluster.clone(), replace, base: BTreeMap::new(), adopts: Vec::new() })];
    frames.append(&mut lines);
    if base.is_none() {
        frames.push(Frame::Track(Track { lane: Lane::Stable }));
    }
    frames.push(Frame::Commit(Commit { version: snapshot.version, digests }));
    frames
}

/// A complete snapshot as lines, for a receiver without any state.
///
/// # Errors
/// An object cannot be encoded; this cannot happen for objects that were read or compiled.
pub fn whole(snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::new();
    for frame in publication(snapshot, None, &BTreeMap::new()) {
        bytes.extend(encode(&frame)?);
    }
    Ok(bytes)
}

/// Reads the lines of a complete snapshot.
///
/// # Errors
/// The lines are not a complete snapshot, or do not match their digests.
pub fn read_whole(bytes: &[u8]) -> Result<Snapshot, String> {
    let (nothing, mut incoming) = (ReceivedState::default(), Incoming::default());
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let frame = decode(line).map_err(|error| error.to_string())?;
        if let Some(received) = incoming.take(&nothing, frame).map_err(|error| error.to_string())? {
            return Ok(received.snapshot());
        }
    }
    Err("it ends before its commit".to_owned())
}

fn objects_of(lane: Lane, objects: &Objects, buckets: &[u8]) -> Vec<Frame> {
    let all = buckets.iter().filter_map(|number| objects.bucket(*number)).flat_map(|bucket| bucket.objects());
    all.filter_map(|object| line(lane, Change::Put(object.clone()))).collect()
}

fn line(lane: Lane, change: Change) -> Option<Frame> {
    match change {
        Change::Put(object) => Put::of(lane, &object).ok().map(Frame::Put),
        Change::Delete(path) => {
            let (kind, name) = path.split_once('/')?;
            Some(Frame::Delete(Delete { lane, kind: kind.to_owned(), name: name.to_owned() }))
        }
    }
}

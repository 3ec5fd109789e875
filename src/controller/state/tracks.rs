//! Follows every entry from when it was read until every proxy serves it.

use std::collections::{BTreeSet, HashSet};

use waypost_model::compile::EntryId;
use waypost_model::key::Kind;
use waypost_model::lane::Lane;
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

use super::{State, Track};
use crate::controller::message::Now;
use crate::controller::rules::objects::object_path;

impl State {
    pub(super) fn track(&mut self, id: &EntryId, now: Now) {
        self.woken.add(&id.key);
        let Some(view) = self.compiler.view(id) else {
            if let Some(track) = self.tracks.get_mut(id).filter(|track| !track.deleted) {
                forget_arrival(&mut self.arriving, id, track);
                *track = Track { read_at: now.since_start, version: None, live: None, deleted: true, ..*track };
                self.events.add(now.date, "Deleted", &id.key, "the entry is gone");
            }
            return;
        };
        let revision = view.written.revision;
        if let Some(track) = self.tracks.get_mut(id).filter(|track| track.revision == revision && !track.deleted) {
            // The same value may be served only from now on: the tree was switched, there is room again, or the entry that shadowed it is gone.
            let wanted = view.resource.as_ref().map(object_path);
            let differs = |path: &String| digest(&self.snapshot, path) != digest_of(&self.lanes, path);
            if view.in_snapshot && wanted.as_ref().is_some_and(differs) {
                forget_arrival(&mut self.arriving, id, track);
                (track.version, track.live) = (None, None);
            }
            return;
        }
        if !view.verdict.accepted()
            && let Some(problem) = view.verdict.problem()
        {
            let serving = view.last_good.map(|revision| format!("; revision {revision} still serves")).unwrap_or_default();
            self.events.add(now.date, "Rejected", &id.key, format!("revision {revision}: {}{serving}", problem.message));
        }
        let track = Track { revision, read_at: now.since_start, version: None, live: None, deleted: false };
        if let Some(before) = self.tracks.insert(id.clone(), track) {
            forget_arrival(&mut self.arriving, id, &before);
        }
    }

    /// Notes the version of every entry whose lane was published.
    pub(super) fn settle(&mut self, now: Now) {
        let version = self.snapshot.version;
        let waits = (self.windows.0.is_pending(), self.windows.1.is_pending());
        let member = |id: &EntryId| id.key.starts_with(Kind::Endpoint.plural());
        // A held removal is served as before, so its end is not published yet.
        let held: HashSet<&EntryId> = self.guard.removals().map(|removal| &removal.origin.id).collect();
        let settled: Vec<EntryId> = self
            .unpublished
            .iter()
            .filter(|id| !held.contains(id) && !self.waits_behind_pin(id))
            .filter(|id| if member(id) { !waits.1 } else { !waits.0 })
            .cloned()
            .collect();
        for id in settled {
            self.woken.add(&id.key);
            self.unpublished.remove(&id);
            if let Some(track) = self.tracks.get_mut(&id).filter(|track| track.version.is_none()) {
                track.version = Some(version);
                self.arriving.insert((version, id));
            }
        }
        self.mark_live(now);
    }

    /// Notes when entries became live on every proxy that follows us. Costs nothing for those that are published and not live yet, which are many
    /// while a proxy lags.
    pub(super) fn mark_live(&mut self, now: Now) {
        let ours = self.proxies.connected(now.since_start).map(|(_, proxy)| proxy).filter(|proxy| !proxy.is_foreign());
        let Some(oldest) = ours.map(|proxy| proxy.applied().unwrap_or_default()).min() else { return };
        while self.arriving.first().is_some_and(|(version, _)| *version <= oldest) {
            let Some((_, id)) = self.arriving.pop_first() else { return };
            if let Some(track) = self.tracks.get_mut(&id) {
                track.live = Some(now.since_start);
                self.woken.add(&id.key);
            }
        }
    }
}

/// The entry of this track is not waited for any more.
fn forget_arrival(arriving: &mut BTreeSet<(Version, EntryId)>, id: &EntryId, track: &Track) {
    if let Some(version) = track.version {
        arriving.remove(&(version, id.clone()));
    }
}

fn digest(snapshot: &Snapshot, path: &str) -> Option<Digest> {
    snapshot.config.get(path).or_else(|| snapshot.membership.get(path)).map(|object| object.digest())
}

fn digest_of(lanes: &(Lane, Lane), path: &str) -> Option<Digest> {
    lanes.0.get(path).or_else(|| lanes.1.get(path)).map(|object| object.digest())
}

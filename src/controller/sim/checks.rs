//! The invariants of the simulation, and counts of its events.

use std::collections::{HashMap, HashSet};
use std::fmt;

use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

use crate::controller::rules::guard::Removal;

/// What a proxy serves.
#[derive(Debug, Default)]
struct Served {
    version: Version,
    /// The highest count of each route that it served.
    counts: HashMap<String, u64>,
    /// The routes that it serves now.
    routes: HashSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The content of each version.
    published: HashMap<Version, (Digest, Digest)>,
    /// Paths that are in a version although the store does not have them any more, because their removal is not judged yet.
    removals: HashMap<Version, HashSet<String>>,
    /// The controller that led under each epoch, and its run.
    epochs: HashMap<u64, (usize, u64)>,
    /// The controller that published under each epoch, and its run.
    publishers: HashMap<u64, (usize, u64)>,
    proxies: HashMap<usize, Served>,
    applied: u64,
    /// Configs that are frozen as far as any controller knows.
    frozen: HashSet<Digest>,
    /// Versions that were published with such a config. A proxy may get one late, when no controller knows of it any more.
    frozen_versions: HashSet<Version>,
    freezes: u64,
    /// Paths that may go back: those that a backup brought back, and those that an operator approved after that.
    back: HashSet<String>,
    restored: u64,
    leaders: u64,
    publications: u64,
}

/// The count in a route of the simulation.
fn count(bytes: &str) -> Option<u64> {
    bytes.split("[\"n").nth(1)?.split(".example").next()?.parse().ok()
}

impl Checks {
    /// A controller leads under this epoch, or publishes. With a restored store an older record of leading comes back, so that two controllers may
    /// lead under one epoch for a moment, until they meet.
    pub(super) fn epoch(&mut self, seed: u64, epoch: u64, node: usize, run: u64, publishes: bool) {
        let leaders = if publishes { &mut self.publishers } else { &mut self.epochs };
        let leaders = *leaders.entry(epoch).or_insert((node, run));
        assert!(leaders == (node, run) || !publishes && self.restored > 0, "seed {seed}: two runs lead under epoch {epoch}");
    }

    pub(super) fn published<'a>(&mut self, seed: u64, snapshot: &Snapshot, removals: impl Iterator<Item = &'a Removal>) {
        self.removals.insert(snapshot.version, removals.map(|removal| removal.object.path().to_owned()).collect());
        if self.frozen.contains(&snapshot.config.digest()) {
            self.frozen_versions.insert(snapshot.version);
        }
        let digests = (snapshot.config.digest(), snapshot.membership.digest());
        let earlier = *self.published.entry(snapshot.version).or_insert(digests);
        assert_eq!(earlier, digests, "seed {seed}: version {} stands for two contents", snapshot.version);
    }

    /// The store was restored from a backup; these come back with it.
    pub(super) fn restored(&mut self, back: Vec<String>) {
        self.back.extend(back);
        self.restored += 1;
        // A route that no proxy serves starts anew.
        self.proxies.values_mut().for_each(|Served { counts, routes, .. }| counts.retain(|path, _| routes.contains(path)));
    }

    /// An operator approves these removals.
    pub(super) fn let_go<'a>(&mut self, removals: impl Iterator<Item = &'a Removal>) {
        if self.restored > 0 {
            self.back.extend(removals.map(|removal| removal.object.path().to_owned()));
        }
    }

    /// An operator froze this config.
    pub(super) fn froze(&mut self, config: Digest) {
        self.frozen.insert(config);
        self.freezes += 1;
    }

    /// No controller has a frozen config any more: none of them may come back.
    pub(super) fn thawed(&mut self) {
        self.frozen.clear();
    }

    pub(super) fn applied(&mut self, seed: u64, proxy: usize, snapshot: &Snapshot) {
        let digests = (snapshot.config.digest(), snapshot.membership.digest());
        assert_eq!(self.published.get(&snapshot.version), Some(&digests), "seed {seed}: proxy {proxy} applied {}, which was never published", snapshot.version);
        let Served { version, counts, routes } = self.proxies.entry(proxy).or_default();
        assert!(*version <= snapshot.version, "seed {seed}: proxy {proxy} went back from {version} to {}", snapshot.version);
        *version = snapshot.version;
        // A new leader holds the objects that it knows and that the store does not have; they may be older than those of the last proxy.
        let held = self.removals.get(&snapshot.version);
        // A frozen config is published until a controller can be asked that knows of the end of the freeze.
        if self.frozen_versions.contains(&snapshot.version) {
            counts.clear();
        }
        let counts_up = |path: &str| held.is_none_or(|held| !held.contains(path)) && !self.back.contains(path);
        for object in snapshot.config.objects().filter(|object| counts_up(object.path())) {
            let now = count(object.bytes()).unwrap_or_else(|| panic!("{}", object.bytes()));
            let before = counts.entry(object.path().to_owned()).or_insert(now);
            assert!(*before <= now, "seed {seed}: {} went back from {before} to {now} on proxy {proxy} at version {version}", object.path());
            *before = now;
        }
        *routes = snapshot.config.objects().map(|object| object.path().to_owned()).collect();
        if self.restored > 0 {
            counts.retain(|path, _| routes.contains(path));
        }
        self.applied += 1;
    }

    /// Adds the counts of another run.
    pub(super) fn add(&mut self, other: &Self) {
        self.applied += other.applied;
        self.freezes += other.freezes;
        self.restored += other.restored;
        self.publications += u64::try_from(other.published.len()).unwrap_or_default();
        self.leaders += u64::try_from(other.epochs.len()).unwrap_or_default();
    }

    /// Whether enough events happened to prove something.
    pub(super) fn is_telling(&self, seeds: u64) -> bool {
        self.leaders > seeds * 2
            && self.applied > seeds * 20
            && self.publications > seeds * 10
            && (seeds < 10 || self.freezes * 2 > seeds)
            && (seeds < 10 || self.restored * 4 > seeds)
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaders, publications, applied, freezes, restored, .. } = self;
        write!(f, "{leaders} leaders, {publications} publications, {applied} applied by proxies, {freezes} freezes, {restored} restored stores")
    }
}

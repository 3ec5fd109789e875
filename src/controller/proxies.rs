//! What is known of each proxy: its streams and its last report.

use std::collections::BTreeMap;
use std::time::Duration;

use waypost_model::snapshot::Version;
use waypost_wire::{HEARTBEAT_SECONDS, Report};

/// A proxy that neither watches nor reports for this long is gone from the list.
const FORGET: Duration = Duration::from_secs(24 * 3_600);
/// A report is current for this long.
const CURRENT: Duration = Duration::from_secs(3 * HEARTBEAT_SECONDS);
/// A proxy that is behind for this long is told of.
const BEHIND: Duration = Duration::from_secs(2);

/// One proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// Its open watch streams: two for a moment while it reconnects.
    pub streams: usize,
    /// Its last report.
    pub report: Report,
    /// When it was heard last, since the controller's start.
    pub heard: Duration,
    /// The cluster that it believes to belong to.
    cluster: Option<String>,
    /// That is not ours: its versions are not comparable with ours.
    foreign: bool,
}

impl Proxy {
    /// Whether it follows us, or would if it did not refuse what we publish.
    pub fn connected(&self, now: Duration) -> bool {
        (self.streams > 0 || self.report.refused.is_some()) && now.saturating_sub(self.heard) < CURRENT
    }

    /// The version of ours that it serves.
    pub fn applied(&self) -> Option<Version> {
        self.report.applied.filter(|_| !self.foreign)
    }

    /// Whether it serves `version` or a later one.
    pub fn serves(&self, version: Version) -> bool {
        self.applied().is_some_and(|applied| applied >= version)
    }
}

/// All proxies by name.
#[derive(Debug, Default)]
pub struct Proxies {
    known: BTreeMap<String, Proxy>,
    ours: Option<String>,
}

impl Proxies {
    /// Our cluster is known.
    pub fn belong_to(&mut self, cluster: &str) {
        self.ours = Some(cluster.to_owned());
        let differs = |proxy: &Proxy| proxy.cluster.as_deref().is_some_and(|theirs| theirs != cluster);
        self.known.values_mut().for_each(|proxy| proxy.foreign = differs(proxy));
    }

    /// A stream was opened, by a proxy that believes to belong to `cluster`. Returns whether it is its only one.
    pub fn opened(&mut self, name: &str, cluster: Option<&str>, now: Duration) -> bool {
        let proxy = self.known.entry(name.to_owned()).or_default();
        proxy.cluster = cluster.map(str::to_owned);
        proxy.foreign = proxy.cluster.is_some() && self.ours.is_some() && proxy.cluster != self.ours;
        proxy.streams += 1;
        proxy.heard = now;
        proxy.streams == 1
    }

    /// A stream was closed. Returns whether it was the last.
    pub fn closed(&mut self, name: &str) -> bool {
        self.known.get_mut(name).is_some_and(|proxy| {
            proxy.streams = proxy.streams.saturating_sub(1);
            proxy.streams == 0
        })
    }

    /// A report came. Returns the one before.
    pub fn reported(&mut self, name: &str, report: Report, now: Duration) -> Report {
        let proxy = self.known.entry(name.to_owned()).or_default();
        proxy.heard = now;
        std::mem::replace(&mut proxy.report, report)
    }

    /// Forgets what has been gone for a day.
    pub fn sweep(&mut self, now: Duration) {
        self.known.retain(|_, proxy| proxy.streams > 0 || now.saturating_sub(proxy.heard) < FORGET);
    }

    /// All proxies.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Proxy)> {
        self.known.iter()
    }

    /// Those that follow us.
    pub fn connected(&self, now: Duration) -> impl Iterator<Item = (&String, &Proxy)> {
        self.known.iter().filter(move |(_, proxy)| proxy.connected(now))
    }

    /// Whether a connected proxy is behind `version`, which was published at `since`, or refuses what we publish.
    pub fn behind(proxy: &Proxy, version: Version, since: Duration, now: Duration) -> bool {
        proxy.connected(now) && (proxy.report.refused.is_some() || !proxy.serves(version) && now.saturating_sub(since) > BEHIND)
    }
}

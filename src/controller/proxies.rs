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
}

impl Proxy {
    /// Whether it follows us.
    pub fn connected(&self, now: Duration) -> bool {
        self.streams > 0 && now.saturating_sub(self.heard) < CURRENT
    }

    /// Whether it serves `version` or a later one.
    pub fn serves(&self, version: Version) -> bool {
        self.report.applied.is_some_and(|applied| applied >= version)
    }
}

/// All proxies by name.
#[derive(Debug, Default)]
pub struct Proxies {
    known: BTreeMap<String, Proxy>,
}

impl Proxies {
    /// A stream was opened.
    pub fn opened(&mut self, name: &str, now: Duration) -> bool {
        let proxy = self.known.entry(name.to_owned()).or_default();
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

    /// Whether a connected proxy is behind `version`, which was published at `since`.
    pub fn behind(proxy: &Proxy, version: Version, since: Duration, now: Duration) -> bool {
        proxy.connected(now) && !proxy.serves(version) && now.saturating_sub(since) > BEHIND
    }
}

//! The proxies: their streams and their last reports.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use waypost_model::snapshot::{Snapshot, Version};

pub use waypost_wire::Downstream;
use waypost_wire::{Content, Findings, Probed, REPORT_SECONDS, Report};

/// A proxy that neither watches nor reports for this long leaves the list.
const FORGET_PROXY_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// A report is current for this long.
const REPORT_LIFETIME: Duration = Duration::from_secs(3 * REPORT_SECONDS);
/// A proxy that is behind for this long counts as behind in the status.
pub(super) const BEHIND_AFTER: Duration = Duration::from_secs(2);
/// A proxy that lost its stream may come back within this time; its endpoints are not given to other probers before.
const PROXY_RECONNECT_TIME: Duration = Duration::from_secs(5);
/// Number of publications that are compared with the content that proxies serve.
const REMEMBERED_PUBLICATIONS: usize = 256;
/// The label that names the zone in which a proxy runs.
const ZONE_LABEL: &str = "zone";

/// One proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxy {
    /// Its open watch streams: two for a moment while it reconnects.
    pub streams: usize,
    /// The controllers that relay to it, and when they last said so.
    pub via: BTreeMap<String, Duration>,
    /// The highest version that it had received when it connected.
    pub highest: Version,
    /// Its last report; of the results of its health checks, only the version and the number.
    pub report: Report,
    /// The results of its health checks.
    findings: Findings,
    /// Whether it has reported since its stream was opened.
    has_reported: bool,
    /// When it last opened a stream or reported, since the controller's start.
    pub last_contact: Duration,
    /// When its last stream ended, if it has none.
    left: Duration,
    /// The cluster that it believes to belong to.
    cluster: Option<String>,
    /// Whether that is not our cluster: then its versions are not comparable with ours.
    foreign: bool,
    /// Whether it serves other content than was published under its version.
    pub drifted: bool,
}

impl Proxy {
    /// Whether it follows us, or refuses our publications and would follow us otherwise.
    pub fn connected(&self, now: Duration) -> bool {
        (self.follows() || self.report.refused.is_some()) && now.saturating_sub(self.last_contact) < REPORT_LIFETIME
    }

    /// Whether it can be given endpoints to probe. A proxy that refuses the config does not know its checks.
    fn probes(&self, now: Duration) -> bool {
        let here = self.connected(now) || !self.follows() && self.left > Duration::ZERO && now.saturating_sub(self.left) < PROXY_RECONNECT_TIME;
        counts(&self.report) && here && !self.foreign
    }

    /// Whether it has a stream, from us or from a controller that relays.
    fn follows(&self) -> bool {
        self.streams > 0 || !self.via.is_empty()
    }

    /// Takes the findings out of a report, and leaves only their version and number in it. Returns the endpoints whose findings have changed.
    fn take_findings(&mut self, message: Option<&mut Probed>, same_run: bool) -> BTreeSet<String> {
        let forget = |findings: &mut Findings| std::mem::take(findings).unwell().map(|name| name.to_string()).collect();
        let Some(message) = message else { return forget(&mut self.findings) };
        // Changes of another run build on findings that this controller does not have.
        let fits = same_run || message.since.is_none();
        let changed = match Some(&mut self.findings).filter(|_| fits).and_then(|findings| findings.merge(message)) {
            Some(changed) => changed,
            None if same_run => BTreeSet::new(),
            None => forget(&mut self.findings),
        };
        *message = Probed { version: self.findings.version(), number: self.findings.number(), ..Probed::default() };
        changed
    }

    /// The report for a receiver that has the `previous` report, or none: with the findings that the receiver does not have.
    fn report_for(&self, previous: Option<&Report>) -> Report {
        let base = previous.filter(|previous| previous.run_id == self.report.run_id).and_then(|previous| Some(previous.probed.as_ref()?.number));
        // A proxy of release 0.1 does not number its findings: they all have the number 0.
        let base = base.filter(|number| *number > 0);
        let probed = self.report.probed.as_ref().map(|_| self.findings.message(base));
        Report { probed, ..self.report.clone() }
    }

    /// Whether it believes to belong to another cluster than ours.
    pub const fn is_foreign(&self) -> bool {
        self.foreign
    }

    fn belongs(&mut self, cluster: Option<&str>, ours: Option<&str>) {
        self.cluster = cluster.map(str::to_owned);
        self.foreign = cluster.is_some() && ours.is_some() && cluster != ours;
    }

    /// The highest version that it may serve; `None` if it has reported that it serves nothing.
    fn may_hold(&self) -> Option<Version> {
        Some(self.highest).filter(|highest| highest.sequence > 0 && !(self.has_reported && self.report.applied.is_none()))
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

/// Whether the findings in a proxy's report count.
pub(super) const fn counts(report: &Report) -> bool {
    report.probed.is_some() && report.refused.is_none()
}

/// All proxies by name.
#[derive(Debug, Default)]
pub struct Proxies {
    /// By name.
    by_name: BTreeMap<String, Proxy>,
    ours: Option<String>,
    /// Names of listeners that a proxy has bound, as far as was reported.
    bound: BTreeSet<String>,
    /// Names of listeners that came while this controller led: what any proxy reported of them is known.
    watched: BTreeSet<String>,
    /// The last publications, oldest first.
    published: VecDeque<(Version, Content)>,
}

impl Proxies {
    /// Sets the cluster's id.
    pub fn belong_to(&mut self, cluster: &str) {
        self.ours = Some(cluster.to_owned());
        let differs = |proxy: &Proxy| proxy.cluster.as_deref().is_some_and(|theirs| theirs != cluster);
        self.by_name.values_mut().for_each(|proxy| proxy.foreign = differs(proxy));
    }

    /// Whether a proxy of our cluster has received a later version than this.
    pub fn have_seen_more(&self, version: Version) -> bool {
        self.by_name.values().any(|proxy| !proxy.foreign && proxy.highest > version)
    }

    /// Whether any proxy of our cluster follows us, and the highest version that one of these may serve.
    pub fn highest_seen(&self, now: Duration) -> (bool, Option<Version>) {
        let came = || self.connected(now).map(|(_, proxy)| proxy).filter(|proxy| !proxy.foreign);
        let ours = came().filter(|proxy| proxy.cluster == self.ours);
        (came().next().is_some(), ours.filter_map(Proxy::may_hold).max())
    }

    /// A stream was opened, by a proxy that believes to belong to `cluster`. Returns whether it is its only one.
    pub fn opened(&mut self, name: &str, highest: Version, cluster: Option<&str>, now: Duration) -> bool {
        let proxy = self.by_name.entry(name.to_owned()).or_default();
        let first = !proxy.follows();
        proxy.belongs(cluster, self.ours.as_deref());
        proxy.streams += 1;
        (proxy.last_contact, proxy.highest, proxy.has_reported) = (now, highest, false);
        first
    }

    /// A controller reports all proxies to which it relays; their own reports are added to `reports`. Returns the proxies that came (true) and those
    /// that left.
    pub fn relayed(&mut self, controller: &str, proxies: Vec<Downstream>, now: Duration, reports: &mut Vec<(String, Report)>) -> Vec<(String, bool)> {
        let mut turned = Vec::new();
        let names: BTreeSet<String> = proxies.iter().map(|proxy| proxy.name.clone()).collect();
        for Downstream { name, cluster, highest, report } in proxies {
            let proxy = self.by_name.entry(name.clone()).or_default();
            if !proxy.follows() {
                turned.push((name.clone(), true));
            }
            proxy.via.insert(controller.to_owned(), now);
            (proxy.last_contact, proxy.highest) = (now, highest);
            proxy.belongs(cluster.as_deref(), self.ours.as_deref());
            reports.extend(report.map(|report| (name, report)));
        }
        for (name, proxy) in self.by_name.iter_mut().filter(|(name, _)| !names.contains(*name)) {
            if proxy.via.remove(controller).is_some() && !proxy.follows() {
                proxy.left = now;
                turned.push((name.clone(), false));
            }
        }
        turned
    }

    /// All proxies that follow us, directly or not, for the report to the leader. Findings that are in the `reports` that the leader has are left out.
    pub fn downstream(&self, reports: &HashMap<String, Report>, now: Duration) -> Vec<Downstream> {
        let one = |(name, proxy): (&String, &Proxy)| Downstream {
            name: name.clone(),
            cluster: proxy.cluster.clone(),
            highest: proxy.highest,
            report: Some(proxy).filter(|_| proxy.has_reported).map(|proxy| proxy.report_for(reports.get(name))),
        };
        self.by_name.iter().filter(|(_, proxy)| proxy.follows() && now.saturating_sub(proxy.last_contact) < REPORT_LIFETIME).map(one).collect()
    }

    /// A stream was closed. Returns whether it was the last.
    pub fn closed(&mut self, name: &str, now: Duration) -> bool {
        self.by_name.get_mut(name).is_some_and(|proxy| {
            proxy.streams = proxy.streams.saturating_sub(1);
            proxy.left = now;
            !proxy.follows()
        })
    }

    /// This snapshot is published; the content that proxies report is compared with it.
    pub fn published(&mut self, snapshot: &Snapshot) {
        self.published.retain(|(version, _)| *version != snapshot.version);
        if self.published.len() >= REMEMBERED_PUBLICATIONS {
            self.published.pop_front();
        }
        self.published.push_back((snapshot.version, Content::of(snapshot)));
    }

    /// Whether the content differs from the publication of this version, as far as that is remembered.
    pub fn is_other(&self, version: Version, content: Content) -> bool {
        let wanted = self.published.iter().rev().find(|(published, _)| *published == version);
        wanted.is_some_and(|(_, wanted)| content != *wanted)
    }

    /// Takes a report. Returns the report before it, and the endpoints whose findings have changed.
    pub fn reported(&mut self, name: &str, mut report: Report, now: Duration) -> (Report, BTreeSet<String>) {
        let other = report.applied.zip(report.content).is_some_and(|(version, content)| self.is_other(version, content));
        let proxy = self.by_name.entry(name.to_owned()).or_default();
        (proxy.last_contact, proxy.has_reported) = (now, true);
        // It may have been adopted since it connected.
        if let Some(cluster) = &report.cluster {
            proxy.belongs(Some(cluster), self.ours.as_deref());
        }
        proxy.drifted = other && !proxy.foreign;
        for listener in report.listeners.iter().filter(|listener| listener.bound) {
            if !self.bound.contains(&listener.name) {
                self.bound.insert(listener.name.clone());
            }
        }
        let same_run = proxy.report.run_id == report.run_id;
        let changed = proxy.take_findings(report.probed.as_mut(), same_run);
        (std::mem::replace(&mut proxy.report, report), changed)
    }

    /// The number of the last change of a proxy's findings that this controller has.
    pub fn findings_number(&self, name: &str) -> Option<u64> {
        Some(self.by_name.get(name)?.report.probed.as_ref()?.number)
    }

    /// A listener came while this controller led.
    pub fn watch_listener(&mut self, listener: &str) {
        self.watched.insert(listener.to_owned());
    }

    /// This controller begins to lead: of the listeners that there are, proxies may have bound any.
    pub fn watch_anew(&mut self) {
        self.watched.clear();
    }

    /// Whether proxies tried to bind a listener, and none ever could: then its removal hurts nobody. Of a listener that came before this
    /// controller led that is not known: a proxy that is away may serve it.
    pub fn never_bound(&self, listener: &str) -> bool {
        let mut reported = self.by_name.values().flat_map(|proxy| &proxy.report.listeners);
        self.watched.contains(listener) && !self.bound.contains(listener) && reported.any(|state| state.name == listener)
    }

    /// The proxies that can be given endpoints to probe, with their zones.
    pub fn probers(&self, now: Duration) -> impl Iterator<Item = (&String, Option<&String>)> {
        self.by_name.iter().filter(move |(_, proxy)| proxy.probes(now)).map(|(name, proxy)| (name, proxy.report.labels.get(ZONE_LABEL)))
    }

    /// The findings of a proxy that follows us.
    pub fn probed(&self, name: &str, now: Duration) -> Option<&Findings> {
        self.by_name.get(name).filter(|proxy| proxy.connected(now) && !proxy.foreign && counts(&proxy.report)).map(|proxy| &proxy.findings)
    }

    /// Forgets proxies that left a day ago.
    pub fn sweep(&mut self, now: Duration) {
        self.by_name.values_mut().for_each(|proxy| proxy.via.retain(|_, at| now.saturating_sub(*at) < REPORT_LIFETIME));
        self.by_name.retain(|_, proxy| proxy.streams > 0 || now.saturating_sub(proxy.last_contact) < FORGET_PROXY_AFTER);
    }

    /// All proxies.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Proxy)> {
        self.by_name.iter()
    }

    /// Those that follow us.
    pub fn connected(&self, now: Duration) -> impl Iterator<Item = (&String, &Proxy)> {
        self.by_name.iter().filter(move |(_, proxy)| proxy.connected(now))
    }

    /// Whether a proxy serves other content than was published under its version.
    pub fn has_drifted(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|proxy| proxy.drifted)
    }

    /// Whether a connected proxy is behind `version`, which was published at `since`, or refuses what we publish.
    pub fn behind(proxy: &Proxy, version: Version, since: Duration, now: Duration) -> bool {
        proxy.connected(now) && (proxy.report.refused.is_some() || !proxy.serves(version) && now.saturating_sub(since) > BEHIND_AFTER)
    }
}

//! What a controller counts. Labels are bounded: stores, not keys.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use waypost_model::snapshot::Version;

use crate::controller::answers::shapes::SourceInfo;

/// A label of one store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    /// Its URL.
    pub store: String,
}

/// What is counted when the metrics are read.
#[derive(Debug)]
pub struct Counts {
    /// This controller leads or takes care.
    pub leading: bool,
    /// Controllers that follow this one.
    pub followers: usize,
    /// The stores.
    pub sources: Vec<SourceInfo>,
    /// Entries that are refused.
    pub rejected: usize,
    /// Removals that are held.
    pub held: usize,
    /// Endpoints that their probers agree on taking out.
    pub unhealthy: usize,
    /// Backends of which all endpoints are used because too few are healthy.
    pub panics: usize,
    /// Proxies that follow this controller.
    pub proxies: usize,
    /// Those of them that serve an old version.
    pub proxies_behind: usize,
    /// The published version; zero before the first publication.
    pub version: Version,
}

/// All metrics of a controller. Gauges are set when they are read.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Publications.
    pub publications: Counter,
    /// Seconds of one step of the controller.
    pub step_seconds: Histogram,
    /// Errors of stores.
    pub store_errors: Family<StoreLabel, Counter>,
    /// Files that could not be written.
    pub disk_errors: Counter,
    store_age: Family<StoreLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    store_drift: Family<StoreLabel, Gauge<i64, AtomicI64>>,
    entries: Family<StoreLabel, Gauge<i64, AtomicI64>>,
    rejected: Gauge<i64, AtomicI64>,
    held: Gauge<i64, AtomicI64>,
    unhealthy: Gauge<i64, AtomicI64>,
    panics: Gauge<i64, AtomicI64>,
    proxies: Gauge<i64, AtomicI64>,
    proxies_behind: Gauge<i64, AtomicI64>,
    leading: Gauge<i64, AtomicI64>,
    followers: Gauge<i64, AtomicI64>,
    epoch: Gauge<i64, AtomicI64>,
    sequence: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            publications: Counter::default(),
            step_seconds: Histogram::new([0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            store_errors: Family::default(),
            disk_errors: Counter::default(),
            store_age: Family::default(),
            store_drift: Family::default(),
            entries: Family::default(),
            rejected: Gauge::default(),
            held: Gauge::default(),
            unhealthy: Gauge::default(),
            panics: Gauge::default(),
            proxies: Gauge::default(),
            proxies_behind: Gauge::default(),
            leading: Gauge::default(),
            followers: Gauge::default(),
            epoch: Gauge::default(),
            sequence: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("waypost_controller");
        let m = &metrics;
        registry.register("publications", "Publications of a snapshot", m.publications.clone());
        registry.register("step_seconds", "Time of one step of the task that publishes", m.step_seconds.clone());
        registry.register("store_errors", "Failed reads of a store", m.store_errors.clone());
        registry.register("disk_errors", "Files that could not be written to the state directory", m.disk_errors.clone());
        registry.register("store_age_seconds", "Time since a store was confirmed to be current", m.store_age.clone());
        registry.register("store_drift", "Changes that a watch had missed and a listing found", m.store_drift.clone());
        registry.register("entries", "Entries of a store", m.entries.clone());
        registry.register("entries_rejected", "Entries whose value is refused", m.rejected.clone());
        registry.register("removals_held", "Entries that left their store and are served until an operator approves the removal", m.held.clone());
        registry.register("endpoints_unhealthy", "Endpoints that most of their probers report as failing", m.unhealthy.clone());
        registry.register("backends_panicking", "Backends with so few healthy endpoints that all are used", m.panics.clone());
        registry.register("proxies_connected", "Proxies that follow this controller", m.proxies.clone());
        registry.register("proxies_behind", "Connected proxies that serve an old version", m.proxies_behind.clone());
        registry.register("leading", "1 if this controller is leader or caretaker", m.leading.clone());
        registry.register("followers", "Controllers that follow this one", m.followers.clone());
        registry.register("snapshot_epoch", "Epoch of the published version", m.epoch.clone());
        registry.register("snapshot_sequence", "Sequence of the published version", m.sequence.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Everything in the text format of Prometheus.
    pub fn render(&self, counts: &Counts) -> String {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for source in &counts.sources {
            let label = StoreLabel { store: source.url.clone() };
            self.store_age.get_or_create(&label).set(source.age_seconds.unwrap_or(-1.0));
            self.store_drift.get_or_create(&label).set(i64::try_from(source.drift).unwrap_or(i64::MAX));
            self.entries.get_or_create(&label).set(number(source.entries));
        }
        self.leading.set(i64::from(counts.leading));
        self.followers.set(number(counts.followers));
        self.rejected.set(number(counts.rejected));
        self.held.set(number(counts.held));
        self.unhealthy.set(number(counts.unhealthy));
        self.panics.set(number(counts.panics));
        self.proxies.set(number(counts.proxies));
        self.proxies_behind.set(number(counts.proxies_behind));
        self.epoch.set(i64::try_from(counts.version.epoch).unwrap_or(i64::MAX));
        self.sequence.set(i64::try_from(counts.version.sequence).unwrap_or(i64::MAX));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

//! What a controller counts. Labels are bounded: stores, not keys.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::controller::answers::shapes::StatusInfo;

/// A label of one store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    /// Its URL.
    pub store: String,
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
        registry.register("publications", "Snapshots that were published", m.publications.clone());
        registry.register("step_seconds", "Time of one step of the controller", m.step_seconds.clone());
        registry.register("store_errors", "Errors of stores", m.store_errors.clone());
        registry.register("disk_errors", "Files that could not be written to the state directory", m.disk_errors.clone());
        registry.register("store_age_seconds", "Since a store was confirmed to be current", m.store_age.clone());
        registry.register("store_drift", "Entries that a watch had missed, ever", m.store_drift.clone());
        registry.register("entries", "Entries of a store", m.entries.clone());
        registry.register("entries_rejected", "Entries that are refused", m.rejected.clone());
        registry.register("endpoints_unhealthy", "Endpoints that their probers agree on taking out", m.unhealthy.clone());
        registry.register("backends_panicking", "Backends of which so few endpoints are healthy that all are used", m.panics.clone());
        registry.register("proxies_connected", "Proxies that follow this controller", m.proxies.clone());
        registry.register("proxies_behind", "Connected proxies that serve an old version", m.proxies_behind.clone());
        registry.register("leading", "1 if this controller leads or takes care", m.leading.clone());
        registry.register("followers", "Controllers that follow this one", m.followers.clone());
        registry.register("snapshot_epoch", "Epoch of the published version", m.epoch.clone());
        registry.register("snapshot_sequence", "Sequence of the published version", m.sequence.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Everything in the text format of Prometheus.
    pub fn render(&self, status: &StatusInfo, leading: bool) -> String {
        self.leading.set(i64::from(leading));
        self.followers.set(i64::try_from(status.controllers.iter().filter(|other| other.follows).count()).unwrap_or(i64::MAX));
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for source in &status.sources {
            let label = StoreLabel { store: source.url.clone() };
            self.store_age.get_or_create(&label).set(source.age_seconds.unwrap_or(-1.0));
            self.store_drift.get_or_create(&label).set(i64::try_from(source.drift).unwrap_or(i64::MAX));
            self.entries.get_or_create(&label).set(number(source.entries));
        }
        self.rejected.set(number(status.rejected.len()));
        self.unhealthy.set(number(status.unhealthy.iter().map(|backend| backend.unhealthy.len()).sum()));
        self.panics.set(number(status.unhealthy.iter().filter(|backend| backend.panics).count()));
        self.proxies.set(number(status.proxies.iter().filter(|proxy| proxy.connected).count()));
        self.proxies_behind.set(number(status.proxies.iter().filter(|proxy| proxy.behind).count()));
        let version = status.version.unwrap_or_default();
        self.epoch.set(i64::try_from(version.epoch).unwrap_or(i64::MAX));
        self.sequence.set(i64::try_from(version.sequence).unwrap_or(i64::MAX));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

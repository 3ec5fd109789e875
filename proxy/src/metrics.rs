//! The metrics of a proxy. Labels are bounded: no series grows with routes or endpoints.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Core {
    core: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateName {
    certificate: String,
}

/// What came of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The connection is secured.
    Done,
    /// The client spoke clear text.
    ClearText,
    /// The two sides did not agree, or the client left.
    Failed,
    /// It took too long.
    Late,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// All metrics of a proxy.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    responses: Vec<Counter>,
    core_connections: Family<Core, Gauge<i64, AtomicI64>>,
    /// Open client connections.
    pub connections: Gauge<i64, AtomicI64>,
    /// Client connections that were shed or refused at the limit.
    pub crowded: Crowded,
    /// Requests in progress.
    pub in_flight: Gauge<i64, AtomicI64>,
    /// Retries in progress, which the budget limits.
    pub retrying: AtomicU64,
    /// Requests that were tried again.
    pub retries: Counter,
    /// Retries that the budget did not allow.
    pub retries_denied: Counter,
    /// Endpoints that were ejected because of the outcomes of their attempts.
    pub ejections: Counter,
    /// Requests for an upgrade that their rule does not allow; they continued without it.
    pub upgrades_dropped: Counter,
    /// Connections to endpoints that could not be opened.
    pub connect_errors: Counter,
    /// Connections to endpoints that were opened.
    pub connects: Counter,
    /// Tables that were swapped in.
    pub swaps: Counter,
    /// Seconds from the arrival of a snapshot to its swap.
    pub swap_seconds: Histogram,
    /// Publications that were refused as a whole.
    pub refused: Counter,
    /// How often the received state no longer matched the publication.
    pub drift: Counter,
    /// Objects that could not be used.
    pub object_problems: Gauge<i64, AtomicI64>,
    /// Epoch of the version that is served.
    pub epoch: Gauge<i64, AtomicI64>,
    /// Sequence of the version that is served.
    pub sequence: Gauge<i64, AtomicI64>,
    /// 1 while the watch stream to a controller is alive.
    pub controller_connected: Gauge<i64, AtomicI64>,
    /// UNIX time of the last contact with a controller.
    pub confirmed: Gauge<i64, AtomicI64>,
    source_age: Gauge<f64, AtomicU64>,
    /// Endpoints that this proxy probes.
    pub probing: Gauge<i64, AtomicI64>,
    /// 1 while this proxy probes all endpoints for itself.
    pub probing_alone: Gauge<i64, AtomicI64>,
    probes: Family<Outcome, Counter>,
    refused_requests: Family<Reason, Counter>,
    handshakes: Family<Outcome, Counter>,
    certificate_ends: Family<CertificateName, Gauge<i64, AtomicI64>>,
    /// The certificates in `certificate_ends`.
    certificates: Mutex<Vec<(String, i64)>>,
    /// Lines of the access log that were dropped because the disk was too slow.
    pub log_dropped: Counter,
}

/// Client connections at the limit.
#[derive(Debug, Default)]
pub struct Crowded {
    /// Idle connections that were closed to admit others.
    pub shed: Counter,
    /// Connections that were closed at once because all others were busy.
    pub refused: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("waypost_proxy");
        let family = Family::<Class, Counter>::default();
        let responses = STATUS_CLASSES.iter().map(|code| family.get_or_create(&Class { code }).clone()).collect();
        registry.register("responses", "Responses by class of status", family);
        let metrics = Self {
            responses,
            core_connections: Family::default(),
            connections: Gauge::default(),
            crowded: Crowded::default(),
            in_flight: Gauge::default(),
            retrying: AtomicU64::new(0),
            retries: Counter::default(),
            retries_denied: Counter::default(),
            ejections: Counter::default(),
            upgrades_dropped: Counter::default(),
            connect_errors: Counter::default(),
            connects: Counter::default(),
            swaps: Counter::default(),
            swap_seconds: Histogram::new([0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0]),
            refused: Counter::default(),
            drift: Counter::default(),
            object_problems: Gauge::default(),
            epoch: Gauge::default(),
            sequence: Gauge::default(),
            controller_connected: Gauge::default(),
            confirmed: Gauge::default(),
            source_age: Gauge::default(),
            probing: Gauge::default(),
            probing_alone: Gauge::default(),
            probes: Family::default(),
            refused_requests: Family::default(),
            handshakes: Family::default(),
            certificate_ends: Family::default(),
            certificates: Mutex::default(),
            log_dropped: Counter::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("retries", "Attempts after the first one of a request", m.retries.clone());
        registry.register("retries_denied", "Retries that the budget did not allow", m.retries_denied.clone());
        registry.register("ejections", "Ejections of endpoints whose attempts fail while those at others succeed", m.ejections.clone());
        registry.register("upgrades_dropped", "Upgrades that a rule does not allow; the requests went on without them", m.upgrades_dropped.clone());
        registry.register("endpoint_connects", "Connections opened to endpoints", m.connects.clone());
        registry.register("endpoint_connect_errors", "Connections to endpoints that failed", m.connect_errors.clone());
        registry.register("snapshot_swaps", "Swaps of the routing table", m.swaps.clone());
        registry.register("snapshot_swap_seconds", "Time from the arrival of a snapshot to the swap of the table", m.swap_seconds.clone());
        registry.register("drift", "Times that the received state had drifted and was fetched again", m.drift.clone());
        registry.register("snapshots_refused", "Publications that were refused as a whole", m.refused.clone());
        registry.register("object_problems", "Objects that this proxy cannot use", m.object_problems.clone());
        registry.register("snapshot_epoch", "Epoch of the served version", m.epoch.clone());
        registry.register("snapshot_sequence", "Sequence of the served version", m.sequence.clone());
        registry.register("controller_connected", "1 while the watch stream to a controller is alive", m.controller_connected.clone());
        registry.register("confirmed_timestamp_seconds", "When a controller was last heard", m.confirmed.clone());
        registry.register(
            "store_age_seconds",
            "Time since the stores were confirmed to have what is served, of the store that was confirmed longest ago; -1 if unknown",
            m.source_age.clone(),
        );
        registry.register("probed_endpoints", "Endpoints that this proxy probes", m.probing.clone());
        registry.register(
            "probing_alone",
            "1 while this proxy probes all endpoints for itself, because no leader collects the results",
            m.probing_alone.clone(),
        );
        registry.register("probes", "Probes by outcome", m.probes.clone());
        m.register_inbound(&mut registry);
        registry.register("access_log_dropped", "Lines of the access log that were dropped", m.log_dropped.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Registers what is counted of connections and of requests before they are routed.
    fn register_inbound(&self, registry: &mut Registry) {
        registry.register("connections", "Open client connections", self.connections.clone());
        registry.register("connections_shed", "Idle client connections that were closed to accept others", self.crowded.shed.clone());
        registry.register("connections_refused", "Client connections refused at the limit while no other was idle", self.crowded.refused.clone());
        registry.register("core_connections", "Client connections by serving thread", self.core_connections.clone());
        registry.register("requests_in_flight", "Requests in progress", self.in_flight.clone());
        registry.register("requests_refused", "Requests that cannot be understood or did not come in time, by reason", self.refused_requests.clone());
        registry.register("tls_handshakes", "TLS handshakes of clients by outcome", self.handshakes.clone());
        registry.register("certificate_expiry_timestamp_seconds", "When a certificate that is used ends", self.certificate_ends.clone());
    }

    /// Counts a response.
    pub fn response(&self, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1);
        if let Some(counter) = self.responses.get(class) {
            counter.inc();
        }
    }

    /// Counts a probe.
    pub fn probes(&self, good: bool) {
        self.probes.get_or_create(&Outcome { outcome: if good { "good" } else { "failed" } }).inc();
    }

    /// Counts a request that cannot be understood, or did not come in time.
    pub fn refused_request(&self, reason: &'static str) {
        self.refused_requests.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a TLS handshake.
    pub fn handshake(&self, outcome: Handshake) {
        let outcome = match outcome {
            Handshake::Done => "done",
            Handshake::ClearText => "clear-text",
            Handshake::Failed => "failed",
            Handshake::Late => "late",
        };
        self.handshakes.get_or_create(&Outcome { outcome }).inc();
    }

    /// Sets when each certificate that is used ends, in seconds since 1970.
    pub fn certificates<'a>(&self, ends: impl Iterator<Item = (&'a str, i64)>) {
        let ends: Vec<(String, i64)> = ends.map(|(name, at)| (name.to_owned(), at)).collect();
        let mut before = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == ends {
            return;
        }
        self.certificate_ends.clear();
        for (name, at) in &ends {
            self.certificate_ends.get_or_create(&CertificateName { certificate: name.clone() }).set(*at);
        }
        *before = ends;
    }

    /// The number of responses since the start.
    pub fn responses(&self) -> u64 {
        self.responses.iter().map(Counter::get).sum()
    }

    /// Takes a place in the retry budget: a fifth of the requests in progress, at least three.
    pub fn retry(&self) -> Option<RetryGuard<'_>> {
        let under_way = u64::try_from(self.in_flight.get()).unwrap_or_default();
        let allowed = (under_way / 5).max(3);
        if self.retrying.fetch_add(1, Ordering::Relaxed) < allowed {
            self.retries.inc();
            return Some(RetryGuard(self));
        }
        self.retrying.fetch_sub(1, Ordering::Relaxed);
        self.retries_denied.inc();
        None
    }

    /// All metrics in the text format of Prometheus. `loads` are the client connections of each core, `age` is the time since the stores
    /// were confirmed.
    pub fn render(&self, loads: &[usize], age: Option<Duration>) -> String {
        self.source_age.set(age.map_or(-1.0, |age| age.as_secs_f64()));
        for (core, load) in loads.iter().enumerate() {
            let label = Core { core: u32::try_from(core).unwrap_or(u32::MAX) };
            self.core_connections.get_or_create(&label).set(i64::try_from(*load).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

/// A place in the retry budget, until dropped.
#[derive(Debug)]
pub struct RetryGuard<'a>(&'a Metrics);

impl Drop for RetryGuard<'_> {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_under_way_and_at_least_three() {
        let metrics = Metrics::default();
        let three: Vec<_> = (0..3).map(|_| metrics.retry().unwrap()).collect();
        assert!(metrics.retry().is_none());
        metrics.in_flight.set(100);
        let more: Vec<_> = (0..17).map(|_| metrics.retry().unwrap()).collect();
        assert!(metrics.retry().is_none());
        drop((three, more));
        assert!(metrics.retry().is_some());
        assert!(metrics.render(&[3], None).contains("waypost_proxy_retries_denied_total 2"));
    }
}

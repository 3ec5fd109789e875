//! Reports to the controller: after every change at once, and at regular intervals.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use waypost_model::snapshot::Snapshot;
use waypost_wire::{DrainingEndpoint, Lane, Load, ObjectProblem, REPORT_SECONDS, Report, ReportAnswer, whole};

use crate::active::Active;
use crate::apply::{Arrived, Progress};
use crate::config::Config;
use crate::fresh::Fresh;
use crate::link::Link;
use crate::listener::Listeners;
use crate::metrics::Metrics;

/// Time limit for uploading the complete state.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends reports over the current link.
pub(crate) struct Reporter {
    pub(crate) config: Arc<Config>,
    pub(crate) run_id: String,
    pub(crate) admin: String,
    pub(crate) link: watch::Receiver<Option<Link>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) active: Arc<Active>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fresh: watch::Receiver<Fresh>,
    /// The received state.
    pub(crate) arrivals: watch::Receiver<Option<Arrived>>,
    /// The number of the last result of a health check that the controller of the present link has confirmed.
    pub(crate) confirmed: Option<u64>,
    /// Whether that controller takes changes of results, as far as its last answer says. Those of release 0.1 do not.
    pub(crate) takes_changes: bool,
}

impl Reporter {
    /// Reports until dropped. The next report makes up for a lost one.
    pub(crate) async fn run(mut self) {
        let path = format!("/v1/proxies/{}/report", self.config.name);
        // While an endpoint drains, reports are more frequent, so that the end of its last request is noticed soon.
        loop {
            if self.link.has_changed().unwrap_or_default() {
                self.link.mark_unchanged();
                (self.confirmed, self.takes_changes) = (None, true);
            }
            let report = self.report();
            let pause = if report.draining.is_empty() { Duration::from_secs(REPORT_SECONDS) } else { Duration::from_millis(250) };
            let (before, has_link) = (self.confirmed, self.link.borrow().is_some());
            match self.send(&path, &report).await {
                // The report had a refusal that is over; a report without it follows at once.
                Ok(()) if has_link && self.progress.refusal_reported(report.refused.as_ref()) => continue,
                // What did not fit, or what the controller missed, follows at once.
                Ok(()) if self.confirmed != before && self.progress.probed_after(self.confirmed) => continue,
                Ok(()) => {}
                Err(error) => tracing::warn!(error, "a report was not taken; this proxy serves on"),
            }
            tokio::select! {
                () = self.progress.changed.notified() => {}
                // Another controller hears at once what this proxy is like, before it sends something new.
                Ok(()) = self.link.changed() => self.link.mark_changed(),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn send(&mut self, path: &str, report: &Report) -> Result<(), String> {
        let Some(mut link) = self.link.borrow().clone() else { return Ok(()) };
        let body = serde_json::to_vec(report).map_err(|error| error.to_string())?;
        let answer = link.ask(path, body, Duration::from_secs(REPORT_SECONDS)).await?;
        // Controllers of older releases answer with an empty body.
        let ReportAnswer { recall, probed } = serde_json::from_slice(&answer).unwrap_or_default();
        (self.confirmed, self.takes_changes) = (probed, probed.is_some());
        probed.into_iter().for_each(|number| self.progress.probed_confirmed(number));
        if recall { self.upload_state(&mut link).await } else { Ok(()) }
    }

    /// Uploads the state to a controller that has lost the published state and asks for it.
    async fn upload_state(&self, link: &mut Link) -> Result<(), String> {
        let received = self.arrivals.borrow().as_ref().map(|arrived| arrived.received.clone());
        let Some(received) = received.filter(|received| received.lanes.contains_key(&Lane::Stable)) else { return Ok(()) };
        let version = received.newest();
        let body = whole(&Snapshot { version, ..received.snapshot() }).map_err(|error| error.to_string())?;
        tracing::info!(%version, "the controller has lost what was published; this proxy tells what it holds");
        link.ask(&format!("/v1/proxies/{}/held", self.config.name), body, UPLOAD_TIMEOUT).await.map(drop)
    }

    fn report(&self) -> Report {
        let applied = self.progress.get();
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or_default();
        Report {
            run_id: self.run_id.clone(),
            labels: self.config.labels.clone(),
            admin: self.admin.clone(),
            release: crate::RELEASE.to_owned(),
            cluster: Some(applied.cluster).filter(|cluster| !cluster.is_empty()),
            applied: applied.version,
            highest: Some(applied.highest),
            // A refusal is reported even if the next publication was applied before this report.
            refused: applied.refused.or(applied.unreported_refusal),
            problems: applied.problems.into_iter().chain(self.shortage()).collect(),
            listeners: self.listeners.states(),
            load: Load {
                connections: count(self.metrics.connections.get()),
                in_flight: count(self.metrics.in_flight.get()),
                requests: self.metrics.responses(),
            },
            draining: self.draining(),
            probed: Some(self.progress.probed_since(self.confirmed, self.takes_changes)),
            content: applied.content.filter(|_| applied.version.is_some()),
            secrets: self.config.controllers.iter().any(|url| url.scheme() == "https").then_some(applied.secrets),
            age_millis: self.fresh.borrow().age().map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// A problem for the report while there are too many client connections; the controller makes one event of it.
    fn shortage(&self) -> Option<ObjectProblem> {
        let message = self.listeners.clients().trouble()?;
        Some(ObjectProblem { kind: "proxy".to_owned(), name: "connections".to_owned(), reason: "TooManyConnections".to_owned(), message })
    }

    fn draining(&self) -> Vec<DrainingEndpoint> {
        let table = self.active.load();
        let all = table.backends.iter().flat_map(|(name, backend)| backend.endpoints.iter().map(move |endpoint| (name, endpoint)));
        let draining = all.filter(|(_, endpoint)| endpoint.drain && endpoint.state.in_flight() > 0);
        draining.map(|(name, endpoint)| DrainingEndpoint { name: format!("{name}/{}", endpoint.id), in_flight: endpoint.state.in_flight() }).collect()
    }
}

//! A proxy without listeners: it follows, verifies and reports with the same code as a proxy, and serves nothing. It measures control
//! planes with more proxies than one machine could run.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use waypost_wire::{Content, ReceivedState, Report};

pub use crate::apply::Arrived;
use crate::apply::Progress;
use crate::config::Config;
use crate::enrol::Enrolment;
use crate::link::{Link, post};
use crate::metrics::Metrics;
use crate::subscribe::Subscriber;

/// A proxy without listeners; it ends when it is dropped.
#[derive(Debug)]
pub struct Light {
    arrivals: watch::Receiver<Option<Arrived>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Light {
    /// Follows the controllers of `config` on the current runtime.
    pub fn start(config: Config) -> Self {
        let (arrivals, arrived) = watch::channel(None);
        let (link, links) = watch::channel(None);
        let config = Arc::new(config);
        let run_id = uuid::Uuid::new_v4().to_string();
        let subscriber = Subscriber {
            enrolment: Arc::new(Enrolment::new(config.name.clone(), config.certified.clone(), config.state.join("trust"))),
            config: config.clone(),
            run_id: run_id.clone(),
            received: ReceivedState::default(),
            audited: 0,
            drifted: false,
            arrivals,
            link,
            fresh: watch::Sender::default(),
            progress: Arc::new(Progress::default()),
            metrics: Arc::new(Metrics::default()),
        };
        let reporting = tokio::spawn(report(config.name.clone(), run_id, arrived.clone(), links));
        Self { arrivals: arrived, tasks: vec![tokio::spawn(subscriber.run()), reporting] }
    }

    /// The last received state.
    pub fn arrivals(&self) -> watch::Receiver<Option<Arrived>> {
        self.arrivals.clone()
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Reports after every change, and every few seconds, that the state is served.
async fn report(name: String, run_id: String, mut arrived: watch::Receiver<Option<Arrived>>, mut links: watch::Receiver<Option<Link>>) {
    let path = format!("/v1/proxies/{name}/report");
    let pause = std::time::Duration::from_secs(waypost_wire::REPORT_SECONDS);
    loop {
        let received = arrived.borrow_and_update().as_ref().map(|arrived| (arrived.received.version, arrived.received.highest, arrived.received.snapshot()));
        let report = Report {
            run_id: run_id.clone(),
            release: crate::RELEASE.to_owned(),
            applied: received.as_ref().map(|(version, ..)| *version),
            highest: received.as_ref().map(|(_, highest, _)| *highest),
            content: received.map(|(_, _, snapshot)| Content::of(&snapshot)),
            ..Report::default()
        };
        let link = links.borrow_and_update().clone();
        if let (Some(mut link), Ok(body)) = (link, serde_json::to_vec(&report))
            && let Ok(request) = post(&link.url, &path, body)
            && let Ok(response) = link.sender.send_request(request).await
        {
            // The body is ignored, but it is read so that the stream ends.
            drop(response.into_body().collect().await);
        }
        tokio::select! {
            changed = arrived.changed() => if changed.is_err() { return },
            changed = links.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

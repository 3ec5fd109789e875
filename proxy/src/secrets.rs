//! The keys that this proxy shares with all others. They are stored on disk, and followed over the connection to the current controller.
//! Users of a key derive their own from these.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use waypost_wire::{KeyRing, SECRETS_PATH, SecretsFrame, SecretsRequest};

use crate::apply::Progress;
use crate::link::{CONNECT_TIMEOUT, Ended, Lines, Link, post};

/// Pause after the stream ended while its connection is still open.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Maximum bytes of one line, which has all keys.
const MAX_KEYS_LINE_BYTES: usize = 1024 * 1024;

/// Follows the keys.
pub(crate) struct Secrets {
    name: String,
    file: PathBuf,
    ring: KeyRing,
    progress: Arc<Progress>,
}

impl Secrets {
    /// Loads the keys from disk in `folder`, if there are any.
    pub(crate) fn open(name: String, folder: &Path, progress: Arc<Progress>) -> Self {
        let file = folder.join("ring.json");
        let ring = waypost_trust::load_secret(&file).unwrap_or_else(|error| {
            tracing::error!("{error}; the keys are fetched anew");
            None
        });
        Self { name, file, ring: ring.unwrap_or_default(), progress }
    }

    /// Follows the keys until dropped.
    pub(crate) async fn run(mut self, mut links: watch::Receiver<Option<Link>>) {
        self.report_version();
        loop {
            let link = links.borrow_and_update().clone().filter(|link| link.url.scheme() == "https");
            if let Some(link) = link {
                tokio::select! {
                    Err(why) = self.follow(link) => tracing::debug!(why, "the shared keys are not followed for a moment"),
                    changed = links.changed() => if changed.is_err() { return } else { continue },
                }
            }
            tokio::select! {
                changed = links.changed() => if changed.is_err() { return },
                () = sleep(RECONNECT_PAUSE) => {}
            }
        }
    }

    /// Puts the version of the keys into the next report.
    fn report_version(&self) {
        self.progress.update(|applied| applied.secrets = self.ring.version);
    }

    /// Follows the keys over one connection; returns why that ended.
    async fn follow(&mut self, mut link: Link) -> Result<Infallible, String> {
        let request = SecretsRequest { name: self.name.clone(), controller: None };
        let body = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let request = post(&link.url, SECRETS_PATH, body).map_err(|error| error.to_string())?;
        let response =
            timeout(CONNECT_TIMEOUT, link.sender.send_request(request)).await.map_err(|_| Ended::Silent.to_string())?.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(response.status().to_string());
        }
        let mut lines = Lines::of(response.into_body());
        loop {
            let line = lines.next(MAX_KEYS_LINE_BYTES).await.map_err(|ended| ended.to_string())?;
            self.take(serde_json::from_slice(&line).map_err(|error| error.to_string())?);
        }
    }

    fn take(&mut self, frame: SecretsFrame) {
        let SecretsFrame::Ring(ring) = frame else { return };
        if !ring.replaces(&self.ring) {
            return;
        }
        // Keys that a restart would lose are not acknowledged, so that no proxy encrypts with them.
        let encoded = serde_json::to_vec(&ring).map_err(|error| error.to_string());
        match encoded.and_then(|bytes| waypost_trust::write_secret(&self.file, &bytes).map_err(|error| error.to_string())) {
            Ok(()) => {
                self.ring = ring;
                self.report_version();
            }
            Err(error) => tracing::error!("{error}; the shared keys stay as they are"),
        }
    }
}

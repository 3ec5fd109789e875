//! The keys that proxies share: the leader makes and changes them, all other controllers follow it. They are in files and on a stream of their own,
//! and never in anything that people are shown.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use waypost_model::snapshot::Version;
use waypost_wire::{KeyRing, Phase, SECRETS_PATH, SecretsFrame, SecretsRequest};

use crate::controller::clock::now_millis;
use crate::controller::handle::Handle;
use crate::controller::message::{Input, Query};
use crate::controller::peers::streams::{StreamError, join, next_line, turned};
use crate::controller::rules::election::Role;
use crate::controller::rules::ring::{Moment, next};
use crate::controller::stored::identity::new_id;

/// Interval in which the keys are checked.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Proxies that followed the previous leader find a new leader within this time, and other controllers answer.
const PROXY_RETURN_TIME: Duration = Duration::from_secs(10);
/// Time limit for the beginning of another controller's answer.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes of one line, which has all keys.
const MAX_KEYS_LINE_BYTES: usize = 1024 * 1024;

/// Keeps the keys.
#[derive(Debug)]
pub struct KeyRingTask {
    /// The controller.
    pub handle: Handle,
    /// Asks other controllers.
    pub client: reqwest::Client,
    /// The file.
    pub file: PathBuf,
    /// How long a key seals.
    pub rotation: Duration,
    /// Gets the keys whenever they change.
    pub ring: watch::Sender<KeyRing>,
}

impl KeyRingTask {
    /// Keeps them until dropped.
    pub async fn run(self) {
        match waypost_trust::load_secret(&self.file) {
            Ok(ring) => drop(self.ring.send_replace(ring.unwrap_or_default())),
            Err(error) => {
                let message = format!("{error}; the keys that proxies share are fetched from another controller, or made anew");
                if self.handle.send(Input::damaged("trust/ring.json", message)).await.is_err() {
                    return;
                }
            }
        }
        let mut roles = self.handle.roles();
        let mut led: Option<(u64, Instant)> = None;
        loop {
            let role = roles.borrow_and_update().clone();
            match role {
                Role::Leading { epoch, .. } | Role::Caretaking { epoch, .. } => {
                    let since = led.filter(|(led_epoch, _)| *led_epoch == epoch).map_or_else(Instant::now, |(_, since)| since);
                    led = Some((epoch, since));
                    self.lead(epoch, since.elapsed() >= PROXY_RETURN_TIME).await;
                }
                Role::Following { leader: Some(leader) } => {
                    tokio::select! {
                        ended = self.listen(&leader.url, false) => if let Err(error) = ended {
                            tracing::debug!(%error, "the keys that proxies share are not followed for a moment");
                        },
                        () = turned(roles.clone(), Some(leader.holder.name.clone())) => continue,
                    }
                }
                Role::Following { leader: None } => {}
            }
            tokio::select! {
                changed = roles.changed() => if changed.is_err() { return },
                () = sleep(KEY_CHECK_INTERVAL) => {}
            }
        }
    }

    /// Keys that cannot be written are not published: after a restart nobody could open what they sealed.
    fn save(&self, ring: KeyRing) {
        let bytes = serde_json::to_vec(&ring).unwrap_or_default();
        match waypost_trust::write_secret(&self.file, &bytes) {
            Ok(()) => drop(self.ring.send_replace(ring)),
            Err(error) => tracing::error!("{error}; the keys that proxies share stay as they are"),
        }
    }

    /// A leader without keys takes over those of another controller. Returns whether all other controllers answered: if one did
    /// not, it may have keys that proxies use.
    async fn learn(&self) -> bool {
        let mut all_answered = self.handle.met(QUESTION_TIMEOUT).await;
        let peers = self.handle.ask(Query::Peers).await.unwrap_or_default();
        for (name, url) in peers {
            match timeout(QUESTION_TIMEOUT, self.listen(&url, true)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => tracing::debug!(%error, "{name} does not say which keys the proxies share"),
                Err(_) => tracing::debug!("{name} does not say in time which keys the proxies share"),
            }
            all_answered = false;
        }
        all_answered
    }

    /// The leader's regular look at the keys; `met` is true once every proxy and every other controller had time to connect.
    async fn lead(&self, epoch: u64, met: bool) {
        if self.ring.borrow().keys.is_empty() {
            let all_answered = self.learn().await;
            // New keys would not open anything that was sealed with the keys of a silent controller.
            if !all_answered && !met && self.ring.borrow().keys.is_empty() {
                return;
            }
        }
        let ring_before = self.ring.borrow().clone();
        // The proxies are asked about only while a key waits for them.
        // Before the first key seals, nobody misses one.
        let everybody_has_it = (met || ring_before.active().is_none())
            && ring_before.keys.iter().any(|key| key.phase == Phase::DecryptOnly)
            && self.everybody_has(ring_before.version).await;
        let at = Moment { now: now_millis() / 1_000, rotation: self.rotation.as_secs(), epoch, everybody_has_it };
        let Some(mut ring) = next(&ring_before, at, || waypost_trust::new_secret().inspect_err(|error| tracing::error!("{error}")).ok()) else { return };
        if ring.id.is_empty() {
            ring.id = new_id();
        }
        let active = |ring: &KeyRing| ring.active().map(|key| key.id);
        let turned = active(&ring).filter(|id| active(&ring_before) != Some(*id));
        self.save(ring);
        if let Some(id) = turned {
            let opening = ring_before.keys.iter().filter(|key| key.phase == Phase::Retired).count();
            let message = format!("key {id} seals from now on, and all live proxies have it; {opening} older ones open");
            let event = Input::Event { reason: "KeyActive", about: "keys".to_owned(), message };
            if self.handle.send(event).await.is_err() {
                tracing::debug!("the controller stopped");
            }
        }
    }

    /// Whether every live proxy that follows the keys holds this version of them.
    async fn everybody_has(&self, version: Version) -> bool {
        let proxies = self.handle.ask(Query::Proxies).await;
        proxies.is_ok_and(|all| all.iter().filter(|proxy| proxy.connected).filter_map(|proxy| proxy.secrets).all(|has| has == version))
    }

    /// Takes over the keys of another controller: with `once` the present ones, otherwise every change until the stream ends.
    async fn listen(&self, other: &str, once: bool) -> Result<(), StreamError> {
        let url = join(other, SECRETS_PATH).ok_or(StreamError::Url)?;
        let request = SecretsRequest { name: String::new(), controller: Some(self.handle.me().0.clone()) };
        let sent = timeout(QUESTION_TIMEOUT, self.client.post(url).json(&request).send()).await.map_err(|_| StreamError::NoAnswer)?;
        let mut response = sent.and_then(reqwest::Response::error_for_status)?;
        let mut buffer = BytesMut::new();
        loop {
            let line = next_line(&mut response, &mut buffer, MAX_KEYS_LINE_BYTES).await?;
            match serde_json::from_slice(&line)? {
                SecretsFrame::Ring(ring) if ring.replaces(&self.ring.borrow()) => self.save(ring),
                SecretsFrame::Ring(_) | SecretsFrame::Heartbeat | SecretsFrame::Unknown => {}
            }
            if once {
                return Ok(());
            }
        }
    }
}

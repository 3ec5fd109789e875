//! Takes part in the election: carries out the requests of [`Election`] at the store, and publishes this controller's role.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waypost_adapter::{AdapterError, ErrorKind, Key};

use crate::controller::message::Signal;
use crate::controller::rules::election::{Election, ElectionInput, Role, StoreFailure, StoreRequest, StoredRecord};
use crate::controller::settings::Store;

/// A store that has not answered for so long when we start may be down: a controller that never met another one does not
/// wait for it.
const SOLE_PATIENCE: Duration = Duration::from_secs(1);
/// Time limit for releasing the record when the controller stops.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// When to lead without the store's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreDown {
    /// Never.
    Wait,
    /// If the store does not answer soon: no other controller is known.
    Sole,
    /// At once: an operator says that nobody else leads.
    Named,
}

/// Takes part until stopped.
#[derive(Debug)]
pub struct Elector {
    /// The store that has the record.
    pub store: Arc<Store>,
    /// How long a holder is believed.
    pub ttl: Duration,
    /// From when on time is counted.
    pub started: Instant,
    /// Whether no other controller was ever met.
    pub alone: bool,
    /// When to lead without the store.
    pub store_down: StoreDown,
    /// Gets our role.
    pub roles: watch::Sender<Role>,
}

impl Elector {
    /// Takes part until stopped. Releases the record at the end.
    pub async fn run(self, mut election: Election, mut signals: mpsc::Receiver<Signal>, stop: CancellationToken) {
        let key = Key::from(format!("{}/leader", self.store.status_root()));
        election.handle(ElectionInput::Others(!self.alone), self.now());
        if self.store_down == StoreDown::Named {
            election.handle(ElectionInput::Caretake, self.now());
        }
        let mut answered = false;
        let mut asking: Option<std::pin::Pin<Box<dyn Future<Output = ElectionInput> + Send>>> = None;
        loop {
            let now = self.now();
            if self.store_down == StoreDown::Sole && !answered && now >= SOLE_PATIENCE {
                answered = true;
                election.handle(ElectionInput::Caretake, now);
            }
            self.set_role(election.role(now));
            if asking.is_none()
                && let Some(ask) = election.poll(now)
            {
                asking = Some(Box::pin(carry_out(self.store.clone(), key.clone(), ask, self.ttl)));
            }
            let mut due = election.due(now);
            if self.store_down == StoreDown::Sole && !answered {
                due = due.min(SOLE_PATIENCE);
            }
            // An hour stands for never.
            let wake = self.started + due.min(now + Duration::from_secs(3_600));
            tokio::select! {
                () = stop.cancelled() => break,
                input = async { match &mut asking { Some(ask) => ask.as_mut().await, None => std::future::pending().await } } => {
                    asking = None;
                    answered |= !matches!(input, ElectionInput::Read(Err(StoreFailure::Unreachable)) | ElectionInput::Wrote(Err(StoreFailure::Unreachable)));
                    election.handle(input, self.now());
                }
                signal = signals.recv() => match signal {
                    None => break,
                    Some(Signal::Saw { epoch, living }) => election.handle(ElectionInput::Saw { epoch, living }, self.now()),
                    Some(Signal::Others(others)) => election.handle(ElectionInput::Others(others), self.now()),
                    Some(Signal::Look) => election.handle(ElectionInput::Look, self.now()),
                    Some(Signal::StepDown(to)) => {
                        if let Some(ask) = asking.take() {
                            election.handle(ask.await, self.now());
                        }
                        let let_go = self.let_go(&mut election, &key).await;
                        if to.send(let_go).is_err() {
                            tracing::debug!("whoever asked to step down has gone");
                        }
                    }
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
        if let Some(ask) = asking.take() {
            let input = timeout(RELEASE_TIMEOUT, ask).await;
            input.into_iter().for_each(|input| election.handle(input, self.now()));
        }
        self.let_go(&mut election, &key).await;
    }

    /// Stops publishing, and only then writes that the record is free.
    async fn let_go(&self, election: &mut Election, key: &Key) -> bool {
        let release = election.release();
        let led = election.role(self.now()).epoch().is_some();
        election.handle(ElectionInput::StepDown, self.now());
        self.set_role(election.role(self.now()));
        if let Some(ask) = release
            && let Err(error) = timeout(RELEASE_TIMEOUT, write(&self.store, key, &ask)).await
        {
            tracing::warn!(%error, "the record of leading was not released; it runs out");
        }
        led
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn set_role(&self, role: Role) {
        self.roles.send_if_modified(|current| {
            let differs = *current != role;
            *current = role;
            differs
        });
    }
}

fn trouble(error: &AdapterError) -> StoreFailure {
    match error.kind {
        ErrorKind::Denied | ErrorKind::Settings => StoreFailure::Denied,
        // A store that is full, or takes no writes at the moment, refuses everybody.
        ErrorKind::Refused | ErrorKind::Unreachable | ErrorKind::UnknownOutcome => StoreFailure::Unreachable,
    }
}

/// Carries out a request, and waits for the answer only so long that another attempt fits within the lease.
async fn carry_out(store: Arc<Store>, key: Key, ask: StoreRequest, ttl: Duration) -> ElectionInput {
    match &ask {
        StoreRequest::Read => {
            let read = timeout(ttl / 4, store.adapter.get(&key)).await;
            let found = read.unwrap_or_else(|_| Err(AdapterError::new(ErrorKind::Unreachable, &store.url, "no answer in time", "look at the store")));
            ElectionInput::Read(match found {
                Ok(entry) => Ok(entry.map(|entry| StoredRecord { revision: entry.revision, record: serde_json::from_slice(&entry.value).ok() })),
                Err(error) => Err(trouble(&error)),
            })
        }
        StoreRequest::Write { .. } => match timeout(ttl / 3, write(&store, &key, &ask)).await {
            Ok(input) => input,
            Err(_) => ElectionInput::Wrote(Err(StoreFailure::Unreachable)),
        },
    }
}

async fn write(store: &Store, key: &Key, ask: &StoreRequest) -> ElectionInput {
    let StoreRequest::Write { record, expected } = ask else { return ElectionInput::Wrote(Err(StoreFailure::Unreachable)) };
    let value = Bytes::from(serde_json::to_vec(record).unwrap_or_default());
    let written = store.adapter.put_if(key, value, *expected).await;
    ElectionInput::Wrote(written.map_err(|error| {
        tracing::debug!(%error, "the record of leading was not written");
        trouble(&error)
    }))
}

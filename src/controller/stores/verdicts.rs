//! Verdicts in the store, below the status root: `<root>-status/verdicts/<kind>/<name>`. Written behind, at a bounded
//! rate; where we may not write, they are in the API alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use waypost_adapter::{AdapterError, ErrorKind, Event, Key};

use crate::controller::jitter::jitter;
use crate::controller::rules::election::Role;
use crate::controller::settings::Store;

/// The wanted values of keys below `verdicts/`: a verdict, or `None`.
pub type Wanted = BTreeMap<String, Option<Bytes>>;

/// A pause between two writes, so that a burst of verdicts does not load the store.
const WRITE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before the next try after a refusal.
const REFUSED_RETRY_PAUSE: Duration = Duration::from_secs(60);
/// Maximum pause before the next try after any other error; half of it on the average.
const MAX_FAILED_RETRY_PAUSE: Duration = Duration::from_secs(4);
/// Interval in which the verdicts in the store are compared with the wanted ones: somebody may have wiped them.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);

/// Verdicts on their way to the writer: one for each key, the newest.
#[derive(Debug, Default)]
pub struct Outbox {
    wanted: Mutex<Wanted>,
    added: Notify,
}

impl Outbox {
    /// Adds verdicts in place of older ones.
    pub fn add(&self, wanted: Wanted) {
        if !wanted.is_empty() {
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).extend(wanted);
            self.added.notify_one();
        }
    }

    fn take(&self) -> Wanted {
        std::mem::take(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Writes verdicts as they come, until stopped: those of the controller that leads.
pub async fn run(store: Arc<Store>, outbox: Arc<Outbox>, roles: watch::Receiver<Role>, stop: CancellationToken) {
    let root = format!("{}/verdicts", store.status_root());
    let writer = Writer { store, root, wanted: BTreeMap::new(), standing: BTreeMap::new(), open: BTreeSet::new(), compare: None, is_read: false };
    tokio::select! {
        () = stop.cancelled() => {}
        () = writer.run(&outbox, roles) => {}
    }
}

struct Writer {
    store: Arc<Store>,
    root: String,
    /// The wanted verdicts.
    wanted: BTreeMap<String, Bytes>,
    /// The verdicts in the store, as far as this writer has read or written them.
    standing: BTreeMap<String, Bytes>,
    /// Names whose wanted and stored verdicts may differ.
    open: BTreeSet<String>,
    /// When to compare next; before the first verdict nothing is read.
    compare: Option<Instant>,
    /// Whether the stored verdicts were read, or may not be read.
    is_read: bool,
}

impl Writer {
    async fn run(mut self, outbox: &Outbox, mut roles: watch::Receiver<Role>) {
        loop {
            if !matches!(*roles.borrow_and_update(), Role::Leading { .. }) {
                if roles.changed().await.is_err() {
                    return;
                }
                // Another controller has written meanwhile.
                self.compare = self.compare.map(|_| Instant::now());
                continue;
            }
            for (name, value) in outbox.take() {
                match value {
                    Some(value) => drop(self.wanted.insert(name.clone(), value)),
                    None => drop(self.wanted.remove(&name)),
                }
                self.open.insert(name);
                self.compare.get_or_insert_with(Instant::now);
            }
            if self.compare.is_some_and(|due| due <= Instant::now()) {
                let again =
                    if self.look().await { COMPARE_INTERVAL / 2 + jitter(COMPARE_INTERVAL) } else { MAX_FAILED_RETRY_PAUSE + jitter(MAX_FAILED_RETRY_PAUSE) };
                self.compare = Some(Instant::now() + again);
            }
            match (self.open.pop_first(), self.compare) {
                (Some(name), _) => self.write(name).await,
                (None, Some(due)) if !self.wanted.is_empty() || !self.is_read => {
                    tokio::select! {
                        () = outbox.added.notified() => {}
                        () = sleep_until(due) => {}
                    }
                }
                (None, _) => outbox.added.notified().await,
            }
        }
    }

    /// Reads the stored verdicts, which an earlier run or another writer may have changed. Returns whether the store could be asked. Without the
    /// right to read them, only our own writes are known.
    async fn look(&mut self) -> bool {
        match timeout(Duration::from_secs(5), self.store.adapter.source(&self.root).next()).await {
            Ok(Ok(Event::Reset { entries, .. })) => {
                // An empty entry is a folder, in a store that has folders.
                let found = entries.into_iter().filter(|entry| !entry.value.is_empty());
                self.standing = found.filter_map(|entry| Some((entry.key.below(&self.root)?, entry.value))).collect();
                self.open.extend(self.standing.keys().chain(self.wanted.keys()).cloned());
                self.is_read = true;
            }
            Ok(Err(error)) if error.kind == ErrorKind::Denied => self.is_read = true,
            _ => return false,
        }
        true
    }

    /// Writes one verdict. A verdict that the store refuses is tried again after the next comparison, after all others.
    async fn write(&mut self, name: String) {
        let wanted = self.wanted.get(&name).cloned();
        if self.standing.get(&name) == wanted.as_ref() {
            return;
        }
        let key = Key::from(format!("{}/{name}", self.root));
        let result = match &wanted {
            Some(value) => self.store.adapter.put(&key, value.clone()).await.map(drop),
            None => self.store.adapter.delete(&key).await,
        };
        match (result, wanted) {
            (Ok(()), Some(value)) => drop(self.standing.insert(name, value)),
            (Ok(()), None) => drop(self.standing.remove(&name)),
            (Err(error), _) => self.failed(name, &error).await,
        }
        sleep(WRITE_PAUSE).await;
    }

    async fn failed(&mut self, name: String, error: &AdapterError) {
        match error.kind {
            ErrorKind::Denied => {
                tracing::warn!("a verdict was not written: {error}; allow writing there, or start with --status-writes none");
                // The others would be refused as well. They stay wanted, and are compared again later.
                self.open.clear();
                sleep(REFUSED_RETRY_PAUSE).await;
            }
            ErrorKind::Refused | ErrorKind::Settings => tracing::warn!("a verdict was not written: {error}"),
            ErrorKind::Unreachable | ErrorKind::UnknownOutcome => {
                self.open.insert(name);
                sleep(MAX_FAILED_RETRY_PAUSE / 4 + jitter(MAX_FAILED_RETRY_PAUSE)).await;
            }
        }
    }
}

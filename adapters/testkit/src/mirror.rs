//! Collects the events of a source, and checks each against the source's contract.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use waypost_adapter::{Adapter, AdapterError, Change, Entry, Event, Key, Revision};

/// A condition on the entries that must hold after every event.
type Check = Box<dyn Fn(&BTreeMap<Key, Entry>) -> Result<(), String> + Send>;

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    check: Option<Check>,
    /// Whether the store retains everything that was written, so that a Reset must have no older revision and leave nothing out.
    steady: bool,
    at: Revision,
    resets: usize,
    changes: usize,
    drift: usize,
    last_error: Option<AdapterError>,
    errors: usize,
    last_event: Option<Instant>,
    broken: Option<String>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("entries", &self.entries.len()).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Follows a source as the controller does, and stores its entries.
#[derive(Debug)]
pub struct Mirror {
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

impl Mirror {
    /// Follows `root` of a store.
    pub fn follow(adapter: &dyn Adapter, root: &str) -> Self {
        Self::run(adapter, root, Inner::default())
    }

    /// The same, with a check of the entries after every event.
    pub fn follow_checked(adapter: &dyn Adapter, root: &str, check: impl Fn(&BTreeMap<Key, Entry>) -> Result<(), String> + Send + 'static) -> Self {
        Self::run(adapter, root, Inner { check: Some(Box::new(check)), ..Inner::default() })
    }

    fn run(adapter: &dyn Adapter, root: &str, inner: Inner) -> Self {
        let mut source = adapter.source(root);
        let inner = Arc::new(Mutex::new(inner));
        let shared = inner.clone();
        let task = tokio::spawn(async move {
            let mut fresh = true;
            loop {
                match source.next().await {
                    Ok(event) => {
                        let mut inner = shared.lock().unwrap();
                        if let Err(why) = inner.take(event, fresh) {
                            inner.broken.get_or_insert(why);
                        }
                        fresh = false;
                    }
                    Err(error) => {
                        {
                            let mut inner = shared.lock().unwrap();
                            inner.errors += 1;
                            inner.last_error = Some(error);
                        }
                        fresh = true;
                        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..100))).await;
                    }
                }
            }
        });
        Self { inner, task }
    }

    /// Sets whether the store retains everything that was written and nothing is deleted. Then no entry may become older or disappear,
    /// whatever happens to the connection.
    pub fn may_not_go_back(&self, steady: bool) {
        self.inner.lock().unwrap().steady = steady;
    }

    /// The keys and values of all entries.
    pub fn values(&self) -> BTreeMap<Key, Bytes> {
        let inner = self.inner.lock().unwrap();
        inner.entries.iter().map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    /// The entry at a key.
    pub fn entry(&self, key: &str) -> Option<Entry> {
        self.inner.lock().unwrap().entries.get(&Key::from(key.to_owned())).cloned()
    }

    /// The number of resets and of changes.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock().unwrap();
        (inner.resets, inner.changes)
    }

    /// The number of entries that listings corrected.
    pub fn drift(&self) -> usize {
        self.inner.lock().unwrap().drift
    }

    /// The number of errors, and the last one.
    pub fn errors(&self) -> (usize, Option<AdapterError>) {
        let inner = self.inner.lock().unwrap();
        (inner.errors, inner.last_error.clone())
    }

    /// Time since the last event.
    pub fn silence(&self) -> Option<Duration> {
        self.inner.lock().unwrap().last_event.map(|at| at.elapsed())
    }

    /// Waits until `holds` is true, at most for `limit`; returns the time it took.
    ///
    /// # Panics
    /// It was not true in time, or the source broke its contract.
    pub async fn until(&self, limit: Duration, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            self.check();
            assert!(begun.elapsed() < limit, "{what}: not within {limit:?}; {:?}", self.errors());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check();
        begun.elapsed()
    }

    /// Waits until the values equal `wanted`; returns the time it took.
    ///
    /// # Panics
    /// They were not equal within the limit, or the source broke its contract.
    pub async fn until_is(&self, limit: Duration, wanted: &BTreeMap<Key, Bytes>) -> Duration {
        let begun = Instant::now();
        loop {
            self.check();
            let values = self.values();
            if values == *wanted {
                return begun.elapsed();
            }
            if begun.elapsed() > limit {
                let missing: Vec<_> = wanted.iter().filter(|(key, value)| values.get(*key) != Some(*value)).map(|(key, _)| key).take(5).collect();
                let extra: Vec<_> = values.keys().filter(|key| !wanted.contains_key(*key)).take(5).collect();
                panic!(
                    "after {limit:?} the source tells {} entries, the store has {}; wrong or missing {missing:?}, too many {extra:?}; {:?}",
                    values.len(),
                    wanted.len(),
                    self.errors()
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks that the source has not broken its contract.
    ///
    /// # Panics
    /// It has.
    pub fn check(&self) {
        let broken = self.inner.lock().unwrap().broken.clone();
        assert_eq!(broken, None, "the source broke its contract");
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inner {
    fn take(&mut self, event: Event, fresh: bool) -> Result<(), String> {
        self.last_event = Some(Instant::now());
        self.apply(event, fresh)?;
        self.check.as_ref().map_or(Ok(()), |check| check(&self.entries))
    }

    fn compare(&self, entries: &[Entry]) -> Result<(), String> {
        let revisions: BTreeMap<&Key, Revision> = entries.iter().map(|entry| (&entry.key, entry.revision)).collect();
        let back = |entry: &&Entry| revisions.get(&entry.key).is_none_or(|revision| *revision < entry.revision);
        match self.entries.values().find(back) {
            Some(entry) => Err(format!("a Reset took {} back from revision {} to {:?}", entry.key, entry.revision, revisions.get(&entry.key))),
            None => Ok(()),
        }
    }

    fn apply(&mut self, event: Event, fresh: bool) -> Result<(), String> {
        match event {
            Event::Reset { entries, at, drift } => {
                if self.steady {
                    self.compare(&entries)?;
                }
                self.entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
                self.at = at;
                self.resets += 1;
                self.drift += drift;
                Ok(())
            }
            _ if fresh => Err(format!("the first event, or the first after an error, was no Reset: {event:?}")),
            Event::Changes { changes, at } => {
                self.changes += 1;
                self.forward(at)?;
                changes.into_iter().try_for_each(|change| self.change(change))
            }
            Event::Idle { at } => self.forward(at),
        }
    }

    fn forward(&mut self, at: Revision) -> Result<(), String> {
        if at < self.at {
            return Err(format!("`at` went down from {} to {at} without a Reset", self.at));
        }
        self.at = at;
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), String> {
        match change {
            Change::Put(entry) => {
                if let Some(before) = self.entries.get(&entry.key)
                    && before.revision > entry.revision
                    && entry.unreadable.is_none()
                {
                    return Err(format!("{} went back from revision {} to {}", entry.key, before.revision, entry.revision));
                }
                self.entries.insert(entry.key.clone(), entry);
            }
            Change::Delete(key) => {
                self.entries.remove(&key);
            }
        }
        Ok(())
    }
}

//! Idle connections to endpoints, one pool per core.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::connection::Connection;

/// Idle connections of the whole process that are kept at least: one costs about 27 kB.
const LEAST: usize = 1_024;
/// What an idle connection costs at most, and the part of the machine's memory that all of them may have.
const BYTES_EACH: u64 = 32 * 1024;
const MEMORY_SHARE: u64 = 16;

/// How many idle connections the cores of the process keep together.
#[derive(Debug, Clone)]
pub(crate) struct IdleCap {
    /// The number, which the cores read.
    pub(crate) cap: Arc<AtomicUsize>,
    /// Whether it follows the endpoints: one that was set does not.
    grows: bool,
    threads: usize,
    descriptors: usize,
}

impl IdleCap {
    /// The number that was set, or one that follows the endpoints.
    pub(crate) fn new(set: Option<usize>, threads: usize, descriptors: usize) -> Self {
        let cap = set.unwrap_or_else(|| idle_cap(0, threads, descriptors));
        Self { cap: Arc::new(AtomicUsize::new(cap)), grows: set.is_none(), threads, descriptors }
    }

    /// There are so many endpoints from now on.
    pub(crate) fn follow(&self, endpoints: usize) {
        if self.grows {
            self.cap.store(idle_cap(endpoints, self.threads, self.descriptors), Ordering::Relaxed);
        }
    }
}

/// How many idle connections the process keeps: enough for each serving thread to have one to each endpoint, within a fifth of the
/// descriptors and a part of the memory.
fn idle_cap(endpoints: usize, threads: usize, descriptors: usize) -> usize {
    let memory = usize::try_from(total_memory() / MEMORY_SHARE / BYTES_EACH).unwrap_or(usize::MAX);
    (2 * endpoints * threads).max(LEAST).min(descriptors / 5).min(memory).max(1)
}

/// Bytes of memory that this machine, or this process's control group, has.
fn total_memory() -> u64 {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max");
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    [group, machine.map(|kib| kib * 1024)].into_iter().flatten().min().unwrap_or(1 << 30)
}

/// After this long an idle connection is closed, if its endpoint said nothing.
const MAX_IDLE: Duration = Duration::from_secs(50);
/// So much earlier than its endpoint an idle connection is closed here.
const BEFORE_ENDPOINT: Duration = Duration::from_secs(1);
/// A request that may not be repeated takes only a connection that was idle for so long, where its endpoint did not say how long it keeps one.
const FRESH: Duration = Duration::from_secs(1);

/// What a request needs of an idle connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// It can be repeated, if the connection turns out to be closed.
    Any,
    /// It cannot: the connection must not be about to be closed.
    Fresh,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first per address.
    idle: HashMap<Arc<str>, Vec<Connection>>,
    count: usize,
}

/// Idle connections of one core.
#[derive(Debug)]
pub(crate) struct Pool {
    inner: Mutex<Inner>,
    /// What all cores may keep together; it grows with the endpoints.
    cap: Arc<AtomicUsize>,
    cores: usize,
}

/// Whether an idle connection can be used for a while yet.
fn is_usable(idle: &Connection, need: Need, now: Instant) -> bool {
    let age = now.saturating_duration_since(idle.idle_since);
    match (idle.keep_alive, need) {
        (Some(time), _) => age + BEFORE_ENDPOINT < time,
        (None, Need::Any) => age < MAX_IDLE,
        (None, Need::Fresh) => age < FRESH,
    }
}

impl Pool {
    /// A pool that keeps its part, of so many cores, of `cap` connections.
    pub(crate) fn new(cap: Arc<AtomicUsize>, cores: usize) -> Self {
        Self { inner: Mutex::default(), cap, cores }
    }

    /// The connection to `address` that was used last and is still open.
    pub(crate) fn take(&self, address: &Arc<str>, need: Need) -> Option<Connection> {
        let mut inner = self.lock();
        let Inner { idle, count } = &mut *inner;
        let list = idle.get_mut(address)?;
        let (now, mut found) = (Instant::now(), None);
        // The last one was used last: if it is not fresh, no other is.
        while let Some(mut last) = list.pop_if(|last| is_usable(last, need, now) || !is_usable(last, Need::Any, now)) {
            *count -= 1;
            if is_usable(&last, need, now) && last.reader.is_quiet() {
                found = Some(last);
                break;
            }
        }
        if list.is_empty() {
            idle.remove(address);
        }
        found
    }

    /// Keeps a connection for the next request; at the cap the one that was idle longest is closed.
    pub(crate) fn put(&self, mut connection: Connection) {
        if !connection.rest() {
            return;
        }
        let mut inner = self.lock();
        if inner.count >= (self.cap.load(Ordering::Relaxed) / self.cores).max(1) {
            let _evicted: bool = inner.evict();
        }
        inner.count += 1;
        match inner.idle.get_mut(&connection.key) {
            Some(list) => list.push(connection),
            None => drop(inner.idle.insert(connection.key.clone(), vec![connection])),
        }
    }

    /// Closes what was idle too long, and what the endpoint closed.
    pub(crate) fn sweep(&self) {
        let (mut inner, now) = (self.lock(), Instant::now());
        inner.idle.values_mut().for_each(|list| list.retain_mut(|idle| is_usable(idle, Need::Any, now) && idle.reader.is_quiet()));
        inner.idle.retain(|_, list| !list.is_empty());
        inner.count = inner.idle.values().map(Vec::len).sum();
    }

    /// Closes the connection that was idle longest. Returns whether there was one.
    pub(crate) fn evict(&self) -> bool {
        self.lock().evict()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn evict(&mut self) -> bool {
        let oldest = self.idle.iter().filter_map(|(address, list)| list.first().map(|idle| (idle.idle_since, address.clone()))).min();
        let Some((_, address)) = oldest else { return false };
        if let Some(list) = self.idle.get_mut(&address) {
            list.remove(0);
            self.count -= 1;
            if list.is_empty() {
                self.idle.remove(&address);
            }
        }
        true
    }
}

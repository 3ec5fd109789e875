//! Idle connections to endpoints, one pool per core.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use crate::http::body::RequestBody;

/// Idle connections of the whole process: one costs about 27 kB.
pub(crate) const PER_PROCESS: usize = 1_024;

/// After this long an idle connection is closed.
const MAX_IDLE: Duration = Duration::from_secs(55);

/// The sending side of a connection to an endpoint.
pub(crate) type Sender = SendRequest<RequestBody>;

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first per address.
    idle: HashMap<Arc<str>, Vec<Idle>>,
    count: usize,
}

/// Idle connections of one core.
#[derive(Debug)]
pub(crate) struct Pool {
    inner: Mutex<Inner>,
    cap: usize,
}

impl Pool {
    /// A pool that keeps at most `cap` connections.
    pub(crate) fn new(cap: usize) -> Self {
        Self { inner: Mutex::default(), cap }
    }

    /// The connection to `address` that was used last and is still open.
    pub(crate) fn take(&self, address: &Arc<str>) -> Option<Sender> {
        let mut inner = self.lock();
        let Inner { idle, count } = &mut *inner;
        let list = idle.get_mut(address)?;
        let mut found = None;
        while let Some(idle) = list.pop() {
            *count -= 1;
            if !idle.sender.is_closed() {
                found = Some(idle.sender);
                break;
            }
        }
        if list.is_empty() {
            idle.remove(address);
        }
        found
    }

    /// Keeps a connection for the next request; at the cap the one that was idle longest is closed.
    pub(crate) fn put(&self, address: &Arc<str>, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut inner = self.lock();
        if inner.count >= self.cap {
            inner.evict();
        }
        inner.count += 1;
        let idle = Idle { sender, since: Instant::now() };
        match inner.idle.get_mut(address) {
            Some(list) => list.push(idle),
            None => drop(inner.idle.insert(address.clone(), vec![idle])),
        }
    }

    /// Closes what was idle too long, and what the endpoint closed.
    pub(crate) fn sweep(&self) {
        let mut inner = self.lock();
        inner.idle.values_mut().for_each(|list| list.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < MAX_IDLE));
        inner.idle.retain(|_, list| !list.is_empty());
        inner.count = inner.idle.values().map(Vec::len).sum();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn evict(&mut self) {
        let oldest = self.idle.iter().filter_map(|(address, list)| list.first().map(|idle| (idle.since, address.clone()))).min();
        let Some((_, address)) = oldest else { return };
        if let Some(list) = self.idle.get_mut(&address) {
            list.remove(0);
            self.count -= 1;
            if list.is_empty() {
                self.idle.remove(&address);
            }
        }
    }
}

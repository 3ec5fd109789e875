//! Snapshots that proxies offer, while a controller that lost what was published asks for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_model::snapshot::{Snapshot, Version};

/// Which proxies are asked for their snapshots, and the newest snapshot that was offered.
#[derive(Debug, Default)]
pub struct ProxyOffers {
    leads: AtomicBool,
    best: Mutex<Option<Arc<Snapshot>>>,
    /// The version above which the leader asks for snapshots.
    upstream: Mutex<Option<Version>>,
    /// Locked while one proxy sends: a whole fleet would send too much at once, and the first offer is likely to be enough.
    telling: tokio::sync::Mutex<()>,
}

/// While it lives, the leader asks.
#[derive(Debug)]
pub struct Asking<'a>(&'a ProxyOffers);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.leads.store(false, Ordering::Relaxed);
        *lock(&self.0.best) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProxyOffers {
    /// Proxies are asked from now on: we are to lead.
    pub fn want(&self) -> Asking<'_> {
        self.leads.store(true, Ordering::Relaxed);
        Asking(self)
    }

    /// The leader asks for snapshots above this version; `None` if it does not ask.
    pub fn wanted_upstream(&self, above: Option<Version>) {
        *lock(&self.upstream) = above;
    }

    /// The version above which proxies are asked for their snapshots, by us if we lead (`leads`) or for the leader; `None` while nobody asks.
    pub fn above(&self, leads: bool) -> Option<Version> {
        let own = || lock(&self.best).as_ref().map(|best| best.version).unwrap_or_default();
        if leads { self.leads.load(Ordering::Relaxed).then(own) } else { *lock(&self.upstream) }
    }

    /// The permission to send an offer; `None` while another proxy sends one.
    pub fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.telling.try_lock().ok()
    }

    /// A proxy offered the snapshot that it serves.
    pub fn take(&self, snapshot: Snapshot) {
        let mut best = lock(&self.best);
        if self.leads.load(Ordering::Relaxed) && best.as_ref().is_none_or(|best| best.version < snapshot.version) {
            *best = Some(Arc::new(snapshot));
        }
    }

    /// The newest snapshot that was offered.
    pub fn best(&self) -> Option<Arc<Snapshot>> {
        lock(&self.best).clone()
    }
}

//! What proxies hold, for a controller that has lost what it had: before it leads it asks them for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use waypost_model::snapshot::{Snapshot, Version};

/// What there is to be recalled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Our cluster, if it is known.
    pub cluster: Option<String>,
    /// Whether proxies follow us.
    pub came: bool,
    /// Whether a store has nothing.
    pub empty: bool,
    /// The highest version that a proxy of our cluster has seen.
    pub highest: Option<Version>,
    /// The highest version that one of those may hold, which have not said that they hold nothing.
    pub held: Option<Version>,
}

/// What proxies are asked for, and what came.
#[derive(Debug, Default)]
pub struct Recall {
    wanted: AtomicBool,
    best: Mutex<Option<Arc<Snapshot>>>,
    /// One proxy at a time: all of a fleet would be much at once, and the first is likely to be enough.
    telling: tokio::sync::Mutex<()>,
}

/// While it lives, proxies are asked.
#[derive(Debug)]
pub(super) struct Wanted<'a>(&'a Recall);

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.wanted.store(false, Ordering::Relaxed);
        *self.0.best.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Recall {
    /// From now on proxies are asked.
    pub(super) fn want(&self) -> Wanted<'_> {
        self.wanted.store(true, Ordering::Relaxed);
        Wanted(self)
    }

    /// Whether they are.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Whether a proxy is asked that has seen this version: nothing as new has come yet.
    pub fn wants(&self, highest: Version) -> bool {
        self.is_wanted() && self.best().is_none_or(|best| best.version < highest)
    }

    /// The turn to tell; nothing while somebody else does.
    pub fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.telling.try_lock().ok().filter(|_| self.is_wanted())
    }

    /// A proxy told what it holds.
    pub fn take(&self, snapshot: Snapshot) {
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_wanted() && best.as_ref().is_none_or(|best| best.version < snapshot.version) {
            *best = Some(Arc::new(snapshot));
        }
    }

    /// The newest that came.
    pub(super) fn best(&self) -> Option<Arc<Snapshot>> {
        self.best.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_counts_and_only_while_it_is_wanted() {
        let at = |sequence| Snapshot { version: Version { epoch: 2, sequence }, ..Snapshot::default() };
        let recall = Recall::default();
        recall.take(at(9));
        assert!(recall.best().is_none());
        let wanted = recall.want();
        let version = |sequence| at(sequence).version;
        assert!(recall.wants(version(1)));
        [3, 5, 4].into_iter().for_each(|sequence| recall.take(at(sequence)));
        assert_eq!(recall.best().unwrap().version.sequence, 5);
        assert!(recall.wants(version(6)) && !recall.wants(version(5)));
        drop(wanted);
        assert!(!recall.is_wanted() && recall.best().is_none());
    }
}

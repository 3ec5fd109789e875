//! The callers that wait for an entry. The task that owns the state wakes only those whose entry may have another answer now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::controller::message::Woken;

/// Waiting callers, by key.
#[derive(Debug, Clone, Default)]
pub struct Waiters(Arc<Mutex<HashMap<String, watch::Sender<()>>>>);

impl Waiters {
    /// Changes whenever the answer for this key below the root may be another one.
    pub fn wait_for(&self, key: &str) -> watch::Receiver<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.entry(key.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    /// Wakes those whose answer may have changed.
    pub fn wake(&self, woken: &Woken) {
        if woken.is_empty() {
            return;
        }
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match woken.keys() {
            None => waiting.values().for_each(|sender| sender.send_replace(())),
            Some(keys) => keys.iter().filter_map(|key| waiting.get(key)).for_each(|sender| sender.send_replace(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_callers_whose_entry_changed_are_woken() {
        let waiters = Waiters::default();
        let (mut a, mut b) = (waiters.wait_for("routes/a"), waiters.wait_for("routes/b"));
        let mut woken_by = |add: &dyn Fn(&mut Woken)| {
            let mut woken = Woken::default();
            add(&mut woken);
            waiters.wake(&woken);
            [&mut a, &mut b].map(|waiter| {
                let changed = waiter.has_changed().unwrap();
                waiter.mark_unchanged();
                changed
            })
        };
        assert_eq!(woken_by(&|woken| woken.add("routes/a")), [true, false]);
        assert_eq!(woken_by(&|woken| woken.add("trees/v2/routes/b")), [false, true], "the entry of the active tree answers for it");
        assert_eq!(woken_by(&|woken| woken.add("routes/c")), [false, false]);
        assert_eq!(woken_by(&|woken| (0..5_000).for_each(|n| woken.add(&format!("endpoints/x/{n}")))), [true, true]);
        assert_eq!(woken_by(&Woken::add_all), [true, true]);
    }

    #[test]
    fn a_caller_that_has_left_is_forgotten() {
        let waiters = Waiters::default();
        (0..100).for_each(|n| drop(waiters.wait_for(&format!("routes/{n}"))));
        assert_eq!(waiters.0.lock().unwrap().len(), 1);
    }
}

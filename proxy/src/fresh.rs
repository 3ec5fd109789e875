//! The freshness of the data that is served, as reported by the controllers.

use std::time::{Duration, Instant};

use waypost_wire::Heartbeat;

/// The last reported freshness.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    /// When a leader was last active, as far as is known; the start of the proxy before any report.
    pub(crate) led: Instant,
    /// The stores.
    pub(crate) sources: Vec<Source>,
}

/// A store as the leader reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its URL.
    pub(crate) store: String,
    /// Its revision.
    pub(crate) at: u64,
    /// When it was last confirmed to be current.
    pub(crate) confirmed: Option<Instant>,
}

impl Default for Fresh {
    fn default() -> Self {
        Self { led: Instant::now(), sources: Vec::new() }
    }
}

impl Fresh {
    /// Records the heartbeat of a controller.
    pub(crate) fn hear(&mut self, heartbeat: Heartbeat) {
        let now = Instant::now();
        let before = |millis: u64| now.checked_sub(Duration::from_millis(millis));
        self.led = heartbeat.led_millis.and_then(before).map_or(self.led, |led| led.max(self.led));
        let source = |source: waypost_wire::SourceAge| Source { store: source.store, at: source.at, confirmed: source.age_millis.and_then(before) };
        self.sources = heartbeat.sources.into_iter().map(source).collect();
    }

    /// The longest time since the confirmation of a store; `None` if one was never confirmed, or no store is known.
    pub(crate) fn age(&self) -> Option<Duration> {
        let oldest = self.sources.iter().map(|source| source.confirmed).min()??;
        Some(oldest.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use waypost_wire::SourceAge;

    use super::*;

    #[test]
    fn the_age_is_that_of_the_oldest_store_and_grows_while_nothing_is_heard() {
        let mut fresh = Fresh::default();
        assert_eq!(fresh.age(), None);
        let source = |store: &str, age_millis| SourceAge { store: store.to_owned(), at: 1, age_millis };
        fresh.hear(Heartbeat { led_millis: Some(0), sources: vec![source("a", Some(100)), source("b", Some(3_000))] });
        assert!(fresh.age().is_some_and(|age| age >= Duration::from_secs(3)), "{fresh:?}");
        let led = fresh.led;
        fresh.hear(Heartbeat { led_millis: None, sources: vec![source("a", Some(1)), source("b", None)] });
        assert_eq!((fresh.led, fresh.age()), (led, None), "nobody leads, and one store was never read");
    }
}

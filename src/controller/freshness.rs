//! The freshness of the published snapshot: the leader's view of its stores, and the same as followers hear it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use waypost_wire::{Heartbeat, SourceAge};

/// The state of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The store's URL.
    pub store: String,
    /// Its revision.
    pub at: u64,
    /// When it was last confirmed to be current.
    pub confirmed: Option<Instant>,
}

/// The content of heartbeats. It is shared by the task that owns the state, which reads the stores, by the relay, which hears the leader, and by the
/// streams.
#[derive(Debug, Clone, Default)]
pub struct Freshness(Arc<Mutex<Ages>>);

#[derive(Debug, Default)]
struct Ages {
    own: Vec<Stamp>,
    /// The last heartbeat of the controller that we follow, and when it came.
    upstream: Option<(Heartbeat, Instant)>,
}

impl Freshness {
    /// Notes the state of our stores.
    pub fn read(&self, stamps: Vec<Stamp>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).own = stamps;
    }

    /// Notes a heartbeat of the controller that we follow.
    pub fn note_heartbeat(&self, heartbeat: Heartbeat) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upstream = Some((heartbeat, Instant::now()));
    }

    /// The heartbeat to send now; `leads` says whether this controller leads.
    pub fn heartbeat(&self, leads: bool) -> Heartbeat {
        let ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let millis = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match &ages.upstream {
            Some((heartbeat, at)) if !leads => {
                let later = |age: Option<u64>| age.map(|age| age.saturating_add(millis(at.elapsed())));
                let sources = heartbeat.sources.iter().map(|source| SourceAge { age_millis: later(source.age_millis), ..source.clone() });
                Heartbeat { led_millis: later(heartbeat.led_millis), sources: sources.collect() }
            }
            _ => {
                let age = |stamp: &Stamp| stamp.confirmed.map(|at| millis(at.elapsed()));
                let sources = ages.own.iter().map(|stamp| SourceAge { store: stamp.store.clone(), at: stamp.at, age_millis: age(stamp) });
                Heartbeat { led_millis: leads.then_some(0), sources: sources.collect() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_heartbeat_grows_older_on_the_way_and_a_leader_sends_its_own() {
        let fresh = Freshness::default();
        assert_eq!(fresh.heartbeat(false).led_millis, None, "nobody was heard");
        let stamp = |at, confirmed| Stamp { store: "file:///a".to_owned(), at, confirmed };
        fresh.read(vec![stamp(5, None)]);
        assert_eq!(
            fresh.heartbeat(true),
            Heartbeat { led_millis: Some(0), sources: vec![SourceAge { store: "file:///a".to_owned(), at: 5, age_millis: None }] }
        );
        fresh.note_heartbeat(Heartbeat { led_millis: Some(700), sources: vec![SourceAge { store: "file:///a".to_owned(), at: 9, age_millis: Some(2_000) }] });
        let relayed = fresh.heartbeat(false);
        assert!(relayed.led_millis >= Some(700) && relayed.led_millis < Some(5_700), "{relayed:?}");
        assert_eq!(relayed.sources[0].at, 9);
        assert!(relayed.sources[0].age_millis >= Some(2_000));
        fresh.read(vec![stamp(6, Some(Instant::now()))]);
        assert_eq!(fresh.heartbeat(true).sources[0].at, 6);
    }
}

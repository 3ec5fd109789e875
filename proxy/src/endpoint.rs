//! The state of endpoints on this proxy, across snapshots and cores.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use waypost_model::value::Address;

use crate::outlier::{Detector, Outcome, SharedTime};

/// How long an endpoint that refused a connection is avoided while there are others.
const AVOID_REFUSING_TIME: Duration = Duration::from_secs(1);

/// A resolved address that connections can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address.
    pub socket: SocketAddr,
    /// The address as text, which is the key of its idle connections.
    pub text: Arc<str>,
}

impl Peer {
    /// The address with its text.
    pub fn new(socket: SocketAddr) -> Self {
        Self { socket, text: socket.to_string().into() }
    }
}

/// The state of one address of one backend. All cores share it, and it survives table swaps.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    in_flight: AtomicU64,
    /// The resolved addresses of an endpoint with a host name; `None` before it is resolved.
    peers: Mutex<Option<Arc<[Peer]>>>,
    /// The end of the time in which it is avoided, in milliseconds since `born`.
    avoid_until: AtomicU64,
    /// Whether it refused a connection while it was suspect.
    excluded: AtomicBool,
    detector: Detector,
    born: Instant,
}

impl Default for EndpointState {
    fn default() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            peers: Mutex::default(),
            avoid_until: AtomicU64::new(0),
            excluded: AtomicBool::new(false),
            detector: Detector::default(),
            born: Instant::now(),
        }
    }
}

impl EndpointState {
    /// Requests in progress on this proxy.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Begins an attempt, which counts as in flight until it is dropped, however it ends.
    pub fn begin(self: &Arc<Self>) -> Attempt {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Attempt { state: self.clone(), began: Instant::now(), ended: false, is_trial: self.detector.begin_trial() }
    }

    /// The outlier detection of its attempts.
    pub const fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Whether it is ejected, and no trial is due.
    pub fn is_out(&self) -> bool {
        self.detector.is_out(|| self.age())
    }

    /// The relative cost of another request: requests in flight, weighted by the recent outcomes.
    pub fn cost(&self) -> u64 {
        (self.in_flight() + 1) * self.detector.cost_factor(|| self.age())
    }

    /// Ejects it. Returns the duration.
    pub fn eject_for_outcomes(&self, for_errors: bool) -> Duration {
        self.detector.eject(for_errors, self.age())
    }

    /// Avoids it for a while, because clients give up on it.
    pub fn leave_alone(&self) {
        self.detector.leave_alone(self.age());
    }

    /// Sets the addresses that the endpoint's host name resolved to.
    pub fn resolved(&self, peers: &[Peer]) {
        let mut current = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != Some(peers) {
            *current = Some(peers.into());
        }
    }

    /// The addresses that the endpoint's host name resolved to; `None` before.
    pub fn peers(&self) -> Option<Arc<[Peer]>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection could not be opened.
    pub fn refused(&self) {
        self.avoid_until.store(self.age() + u64::try_from(AVOID_REFUSING_TIME.as_millis()).unwrap_or_default(), Ordering::Relaxed);
    }

    /// A connection was opened.
    pub fn connected(&self) {
        self.avoid_until.store(0, Ordering::Relaxed);
    }

    /// Whether it just refused a connection, or clients gave up on it.
    pub fn avoided(&self) -> bool {
        let until = self.avoid_until.load(Ordering::Relaxed).max(self.detector.slow_until());
        until != 0 && self.age() < until
    }

    /// Takes a suspect that refused a connection out, for as long as it is suspect.
    pub fn exclude_suspect(&self) {
        self.excluded.store(true, Ordering::Relaxed);
    }

    /// Clears that, because it is not suspect any more.
    pub fn include_suspect(&self) {
        self.excluded.store(false, Ordering::Relaxed);
    }

    /// Whether it refused a connection while it was suspect.
    pub fn is_excluded_suspect(&self) -> bool {
        self.excluded.load(Ordering::Relaxed)
    }

    fn age(&self) -> u64 {
        self.age_at(Instant::now())
    }

    fn age_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// One try of a request at one endpoint, and the only way to record its outcome. An attempt that is dropped without an outcome was
/// cancelled by its client; that shows only that the response would have taken longer.
#[derive(Debug)]
pub struct Attempt {
    state: Arc<EndpointState>,
    began: Instant,
    ended: bool,
    is_trial: bool,
}

impl Attempt {
    /// Records the outcome. Returns whether that may be a reason to eject the endpoint. Events after a response's head do not count.
    pub fn end(&mut self, outcome: Outcome) -> bool {
        self.ended = true;
        let was_trial = std::mem::take(&mut self.is_trial);
        {
            let now = Instant::now();
            let took = now.saturating_duration_since(self.began);
            self.state.detector.record(outcome, took, was_trial, (self.state.age_at(now), SharedTime::of(now)))
        }
    }

    /// Ends the attempt without an outcome, because the endpoint was not the reason.
    pub fn end_without_outcome(&mut self) {
        self.ended = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            self.state.detector.abandon(self.began.elapsed());
        }
        if self.is_trial {
            self.state.detector.end_trial();
        }
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The states of all endpoints by backend and address, so that a new table uses the counters of the old one.
#[derive(Debug, Default)]
pub struct States {
    /// By backend and address.
    states: HashMap<(String, Address), Weak<EndpointState>>,
    turns: HashMap<String, Weak<AtomicU64>>,
}

impl States {
    /// The state of an address of a backend.
    pub fn of(&mut self, backend: &str, address: &Address) -> Arc<EndpointState> {
        let slot = self.states.entry((backend.to_owned(), address.clone())).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let state = Arc::new(EndpointState::default());
            *slot = Arc::downgrade(&state);
            state
        })
    }

    /// The turn counter of a backend with round robin.
    pub fn turn(&mut self, backend: &str) -> Arc<AtomicU64> {
        let slot = self.turns.entry(backend.to_owned()).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let turn = Arc::new(AtomicU64::new(0));
            *slot = Arc::downgrade(&turn);
            turn
        })
    }

    /// Removes the states that no table uses any more.
    pub fn sweep(&mut self) {
        self.states.retain(|_, state| state.strong_count() > 0);
        self.turns.retain(|_, turn| turn.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_request_is_not_counted_however_it_ended() {
        let mut states = States::default();
        let address = Address::try_from("10.0.0.1:80".to_owned()).unwrap();
        let state = states.of("shop", &address);
        let guard = state.begin();
        assert_eq!(states.of("shop", &address).in_flight(), 1, "the same state is found again");
        drop(guard);
        assert_eq!(state.in_flight(), 0);
        drop(state);
        states.sweep();
        assert!(states.states.is_empty());
    }
}

//! What is known of an endpoint on this proxy, across snapshots and cores.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use waypost_model::value::Address;

use crate::outlier::{Detector, Outcome};

/// How long an endpoint that refused a connection is left alone while there are others.
const AVOID: Duration = Duration::from_secs(1);

/// One address that connections can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The address.
    pub socket: SocketAddr,
    /// The same as text, under which idle connections are kept.
    pub text: Arc<str>,
}

impl Peer {
    /// An address.
    pub fn new(socket: SocketAddr) -> Self {
        Self { socket, text: socket.to_string().into() }
    }
}

/// Live state of one address of one backend; shared by all cores, kept over swaps.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointState {
    in_flight: AtomicU64,
    /// Where connections go, of an endpoint that is a name and was resolved.
    peers: Mutex<Option<Arc<[Peer]>>>,
    /// Milliseconds since `born` until which it is left alone.
    avoid_until: AtomicU64,
    /// A suspect that refused a connection.
    ejected: AtomicBool,
    detector: Detector,
    born: Instant,
}

impl Default for EndpointState {
    fn default() -> Self {
        Self {
            in_flight: AtomicU64::new(0),
            peers: Mutex::default(),
            avoid_until: AtomicU64::new(0),
            ejected: AtomicBool::new(false),
            detector: Detector::default(),
            born: Instant::now(),
        }
    }
}

impl EndpointState {
    /// Requests under way on this proxy.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// An attempt begins: it is counted until it is dropped, however it ends.
    pub fn begin(self: &Arc<Self>) -> Attempt {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Attempt { state: self.clone(), began: Instant::now(), ended: false, is_trial: self.detector.begin_trial() }
    }

    /// What the outcomes of its attempts say.
    pub const fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Whether it was ejected, and no trial is due.
    pub fn is_out(&self) -> bool {
        self.detector.is_out(|| self.age())
    }

    /// What a request more costs at it, in proportion to others: requests under way, and how the last ones ended.
    pub fn cost(&self) -> u64 {
        (self.in_flight() + 1) * self.detector.cost_factor(|| self.age())
    }

    /// Takes it out. Returns for how long.
    pub fn eject_for_outcomes(&self, for_errors: bool) -> Duration {
        self.detector.eject(for_errors, self.age())
    }

    /// Clients give up on it: it is left alone for a while.
    pub fn leave_alone(&self) {
        self.detector.leave_alone(self.age());
    }

    /// The endpoint's name has these addresses from now on.
    pub fn resolved(&self, peers: &[Peer]) {
        let mut known = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() != Some(peers) {
            *known = Some(peers.into());
        }
    }

    /// The addresses of the endpoint's name, once it was resolved.
    pub fn peers(&self) -> Option<Arc<[Peer]>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection could not be made.
    pub fn refused(&self) {
        self.avoid_until.store(self.age() + u64::try_from(AVOID.as_millis()).unwrap_or_default(), Ordering::Relaxed);
    }

    /// A connection was made.
    pub fn connected(&self) {
        self.avoid_until.store(0, Ordering::Relaxed);
    }

    /// Whether it refused a connection a moment ago, or clients gave up on it.
    pub fn avoided(&self) -> bool {
        let until = self.avoid_until.load(Ordering::Relaxed).max(self.detector.slow_until());
        until != 0 && self.age() < until
    }

    /// It is out for as long as it is suspect.
    pub fn eject(&self) {
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// It is no suspect any more.
    pub fn trusted(&self) {
        self.ejected.store(false, Ordering::Relaxed);
    }

    /// Whether it is out.
    pub fn ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One try of a request at one endpoint, and the only way in which its outcome is told. One that is dropped without an outcome was
/// left by its client, which says only that it would have taken longer.
#[derive(Debug)]
pub struct Attempt {
    state: Arc<EndpointState>,
    began: Instant,
    ended: bool,
    is_trial: bool,
}

impl Attempt {
    /// The attempt ended like this. Returns whether that may be a reason to eject the endpoint. What comes after a response's head
    /// says nothing more.
    pub fn end(&mut self, outcome: Outcome) -> bool {
        self.ended = true;
        let was_trial = std::mem::take(&mut self.is_trial);
        self.state.detector.record(outcome, self.began.elapsed(), was_trial, self.state.age())
    }

    /// The attempt ended for a reason that is not the endpoint's.
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

/// All states by (backend, address), so that a new table finds what the old one counted.
#[derive(Debug, Default)]
pub struct States {
    known: HashMap<(String, Address), Weak<EndpointState>>,
    turns: HashMap<String, Weak<AtomicU64>>,
}

impl States {
    /// The state of an address of a backend.
    pub fn of(&mut self, backend: &str, address: &Address) -> Arc<EndpointState> {
        let slot = self.known.entry((backend.to_owned(), address.clone())).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let state = Arc::new(EndpointState::default());
            *slot = Arc::downgrade(&state);
            state
        })
    }

    /// The counter of a backend whose endpoints take turns.
    pub fn turn(&mut self, backend: &str) -> Arc<AtomicU64> {
        let slot = self.turns.entry(backend.to_owned()).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let turn = Arc::new(AtomicU64::new(0));
            *slot = Arc::downgrade(&turn);
            turn
        })
    }

    /// Forgets what nobody holds any more.
    pub fn sweep(&mut self) {
        self.known.retain(|_, state| state.strong_count() > 0);
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
        assert!(states.known.is_empty());
    }
}

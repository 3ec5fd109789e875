//! Events for refused requests, rate limited by refusal and by caller.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::controller::handle::Handle;
use crate::controller::message::Input;

/// Minimum interval between two events for the same refusal.
const AGAIN: Duration = Duration::from_secs(60);

/// Maximum number of different refusals with an event in that time; of all callers, and of one.
const DIFFERENT: usize = 128;

const DIFFERENT_OF_ONE: usize = 32;

/// Records refusals as events, rate limited.
#[derive(Debug)]
pub struct Refusals {
    handle: Handle,
    told: Mutex<HashMap<(String, String), Instant>>,
}

impl Refusals {
    /// The controller that records the events.
    pub fn new(handle: Handle) -> Self {
        Self { handle, told: Mutex::default() }
    }

    /// Records that `about` was refused, and why.
    pub async fn record(&self, about: String, why: String) {
        if !self.is_new(&about, &why) {
            return;
        }
        if self.handle.send(Input::Event { reason: "Refused", about, message: why }).await.is_err() {
            tracing::debug!("the controller stopped before its API did");
        }
    }

    fn is_new(&self, about: &str, why: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < AGAIN);
        let of_one = told.keys().filter(|(known, _)| known == about).count();
        if told.len() >= DIFFERENT || of_one >= DIFFERENT_OF_ONE || told.contains_key(&(about.to_owned(), why.to_owned())) {
            return false;
        }
        told.insert((about.to_owned(), why.to_owned()), now);
        true
    }
}

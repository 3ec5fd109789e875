//! Events for refused requests, rate limited by refusal and by caller.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::controller::handle::Handle;
use crate::controller::message::Input;

/// Minimum interval between two events for the same refusal.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of different refusals with an event in that time; of all callers, and of one.
const MAX_REFUSALS: usize = 128;

const MAX_REFUSALS_OF_ONE: usize = 32;

/// Records refusals as events, rate limited.
#[derive(Debug)]
pub struct Refusals {
    handle: Handle,
    recorded: Mutex<HashMap<(String, String), Instant>>,
}

impl Refusals {
    /// The controller that records the events.
    pub fn new(handle: Handle) -> Self {
        Self { handle, recorded: Mutex::default() }
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
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        recorded.retain(|_, at| now.duration_since(*at) < REPEAT_INTERVAL);
        let of_one = recorded.keys().filter(|(subject, _)| subject == about).count();
        if recorded.len() >= MAX_REFUSALS || of_one >= MAX_REFUSALS_OF_ONE || recorded.contains_key(&(about.to_owned(), why.to_owned())) {
            return false;
        }
        recorded.insert((about.to_owned(), why.to_owned()), now);
        true
    }
}

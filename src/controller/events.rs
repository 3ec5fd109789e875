//! What happened, for people: the last thousand events.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How many events are kept.
const KEPT: usize = 1_000;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its number; grows by one.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// One word: `Rejected`, `Deleted`, `StoreLost`, `StoreBack`, `ProxyConnected` and so on.
    pub reason: String,
    /// What it is about: a key, a store, a proxy.
    pub about: String,
    /// One sentence.
    pub message: String,
}

impl Event {
    /// Whether only the controller on which it happened can know: whoever leads is told.
    pub fn is_own(&self) -> bool {
        ["ForeignStore", "HoldLost", "Refused", "StateDamaged"].contains(&self.reason.as_str())
    }

    /// Whether somebody should look.
    pub fn is_trouble(&self) -> bool {
        const TROUBLE: [&str; 13] = [
            "BackendPanics",
            "Drift",
            "EndpointUnhealthy",
            "ForeignStore",
            "Held",
            "HoldLost",
            "NoListener",
            "ProxyProblem",
            "ProxyRefused",
            "Refused",
            "Rejected",
            "StateDamaged",
            "StoreLost",
        ];
        TROUBLE.contains(&self.reason.as_str())
    }
}

/// The last events.
#[derive(Debug, Default)]
pub struct Events {
    kept: VecDeque<Event>,
    next: u64,
}

impl Events {
    /// Adds an event.
    pub fn add(&mut self, at: u64, reason: &str, about: impl Into<String>, message: impl Into<String>) {
        let event = Event { number: self.next, at, reason: reason.to_owned(), about: about.into(), message: message.into() };
        self.next += 1;
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    /// The number of the event that comes next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The events from number `from` on.
    pub fn since(&self, from: u64) -> impl Iterator<Item = &Event> {
        self.kept.iter().rev().take_while(move |event| event.number >= from).collect::<Vec<_>>().into_iter().rev()
    }
}

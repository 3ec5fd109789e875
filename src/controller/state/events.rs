//! The last thousand events, for people.

use std::collections::VecDeque;

use waypost_model::problem::bounded;

use crate::controller::answers::shapes::Event;

/// Maximum number of remembered events.
const MAX_EVENTS: usize = 1_000;

/// The last events.
#[derive(Debug, Default)]
pub struct Events {
    events: VecDeque<Event>,
    next: u64,
}

impl Events {
    /// Adds an event.
    pub fn add(&mut self, at: u64, reason: &str, about: impl Into<String>, message: impl Into<String>) {
        let event = Event { number: self.next, at, reason: reason.to_owned(), about: bounded(about.into()), message: bounded(message.into()) };
        self.next += 1;
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The number of the event that comes next.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The events from number `from` on.
    pub fn since(&self, from: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().rev().take_while(move |event| event.number >= from).collect::<Vec<_>>().into_iter().rev()
    }
}

//! `waypost events [-f]`

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;

use super::client::{ControllerFlag, Format, OutputFlag};
use super::history::ago;
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{Event, EventsAnswer};

/// Assumed maximum difference between the clocks of two controllers, in milliseconds.
const MAX_CLOCK_DIFFERENCE_MILLIS: u64 = 5_000;

#[derive(Debug, Args)]
pub(super) struct EventsFlags {
    /// Print new events as they happen
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: EventsFlags) -> Outcome {
    let mut position = Position::default();
    let mut lost = false;
    loop {
        let query = [("from", position.from().to_string())];
        match flags.controller.get::<EventsAnswer>("/v1/events", &query).await {
            Ok(answer) => {
                lost = false;
                print(&flags, &position.new_of(answer))?;
            }
            // The controller may be restarting.
            Err(failure) if flags.follow && position.run.is_some() => {
                if !std::mem::replace(&mut lost, true) {
                    eprintln!("waypost: {}; trying again", failure.message);
                }
            }
            Err(failure) => return Err(failure),
        }
        if !flags.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn print(flags: &EventsFlags, events: &[Event]) -> Outcome {
    let format = flags.output.output;
    if flags.follow && format == Format::Json {
        // One document per line, because a followed list has no end.
        for event in events {
            say!("{}", serde_json::to_string(event).map_err(Failure::failed)?);
        }
    } else if format == Format::Table {
        events.iter().for_each(|event| say!("{:<8} {:<18} {}: {}", ago(event.at), event.reason, event.about, event.message));
    } else if !(flags.follow && events.is_empty()) {
        machine(format, &events)?;
    }
    Ok(())
}

/// The position in the events of each run of a controller; each run numbers its events from zero.
#[derive(Debug, Default)]
struct Position {
    /// The run that answered last.
    run: Option<String>,
    /// The next event number of each run that has answered.
    next: HashMap<String, u64>,
    /// The time of the latest event that was printed.
    latest: Option<u64>,
}

impl Position {
    /// The number of the next event, of the run that answered last.
    fn from(&self) -> u64 {
        self.run.as_ref().and_then(|run| self.next.get(run)).copied().unwrap_or_default()
    }

    /// The events that were not printed yet. If another run answered than before, the request had the wrong number: it is repeated, and
    /// of its events those are printed that are not older than the latest one printed.
    fn new_of(&mut self, answer: EventsAnswer) -> Vec<Event> {
        let asked = self.run.replace(answer.run.clone());
        if asked.is_some_and(|asked| asked != answer.run) {
            return Vec::new();
        }
        let next = self.next.get(&answer.run).copied();
        let since = self.latest.filter(|_| next.is_none()).map_or(0, |latest| latest.saturating_sub(MAX_CLOCK_DIFFERENCE_MILLIS));
        let new: Vec<Event> = answer.events.into_iter().filter(|event| event.number >= next.unwrap_or_default() && event.at >= since).collect();
        if let Some(last) = new.last() {
            self.next.insert(answer.run, last.number + 1);
            self.latest = self.latest.max(Some(last.at));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(run: &str, events: &[(u64, u64)]) -> EventsAnswer {
        let event = |(number, at): &(u64, u64)| Event { number: *number, at: *at, reason: "Held".to_owned(), about: String::new(), message: String::new() };
        EventsAnswer { run: run.to_owned(), events: events.iter().map(event).collect() }
    }

    fn numbers(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn another_leader_is_asked_from_its_beginning_and_shows_what_is_new() {
        let mut position = Position::default();
        assert_eq!(position.from(), 0);
        assert_eq!(numbers(&position.new_of(answer("a", &[(0, 1_000), (1, 50_000)]))), [0, 1]);
        assert_eq!(position.from(), 2);
        assert!(position.new_of(answer("b", &[(2, 60_000)])).is_empty(), "it was asked for the events after another's");
        assert_eq!(position.from(), 0);
        assert_eq!(numbers(&position.new_of(answer("b", &[(0, 2_000), (1, 49_000), (2, 60_000)]))), [1, 2], "clocks differ a little");
        assert_eq!(position.from(), 3);
        assert!(position.new_of(answer("a", &[])).is_empty());
        assert_eq!(position.from(), 2, "where it was left");
        assert_eq!(numbers(&position.new_of(answer("a", &[(2, 61_000)]))), [2]);
    }
}

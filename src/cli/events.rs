//! `waypost events [-f]`

use std::time::Duration;

use clap::Args;

use super::client::{ControllerFlag, Format, OutputFlag};
use super::history::ago;
use super::text::{machine, say};
use super::{Failure, Outcome};
use crate::api::Event;

#[derive(Debug, Args)]
pub(super) struct EventsFlags {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: EventsFlags) -> Outcome {
    let mut from = 0;
    loop {
        let events: Vec<Event> = flags.controller.get("/v1/events", &[("from", from.to_string())]).await?;
        from = events.last().map_or(from, |event| event.number + 1);
        if flags.follow && flags.output.output == Format::Json {
            // One document a line: whoever reads along cannot wait for the end of a list.
            for event in &events {
                say!("{}", serde_json::to_string(event).map_err(Failure::failed)?);
            }
        } else if flags.output.output == Format::Table {
            events.iter().for_each(|event| say!("{:<8} {:<18} {}: {}", ago(event.at), event.reason, event.about, event.message));
        } else if !(flags.follow && events.is_empty()) {
            machine(flags.output.output, &events)?;
        }
        if !flags.follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

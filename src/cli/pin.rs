//! `waypost pin`, `waypost rollback` and `waypost unpin`: keep a config of the history published, whatever is written.

use std::time::Duration;

use clap::Args;

use super::hold::{HoldFlags, number, seconds};
use super::outcome::Outcome;
use crate::api::Action;

#[derive(Debug, Args)]
pub(super) struct PinFlags {
    /// Config of the history (C12) [default: the published one]
    #[arg(value_parser = number, value_name = "C")]
    number: Option<u64>,
    /// End the pin after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = waypost_proxy::cli::duration)]
    lasting: Option<Duration>,
    #[command(flatten)]
    hold: HoldFlags,
}

#[derive(Debug, Args)]
pub(super) struct RollbackFlags {
    /// The config of the history to publish again (C12)
    #[arg(long, value_parser = number, value_name = "C")]
    to: u64,
    /// End the pin after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = waypost_proxy::cli::duration)]
    lasting: Option<Duration>,
    #[command(flatten)]
    hold: HoldFlags,
}

pub(super) async fn pin(flags: PinFlags) -> Outcome {
    let seconds = seconds(flags.lasting)?;
    flags.hold.ask(Action::Pin { config: flags.number, seconds }).await
}

pub(super) async fn rollback(flags: RollbackFlags) -> Outcome {
    let seconds = seconds(flags.lasting)?;
    flags.hold.ask(Action::Pin { config: Some(flags.to), seconds }).await
}

pub(super) async fn unpin(flags: HoldFlags) -> Outcome {
    flags.ask(Action::Unpin).await
}

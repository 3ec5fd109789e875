//! `waypost controller step-down`: another controller leads, in peace.

use clap::Args;

use super::Outcome;
use super::client::ControllerFlag;
use super::text::say;
use crate::api::StepDownAnswer;

#[derive(Debug, Args)]
pub(super) struct StepDownFlags {
    #[command(flatten)]
    controller: ControllerFlag,
}

pub(super) async fn run(flags: StepDownFlags) -> Outcome {
    let answer: StepDownAnswer = flags.controller.post("/v1/step-down", &()).await?;
    say!("{} leads no more; another controller takes over, or, if there is none, the same one after a while", answer.name);
    Ok(())
}

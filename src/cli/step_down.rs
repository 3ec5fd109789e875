//! `waypost controller step-down`: the leader hands over to another controller.

use super::hold::{HoldFlags, who};
use super::outcome::Outcome;
use super::text::{machine, say};
use crate::api::{StepDownAnswer, StepDownRequest};

pub(super) async fn run(flags: HoldFlags) -> Outcome {
    let answer: StepDownAnswer = flags.controller.post("/v1/step-down", &StepDownRequest { by: who(flags.by) }).await?;
    if !machine(flags.output.output, &answer)? {
        say!("{} leads no more; another controller takes over, or, if there is none, the same one after a while", answer.name);
    }
    Ok(())
}

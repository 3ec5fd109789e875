//! `waypost approve`: approves removals that are held: entries that left their store and are still served.

use clap::Args;

use super::client::ControllerFlag;
use super::hold::{HoldFlags, who};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{ApproveAnswer, ApproveRequest};

#[derive(Debug, Args)]
pub(super) struct ApproveFlags {
    /// routes/shop, or route shop; several may be given
    #[arg(required_unless_present = "all")]
    key: Vec<String>,
    /// Approve all removals that are held
    #[arg(long, conflicts_with = "key")]
    all: bool,
    #[command(flatten)]
    hold: HoldFlags,
}

pub(super) async fn run(flags: ApproveFlags) -> Outcome {
    let keys = waypost_model::key::join_typed(&flags.key);
    let HoldFlags { by, controller, output } = flags.hold;
    let answer = ask(&controller, &ApproveRequest { keys, all: flags.all, later: false, by: who(by) }).await?;
    if !machine(output.output, &answer)? {
        answer.approved.iter().for_each(|path| say!("{path} goes"));
        answer.note.iter().for_each(|note| eprintln!("waypost: {note}"));
    }
    Ok(())
}

/// Sends the request to the controller.
pub(super) async fn ask(controller: &ControllerFlag, request: &ApproveRequest) -> Result<ApproveAnswer, Failure> {
    controller.post("/v1/approve", request).await
}

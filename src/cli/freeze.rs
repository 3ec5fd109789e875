//! `waypost freeze` and `waypost unfreeze`: the published config does not change, whatever is written; endpoints still do.

use super::hold::HoldFlags;
use super::outcome::Outcome;
use crate::api::Action;

pub(super) async fn freeze(flags: HoldFlags) -> Outcome {
    flags.ask(Action::Freeze).await
}

pub(super) async fn unfreeze(flags: HoldFlags) -> Outcome {
    flags.ask(Action::Unfreeze).await
}

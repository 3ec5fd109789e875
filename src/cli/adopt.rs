//! `waypost adopt`: allows the proxies of another cluster to follow this one.

use clap::Args;

use super::hold::HoldFlags;
use super::outcome::Outcome;
use crate::api::Action;

#[derive(Debug, Args)]
pub(super) struct AdoptFlags {
    /// The id of the cluster that they belong to, as `waypost status` tells it of a proxy that refuses
    cluster: String,
    #[command(flatten)]
    hold: HoldFlags,
}

pub(super) async fn run(flags: AdoptFlags) -> Outcome {
    flags.hold.ask(Action::Adopt { cluster: flags.cluster }).await
}

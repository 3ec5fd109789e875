//! `waypost diff C1 [C2]`: the differences between two configs of the history, or between one and the published config.

use clap::Args;
use serde_json::value::RawValue;

use super::client::{ControllerFlag, OutputFlag};
use super::hold::number;
use super::outcome::Outcome;
use super::text::{machine, say};
use crate::api::ObjectDiff;

#[derive(Debug, Args)]
pub(super) struct DiffFlags {
    /// A config of the history (C12)
    #[arg(value_parser = number, value_name = "C1")]
    from: u64,
    /// The config to compare it with [default: the published one]
    #[arg(value_parser = number, value_name = "C2")]
    to: Option<u64>,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: DiffFlags) -> Outcome {
    let mut query = vec![("from", flags.from.to_string())];
    query.extend(flags.to.map(|number| ("to", number.to_string())));
    let all: Vec<ObjectDiff> = flags.controller.get("/v1/diff", &query).await?;
    if machine(flags.output.output, &all)? {
        return Ok(());
    }
    for diff in &all {
        say!("{}", diff.path);
        print('-', diff.before.as_deref());
        print('+', diff.after.as_deref());
    }
    if all.is_empty() {
        say!("no difference");
    }
    Ok(())
}

fn print(sign: char, object: Option<&RawValue>) {
    if let Some(object) = object {
        say!("  {sign} {}", object.get());
    }
}

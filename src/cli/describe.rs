//! `waypost describe KIND NAME`

use clap::Args;
use waypost_model::verdict::Status;

use super::client::{ControllerFlag, OutputFlag, joined};
use super::get::names;
use super::text::machine;
use super::{Failure, Outcome};
use crate::api::EntryInfo;

#[derive(Debug, Args)]
pub(super) struct DescribeFlags {
    /// routes/shop, or route shop, or the full key
    #[arg(num_args = 1..=2, required = true)]
    what: Vec<String>,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: DescribeFlags) -> Outcome {
    let typed = joined(&flags.what);
    let all: Vec<EntryInfo> = flags.controller.get("/v1/entries", &[]).await?;
    let found: Vec<EntryInfo> = all.into_iter().filter(|entry| names(entry, &typed)).collect();
    let Some(first) = found.first() else {
        return Err(Failure::failed(format!("there is no entry {typed}; `waypost get` lists those there are")));
    };
    if machine(flags.output.output, first)? {
        return Ok(());
    }
    found.iter().for_each(print);
    Ok(())
}

fn print(entry: &EntryInfo) {
    println!("Key:       {}", entry.key);
    println!("Store:     {}", entry.store);
    println!("Revision:  {}", entry.revision);
    if let Some(revision) = entry.last_good_revision {
        println!("Serves:    revision {revision}, the last good one");
    }
    let version = entry.live.version.map_or_else(|| "not in a snapshot".to_owned(), |version| format!("since version {version}"));
    println!("Live:      on {}/{} proxies, {version}", entry.live.on, entry.live.of);
    entry.live.lagging.iter().for_each(|line| println!("           {line}"));
    println!("Conditions:");
    for condition in &entry.conditions {
        let status = match condition.status {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        };
        println!("  {:<13} {status:<8} {:<20} {}", format!("{:?}", condition.r#type), condition.reason, condition.message);
    }
    println!("Value:");
    entry.value.lines().for_each(|line| println!("  {line}"));
}

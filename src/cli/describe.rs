//! `waypost describe KIND NAME`

use clap::Args;
use waypost_model::verdict::Status;

use super::client::{ControllerFlag, OutputFlag, joined};
use super::get::names;
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{EntryInfo, date};

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
    say!("Key:       {}", entry.key);
    say!("Store:     {}", entry.store);
    say!("Revision:  {}", entry.revision);
    if let Some(revision) = entry.last_good_revision {
        say!("Serves:    revision {revision}, the last good one");
    }
    let version = entry.live.version.map_or_else(
        || if entry.last_good_revision.is_some() { "this revision is in no snapshot" } else { "not in a snapshot" }.to_owned(),
        |version| format!("since version {version}"),
    );
    say!("Live:      on {}/{} proxies, {version}", entry.live.on, entry.live.of);
    entry.live.lagging.iter().for_each(|line| say!("           {line}"));
    if let Some(health) = &entry.health {
        let state = if health.healthy { "healthy" } else { "UNHEALTHY" };
        let since = health.since.map(|since| format!(" since {}", date(since))).unwrap_or_default();
        let why = health.why.as_ref().filter(|why| !why.is_empty()).map(|why| format!(": {why}")).unwrap_or_default();
        let probers = if health.probers.is_empty() { "nobody".to_owned() } else { health.probers.join(", ") };
        say!("Health:    {state}{since}{why}; probed by {probers}");
    }
    say!("Conditions:");
    for condition in &entry.conditions {
        let status = match condition.status {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        };
        say!("  {:<13} {status:<8} {:<20} {}", format!("{:?}", condition.r#type), condition.reason, condition.message);
    }
    say!("Value:");
    entry.value.lines().for_each(|line| say!("  {line}"));
}

//! `waypost history`

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::client::{ControllerFlag, OutputFlag};
use super::outcome::Outcome;
use super::text::{machine, table};
use crate::api::{Audit, ConfigRecord, date};

#[derive(Debug, Args)]
pub(super) struct HistoryFlags {
    /// Show the audit instead: who froze, pinned and approved what, and who joined
    #[arg(long)]
    audit: bool,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: HistoryFlags) -> Outcome {
    if flags.audit {
        return audit(&flags).await;
    }
    let records: Vec<ConfigRecord> = flags.controller.get("/v1/history", &[]).await?;
    if machine(flags.output.output, &records)? {
        return Ok(());
    }
    let row = |record: &ConfigRecord| {
        let digest: String = record.digest.chars().take(8).collect();
        [format!("C{}", record.number), digest, ago(record.at), record.version.to_string(), record.objects.to_string(), record.changes.join(", ")]
    };
    table(["config", "digest", "published", "version", "objects", "changes"], &records.iter().rev().map(row).collect::<Vec<_>>())
}

async fn audit(flags: &HistoryFlags) -> Outcome {
    let all: Vec<Audit> = flags.controller.get("/v1/audit", &[]).await?;
    if machine(flags.output.output, &all)? {
        return Ok(());
    }
    let row = |audit: &Audit| [date(audit.at), audit.by.clone(), audit.what.clone()];
    table(["when", "who", "what"], &all.iter().rev().map(row).collect::<Vec<_>>())
}

/// The time since a date in milliseconds, for people.
pub(super) fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let seconds = u64::try_from(now).unwrap_or(at).saturating_sub(at) / 1_000;
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7_200 => format!("{}m ago", seconds / 60),
        7_200..172_800 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

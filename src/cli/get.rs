//! `waypost get [KIND[/NAME]]`

use clap::Args;
use waypost_model::verdict::{ConditionType, Status};

use super::client::{ControllerFlag, OutputFlag, joined};
use super::outcome::{Failure, Outcome};
use super::text::{machine, table};
use crate::api::EntryInfo;

#[derive(Debug, Args)]
pub(super) struct GetFlags {
    /// A kind (routes), or a kind and a name (routes/shop, or route shop) [default: everything]
    #[arg(num_args = 0..=2)]
    what: Vec<String>,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: GetFlags) -> Outcome {
    let entries = select(&flags.controller, &joined(&flags.what)).await?;
    if machine(flags.output.output, &entries)? {
        return Ok(());
    }
    let rows: Vec<[String; 5]> = entries.iter().map(row).collect();
    table(["key", "revision", "accepted", "live", "why"], &rows)
}

/// Fetches the entries that were asked for: of a kind, of a name, or all.
async fn select(controller: &ControllerFlag, typed: &str) -> Result<Vec<EntryInfo>, Failure> {
    let all: Vec<EntryInfo> = controller.get("/v1/entries", &[]).await?;
    if typed.is_empty() {
        return Ok(all);
    }
    if let Some(kind) = waypost_model::key::Kind::from_any(typed.trim_matches('/')) {
        return Ok(all.into_iter().filter(|entry| is_of(entry, kind)).collect());
    }
    let found: Vec<EntryInfo> = all.into_iter().filter(|entry| names(entry, typed)).collect();
    if found.is_empty() { Err(Failure::failed(format!("there is no entry {typed}; `waypost get` lists those there are"))) } else { Ok(found) }
}

/// Whether an entry is of a kind, or its key begins like one: keys that name no resource are listed with their kind.
fn is_of(entry: &EntryInfo, kind: waypost_model::key::Kind) -> bool {
    entry.kind.as_deref() == Some(kind.singular()) || entry.path.strip_prefix(kind.plural()).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether this entry is the one that was typed.
pub(super) fn names(entry: &EntryInfo, typed: &str) -> bool {
    let typed = typed.trim_matches('/');
    let resource = waypost_model::key::parse_typed("", typed).ok();
    let same = resource.is_some_and(|resource| entry.kind.as_deref() == Some(resource.kind.singular()) && entry.name.as_deref() == Some(&resource.name));
    same || entry.key == typed || entry.key.ends_with(&format!("/{typed}"))
}

fn row(entry: &EntryInfo) -> [String; 5] {
    let accepted = entry.conditions.iter().find(|condition| condition.r#type == ConditionType::Accepted).map_or("?", |condition| match condition.status {
        Status::True => "yes",
        Status::False => "no",
        Status::Unknown => "?",
    });
    let problem = entry.conditions.iter().find(|condition| condition.status == Status::False);
    let live = match entry.live.version {
        Some(_) => format!("{}/{}", entry.live.on, entry.live.of),
        None => "-".to_owned(),
    };
    [entry.key.clone(), entry.revision.to_string(), accepted.to_owned(), live, problem.map(|condition| condition.message.clone()).unwrap_or_default()]
}

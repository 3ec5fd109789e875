//! `waypost lint [DIR…]`: the controller's checks, without a controller.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use waypost_adapter::Event;
use waypost_model::compile::{Compiler, EntryInput, EntryView, Written};
use waypost_model::limits::Limits;
use waypost_model::verdict::{Condition, ConditionType, Status};

use super::client::{CredentialFlags, Format, OutputFlag, store_failure};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::stores;

#[derive(Debug, Args)]
pub(super) struct LintFlags {
    /// Directories with the keys as files
    #[arg(value_name = "DIR")]
    directories: Vec<String>,
    /// A store to check
    #[arg(long, value_name = "URL", env = "WAYPOST_STORE")]
    store: Option<String>,
    /// Print the JSON Schema of a kind instead
    #[arg(long, value_name = "KIND")]
    schema: Option<String>,
    #[command(flatten)]
    credentials: CredentialFlags,
    #[command(flatten)]
    output: OutputFlag,
}

/// An entry with its error or warning.
#[derive(Debug, Serialize)]
struct Finding {
    key: String,
    conditions: Vec<Condition>,
}

pub(super) async fn run(flags: LintFlags) -> Outcome {
    if let Some(kind) = &flags.schema {
        let kind = waypost_model::key::Kind::from_any(kind)
            .ok_or_else(|| Failure::usage(format!("unknown kind {kind:?}; there are listeners, routes, backends and endpoints")))?;
        say!("{}", serde_json::to_string_pretty(&waypost_model::schema::of(kind)).map_err(Failure::failed)?);
        return Ok(());
    }
    let mut urls: Vec<String> = flags.directories.iter().map(|path| format!("file://{path}")).collect();
    urls.extend(flags.store);
    if urls.is_empty() {
        return Err(Failure::usage("name a directory, or a store with --store"));
    }
    let limits = super::serve::limits_of_file()?;
    let mut bad = 0;
    for url in &urls {
        bad += lint(url, &flags.credentials, &limits, flags.output.output).await?;
    }
    if bad > 0 { Err(Failure::rejected(format!("{bad} entries would be refused"))) } else { Ok(()) }
}

/// Prints the errors and warnings of one store; returns the number of entries that would be refused.
async fn lint(url: &str, credentials: &CredentialFlags, limits: &Limits, output: Format) -> Result<usize, Failure> {
    let store = stores::open(&credentials.with(url)).map_err(Failure::usage)?;
    if let Some(path) = store.url.strip_prefix("file://")
        && !Path::new(path).is_dir()
    {
        return Err(Failure::failed(format!("{path} is not a directory")));
    }
    let mut source = store.adapter.source(&store.root);
    let event = source.next().await.map_err(|error| store_failure(&error))?;
    let Event::Reset { entries, .. } = event else { return Err(Failure::failed("the store told of no listing")) };
    let inputs = entries.into_iter().filter_map(|entry| {
        Some(EntryInput {
            key: entry.key.below(&store.root)?,
            written: Written { value: entry.value.as_ref().into(), revision: entry.revision.0 },
            unreadable: entry.unreadable,
        })
    });
    let mut compiler = Compiler::new(1, limits.clone());
    compiler.reset(0, inputs.collect());
    compiler.commit();
    let views: Vec<EntryView> = compiler.views().collect();
    let bad = views.iter().filter(|view| !view.verdict.accepted()).count();
    let finding = |view: &EntryView| Finding { key: store.full_key(&view.id.key), conditions: view.verdict.conditions.clone() };
    let findings: Vec<Finding> = views.iter().filter(|view| view.verdict.problem().is_some() || view.verdict.warning().is_some()).map(finding).collect();
    if machine(output, &findings)? {
        return Ok(bad);
    }
    for Finding { key, conditions } in &findings {
        for condition in conditions.iter().filter(|condition| condition.status == Status::False || condition.is_warning()) {
            let is_error = condition.r#type == ConditionType::Accepted && condition.status == Status::False;
            say!("{}: {key}: {}", if is_error { "error" } else { "warning" }, condition.message);
        }
    }
    say!("{}: {} entries, {bad} refused", store.url, views.len());
    Ok(bad)
}

//! `waypost export --to DIR|STORE`

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use waypost_adapter::Key;

use super::client::{ControllerFlag, CredentialFlags, OutputFlag, store_failure};
use super::text::{machine, say};
use super::{Failure, Outcome};
use crate::api::ExportedEntry;
use crate::stores;

#[derive(Debug, Args)]
pub(super) struct ExportFlags {
    /// A directory, or a store's URL
    #[arg(long, value_name = "DIR|STORE")]
    to: String,
    /// A config of the history (C12); what serves now if not given
    #[arg(long, value_name = "C", value_parser = super::hold::number)]
    at: Option<u64>,
    /// Only what is gone from its store and held: written back, it is there again
    #[arg(long, conflicts_with = "at")]
    held: bool,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    credentials: CredentialFlags,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: ExportFlags) -> Outcome {
    let mut query: Vec<(&str, String)> = flags.at.map(|number| ("at", number.to_string())).into_iter().collect();
    query.extend(flags.held.then(|| ("held", "true".to_owned())));
    let entries: Vec<ExportedEntry> = flags.controller.get("/v1/export", &query).await?;
    let url = if flags.to.contains("://") { flags.to.clone() } else { format!("file://{}", flags.to) };
    let store = stores::open(&flags.credentials.with(&url)).map_err(Failure::usage)?;
    for entry in &entries {
        let value = STANDARD.decode(&entry.value).map_err(Failure::failed)?;
        let key = Key::from(store.full_key(&entry.key));
        store.adapter.put(&key, Bytes::from(value)).await.map_err(|error| store_failure(&error))?;
    }
    if !machine(flags.output.output, &json!({ "store": store.url, "entries": entries.len() }))? {
        say!("{} entries are written to {}", entries.len(), store.url);
    }
    Ok(())
}

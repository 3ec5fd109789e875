//! `waypost put KEY VALUE`

use std::io::Read as _;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use waypost_adapter::Key;

use super::client::{ControllerFlag, OutputFlag, StoreFlag, joined, store_failure};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use super::wait::{WaitFor, wait_for};
use crate::api::For;

#[derive(Debug, Args)]
pub(super) struct PutFlags {
    /// routes/shop, or route shop, or the full key; then the value, @FILE, or - for standard input
    #[arg(num_args = 2..=3, required = true, value_names = ["KEY", "VALUE"])]
    key_and_value: Vec<String>,
    #[command(flatten)]
    store: StoreFlag,
    #[command(flatten)]
    controller: ControllerFlag,
    /// Write the value even if it is not valid
    #[arg(long)]
    force: bool,
    /// Wait until the entry is live
    #[arg(long)]
    wait: bool,
    /// Wait at most this long
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    timeout: String,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: PutFlags) -> Outcome {
    let store = flags.store.open(&flags.controller).await?;
    let Some((value, key)) = flags.key_and_value.split_last() else { return Err(Failure::usage("name a key and a value")) };
    let key = waypost_model::key::parse_key(&store.root, &joined(key)).map_err(Failure::usage)?;
    let value = read_value(value)?;
    if let (false, waypost_model::key::Place::Resource { resource, .. }) = (flags.force, waypost_model::key::place(&key, value.is_empty())) {
        let checked = waypost_model::parse::parse(&resource, &value, &super::serve::limits_of_file()?);
        checked.map_err(|problem| Failure::rejected(format!("{}: {problem}; nothing was written (--force writes it anyway)", store.full_key(&key))))?;
    }
    let full = Key::from(store.full_key(&key));
    let revision = store.adapter.put(&full, Bytes::from(value)).await.map_err(|error| store_failure(&error))?;
    if !machine(flags.output.output, &json!({ "key": full.to_string(), "revision": revision.0 }))? {
        say!("{full} is written at revision {revision}");
    }
    if flags.wait {
        wait_for(&flags.controller, &WaitFor { key, what: For::Live, timeout: flags.timeout, output: flags.output.output }).await?;
    }
    Ok(())
}

/// Reads a value: the argument itself, the content of a file (`@FILE`), or standard input (`-`).
fn read_value(typed: &str) -> Result<Vec<u8>, Failure> {
    if typed == "-" {
        let mut value = Vec::new();
        std::io::stdin().read_to_end(&mut value).map_err(Failure::failed)?;
        return Ok(value);
    }
    match typed.strip_prefix('@') {
        Some(path) => std::fs::read(path).map_err(|error| Failure::failed(format!("{path}: {error}"))),
        None => Ok(typed.as_bytes().to_vec()),
    }
}

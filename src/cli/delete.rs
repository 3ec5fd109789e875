//! `waypost delete KEY`

use clap::Args;
use serde_json::json;
use waypost_adapter::Key;

use super::approve;
use super::client::{ControllerFlag, OutputFlag, StoreFlag, joined, store_failure};
use super::hold::who;
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use super::wait::{WaitFor, wait_for};
use crate::api::{ApproveRequest, For};

#[derive(Debug, Args)]
pub(super) struct DeleteFlags {
    /// routes/shop, or route shop, or the full key
    #[arg(num_args = 1..=2, required = true)]
    key: Vec<String>,
    #[command(flatten)]
    store: StoreFlag,
    #[command(flatten)]
    controller: ControllerFlag,
    /// Wait until it is gone
    #[arg(long)]
    wait: bool,
    /// Wait at most this long
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    timeout: String,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: DeleteFlags) -> Outcome {
    let store = flags.store.open(&flags.controller).await?;
    let key = waypost_model::key::parse_key(&store.root, &joined(&flags.key)).map_err(Failure::usage)?;
    // A deletion by name is intended: the guard need not hold it.
    let request = ApproveRequest { keys: vec![key.clone()], all: false, later: true, by: who(None) };
    if let Err(failure) = approve::ask(&flags.controller, &request).await {
        eprintln!("waypost: the deletion is not announced to the controller, which may hold it: {failure}");
    }
    let full = Key::from(store.full_key(&key));
    let found = store.adapter.get(&full).await.map_err(|error| store_failure(&error))?;
    store.adapter.delete(&full).await.map_err(|error| store_failure(&error))?;
    if !machine(flags.output.output, &json!({ "key": full.to_string(), "found": found.is_some() }))? {
        say!("{full} {}", if found.is_some() { "is deleted" } else { "was not there" });
    }
    if flags.wait {
        wait_for(&flags.controller, &WaitFor { key, what: For::Gone, timeout: flags.timeout, output: flags.output.output }).await?;
    }
    Ok(())
}

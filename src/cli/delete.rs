//! `waypost delete KEY`

use clap::Args;
use waypost_adapter::Key;

use super::Outcome;
use super::client::{ControllerFlag, StoreFlag, joined, relative_key, store_failure};
use super::wait::{WaitFor, wait_for};
use crate::api::For;

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
}

pub(super) async fn run(flags: DeleteFlags) -> Outcome {
    let store = flags.store.open(&flags.controller).await?;
    let key = relative_key(&store.root, &joined(&flags.key))?;
    let full = Key::from(store.full_key(&key));
    let found = store.adapter.get(&full).await.map_err(|error| store_failure(&error))?;
    store.adapter.delete(&full).await.map_err(|error| store_failure(&error))?;
    println!("{full} {}", if found.is_some() { "is deleted" } else { "was not there" });
    if flags.wait {
        wait_for(&flags.controller, &WaitFor { key, what: For::Gone, timeout: flags.timeout }).await?;
    }
    Ok(())
}

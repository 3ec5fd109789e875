//! `waypost drain endpoints/BACKEND/ID`: stops new requests to an endpoint and waits for the end of the last one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use waypost_adapter::{Expected, Key, PutIf};
use waypost_model::key::Kind;
use waypost_model::limits::Limits;
use waypost_model::resource::Resource;

use super::client::{ControllerFlag, OutputFlag, StoreFlag, joined, store_failure};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use super::wait::{WaitFor, wait_for};
use crate::api::{For, ProxyInfo};

#[derive(Debug, Args)]
pub(super) struct DrainFlags {
    /// endpoints/shop/a, or endpoint shop/a
    #[arg(num_args = 1..=2, required = true)]
    endpoint: Vec<String>,
    /// Put it back into service
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    store: StoreFlag,
    #[command(flatten)]
    controller: ControllerFlag,
    /// Maximum time to wait for the last request
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = waypost_proxy::cli::duration)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: DrainFlags) -> Outcome {
    let store = flags.store.open(&flags.controller).await?;
    let resource = waypost_model::key::parse_typed(&store.root, &joined(&flags.endpoint)).map_err(Failure::usage)?;
    if resource.kind != Kind::Endpoint {
        return Err(Failure::usage(format!("{resource} is no endpoint; write endpoints/BACKEND/ID")));
    }
    let key = Key::from(store.full_key(&resource.to_string()));
    let entry = store.adapter.get(&key).await.map_err(|error| store_failure(&error))?;
    let entry = entry.ok_or_else(|| Failure::failed(format!("{key} is not in the store")))?;
    let parsed = waypost_model::parse::parse(&resource, &entry.value, &Limits::default()).map_err(|problem| Failure::rejected(format!("{key}: {problem}")))?;
    let Resource::Endpoint(mut endpoint) = parsed else { return Err(Failure::failed("the entry is no endpoint")) };
    endpoint.drain = !flags.undo;
    let value = with_drain(&entry.value, &endpoint)?;
    match store.adapter.put_if(&key, value, Expected::At(entry.revision)).await.map_err(|error| store_failure(&error))? {
        PutIf::Written(_) => {}
        PutIf::Conflict => return Err(Failure::failed(format!("{key} was changed by somebody else in this moment; try again"))),
    }
    let wanted = WaitFor { key: resource.to_string(), what: For::Live, timeout: format!("{}s", flags.timeout.as_secs().max(1)), output: flags.output.output };
    wait_for(&flags.controller, &wanted).await?;
    if flags.undo { Ok(()) } else { wait_for_last(&flags, &resource.name).await }
}

/// The endpoint's value with `drain` set; the author's other fields stay.
fn with_drain(written: &[u8], endpoint: &waypost_model::resource::Endpoint) -> Result<Bytes, Failure> {
    let mut value: Value = match serde_json::from_slice(written) {
        Ok(value @ Value::Object(_)) => value,
        _ => serde_json::to_value(endpoint).map_err(Failure::failed)?,
    };
    if let Some(map) = value.as_object_mut() {
        if endpoint.drain {
            map.insert("drain".to_owned(), json!(true));
        } else {
            map.remove("drain");
        }
    }
    Ok(Bytes::from(value.to_string()))
}

async fn wait_for_last(flags: &DrainFlags, name: &str) -> Outcome {
    let deadline = Instant::now() + flags.timeout;
    loop {
        let proxies: Vec<ProxyInfo> = flags.controller.get("/v1/proxies", &[]).await?;
        let left: u64 = proxies
            .iter()
            .filter(|proxy| proxy.connected)
            .flat_map(|proxy| &proxy.draining)
            .filter(|draining| draining.name == name)
            .map(|draining| draining.in_flight)
            .sum();
        if left == 0 {
            if !machine(flags.output.output, &json!({ "endpoint": name, "inFlight": 0 }))? {
                say!("endpoints/{name} is drained: no request is under way");
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::failed(format!("endpoints/{name} drains, {left} requests are still under way")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

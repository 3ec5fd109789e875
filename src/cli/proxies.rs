//! `waypost proxies`

use clap::Args;

use super::client::{ControllerFlag, OutputFlag};
use super::outcome::Outcome;
use super::text::{machine, table};
use crate::api::ProxyInfo;

#[derive(Debug, Args)]
pub(super) struct ProxiesFlags {
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: ProxiesFlags) -> Outcome {
    let proxies: Vec<ProxyInfo> = flags.controller.get("/v1/proxies", &[]).await?;
    if machine(flags.output.output, &proxies)? {
        return Ok(());
    }
    let row = |proxy: &ProxyInfo| {
        let listeners = proxy.listeners.iter().map(|listener| if listener.bound { listener.address.clone() } else { format!("{} (not bound)", listener.name) });
        [
            proxy.name.clone(),
            if proxy.connected { "yes" } else { "no" }.to_owned(),
            proxy.applied.map(|version| version.to_string()).unwrap_or_default(),
            proxy.load.connections.to_string(),
            proxy.load.in_flight.to_string(),
            listeners.collect::<Vec<_>>().join(" "),
            proxy.release.clone(),
        ]
    };
    table(["name", "connected", "version", "connections", "in flight", "listeners", "release"], &proxies.iter().map(row).collect::<Vec<_>>())
}

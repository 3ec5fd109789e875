//! How endpoints and backends fare, as people see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waypost_model::compile::EntryView;
use waypost_model::key::Kind;

use super::State;

/// How an endpoint fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHealth {
    /// Whether it takes requests; if too few of its backend do, it takes them all the same.
    pub healthy: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Since when, in milliseconds since 1970; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The proxies that probe it.
    pub probers: Vec<String>,
}

/// A backend of which endpoints are unhealthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UnhealthyBackend {
    /// Its name.
    pub backend: String,
    /// Its endpoints that are probed.
    pub endpoints: usize,
    /// Those that are unhealthy, by id, and why.
    pub unhealthy: BTreeMap<String, String>,
    /// So few are healthy that all are used as if they were.
    pub panics: bool,
}

pub(super) fn of_entry(state: &State, view: &EntryView) -> Option<EndpointHealth> {
    let resource = view.resource.as_ref().filter(|resource| resource.kind == Kind::Endpoint)?;
    let probers: Vec<String> = state.health.probers(&resource.name)?.map(str::to_owned).collect();
    let out = state.health.out(&resource.name);
    let since = out.map(|out| out.since).filter(|since| *since > 0);
    Some(EndpointHealth { healthy: out.is_none(), why: out.map(|out| out.why.clone()), since, probers })
}

pub(super) fn unhealthy(state: &State) -> Vec<UnhealthyBackend> {
    let id = |path: &String| path.split_once('/').map_or_else(|| path.clone(), |(_, id)| id.to_owned());
    let one = |(backend, health): (String, super::super::health::BackendHealth)| UnhealthyBackend {
        backend,
        endpoints: health.endpoints,
        unhealthy: health.out.iter().map(|(path, out)| (id(path), out.why.clone())).collect(),
        panics: health.panics,
    };
    state.health.troubled().into_iter().map(one).collect()
}

//! What people ask for.

use axum::Json;
use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::{Api, refuse};
use crate::controller::events::Event;
use crate::controller::handle::{Gone, Query};
use crate::controller::history::ConfigRecord;
use crate::controller::view::{EntryInfo, ProxyInfo, StatusInfo};

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// The beginning of the keys below the root.
    #[serde(default)]
    prefix: String,
}

pub(super) async fn entries(State(api): State<Api>, Params(which): Params<Which>) -> Result<Json<Vec<EntryInfo>>, Gone> {
    api.handle.ask(|to| Query::Entries(which.prefix, to)).await.map(Json)
}

pub(super) async fn status(State(api): State<Api>) -> Result<Json<StatusInfo>, Gone> {
    api.handle.ask(Query::Status).await.map(Json)
}

pub(super) async fn proxies(State(api): State<Api>) -> Result<Json<Vec<ProxyInfo>>, Gone> {
    api.handle.ask(Query::Proxies).await.map(Json)
}

pub(super) async fn history(State(api): State<Api>) -> Json<Vec<ConfigRecord>> {
    Json(api.handle.history().await)
}

#[derive(Debug, Deserialize)]
pub(super) struct From {
    /// The number of the first event.
    #[serde(default)]
    from: u64,
}

pub(super) async fn events(State(api): State<Api>, Params(from): Params<From>) -> Result<Json<Vec<Event>>, Gone> {
    api.handle.ask(|to| Query::Events(from.from, to)).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct At {
    /// The number of a config of the history.
    at: Option<u64>,
    /// Only what the guard holds.
    #[serde(default)]
    held: bool,
}

/// The authors' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedEntry {
    /// The key below the root.
    pub key: String,
    /// The value, in base64.
    pub value: String,
}

pub(super) async fn export(State(api): State<Api>, Params(at): Params<At>) -> Result<Response, Gone> {
    let exported = match (at.at, at.held) {
        (None, true) => Ok(api.handle.ask(|to| Query::Export(true, to)).await?),
        (None, false) => api.handle.export().await,
        (Some(number), _) => api.handle.export_config(number).await,
    };
    let exported = match exported {
        Ok(exported) => exported,
        Err(message) => return Ok(refuse(StatusCode::NOT_FOUND, message)),
    };
    // The first store wins where two have the same key.
    let mut entries = std::collections::BTreeMap::new();
    for (key, value) in exported.into_iter().flat_map(|store| store.entries) {
        entries.entry(key).or_insert_with(|| base64::engine::general_purpose::STANDARD.encode(value));
    }
    let all: Vec<ExportedEntry> = entries.into_iter().map(|(key, value)| ExportedEntry { key, value }).collect();
    Ok(Json(all).into_response())
}

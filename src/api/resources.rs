//! Read requests: entries, status, proxies, history, events and exports.

use std::sync::Arc;

use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use serde::{Deserialize, Serialize};

use super::context::{Api, refuse};
use super::forward::LeaderFailure;
use crate::controller::answers::shapes::{EntryInfo, Event, ProxyInfo, StatusInfo};
use crate::controller::message::{Query, Stopped};
use crate::controller::stored::config::ConfigRecord;
use crate::controller::stored::entries::{Exported, same_store};

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// Prefix of the keys below the root.
    #[serde(default)]
    prefix: String,
}

pub(super) async fn entries(State(api): State<Api>, Params(which): Params<Which>) -> Result<Json<Vec<EntryInfo>>, Stopped> {
    api.handle.entries(which.prefix).await.map(Json)
}

pub(super) async fn status(State(api): State<Api>, leader_failure: Option<Extension<LeaderFailure>>) -> Result<Json<StatusInfo>, Stopped> {
    let status = api.handle.ask(Query::Status).await?;
    Ok(Json(StatusInfo { leader_failure: leader_failure.map(|Extension(LeaderFailure(why))| why), ..status }))
}

pub(super) async fn proxies(State(api): State<Api>) -> Result<Json<Vec<ProxyInfo>>, Stopped> {
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

/// The events of a controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// The run of the controller that answers: events are numbered anew in each.
    pub run: String,
    /// The events, oldest first.
    pub events: Vec<Event>,
}

pub(super) async fn events(State(api): State<Api>, Params(from): Params<From>) -> Result<Json<EventsAnswer>, Stopped> {
    let events = api.handle.ask(|to| Query::Events(from.from, to)).await?;
    Ok(Json(EventsAnswer { run: api.run.to_string(), events }))
}

#[derive(Debug, Deserialize)]
pub(super) struct At {
    /// The number of a config of the history.
    at: Option<u64>,
    /// Only removals that are held.
    #[serde(default)]
    held: bool,
}

/// The exported entries of one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedStore {
    /// The store's URL.
    pub store: String,
    /// Its entries.
    pub entries: Vec<ExportedEntry>,
}

impl ExportedStore {
    /// Whether a URL names this store, possibly by other endpoints.
    pub fn is_at(&self, url: &str) -> bool {
        same_store(&self.store, url)
    }
}

/// The author's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedEntry {
    /// The key below the root.
    pub key: String,
    /// The value, in base64.
    pub value: String,
}

/// Exports the entries of every store, in order of rank.
pub(super) async fn export(State(api): State<Api>, Params(at): Params<At>) -> Result<Response, Stopped> {
    let exported = match (at.at, at.held) {
        (None, true) => Ok(api.handle.ask(|to| Query::Export(true, to)).await?),
        (None, false) => api.handle.export().await,
        (Some(number), _) => api.handle.export_config(number).await,
    };
    let exported = match exported {
        Ok(exported) => exported,
        Err(message) => return Ok(refuse(StatusCode::NOT_FOUND, message)),
    };
    let entry = |(key, value): (String, Arc<[u8]>)| ExportedEntry { key, value: base64::engine::general_purpose::STANDARD.encode(value) };
    let store = |one: Exported| ExportedStore { store: one.store, entries: one.entries.into_iter().map(entry).collect() };
    Ok(Json(exported.into_iter().map(store).collect::<Vec<_>>()).into_response())
}

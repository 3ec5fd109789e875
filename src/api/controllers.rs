//! Requests between controllers: their description, the leader's state for followers, and the proxies that follow a follower.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use waypost_wire::{ControllerInfo, Downstream, HEARTBEAT_SECONDS, RelayAnswer, RelayReport};

use super::asked::JsonBody;
use super::caller::{Asker, Caller};
use super::context::{Api, lines, refuse};
use super::operate::check_by;
use crate::controller::handle::Handle;
use crate::controller::message::{Input, Query, Stopped};
use crate::controller::stored::replica::{Document, ReplicaRequest};

/// Maximum length of a relay report in bytes: some thousands of proxies with long reports.
pub(super) const MAX_RELAY_BYTES: usize = 64 * 1024 * 1024;
/// Minimum interval between two updates of a follower.
const UPDATE_INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn controller(State(api): State<Api>) -> Json<ControllerInfo> {
    Json(api.handle.info())
}

/// The answer to a step-down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDownAnswer {
    /// The name of the controller that stepped down.
    pub name: String,
}

/// The request for a step-down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepDownRequest {
    /// The operator's name, for the audit.
    pub by: String,
}

pub(super) async fn step_down(
    State(api): State<Api>,
    Extension(asker): Extension<Asker>,
    JsonBody(request): JsonBody<StepDownRequest>,
) -> Result<Response, Stopped> {
    let name = api.handle.me().0.clone();
    // The audit entry is written first, because another controller keeps the audit afterwards.
    let by = asker.0.unwrap_or(request.by);
    if let Err(message) = check_by(&by) {
        return Ok(refuse(StatusCode::BAD_REQUEST, message));
    }
    if let Err(why) = api.handle.record(by, format!("asked {name} to let go of leading")).await {
        return Ok(refuse(StatusCode::CONFLICT, format!("{name} does not let go: {why}; `waypost status` says who leads")));
    }
    Ok(match api.handle.step_down().await? {
        true => Json(StepDownAnswer { name }).into_response(),
        false => refuse(StatusCode::CONFLICT, format!("{name} does not lead; `waypost status` says who does")),
    })
}

pub(super) async fn relay(State(api): State<Api>, Extension(caller): Extension<Caller>, JsonBody(report): JsonBody<RelayReport>) -> Response {
    if let Err(message) = waypost_model::key::check_name("controller", &report.controller) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    if let Err(why) = caller.check_controller(&report.controller) {
        return api.refuse_caller(&caller, StatusCode::FORBIDDEN, why, "a report").await;
    }
    if let Some(message) = report.proxies.iter().find_map(|proxy| waypost_model::key::check_name("proxy", &proxy.name).err()) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    if let Some(rank) = report.operated {
        api.handle.confirm(rank);
    }
    let newer_actions = report.operated.filter(|rank| *rank > api.handle.operated().rank()).map(|(epoch, _)| epoch);
    let RelayReport { controller, proxies, version, content, events, .. } = report;
    let findings = |proxy: &Downstream| Some((proxy.name.clone(), proxy.report.as_ref()?.probed.as_ref()?.number));
    let findings: Vec<(String, u64)> = proxies.iter().filter_map(findings).collect();
    match api.handle.send(Input::Downstream { controller, proxies, version, content, events, newer_actions }).await {
        Ok(()) => {
            let missed = if findings.is_empty() { Vec::new() } else { api.handle.ask(|to| Query::FindingsMissed(findings, to)).await.unwrap_or_default() };
            Json(RelayAnswer { recall: api.handle.offers_wanted_above(), resend: missed, takes_changes: true }).into_response()
        }
        Err(stopped) => stopped.into_response(),
    }
}

pub(super) async fn replica(State(api): State<Api>, JsonBody(request): JsonBody<ReplicaRequest>) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    tokio::spawn(async move {
        let stop = api.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            ended = send_updates(api.handle, request, sender) => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a follower's stream ended");
                }
            }
        }
    });
    lines(receiver)
}

/// Sends a follower this controller's state and every change of it, until the follower disconnects. A heartbeat ends the first round and
/// each round in which nothing was sent.
async fn send_updates(handle: Handle, mut request: ReplicaRequest, sender: mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut changes = handle.changes();
    let (mut state, mut operated, mut first, mut known_programs) = (Bytes::new(), None, true, None);
    loop {
        let next = Instant::now() + UPDATE_INTERVAL;
        // Read first and sent last: a follower that has it also has what it refers to.
        let saved = if request.programs { handle.operated() } else { handle.operated_with_programs() };
        let replica = handle.ask(|to| Query::Replica(std::mem::take(&mut request.empty), to)).await.map_err(|stopped| stopped.to_string())?;
        let mut sent = send_if_new(&sender, &mut state, &replica.document(&handle.store_urls())).await?;
        // The pinned config is sent before the pin.
        for (record, file) in handle.missing_configs(&mut request.configs).await {
            let file = base64::engine::general_purpose::STANDARD.encode(file);
            let document = Document::Config { number: record.number, digest: record.digest.clone(), file };
            send(&sender, line(&document)?).await?;
            request.configs.insert(record.number, record.digest);
            sent = true;
        }
        if operated.as_ref() != Some(&saved) {
            let left = handle.ask(Query::PinLeft).await.map_err(|stopped| stopped.to_string())?;
            let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            send(&sender, line(&Document::Operator { saved: saved.clone(), left })?).await?;
            (operated, sent) = (Some(saved), true);
        }
        let (joined, changes_of_programs) = if request.programs { handle.programs_since(known_programs) } else { Default::default() };
        if !joined.is_empty() {
            send(&sender, line(&Document::Programs { joined })?).await?;
            sent = true;
        }
        known_programs = Some(changes_of_programs);
        if !sent || std::mem::take(&mut first) {
            send(&sender, line(&Document::Heartbeat)?).await?;
        }
        sleep_until(next).await;
        // With or without a change, the next round sends something.
        drop(timeout_at(Instant::now() + Duration::from_secs(HEARTBEAT_SECONDS), changes.changed()).await);
    }
}

async fn send_if_new(sender: &mpsc::Sender<Bytes>, before: &mut Bytes, document: &Document) -> Result<bool, String> {
    let line = line(document)?;
    let new = line != *before;
    if new {
        *before = line.clone();
        send(sender, line).await?;
    }
    Ok(new)
}

async fn send(sender: &mpsc::Sender<Bytes>, line: Bytes) -> Result<(), String> {
    sender.send(line).await.map_err(|_| "the follower has gone".to_owned())
}

fn line(document: &Document) -> Result<Bytes, String> {
    let mut line = serde_json::to_vec(document).map_err(|error| error.to_string())?;
    line.push(b'\n');
    Ok(line.into())
}

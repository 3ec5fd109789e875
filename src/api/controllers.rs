//! What controllers ask each other: who they are, what the leader keeps, and which proxies follow them.

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
use waypost_wire::{ControllerInfo, HEARTBEAT_SECONDS, RelayAnswer, RelayReport};

use super::asked::JsonBody;
use super::caller::{Asker, Caller};
use super::context::{Api, lines, refuse};
use super::operate::check_by;
use crate::controller::handle::Handle;
use crate::controller::message::{Input, Query, Stopped};
use crate::controller::stored::replica::{Document, ReplicaRequest};

/// Bytes of what one controller says of all its proxies: some thousands with long reports.
pub(super) const LARGEST_RELAY: usize = 64 * 1024 * 1024;
/// What a leader keeps is told at most this often.
const EVERY: Duration = Duration::from_millis(250);

pub(super) async fn controller(State(api): State<Api>) -> Json<ControllerInfo> {
    Json(api.handle.info())
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDownAnswer {
    /// Who let go.
    pub name: String,
}

/// Who asks the leader to let go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepDownRequest {
    /// For the record.
    pub by: String,
}

pub(super) async fn step_down(
    State(api): State<Api>,
    Extension(asker): Extension<Asker>,
    JsonBody(request): JsonBody<StepDownRequest>,
) -> Result<Response, Stopped> {
    let name = api.handle.me().0.clone();
    // Afterwards another one keeps the audit.
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
    let RelayReport { controller, proxies, version, content, told, .. } = report;
    match api.handle.tell(Input::Downstream { controller, proxies, version, content, told }).await {
        Ok(()) => match api.handle.offers_wanted_above() {
            None => StatusCode::NO_CONTENT.into_response(),
            recall => Json(RelayAnswer { recall }).into_response(),
        },
        Err(gone) => gone.into_response(),
    }
}

pub(super) async fn replica(State(api): State<Api>, JsonBody(request): JsonBody<ReplicaRequest>) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    tokio::spawn(async move {
        let stop = api.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            ended = tell(api.handle, request, sender) => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a follower's stream ended");
                }
            }
        }
    });
    lines(receiver)
}

/// Tells a follower what we keep, and every change of it, until it has gone. A heartbeat ends each round in which nothing was
/// told, and the first one.
async fn tell(handle: Handle, mut request: ReplicaRequest, sender: mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut changes = handle.changes();
    let (mut state, mut operated, mut first) = (Bytes::new(), None, true);
    loop {
        let next = Instant::now() + EVERY;
        // Looked at first and told last: whoever has it has what it is about.
        let saved = handle.operated();
        let replica = handle.ask(|to| Query::Replica(std::mem::take(&mut request.empty), to)).await.map_err(|stopped| stopped.to_string())?;
        let mut told = send_if_new(&sender, &mut state, &replica.document(&handle.store_urls())).await?;
        // Before what operators pinned comes the config that they hold.
        for (record, file) in handle.missing_configs(&mut request.configs).await {
            let file = base64::engine::general_purpose::STANDARD.encode(file);
            let document = Document::Config { number: record.number, digest: record.digest.clone(), file };
            send(&sender, line(&document)?).await?;
            request.configs.insert(record.number, record.digest);
            told = true;
        }
        if operated.as_ref() != Some(&saved) {
            let left = handle.ask(Query::PinLeft).await.map_err(|stopped| stopped.to_string())?;
            let left = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            send(&sender, line(&Document::Operator { saved: saved.clone(), left })?).await?;
            (operated, told) = (Some(saved), true);
        }
        if !told || std::mem::take(&mut first) {
            send(&sender, line(&Document::Heartbeat)?).await?;
        }
        sleep_until(next).await;
        // Whether there was a change or not, the next round says something.
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

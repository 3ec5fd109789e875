//! Waits until an entry is served, refused or gone.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query as Params, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use waypost_model::verdict::{Condition, ConditionType, Status};

use super::context::{Api, refuse};
use crate::controller::answers::shapes::{EntryAnswer, EntryInfo};
use crate::controller::message::{Query, Stopped};

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum For {
    /// Served by every proxy that follows the controller.
    #[default]
    Live,
    /// The value is accepted.
    Accepted,
    /// The entry is deleted and no proxy serves it any more.
    Gone,
}

/// The outcome of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitOutcome {
    /// The condition holds.
    Done,
    /// The entry was refused, or shadowed.
    Rejected,
    /// The time limit has passed.
    Timeout,
}

/// The answer to a wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// The outcome.
    pub outcome: WaitOutcome,
    /// The present state of the entry.
    pub entry: Option<EntryInfo>,
    /// One sentence for people.
    pub message: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Request {
    /// A resource, as people type it.
    key: String,
    #[serde(default, rename = "for")]
    what: For,
    /// The time limit, in the form of durations in values: `30s`.
    timeout: Option<String>,
}

/// Maximum time limit of a wait.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

/// Interval at which an entry is judged again even if it did not change: proxies may have connected or left.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn wait(State(api): State<Api>, Params(request): Params<Request>) -> Result<Response, Stopped> {
    let limit = match request.timeout.map(waypost_model::duration::Duration::try_from).transpose() {
        Ok(limit) => limit.map_or(Duration::from_secs(30), waypost_model::duration::Duration::get).min(MAX_WAIT),
        Err(message) => return Ok(refuse(StatusCode::BAD_REQUEST, message)),
    };
    let key = match api.handle.relative(&request.key) {
        Ok(key) => key,
        // A key that names no resource may be written nevertheless, and then has a verdict.
        Err(message) => {
            let typed = request.key.clone();
            match api.handle.ask(|to| Query::Entry(typed, to)).await?.entry {
                Some(entry) => entry.path,
                None => return Ok(refuse(StatusCode::BAD_REQUEST, message)),
            }
        }
    };
    let deadline = Instant::now() + limit;
    // The wait is for the value that is in the store now; the watch may not have delivered it yet.
    let written = match timeout_at(deadline, api.handle.read(&key)).await {
        Ok(Ok(entry)) => entry.map(|entry| entry.revision.0),
        Ok(Err(_)) | Err(_) => None,
    };
    let mut woken = api.handle.wait_for(&key);
    loop {
        woken.mark_unchanged();
        let found = api.handle.ask(|to| Query::Entry(key.clone(), to)).await?;
        if let Some(answer) = judge(&key, request.what, written, &found) {
            return Ok(Json(answer).into_response());
        }
        if Instant::now() >= deadline {
            let message = late(&key, request.what, limit, &found);
            return Ok(Json(WaitAnswer { outcome: WaitOutcome::Timeout, message, entry: found.entry }).into_response());
        }
        // Whether it was woken, or it is time to look again.
        drop(timeout_at(deadline.min(Instant::now() + JUDGE_INTERVAL), woken.changed()).await);
    }
}

/// Decides whether the wait is over.
fn judge(key: &str, what: For, written: Option<u64>, found: &EntryAnswer) -> Option<WaitAnswer> {
    let done = |message: String| Some(WaitAnswer { outcome: WaitOutcome::Done, entry: found.entry.clone(), message });
    if let (For::Gone, Some(why)) = (what, &found.serves_on) {
        let message = format!("{key} is deleted and serves on: {why}");
        return Some(WaitAnswer { outcome: WaitOutcome::Rejected, message, entry: None });
    }
    let Some(entry) = &found.entry else {
        return if what == For::Gone && found.serving.is_empty() && !found.judged_soon { done(format!("{key} is gone")) } else { None };
    };
    if what == For::Gone || written.is_some_and(|written| entry.revision < written) {
        return None;
    }
    if let Some(condition) = refusal(entry, what) {
        let serving = match entry.last_good_revision {
            Some(revision) => format!("; revision {revision}, the last good one, still serves"),
            None if condition.r#type == ConditionType::Accepted => "; nothing was served under this key before".to_owned(),
            None => String::new(),
        };
        return Some(WaitAnswer { outcome: WaitOutcome::Rejected, message: format!("{}{serving}", condition.message), entry: Some(entry.clone()) });
    }
    let live = &entry.live;
    match (what, live.version) {
        (For::Accepted, _) => done(format!("{key} is accepted at revision {}", entry.revision)),
        (For::Live, Some(version)) if live.on == live.of && live.of > 0 => {
            let millis = live.millis.map(|millis| format!(", {millis:.1} ms after the controller saw it")).unwrap_or_default();
            done(format!("{key} is live on {}/{} proxies at version {version}{millis}", live.on, live.of))
        }
        _ => None,
    }
}

/// The condition because of which the wait is in vain: the entry is refused or, if it is to be live, shadowed. A proxy that
/// cannot serve it yet may be able to later.
fn refusal(entry: &EntryInfo, what: For) -> Option<&Condition> {
    let stands = |condition: &&Condition| match condition.r#type {
        ConditionType::Accepted => true,
        ConditionType::Programmed => what == For::Live && ["Shadowed", "Frozen", "Pinned"].contains(&condition.reason.as_str()),
        ConditionType::ResolvedRefs => false,
    };
    entry.conditions.iter().filter(|condition| condition.status == Status::False).find(stands)
}

fn late(key: &str, what: For, limit: Duration, found: &EntryAnswer) -> String {
    match &found.entry {
        None if what == For::Gone && found.judged_soon => format!("{key} is deleted, and after {limit:?} the store has not confirmed it for long enough"),
        None if what == For::Gone => format!("{key} is deleted, but after {limit:?} still served by {}", found.serving.join(", ")),
        None => format!("{key} is not in the store after {limit:?}"),
        Some(_) if what == For::Gone => format!("{key} is still in the store after {limit:?}"),
        Some(entry) if entry.live.of == 0 => {
            format!("{key} is accepted, but {}", entry.live.lagging.first().map_or("no proxy is connected", String::as_str))
        }
        Some(entry) => format!("{key} is live on {}/{} proxies after {limit:?}; {}", entry.live.on, entry.live.of, entry.live.lagging.join("; ")),
    }
}

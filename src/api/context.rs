//! What every handler has at hand, and the forms of an answer.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use waypost_wire::KeyRing;

use super::refusals::Refusals;
use super::streams::Streams;
use crate::controller::handle::Handle;
use crate::controller::message::Stopped;
use crate::trust::Trust;

/// Everything that a handler needs.
#[derive(Debug, Clone)]
pub struct Api {
    pub(super) handle: Handle,
    /// Tells this run of the controller from others.
    pub(super) run: Arc<str>,
    pub(super) streams: Arc<Streams>,
    pub(super) client: reqwest::Client,
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) ring: Option<watch::Receiver<KeyRing>>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) stop: CancellationToken,
}

/// What an API over TLS has.
#[derive(Debug, Clone)]
pub struct Secured {
    /// Our certificate, and who is let in.
    pub trust: Arc<Trust>,
    /// The keys that proxies share.
    pub ring: watch::Receiver<KeyRing>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and what to do.
    pub error: String,
}

/// An endless answer of JSON lines, as they come; a slow reader slows the sender.
pub(super) fn lines(receiver: mpsc::Receiver<Bytes>) -> Response {
    let body = unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (Ok::<_, Infallible>(piece), receiver)) });
    ([(header::CONTENT_TYPE, "application/jsonl"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response()
}

pub(super) fn refuse(status: StatusCode, error: impl Into<String>) -> Response {
    (status, axum::Json(ErrorBody { error: error.into() })).into_response()
}

impl IntoResponse for Stopped {
    fn into_response(self) -> Response {
        refuse(StatusCode::SERVICE_UNAVAILABLE, self.to_string())
    }
}

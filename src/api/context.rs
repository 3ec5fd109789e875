//! The state that all handlers share, and common forms of answers.

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
    /// Identifies this run of the controller.
    pub(super) run: Arc<str>,
    pub(super) streams: Arc<Streams>,
    pub(super) client: reqwest::Client,
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) ring: Option<watch::Receiver<KeyRing>>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) stop: CancellationToken,
}

/// The state of an API over TLS.
#[derive(Debug, Clone)]
pub struct Secured {
    /// This controller's certificate, and the authority for callers.
    pub trust: Arc<Trust>,
    /// The keys that proxies share.
    pub ring: watch::Receiver<KeyRing>,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong and the remedy.
    pub error: String,
}

/// An endless response of JSON lines. A slow reader slows the sender.
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

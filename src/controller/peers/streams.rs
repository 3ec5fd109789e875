//! Streams between controllers: addresses, lines, and when to turn to another leader.

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;
use waypost_wire::SILENCE_SECONDS;

use crate::controller::message::Stopped;
use crate::controller::rules::election::Role;

/// Without a line for this long the other controller counts as dead.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// Why a stream of another controller ended, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// Its URL cannot be used.
    #[error("its URL cannot be used")]
    Url,
    /// It did not answer in time.
    #[error("no answer")]
    NoAnswer,
    /// It answered with an error: this text.
    #[error("{0}")]
    Refused(String),
    /// It sent nothing for too long.
    #[error("it went silent")]
    Silent,
    /// It closed the stream.
    #[error("it closed the stream")]
    Closed,
    /// A line has more than this many bytes.
    #[error("a line has more than {0} bytes")]
    LongLine(usize),
    /// The connection broke.
    #[error("{0}")]
    Connection(#[from] reqwest::Error),
    /// A line cannot be understood, or does not fit what came before it.
    #[error("{0}")]
    Unreadable(String),
    /// Another controller is to be followed.
    #[error("another one leads")]
    Turned,
    /// This controller is stopping.
    #[error("we are stopping")]
    Stopping(#[from] Stopped),
}

impl From<serde_json::Error> for StreamError {
    fn from(error: serde_json::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Ends when a controller other than `led_by` leads, which may be this one.
pub(super) async fn turned(mut roles: watch::Receiver<Role>, led_by: Option<String>) {
    loop {
        if roles.changed().await.is_err() {
            return;
        }
        match &*roles.borrow_and_update() {
            // The leader is still the same one, or no other is known.
            Role::Following { leader } if leader.as_ref().is_none_or(|record| Some(&record.holder.name) == led_by.as_ref()) => {}
            _ => return,
        }
    }
}

/// The next line of an endless answer.
pub(super) async fn next_line(response: &mut reqwest::Response, buffer: &mut BytesMut, longest: usize) -> Result<BytesMut, StreamError> {
    let mut searched = 0;
    loop {
        if let Some(end) = buffer.get(searched..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            return Ok(buffer.split_to(searched + end + 1));
        }
        searched = buffer.len();
        if searched > longest {
            return Err(StreamError::LongLine(longest));
        }
        match timeout(MAX_SILENCE, response.chunk()).await {
            Err(_) => return Err(StreamError::Silent),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(None)) => return Err(StreamError::Closed),
            Ok(Ok(Some(chunk))) => buffer.extend_from_slice(&chunk),
        }
    }
}

/// A path of another controller's API.
pub(super) fn join(url: &str, path: &str) -> Option<Url> {
    Url::parse(url).ok()?.join(path).ok()
}

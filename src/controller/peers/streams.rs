//! Streams between controllers: addresses, lines, and when to turn to another leader.

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;
use waypost_wire::SILENCE_SECONDS;

use crate::controller::rules::election::Role;

/// Without a line for this long the other controller is gone.
pub(super) const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// Ends when somebody else leads than `led_by`, we among them.
pub(super) async fn turned(mut roles: watch::Receiver<Role>, led_by: Option<String>) {
    loop {
        if roles.changed().await.is_err() {
            return;
        }
        match &*roles.borrow_and_update() {
            // It is the same one still, or nobody knows better.
            Role::Following { leader } if leader.as_ref().is_none_or(|record| Some(&record.holder.name) == led_by.as_ref()) => {}
            _ => return,
        }
    }
}

/// The next line of an endless answer.
pub(super) async fn next_line(response: &mut reqwest::Response, buffer: &mut BytesMut, longest: usize) -> Result<BytesMut, String> {
    let mut searched = 0;
    loop {
        if let Some(end) = buffer.get(searched..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n')) {
            return Ok(buffer.split_to(searched + end + 1));
        }
        searched = buffer.len();
        if searched > longest {
            return Err(format!("a line has more than {longest} bytes"));
        }
        match timeout(SILENCE, response.chunk()).await {
            Err(_) => return Err("it went silent".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(None)) => return Err("it closed the stream".to_owned()),
            Ok(Ok(Some(chunk))) => buffer.extend_from_slice(&chunk),
        }
    }
}

/// A path of another controller's API.
pub(super) fn join(url: &str, path: &str) -> Option<Url> {
    Url::parse(url).ok()?.join(path).ok()
}

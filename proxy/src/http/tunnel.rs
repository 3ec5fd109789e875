//! A connection whose protocol was switched (RFC 9110, 7.8), such as to WebSocket: from then on bytes are only passed on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::http::io::{Patience, ReadError, Reader, Writer};

/// Passes bytes between two connections until both have ended, one breaks, or nothing moves for `timeout` in either direction. The end of one
/// direction is passed on.
pub(crate) async fn tunnel(client: (&mut Reader, &mut Writer), endpoint: (&mut Reader, &mut Writer), timeout: Duration) {
    let ((from_client, to_client), (from_endpoint, to_endpoint)) = (client, endpoint);
    let idle = Idle { timeout, moved_at: Mutex::new(Instant::now()) };
    let ended = tokio::try_join!(pass(from_client, to_endpoint, &idle), pass(from_endpoint, to_client, &idle));
    if let Err(error) = ended {
        tracing::debug!(error, "a tunnel broke off");
    }
}

/// How long nothing has moved, in either direction: an endpoint may only send, and its client only listen.
struct Idle {
    timeout: Duration,
    moved_at: Mutex<Instant>,
}

impl Idle {
    fn moves(&self) {
        *self.moved_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How much of the time is left.
    fn left(&self) -> Duration {
        let moved_at = *self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.timeout.saturating_sub(moved_at.elapsed())
    }
}

async fn pass(from: &mut Reader, to: &mut Writer, idle: &Idle) -> Result<(), String> {
    loop {
        if from.unread().is_empty() {
            match from.fill(Patience { idle: Some(idle.left()), deadline: None }).await {
                Ok(0) => return to.shutdown().await.map_err(|error| error.to_string()),
                Ok(_) => {}
                Err(ReadError::Idle(_)) if !idle.left().is_zero() => continue,
                Err(error) => return Err(error.to_string()),
            }
        }
        idle.moves();
        let count = from.unread().len();
        to.send(from.unread(), b"").await.map_err(|error| error.to_string())?;
        from.consume(count);
    }
}

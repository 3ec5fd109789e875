//! A connection whose protocol was switched (RFC 9110, 7.8), such as to WebSocket: from then on bytes are only passed on.

use std::time::Duration;

use crate::http::io::{Patience, Reader, Writer};

/// A tunnel in which nothing moves for so long ends.
const IDLE: Duration = Duration::from_secs(3_600);

/// Passes bytes between two connections until both have ended, or one breaks. The end of one direction is passed on.
pub(crate) async fn tunnel(client: (&mut Reader, &mut Writer), endpoint: (&mut Reader, &mut Writer)) {
    let ((from_client, to_client), (from_endpoint, to_endpoint)) = (client, endpoint);
    let ended = tokio::try_join!(pass(from_client, to_endpoint), pass(from_endpoint, to_client));
    if let Err(error) = ended {
        tracing::debug!(error, "a tunnel broke off");
    }
}

async fn pass(from: &mut Reader, to: &mut Writer) -> Result<(), String> {
    let patience = Patience { idle: Some(IDLE), deadline: None };
    loop {
        if from.unread().is_empty() && from.fill(patience).await.map_err(|error| error.to_string())? == 0 {
            return to.shutdown().await.map_err(|error| error.to_string());
        }
        let count = from.unread().len();
        to.send(from.unread(), b"").await.map_err(|error| error.to_string())?;
        from.consume(count);
    }
}

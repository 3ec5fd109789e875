//! Switching protocols (RFC 9110, 7.8), such as to WebSocket: from then on bytes are only passed on.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::endpoint::InFlight;
use crate::http::body::Counted;

/// Passes bytes between a client and an endpoint that both agreed to switch, until one of them ends.
pub(crate) async fn tunnel(client: OnUpgrade, endpoint: OnUpgrade, counts: (Counted, InFlight)) {
    let both = futures_util::future::try_join(client, endpoint).await;
    let result = match both {
        Ok((client, endpoint)) => {
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(endpoint)).await.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = result {
        tracing::debug!(error, "an upgraded connection broke off");
    }
    drop(counts);
}

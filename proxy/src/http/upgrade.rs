//! Switching protocols (RFC 9110, 7.8), such as to WebSocket: from then on bytes are only passed on.

use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::endpoint::Attempt;
use crate::http::body::Counted;
use crate::http::serve::{ClientIo, Connection};

/// Passes bytes between a client and an endpoint that both agreed to switch, until one of them ends or the proxy does.
/// It counts as the client's connection for as long.
pub(crate) async fn tunnel(client: OnUpgrade, endpoint: OnUpgrade, connection: Arc<Connection>, counts: (Counted, Attempt)) {
    let passing = async {
        let (client, endpoint) = futures_util::future::try_join(client, endpoint).await.map_err(|error| error.to_string())?;
        let client = unhurried(client)?;
        tokio::io::copy_bidirectional(&mut client.into_inner(), &mut TokioIo::new(endpoint)).await.map(drop).map_err(|error| error.to_string())
    };
    tokio::select! {
        result = passing => if let Err(error) = result {
            tracing::debug!(error, "an upgraded connection broke off");
        },
        () = connection.core.shared.abort.cancelled() => {}
    }
    drop(counts);
}

/// A client that sent bytes before the switch was agreed spoke a protocol that nobody had accepted.
fn unhurried(client: Upgraded) -> Result<ClientIo, String> {
    let parts = client.downcast::<ClientIo>().map_err(|_| "the connection is not one of ours".to_owned())?;
    if parts.read_buf.is_empty() { Ok(parts.io) } else { Err("the client did not wait for the switch".to_owned()) }
}

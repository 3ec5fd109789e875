//! The stream of the keys that proxies share: for programs with a certificate, over TLS.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use waypost_wire::{HEARTBEAT_SECONDS, KeyRing, SECRETS_PATH, SecretsFrame, SecretsRequest};

use super::asked::JsonBody;
use super::caller::Caller;
use super::context::{Api, lines, refuse};

pub(super) async fn secrets(State(api): State<Api>, Extension(caller): Extension<Caller>, JsonBody(request): JsonBody<SecretsRequest>) -> Response {
    let (Some(ring), Caller::Tls { .. }) = (api.ring.clone(), &caller) else {
        return refuse(StatusCode::CONFLICT, "there are no shared keys in clear text; start the controllers with TLS");
    };
    if let Err(why) = caller.check_program(request.controller.as_deref(), &request.name) {
        return api.refuse_caller(&caller, StatusCode::FORBIDDEN, why, SECRETS_PATH).await;
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    tokio::spawn(api.stop.run_until_cancelled_owned(send_keys(ring, sender)));
    lines(receiver)
}

/// Sends the keys and every change of them until the receiver disconnects.
async fn send_keys(mut ring: watch::Receiver<KeyRing>, sender: mpsc::Sender<Bytes>) {
    let mut frame = SecretsFrame::Ring(ring.borrow_and_update().clone());
    loop {
        let Ok(mut line) = serde_json::to_vec(&frame) else { return };
        line.push(b'\n');
        if sender.send(line.into()).await.is_err() {
            return;
        }
        frame = match timeout(Duration::from_secs(HEARTBEAT_SECONDS), ring.changed()).await {
            Ok(Ok(())) => SecretsFrame::Ring(ring.borrow_and_update().clone()),
            Ok(Err(_)) => return,
            Err(_) => SecretsFrame::Heartbeat,
        };
    }
}

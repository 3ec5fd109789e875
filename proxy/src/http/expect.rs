//! `Expect: 100-continue` end to end: the client's body is asked for when the endpoint asks for it.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use tokio::sync::oneshot;
use tokio::time::Sleep;

/// An endpoint that neither asks nor answers for this long gets the body anyway (RFC 9110, 10.1.1).
const WAIT: Duration = Duration::from_secs(1);

/// Closed until the endpoint asks for the body.
#[derive(Debug)]
pub(crate) struct Gate {
    asked: oneshot::Receiver<()>,
    waited: Pin<Box<Sleep>>,
}

impl Gate {
    /// Ready once the body may flow.
    pub(crate) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The sender is dropped without a word when the final answer comes first; then nobody wants the body.
        if matches!(Pin::new(&mut self.asked).poll(context), Poll::Ready(Ok(()))) {
            return Poll::Ready(());
        }
        self.waited.as_mut().poll(context)
    }
}

/// Whether the client waits to be asked for its body.
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A gate, and the call that opens it when the endpoint says 100.
pub(crate) fn gate() -> (Gate, impl Fn(StatusCode) + Send + Sync + 'static) {
    let (ask, asked) = oneshot::channel();
    let ask = std::sync::Mutex::new(Some(ask));
    let open = move |status: StatusCode| {
        if status == StatusCode::CONTINUE {
            let sender = ask.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            // The body may have gone with its client.
            sender.map(|sender| sender.send(()).unwrap_or_default()).unwrap_or_default();
        }
    };
    (Gate { asked, waited: Box::pin(tokio::time::sleep(WAIT)) }, open)
}

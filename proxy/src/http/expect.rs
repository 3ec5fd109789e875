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
    /// `None` once the final answer came first: then nobody asks any more.
    asked: Option<oneshot::Receiver<()>>,
    waited: Pin<Box<Sleep>>,
}

impl Gate {
    /// Ready once the body may flow; never, if the final answer came without asking for it.
    pub(crate) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(asked) = &mut self.asked else { return Poll::Pending };
        match Pin::new(asked).poll(context) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(_)) => {
                self.asked = None;
                Poll::Pending
            }
            Poll::Pending => self.waited.as_mut().poll(context),
        }
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
    (Gate { asked: Some(asked), waited: Box::pin(tokio::time::sleep(WAIT)) }, open)
}

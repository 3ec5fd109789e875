//! How far a request's body has come, for those who wait for it: the first-byte time-out begins when it was passed on
//! whole, and nobody waits for a body whose response is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// Shared by a request's body and by what waits for its response.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    whole: AtomicBool,
    finished: Notify,
    unwanted: AtomicBool,
    body: AtomicWaker,
}

impl Sent {
    /// Of a body that begins.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::default()
    }

    /// The body was passed on whole.
    pub(crate) fn finish(&self) {
        self.whole.store(true, Ordering::Release);
        self.finished.notify_one();
    }

    /// Whether it was.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }

    /// Waits until it was.
    pub(crate) async fn finished(&self) {
        while !self.is_whole() {
            self.finished.notified().await;
        }
    }

    /// The response is over: what is left of the body is not wanted.
    pub(crate) fn abandon(&self) {
        self.unwanted.store(true, Ordering::Release);
        self.body.wake();
    }

    /// Ready once nobody wants the body any more.
    pub(crate) fn poll_abandoned(&self, context: &Context<'_>) -> Poll<()> {
        self.body.register(context.waker());
        if self.unwanted.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

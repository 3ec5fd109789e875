//! What the two directions of an exchange know of each other. Both are parts of one task.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// An endpoint that neither asks nor answers for this long gets the body of a client that waits to be asked (RFC 9110, 10.1.1).
const WAIT: Duration = Duration::from_secs(1);

/// How far an exchange has come.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The client waits to be asked for its body.
    expects: bool,
    /// It was asked, by the endpoint or by us.
    is_asked: AtomicBool,
    /// The head of the response went to the client.
    has_responded: AtomicBool,
    /// The request went to the endpoint as a whole.
    is_sent: AtomicBool,
    /// When we ask for it ourselves.
    asks_at: Option<Instant>,
}

impl Progress {
    /// Of an exchange that begins; `expects` if the client waits to be asked for its body.
    pub(crate) fn new(expects: bool) -> Self {
        Self {
            expects,
            is_asked: AtomicBool::new(false),
            has_responded: AtomicBool::new(false),
            is_sent: AtomicBool::new(false),
            asks_at: expects.then(|| Instant::now() + WAIT),
        }
    }

    /// Whether the client waits to be asked, and was not.
    pub(crate) fn waits(&self) -> bool {
        self.expects && !self.is_asked.load(Relaxed)
    }

    /// When the client is asked although the endpoint said nothing.
    pub(crate) const fn asks_at(&self) -> Option<Instant> {
        self.asks_at
    }

    /// The client was asked for its body.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Relaxed);
    }

    /// The head of the response goes to the client: from now on it cannot get another one.
    pub(crate) fn respond(&self) {
        self.has_responded.store(true, Relaxed);
    }

    /// Whether it did.
    pub(crate) fn has_responded(&self) -> bool {
        self.has_responded.load(Relaxed)
    }

    /// All of the request is sent.
    pub(crate) fn sent(&self) {
        self.is_sent.store(true, Relaxed);
    }

    /// Whether it is.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent.load(Relaxed)
    }
}

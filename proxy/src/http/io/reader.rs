//! The receiving half of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::buffers::{self, SIZE};
use super::timer::Timer;
use crate::stream::ReadHalf;

/// Why no bytes came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// Nothing came in this time.
    #[error("nothing came for {0:?}")]
    Idle(Duration),
    /// The time for the whole was over.
    #[error("the time for the whole was over")]
    Deadline,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

/// How long to wait for bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Patience {
    /// For the next piece.
    pub(crate) idle: Option<Duration>,
    /// For all of them.
    pub(crate) deadline: Option<Instant>,
}

/// Receives bytes. Those that were received and not used wait in a buffer, which there is only as long as there are any.
#[derive(Debug)]
pub(crate) struct Reader {
    half: ReadHalf,
    buffer: Vec<u8>,
    /// How many bytes of the buffer are used.
    used: usize,
    timer: Timer,
    /// When the present wait is over, if one is under way.
    until: Option<Instant>,
    is_waiting: bool,
}

impl Reader {
    pub(super) fn new(half: ReadHalf) -> Self {
        Self { half, buffer: Vec::new(), used: 0, timer: Timer::default(), until: None, is_waiting: false }
    }

    /// The bytes that wait.
    pub(crate) fn unread(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Removes the first `count` bytes that wait.
    pub(crate) fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.buffer.len());
        if self.used == self.buffer.len() {
            self.release();
        }
    }

    /// Whether no more bytes fit beside those that wait.
    pub(crate) fn is_full(&self) -> bool {
        self.unread().len() >= SIZE
    }

    /// Gives an empty buffer back.
    fn release(&mut self) {
        self.used = 0;
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
    }

    /// Receives more bytes behind those that wait; returns how many, which is zero at the end. The buffer must not be full.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::take();
        } else if self.buffer.len() == self.buffer.capacity() {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        let polled = poll_read_buf(Pin::new(&mut self.half), context, &mut self.buffer);
        if self.buffer.len() == self.used {
            self.release();
        }
        polled
    }

    /// The same, with a time limit.
    pub(crate) fn poll_fill_within(&mut self, context: &mut Context<'_>, patience: Patience) -> Poll<Result<usize, ReadError>> {
        if let Poll::Ready(result) = self.poll_fill(context) {
            self.is_waiting = false;
            return Poll::Ready(result.map_err(ReadError::Io));
        }
        if !std::mem::replace(&mut self.is_waiting, true) {
            let idle = patience.idle.map(|idle| Instant::now() + idle);
            self.until = [idle, patience.deadline].into_iter().flatten().min();
        }
        std::task::ready!(self.timer.poll(context, self.until));
        self.is_waiting = false;
        let is_late = patience.deadline.is_some_and(|deadline| deadline <= Instant::now());
        Poll::Ready(Err(if is_late { ReadError::Deadline } else { ReadError::Idle(patience.idle.unwrap_or_default()) }))
    }

    /// Waits for more bytes.
    pub(crate) async fn fill(&mut self, patience: Patience) -> Result<usize, ReadError> {
        self.is_waiting = false;
        std::future::poll_fn(|context| self.poll_fill_within(context, patience)).await
    }

    /// Ready at `deadline`, for those who wait for bytes by [`Self::poll_fill`].
    pub(crate) fn poll_deadline(&mut self, context: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        self.timer.poll(context, deadline)
    }

    /// Whether the connection is open and nothing came: nobody waits for bytes on it.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.unread().is_empty() && self.poll_fill(&mut Context::from_waker(std::task::Waker::noop())).is_pending()
    }

    /// Lets go of the timer, which would keep the task that used it.
    pub(crate) fn rest(&mut self) {
        self.timer = Timer::default();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.release();
    }
}

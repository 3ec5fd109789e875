//! The sending half of a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::time::Instant;

use super::buffers;
use super::timer::Timer;
use crate::stream::WriteHalf;

/// Data up to this size is copied behind the head, so that both leave in one plain write.
const SMALL: usize = 4 * 1024;

/// Sends bytes. A head, the line of a chunk and small data wait in a buffer for the next write; large data is sent from where it is.
#[derive(Debug)]
pub(crate) struct Writer {
    half: WriteHalf,
    buffer: Vec<u8>,
    sent: usize,
    timer: Timer,
    until: Option<Instant>,
    /// So long the peer may take nothing of what it is sent.
    stall_timeout: Duration,
}

impl Writer {
    pub(super) fn new(half: WriteHalf, stall_timeout: Duration) -> Self {
        Self { half, buffer: Vec::new(), sent: 0, timer: Timer::default(), until: None, stall_timeout }
    }

    /// What is to be sent with the next write; more can be added.
    pub(crate) fn pending(&mut self) -> &mut Vec<u8> {
        if self.buffer.capacity() == 0 {
            self.buffer = buffers::take();
        }
        &mut self.buffer
    }

    /// Sends what is pending, then `data`, then `tail`.
    pub(crate) async fn send(&mut self, data: &[u8], tail: &'static [u8]) -> io::Result<()> {
        let (mut data, mut tail) = (data, tail);
        if data.len() <= SMALL && (!self.buffer.is_empty() || !tail.is_empty()) {
            let pending = self.pending();
            pending.extend_from_slice(data);
            pending.extend_from_slice(tail);
            (data, tail) = (&[], &[]);
        }
        self.until = None;
        let result = std::future::poll_fn(|context| self.poll_send(context, &mut data, &mut tail)).await;
        self.sent = 0;
        if self.buffer.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.buffer));
        }
        result
    }

    fn poll_send(&mut self, context: &mut Context<'_>, data: &mut &[u8], tail: &mut &[u8]) -> Poll<io::Result<()>> {
        loop {
            let pending = self.buffer.get(self.sent..).unwrap_or_default();
            let half = Pin::new(&mut self.half);
            let polled = match (pending.is_empty(), data.is_empty(), tail.is_empty()) {
                // Over TLS, what was written may not have left yet.
                (true, true, true) => half.poll_flush(context).map_ok(|()| None),
                (false, true, true) => half.poll_write(context, pending).map_ok(Some),
                (true, false, true) => half.poll_write(context, data).map_ok(Some),
                _ => half.poll_write_vectored(context, &[IoSlice::new(pending), IoSlice::new(data), IoSlice::new(tail)]).map_ok(Some),
            };
            let Poll::Ready(result) = polled else {
                let stall_timeout = self.stall_timeout;
                let until = *self.until.get_or_insert_with(|| Instant::now() + stall_timeout);
                std::task::ready!(self.timer.poll(context, Some(until)));
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took nothing for {stall_timeout:?}"))));
            };
            let Some(mut written) = result? else { return Poll::Ready(Ok(())) };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.until = None;
            let of_pending = written.min(pending.len());
            self.sent += of_pending;
            written -= of_pending;
            let of_data = written.min(data.len());
            *data = data.get(of_data..).unwrap_or_default();
            *tail = tail.get(written - of_data..).unwrap_or_default();
        }
    }

    /// Makes the end of the connection a reset: what was sent is not whole, and must not look so.
    pub(crate) fn abort(&mut self) {
        self.half.abort();
    }

    /// Ready at `deadline`, for those who wait for something else than to send.
    pub(crate) fn poll_deadline(&mut self, context: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        self.timer.poll(context, deadline)
    }

    /// Says that nothing follows.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| Pin::new(&mut self.half).poll_shutdown(context)).await
    }

    /// Lets go of the timer, which would keep the task that used it.
    pub(crate) fn rest(&mut self) {
        self.timer = Timer::default();
    }
}

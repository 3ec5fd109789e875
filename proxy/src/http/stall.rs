//! Sockets on which a write may not hang for ever: a peer that takes nothing for a minute is gone, or might as well be.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::descriptors::Descriptor;

/// So long a peer may take nothing of what it is sent.
const STALL: Duration = Duration::from_secs(60);

/// A socket whose writes fail after [`STALL`] without progress. Costs nothing while they do not wait.
#[derive(Debug)]
pub(crate) struct Stalling {
    stream: TcpStream,
    limit: Duration,
    waiting: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// Counts the socket's descriptor as long as it is open, also as a tunnel.
    _descriptor: Option<Descriptor>,
}

impl Stalling {
    /// Watches over a socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, limit: STALL, waiting: false, timer: None, _descriptor: None }
    }

    /// The same, with the guard that counts its descriptor.
    pub(crate) fn counted(stream: TcpStream, descriptor: Descriptor) -> Self {
        Self { _descriptor: Some(descriptor), ..Self::new(stream) }
    }

    fn watch<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.waiting, true) {
            timer.as_mut().reset(Instant::now() + limit);
        }
        std::task::ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took nothing for {limit:?}"))))
    }
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(polled, context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // One piece is cheaper to send plainly.
        let polled = match bytes {
            [only] => Pin::new(&mut self.stream).poll_write(context, only),
            several => Pin::new(&mut self.stream).poll_write_vectored(context, several),
        };
        self.watch(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_ends_the_write() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut stalling = Stalling { limit: Duration::from_millis(50), ..Stalling::new(ours.unwrap()) };
        let error = stalling.write_all(&vec![0; 64 * 1024 * 1024]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}

//! A connection's bytes: as they are, or over TLS. What reads and writes them does not know which.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::server::TlsStream;

/// A connection that was accepted or opened.
#[derive(Debug)]
pub(crate) enum Stream {
    /// In clear text.
    Clear(TcpStream),
    /// Over TLS, as a server.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) enum ReadHalf {
    /// In clear text.
    Clear(OwnedReadHalf),
    /// Over TLS.
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) enum WriteHalf {
    /// In clear text.
    Clear(OwnedWriteHalf),
    /// Over TLS.
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

impl Stream {
    /// Its two halves, which one task can use at once.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Clear(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Clear(read), WriteHalf::Clear(write))
            }
            Self::Tls(stream) => {
                let (read, write) = tokio::io::split(*stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }
}

impl WriteHalf {
    /// Makes the end of the connection one that no peer takes for a whole message: a reset, or over TLS an end without close_notify
    /// (RFC 8446, 6.1), which is what dropping it does.
    pub(crate) fn abort(&self) {
        let Self::Clear(half) = self else { return };
        if let Err(error) = socket2::SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection could not be reset");
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(half) => Pin::new(half).poll_read(context, buffer),
            Self::Tls(half) => Pin::new(half).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(half) => Pin::new(half).poll_write(context, data),
            Self::Tls(half) => Pin::new(half).poll_write(context, data),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(half) => Pin::new(half).poll_write_vectored(context, data),
            Self::Tls(half) => Pin::new(half).poll_write_vectored(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(half) => Pin::new(half).poll_flush(context),
            Self::Tls(half) => Pin::new(half).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(half) => Pin::new(half).poll_shutdown(context),
            Self::Tls(half) => Pin::new(half).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

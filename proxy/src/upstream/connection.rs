//! A connection to an endpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::descriptors::Descriptor;
use crate::http::io::{Reader, Writer, halves};
use crate::stream::Stream;

/// A connection that takes a request now.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// Under which it is kept when it is idle: the address.
    pub(crate) key: Arc<str>,
    /// Whether it took a request before.
    pub(crate) is_reused: bool,
    /// How long the endpoint keeps it idle, if it said so.
    pub(crate) keep_alive: Option<Duration>,
    /// Since when it is idle.
    pub(crate) idle_since: Instant,
    _descriptor: Descriptor,
}

impl Connection {
    /// A new one.
    pub(crate) fn new(stream: TcpStream, key: Arc<str>, stall_timeout: Duration, descriptor: Descriptor) -> Self {
        let (reader, writer) = halves(Stream::Clear(stream), stall_timeout);
        Self { reader, writer, key, is_reused: false, keep_alive: None, idle_since: Instant::now(), _descriptor: descriptor }
    }

    /// It has no request any more. Returns whether it can wait for the next one.
    pub(crate) fn rest(&mut self) -> bool {
        self.reader.rest();
        self.writer.rest();
        self.is_reused = true;
        self.idle_since = Instant::now();
        self.reader.is_quiet()
    }
}

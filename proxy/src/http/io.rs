//! The two halves of a connection, with their buffers and time limits.

mod buffers;
mod reader;
mod timer;
mod writer;

pub(crate) use reader::{Patience, ReadError, Reader};
pub(crate) use timer::Timer;
pub(crate) use writer::Writer;

use tokio::net::TcpStream;

/// A connection as its two halves: both can be used at once by one task.
pub(crate) fn halves(stream: TcpStream) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    (Reader::new(read), Writer::new(write))
}

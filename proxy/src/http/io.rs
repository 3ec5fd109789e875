//! The two halves of a connection, with their buffers and time limits.

mod buffers;
mod reader;
mod timer;
mod writer;

pub(crate) use reader::{Patience, ReadError, Reader};
pub(crate) use timer::Timer;
pub(crate) use writer::Writer;

use std::time::Duration;

use crate::stream::Stream;

/// A connection as its two halves: both can be used at once by one task. Its peer may take nothing of what it is sent for `stall_timeout`.
pub(crate) fn halves(stream: Stream, stall_timeout: Duration) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    (Reader::new(read), Writer::new(write, stall_timeout))
}

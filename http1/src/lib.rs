//! HTTP/1.1 without I/O (RFC 9112): reads heads and bodies out of byte slices, decides how a message is framed, and writes messages into
//! buffers. Nothing here opens a socket, reads a clock or allocates per field.
//!
//! A reader works in this order:
//!
//! 1. [`HeadEnd::find`] looks for the end of a head in the bytes that came so far; every byte is looked at once.
//! 2. [`parse_request`] or [`parse_response`] reads the whole head into a line and a list of [`Field`]s, which address the bytes by offsets.
//! 3. [`request_framing`] or [`response_framing`] says where the body ends, once.
//! 4. [`ChunkDecoder`] takes a chunked body apart.
//!
//! [`Writer`] writes messages. It makes the sizes of chunks itself, and no extensions.
//!
//! Requests are read strictly: what two readers could understand in two ways is a [`Violation`]. Responses are read with the leniency that
//! RFC 9112 asks of a recipient where only one meaning is left.

mod chunked;
mod field;
mod framing;
mod head;
mod name;
mod target;
mod violation;
mod write;

pub use chunked::{ChunkDecoder, Piece};
pub use field::{Field, Span};
pub use framing::{Framing, ResponseTo, host, is_host, request_framing, response_framing};
pub use head::{HeadEnd, Limits, RequestLine, StatusLine, Version, parse_request, parse_response};
pub use name::Name;
pub use target::{Target, target};
pub use violation::{Place, Violation};
pub use write::{Writer, reason};

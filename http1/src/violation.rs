//! What is wrong with a message, with the status that answers it, the section of the RFC that decides so, and one sentence.

use thiserror::Error;

/// Where a violation was found: the limits of the two directions differ, and their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a head.
    Head,
    /// In the fields behind a chunked body.
    Trailers,
}

/// What is wrong with a message. The text names the thing that the message has, so that it goes on from "a request with" and "a response
/// with".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// The first byte begins a TLS handshake.
    #[error("a TLS handshake on a port for plain HTTP; use http://, or ask for a listener of protocol HTTPS")]
    Tls,
    /// The request line is not `method SP target SP version`.
    #[error("a first line that is not \"method target version\" with one space between (RFC 9112, 3)")]
    RequestLine,
    /// The status line cannot be read.
    #[error("a first line that is not \"version status reason\" (RFC 9112, 4)")]
    StatusLine,
    /// The version is not HTTP/1.0 or HTTP/1.1.
    #[error("an HTTP version other than 1.0 and 1.1 (RFC 9110, 15.6.6)")]
    Version,
    /// The target has a form that its method does not have, a fragment, or bytes that no target has.
    #[error("a target of a form that its method does not have (RFC 9112, 3.2)")]
    Target,
    /// A line ends in LF without CR, or has a CR in it.
    #[error("a line that does not end in CR LF (RFC 9112, 2.2)")]
    LineEnd,
    /// A line of the head begins with a blank.
    #[error("a header line that begins with a blank: folded over several lines (RFC 9112, 5.2)")]
    Folded,
    /// Something else than a name and a colon begins a line.
    #[error("a header line that does not begin with a name and a colon (RFC 9112, 5)")]
    FieldName,
    /// A blank stands before the colon.
    #[error("a blank before the colon of a header line (RFC 9112, 5.1)")]
    SpaceBeforeColon,
    /// A value has a control character.
    #[error("a control character in a header's value (RFC 9110, 5.5)")]
    FieldValue,
    /// More bytes than allowed.
    #[error("{} of more than {limit} bytes", match place { Place::Head => "a head", Place::Trailers => "trailers" })]
    TooLarge {
        /// Where.
        place: Place,
        /// How many are allowed.
        limit: usize,
    },
    /// More fields than allowed.
    #[error("{} of more than {limit} fields", match place { Place::Head => "a head", Place::Trailers => "trailers" })]
    TooManyFields {
        /// Where.
        place: Place,
        /// How many are allowed.
        limit: usize,
    },
    /// HTTP/1.1 without Host.
    #[error("no Host header (RFC 9112, 3.2)")]
    NoHost,
    /// Host more than once.
    #[error("more than one Host header (RFC 9112, 3.2)")]
    ManyHosts,
    /// A Host that is no name or address with a port or without.
    #[error("a Host that is not a name or address, with a port or without (RFC 9110, 7.2)")]
    OddHost,
    /// Content-Length is no number, empty, signed, or too large.
    #[error("a Content-Length that is not a number of bytes (RFC 9110, 8.6)")]
    ContentLength,
    /// Content-Length more than once, or as a list.
    #[error("more than one Content-Length (RFC 9112, 6.3)")]
    ManyContentLengths,
    /// Both ways of framing.
    #[error("Content-Length and Transfer-Encoding (RFC 9112, 6.3)")]
    TwoFramings,
    /// Transfer-Encoding in HTTP/1.0.
    #[error("Transfer-Encoding in HTTP/1.0 (RFC 9112, 6.1)")]
    CodingInHttp10,
    /// Transfer-Encoding that does not end in one `chunked`, or several fields of it.
    #[error("a Transfer-Encoding that does not end in one \"chunked\" (RFC 9112, 6.3)")]
    Coding,
    /// Another coding than `chunked`, before it.
    #[error("a transfer coding other than chunked (RFC 9112, 6.1)")]
    UnknownCoding,
    /// A body of HTTP/1.0 whose end cannot be known.
    #[error("no Content-Length, which a request of HTTP/1.0 with a body needs (RFC 9110, 15.5.12)")]
    NoLength,
    /// A chunk's size is no hexadecimal number, or too large.
    #[error("a chunk size that is not a hexadecimal number of bytes (RFC 9112, 7.1)")]
    ChunkSize,
    /// A chunk's data is not followed by CR LF.
    #[error("a chunk that is longer or shorter than its size says (RFC 9112, 7.1)")]
    ChunkEnd,
    /// Chunk extensions without end.
    #[error("chunk extensions of more than {0} bytes beside little data (RFC 9112, 7.1.1)")]
    ChunkExtensions(usize),
}

impl Violation {
    /// The status that answers a request with it. In a response it is always 502.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge { .. } | Self::TooManyFields { .. } => 431,
            Self::Version => 505,
            Self::UnknownCoding => 501,
            Self::NoLength => 411,
            _ => 400,
        }
    }

    /// A short name for counters, in the style of a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::RequestLine => "request_line",
            Self::StatusLine => "status_line",
            Self::Version => "version",
            Self::Target => "target",
            Self::LineEnd => "line_end",
            Self::Folded => "folded",
            Self::FieldName => "field_name",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldValue => "field_value",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyFields { .. } => "too_many_fields",
            Self::NoHost => "no_host",
            Self::ManyHosts => "many_hosts",
            Self::OddHost => "odd_host",
            Self::ContentLength => "content_length",
            Self::ManyContentLengths => "many_content_lengths",
            Self::TwoFramings => "two_framings",
            Self::CodingInHttp10 => "coding_in_http10",
            Self::Coding => "coding",
            Self::UnknownCoding => "unknown_coding",
            Self::NoLength => "no_length",
            Self::ChunkSize => "chunk_size",
            Self::ChunkEnd => "chunk_end",
            Self::ChunkExtensions(_) => "chunk_extensions",
        }
    }
}

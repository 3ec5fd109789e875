//! Writes messages: lines, fields and chunks, behind what a buffer holds already.

use crate::head::Version;

/// Writes into a buffer, which grows as it has to.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Writes behind what is in `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// A request line of HTTP/1.1. The target is given in parts, which are written one after the other.
    pub fn request_line(&mut self, method: &[u8], target: &[&[u8]]) {
        self.out.extend_from_slice(method);
        self.out.push(b' ');
        target.iter().for_each(|part| self.out.extend_from_slice(part));
        self.out.extend_from_slice(b" HTTP/1.1\r\n");
    }

    /// A status line. The version is what the message says of itself; a proxy always says its own (RFC 9110, 2.5).
    pub fn status_line(&mut self, version: Version, status: u16, reason: &[u8]) {
        self.out.extend_from_slice(match version {
            Version::Http10 => b"HTTP/1.0 ",
            Version::Http11 => b"HTTP/1.1 ",
        });
        let digit = |place: u16| u8::try_from(status / place % 10).unwrap_or_default() + b'0';
        self.out.extend_from_slice(&[digit(100), digit(10), digit(1), b' ']);
        self.out.extend_from_slice(reason);
        self.line_end();
    }

    /// A field line.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.line_end();
    }

    /// A field line whose value is in parts, which are written one after the other.
    pub fn field_of_parts(&mut self, name: &[u8], parts: &[&[u8]]) {
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(b": ");
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        self.line_end();
    }

    /// A field line whose value was folded over several lines: each break with the blanks around it becomes one space.
    pub fn folded_field(&mut self, name: &[u8], value: &[u8]) {
        self.out.extend_from_slice(name);
        self.out.push(b':');
        for line in value.split(|byte| matches!(byte, b'\r' | b'\n')).map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
            self.out.push(b' ');
            self.out.extend_from_slice(line);
        }
        self.line_end();
    }

    /// A field line with a number.
    pub fn number(&mut self, name: &[u8], number: u64) {
        let mut digits = [0_u8; 20];
        self.field(name, decimal(number, &mut digits));
    }

    /// The empty line behind the fields.
    pub fn end(&mut self) {
        self.line_end();
    }

    /// The size line of a chunk. The caller writes the data, and then [`Self::end`].
    pub fn chunk_size(&mut self, size: usize) {
        let shift = (usize::BITS - size.leading_zeros()).saturating_sub(1) / 4 * 4;
        for shift in (0..=shift).rev().step_by(4) {
            let digit = u32::try_from(size >> shift & 0xf).unwrap_or_default();
            self.out.extend(char::from_digit(digit, 16).and_then(|digit| u8::try_from(digit).ok()));
        }
        self.line_end();
    }

    /// A chunk with its data. An empty one is left out: it would end the body.
    pub fn chunk(&mut self, data: &[u8]) {
        if !data.is_empty() {
            self.chunk_size(data.len());
            self.out.extend_from_slice(data);
            self.line_end();
        }
    }

    /// The last chunk with its trailers, and the body's end.
    pub fn last_chunk<'f>(&mut self, trailers: impl Iterator<Item = (&'f [u8], &'f [u8])>) {
        self.out.extend_from_slice(b"0\r\n");
        trailers.for_each(|(name, value)| self.field(name, value));
        self.line_end();
    }

    fn line_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut first = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = u8::try_from(number % 10).unwrap_or_default() + b'0';
        (number, first) = (number / 10, at);
        if number == 0 {
            break;
        }
    }
    digits.get(first..).unwrap_or_default()
}

/// The usual reason phrase of a status; empty for one that has none.
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_message_is_written_as_the_grammar_says() {
        let text = written(|writer| {
            writer.request_line(b"GET", &[b"/a", b"?", b"b"]);
            writer.field(b"Host", b"a.example");
            writer.field_of_parts(b"x-forwarded-for", &[b"10.0.0.1", b", ", b"10.0.0.2"]);
            writer.folded_field(b"X-Folded", b"one\r\n  two\t\n three");
            writer.end();
        });
        assert_eq!(text, "GET /a?b HTTP/1.1\r\nHost: a.example\r\nx-forwarded-for: 10.0.0.1, 10.0.0.2\r\nX-Folded: one two three\r\n\r\n");
        assert_eq!(written(|writer| writer.status_line(Version::Http10, 404, reason(404).as_bytes())), "HTTP/1.0 404 Not Found\r\n");
        assert_eq!(written(|writer| writer.status_line(Version::Http11, 999, reason(999).as_bytes())), "HTTP/1.1 999 \r\n");
    }

    #[test]
    fn numbers_and_sizes_have_no_needless_digits() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            assert_eq!(written(|writer| writer.number(b"n", number)), format!("n: {number}\r\n"));
        }
        for size in [0, 1, 15, 16, 255, 256, 4_096, 1 << 20, usize::MAX] {
            assert_eq!(written(|writer| writer.chunk_size(size)), format!("{size:x}\r\n"));
        }
        assert_eq!(written(|writer| writer.chunk(b"")), "", "an empty chunk would end the body");
        assert_eq!(written(|writer| writer.last_chunk([(&b"a"[..], &b"b"[..])].into_iter())), "0\r\na: b\r\n\r\n");
    }
}

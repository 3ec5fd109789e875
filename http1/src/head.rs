//! The head of a message: its first line and fields.

use memchr::{memchr, memchr_iter};

use crate::field::{Field, Span};
use crate::name::Name;
use crate::violation::{Place, Violation};

/// What a head may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, with the line breaks.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// The version of a message. Minor versions above 1 are read as 1.1 (RFC 9110, 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The first line of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLine {
    /// The method, which is case-sensitive.
    pub method: Span,
    /// The target as it came; see [`crate::target`].
    pub target: Span,
    /// The version.
    pub version: Version,
}

/// The first line of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusLine {
    /// The version.
    pub version: Version,
    /// The status, from 100 to 999.
    pub status: u16,
    /// The reason phrase, which may be empty.
    pub reason: Span,
}

/// Looks for the end of a head in bytes that come piece by piece, and looks at each byte once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadEnd {
    searched: usize,
}

impl HeadEnd {
    /// The length of the head with its empty line, if `bytes` has that line. `bytes` begins with the head; the next call gets the same bytes and
    /// more.
    ///
    /// # Errors
    /// The head is longer than `limit`.
    pub fn find(&mut self, bytes: &[u8], place: Place, limit: usize) -> Result<Option<usize>, Violation> {
        let from = self.searched;
        for at in memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()).map(|at| from + at) {
            let before = bytes.get(..at).unwrap_or_default();
            let line = before.strip_suffix(b"\r").unwrap_or(before);
            if line.is_empty() || line.ends_with(b"\n") {
                let end = at + 1;
                return if end > limit { Err(Violation::TooLarge { place, limit }) } else { Ok(Some(end)) };
            }
        }
        self.searched = bytes.len();
        if bytes.len() >= limit { Err(Violation::TooLarge { place, limit }) } else { Ok(None) }
    }
}

/// Reads the head of a request: `head` ends with the empty line that [`HeadEnd`] found, and does not begin with one. The fields are put
/// into `fields`, which is emptied first.
///
/// # Errors
/// What is wrong with it.
pub fn parse_request(head: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Result<RequestLine, Violation> {
    fields.clear();
    if head.first() == Some(&0x16) {
        return Err(Violation::Tls);
    }
    let (line, at) = strict_line(head, 0)?;
    let request = request_line(line)?;
    strict_fields(head, at, (Place::Head, limits.fields), fields).map(|()| request)
}

/// Reads the fields behind a chunked body: `section` ends with its empty line.
pub(crate) fn parse_trailers(section: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Result<(), Violation> {
    fields.clear();
    strict_fields(section, 0, (Place::Trailers, limits.fields), fields)
}

/// Reads the fields from `at` up to the empty line behind them; at most `limit`.
fn strict_fields(bytes: &[u8], mut at: usize, (place, limit): (Place, usize), fields: &mut Vec<Field>) -> Result<(), Violation> {
    loop {
        let (line, next) = strict_line(bytes, at)?;
        if line.is_empty() {
            return Ok(());
        }
        if fields.len() == limit {
            return Err(Violation::TooManyFields { place, limit });
        }
        fields.push(strict_field(line, at)?);
        at = next;
    }
}

/// Reads the head of a response, with the leniency of RFC 9112: lines may end in LF alone (2.2), blanks before a colon are left out (5.1),
/// and a folded line goes on with the one before (5.2).
///
/// # Errors
/// What is wrong with it.
pub fn parse_response(head: &[u8], limits: Limits, fields: &mut Vec<Field>) -> Result<StatusLine, Violation> {
    fields.clear();
    let (line, mut at) = lenient_line(head, 0)?;
    let status = status_line(line)?;
    loop {
        let (line, next) = lenient_line(head, at)?;
        if line.is_empty() {
            return Ok(status);
        }
        if line.first().is_some_and(|byte| is_blank(*byte)) {
            unfold(head, fields, Span::new(at, at + line.len()))?;
        } else {
            if fields.len() == limits.fields {
                return Err(Violation::TooManyFields { place: Place::Head, limit: limits.fields });
            }
            fields.push(lenient_field(line, at)?);
        }
        at = next;
    }
}

/// The line that begins at `at`, without its CR LF, and where the next one begins.
fn strict_line(head: &[u8], at: usize) -> Result<(&[u8], usize), Violation> {
    let rest = head.get(at..).unwrap_or_default();
    let end = memchr(b'\n', rest).ok_or(Violation::LineEnd)?;
    let line = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Violation::LineEnd)?;
    Ok((line, at + end + 1))
}

/// The same where the CR may be missing.
fn lenient_line(head: &[u8], at: usize) -> Result<(&[u8], usize), Violation> {
    let rest = head.get(at..).unwrap_or_default();
    let end = memchr(b'\n', rest).ok_or(Violation::LineEnd)?;
    let line = rest.get(..end).unwrap_or_default();
    Ok((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1))
}

fn request_line(line: &[u8]) -> Result<RequestLine, Violation> {
    let method = memchr(b' ', line).ok_or(Violation::RequestLine)?;
    let after = line.get(method + 1..).unwrap_or_default();
    let target = memchr(b' ', after).ok_or(Violation::RequestLine)?;
    let version = after.get(target + 1..).unwrap_or_default();
    let name = line.get(..method).unwrap_or_default();
    let text = after.get(..target).unwrap_or_default();
    if name.is_empty() || text.is_empty() || !name.iter().all(|byte| is_token(*byte)) || !all(text, is_target) {
        return Err(Violation::RequestLine);
    }
    let target = Span::new(method + 1, method + 1 + target);
    Ok(RequestLine { method: Span::new(0, method), target, version: self::version(version).ok_or_else(|| bad_version(version))? })
}

/// A version, if it is one of HTTP/1.
fn version(text: &[u8]) -> Option<Version> {
    match text {
        b"HTTP/1.1" => Some(Version::Http11),
        b"HTTP/1.0" => Some(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Some(Version::Http11),
        _ => None,
    }
}

/// The violation of a text that is no version of HTTP/1: another version, or no version at all.
fn bad_version(text: &[u8]) -> Violation {
    match text {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => Violation::Version,
        _ => Violation::RequestLine,
    }
}

fn status_line(line: &[u8]) -> Result<StatusLine, Violation> {
    let (text, rest) = line.split_at_checked("HTTP/1.1".len()).ok_or(Violation::StatusLine)?;
    let version = version(text).ok_or_else(|| if bad_version(text) == Violation::Version { Violation::Version } else { Violation::StatusLine })?;
    let (digits, reason) = match rest {
        [b' ', digits @ ..] => digits.split_at_checked(3).ok_or(Violation::StatusLine)?,
        _ => return Err(Violation::StatusLine),
    };
    let status = digits.iter().try_fold(0_u16, |status, digit| digit.is_ascii_digit().then(|| status * 10 + u16::from(digit - b'0')));
    let status = status.filter(|status| *status >= 100).ok_or(Violation::StatusLine)?;
    let start = match reason {
        [] => line.len(),
        [b' ', ..] => line.len() - reason.len() + 1,
        _ => return Err(Violation::StatusLine),
    };
    if !all(reason, is_value) {
        return Err(Violation::StatusLine);
    }
    Ok(StatusLine { version, status, reason: Span::new(start, line.len()) })
}

fn strict_field(line: &[u8], at: usize) -> Result<Field, Violation> {
    if line.first().is_some_and(|byte| is_blank(*byte)) {
        return Err(Violation::Folded);
    }
    let (name, rest) = name(line);
    match rest {
        [b':', ..] => field(line, at, name, name.len()),
        [blank, ..] if is_blank(*blank) && rest.trim_ascii_start().starts_with(b":") => Err(Violation::SpaceBeforeColon),
        _ => Err(Violation::FieldName),
    }
}

fn lenient_field(line: &[u8], at: usize) -> Result<Field, Violation> {
    let (name, rest) = name(line);
    let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
    if rest.get(blanks) == Some(&b':') { field(line, at, name, name.len() + blanks) } else { Err(Violation::FieldName) }
}

/// The token that a line begins with, and the rest.
fn name(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len()))
}

fn field(line: &[u8], at: usize, name: &[u8], colon: usize) -> Result<Field, Violation> {
    if name.is_empty() {
        return Err(Violation::FieldName);
    }
    let (start, end) = trimmed(line, colon + 1);
    let value = line.get(start..end).unwrap_or_default();
    if !all(value, is_value) {
        return Err(if value.contains(&b'\r') { Violation::LineEnd } else { Violation::FieldValue });
    }
    Ok(Field { name: Name::of(name), name_at: Span::new(at, at + name.len()), value_at: Span::new(at + start, at + end), is_folded: false })
}

/// Adds a line that begins with a blank to the value of the field before.
fn unfold(head: &[u8], fields: &mut [Field], line: Span) -> Result<(), Violation> {
    let last = fields.last_mut().ok_or(Violation::Folded)?;
    if !all(line.of(head), is_value) {
        return Err(Violation::FieldValue);
    }
    let (_, end) = trimmed(head.get(..line.range().end).unwrap_or_default(), line.range().start);
    if end > line.range().start {
        let start = if last.value_at.is_empty() { trimmed(head.get(..end).unwrap_or_default(), line.range().start).0 } else { last.value_at.range().start };
        last.is_folded |= !last.value_at.is_empty();
        last.value_at = Span::new(start, end);
    }
    Ok(())
}

/// Where the bytes from `start` on begin and end without the blanks around them.
fn trimmed(line: &[u8], start: usize) -> (usize, usize) {
    let value = line.get(start..).unwrap_or_default();
    let before = value.iter().take_while(|byte| is_blank(**byte)).count();
    let after = value.iter().skip(before).rev().take_while(|byte| is_blank(**byte)).count();
    (start + before, line.len() - after)
}

/// Whether all bytes are such. Without an early end, so that the compiler takes many bytes at a time.
fn all(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(true, |all, byte| all & is_such(*byte))
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Bytes of a token (RFC 9110, 5.6.2).
#[expect(clippy::indexing_slicing, reason = "the table has an element for every byte")]
pub(crate) const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");

#[expect(clippy::indexing_slicing, reason = "a constant: an index out of bounds does not compile")]
const fn table(members: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < members.len() {
        table[members[at] as usize] = true;
        at += 1;
    }
    table
}

/// Bytes of a value (RFC 9110, 5.5): blanks, visible ASCII and obs-text.
const fn is_value(byte: u8) -> bool {
    (byte >= b' ') & (byte != 0x7f) | (byte == b'\t')
}

/// Bytes of a target: browsers and clients send more than RFC 3986 allows, and that is matched as its escapes.
const fn is_target(byte: u8) -> bool {
    (byte > b' ') & (byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 4 };

    fn request(text: &str) -> Result<(RequestLine, Vec<Field>), Violation> {
        let mut fields = Vec::new();
        parse_request(text.as_bytes(), LIMITS, &mut fields).map(|line| (line, fields))
    }

    /// A name, its value, and whether that was folded.
    type Shown = (String, String, bool);

    fn response(text: &[u8]) -> Result<(StatusLine, Vec<Shown>), Violation> {
        let mut fields = Vec::new();
        let line = parse_response(text, LIMITS, &mut fields)?;
        let text_of = |span: Span| String::from_utf8(span.of(text).to_vec()).unwrap();
        Ok((line, fields.into_iter().map(|field| (text_of(field.name_at), text_of(field.value_at), field.is_folded)).collect()))
    }

    #[test]
    fn a_request_is_read_into_spans_of_its_own_bytes() {
        let text = "GET /a?b HTTP/1.1\r\nHost:  a.example \r\nx-Empty:\r\n\r\n";
        let (line, fields) = request(text).unwrap();
        assert_eq!((line.method.of(text.as_bytes()), line.target.of(text.as_bytes()), line.version), (&b"GET"[..], &b"/a?b"[..], Version::Http11));
        assert_eq!(fields[0].name, Name::Host);
        assert_eq!(fields[0].value(text.as_bytes()), b"a.example");
        assert_eq!(fields[1].name_at.of(text.as_bytes()), b"x-Empty", "the spelling stays");
        assert!(fields[1].value_at.is_empty());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, violation) in [
            ("GET  / HTTP/1.1\r\n\r\n", Violation::RequestLine),
            ("GET /\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/1.1 \r\n\r\n", Violation::RequestLine),
            (" GET / HTTP/1.1\r\n\r\n", Violation::RequestLine),
            ("GET\t/ HTTP/1.1\r\n\r\n", Violation::RequestLine),
            ("G(T / HTTP/1.1\r\n\r\n", Violation::RequestLine),
            ("GET /\x7f HTTP/1.1\r\n\r\n", Violation::RequestLine),
            ("GET / http/1.1\r\n\r\n", Violation::RequestLine),
            ("GET / HTTP/1.1\n\r\n", Violation::LineEnd),
            ("GET / HTTP/2.0\r\n\r\n", Violation::Version),
            ("GET / HTTP/0.9\r\n\r\n", Violation::Version),
            ("\x16\x03\x01\r\n\r\n", Violation::Tls),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::LineEnd),
            ("GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n", Violation::LineEnd),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Violation::SpaceBeforeColon),
            ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", Violation::SpaceBeforeColon),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Violation::Folded),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Violation::Folded),
            ("GET / HTTP/1.1\r\nHost\r\n\r\n", Violation::FieldName),
            ("GET / HTTP/1.1\r\n: a\r\n\r\n", Violation::FieldName),
            ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", Violation::FieldName),
            ("GET / HTTP/1.1\r\nHo\"st: a\r\n\r\n", Violation::FieldName),
            ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", Violation::FieldValue),
            ("GET / HTTP/1.1\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\n\r\n", Violation::TooManyFields { place: Place::Head, limit: 4 }),
        ] {
            assert_eq!(request(text), Err(violation), "{text:?}");
        }
        assert_eq!(request("GET / HTTP/1.3\r\n\r\n").unwrap().0.version, Version::Http11, "a later minor version");
    }

    #[test]
    fn a_response_is_read_with_leniency_where_one_meaning_is_left() {
        let (line, fields) = response(b"HTTP/1.0 200 Very  OK\na : b \nfolded: one\r\n  two\t\r\n three\nempty:\r\n later\r\n\r\n").unwrap();
        assert_eq!((line.version, line.status, line.reason.len()), (Version::Http10, 200, "Very  OK".len()));
        let field = |name: &str, value: &str, folded| (name.to_owned(), value.to_owned(), folded);
        assert_eq!(fields, [field("a", "b", false), field("folded", "one\r\n  two\t\r\n three", true), field("empty", "later", false)]);
        assert_eq!(response(b"HTTP/1.1 204\r\n\r\n").unwrap().0.reason.len(), 0, "no reason and no blank");
        assert_eq!(response(b"HTTP/1.1 999 Denied\r\n\r\n").unwrap().0.status, 999);
        for (text, violation) in [
            (&b"HTTP/1.1 20 OK\r\n\r\n"[..], Violation::StatusLine),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Violation::StatusLine),
            (b"HTTP/1.1 099 OK\r\n\r\n", Violation::StatusLine),
            (b"HTTP/1.1  200 OK\r\n\r\n", Violation::StatusLine),
            (b"HTTP/1.1 200 O\x01K\r\n\r\n", Violation::StatusLine),
            (b"HTTP/2.0 200 OK\r\n\r\n", Violation::Version),
            (b"ICY 200 OK\r\n\r\n", Violation::StatusLine),
            (b"HTTP/1.1\r\n\r\n", Violation::StatusLine),
            (b"HTTP/1.1 200 OK\r\n folded: first\r\n\r\n", Violation::Folded),
            (b"HTTP/1.1 200 OK\r\na: b\r\n c\x00\r\n\r\n", Violation::FieldValue),
            (b"HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n", Violation::LineEnd),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Violation::FieldName),
            (b"HTTP/1.1 200 OK\r\na:\r\nb:\r\nc:\r\nd:\r\ne:\r\n\r\n", Violation::TooManyFields { place: Place::Head, limit: 4 }),
        ] {
            assert_eq!(response(text), Err(violation), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_comes() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        let whole = text.len() - "GET".len();
        for step in 1..text.len() {
            let (mut end, mut found) = (HeadEnd::default(), None);
            for upto in (step..=text.len()).step_by(step).chain([text.len()]) {
                found = end.find(&text[..upto], Place::Head, 100).unwrap();
                if found.is_some() {
                    break;
                }
                assert!(upto < whole, "{upto} of {whole} bytes are the whole head");
            }
            assert_eq!(found, Some(whole), "in steps of {step}");
        }
        let find = |text: &[u8], limit| HeadEnd::default().find(text, Place::Head, limit);
        assert_eq!(find(b"a\n\nb", 100), Ok(Some(3)));
        assert_eq!(find(b"\r\n", 100), Ok(Some(2)), "an empty section of trailers");
        assert_eq!(find(b"aaaa", 4), Err(Violation::TooLarge { place: Place::Head, limit: 4 }));
        assert_eq!(find(b"aaaa\r\n\r\n", 7), Err(Violation::TooLarge { place: Place::Head, limit: 7 }));
        assert_eq!(find(b"aaaa\r\n\r\n", 8), Ok(Some(8)));
    }
}

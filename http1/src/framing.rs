//! Where a message's body ends (RFC 9112, 6.3), and for which host a request is. Decided once, from the head alone.

use crate::field::{Field, values};
use crate::head::{StatusLine, Version};
use crate::name::Name;
use crate::violation::Violation;

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After this number of bytes. Zero is an empty body.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// With the connection. Only responses.
    UntilClose,
}

/// The request that a response answers, as far as that decides whether there is a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseTo {
    /// HEAD: what is said of the body is not there.
    Head,
    /// Any other method.
    Other,
}

/// Where the body of a request ends.
///
/// # Errors
/// What makes that unclear: two readers might see two ends.
pub fn request_framing(version: Version, method: &[u8], head: &[u8], fields: &[Field]) -> Result<Framing, Violation> {
    let coding = coding(version, head, fields)?;
    let mut lengths = values(head, fields, Name::ContentLength);
    let length = lengths.next();
    if length.is_some_and(|length| length.contains(&b',')) || lengths.next().is_some() {
        return Err(Violation::ManyContentLengths);
    }
    let length = length.map(number).transpose()?;
    match (coding, length) {
        (true, Some(_)) => Err(Violation::TwoFramings),
        (true, None) => Ok(Framing::Chunked),
        (false, Some(length)) => Ok(Framing::Length(length)),
        (false, None) if version == Version::Http10 && matches!(method, b"POST" | b"PUT" | b"PATCH") => Err(Violation::NoLength),
        (false, None) => Ok(Framing::None),
    }
}

/// Where the body of a response ends. Equal lengths count as one (RFC 9110, 8.6).
///
/// # Errors
/// What makes that unclear; the response cannot be used, nor its connection.
pub fn response_framing(to: ResponseTo, line: StatusLine, head: &[u8], fields: &[Field]) -> Result<Framing, Violation> {
    let coding = coding(line.version, head, fields)?;
    let length = one_length(head, fields)?;
    if coding && length.is_some() {
        return Err(Violation::TwoFramings);
    }
    Ok(match line.status {
        100..=199 | 204 | 304 => Framing::None,
        _ if to == ResponseTo::Head => Framing::None,
        _ if coding => Framing::Chunked,
        _ => length.map_or(Framing::UntilClose, Framing::Length),
    })
}

/// Whether the body comes in chunks.
fn coding(version: Version, head: &[u8], fields: &[Field]) -> Result<bool, Violation> {
    let mut codings = values(head, fields, Name::TransferEncoding);
    let Some(coding) = codings.next() else { return Ok(false) };
    if version == Version::Http10 {
        return Err(Violation::CodingInHttp10);
    }
    if codings.next().is_some() {
        return Err(Violation::Coding);
    }
    if coding.eq_ignore_ascii_case(b"chunked") {
        return Ok(true);
    }
    let is_chunked = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
    let chunked = coding.split(|byte| *byte == b',').filter(|coding| is_chunked(coding)).count();
    let ends = coding.rsplit(|byte| *byte == b',').next().is_some_and(is_chunked);
    let others = coding.split(|byte| *byte == b',').any(|coding| !coding.trim_ascii().is_empty() && !is_chunked(coding));
    Err(if ends && chunked == 1 && others { Violation::UnknownCoding } else { Violation::Coding })
}

/// The one length that all fields and their lists agree on.
fn one_length(head: &[u8], fields: &[Field]) -> Result<Option<u64>, Violation> {
    let mut found = None;
    for length in values(head, fields, Name::ContentLength).flat_map(|value| value.split(|byte| *byte == b',')) {
        let length = number(length.trim_ascii())?;
        if found.replace(length).is_some_and(|other| other != length) {
            return Err(Violation::ManyContentLengths);
        }
    }
    Ok(found)
}

/// A number of bytes: digits alone, and no more than a signed 64-bit number holds, which is what most peers read it into.
fn number(text: &[u8]) -> Result<u64, Violation> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<i64>().ok()).and_then(|number| u64::try_from(number).ok());
    number.ok_or(Violation::ContentLength)
}

/// The value of the one Host field; nothing where HTTP/1.0 has none.
///
/// # Errors
/// It is missing, repeated, or no host.
pub fn host<'a>(version: Version, head: &'a [u8], fields: &'a [Field]) -> Result<Option<&'a [u8]>, Violation> {
    let mut hosts = values(head, fields, Name::Host);
    let (host, second) = (hosts.next(), hosts.next());
    match host {
        _ if second.is_some() => Err(Violation::ManyHosts),
        None if version == Version::Http11 => Err(Violation::NoHost),
        Some(host) if !is_host(host) => Err(Violation::OddHost),
        host => Ok(host),
    }
}

/// Whether this is `name`, `name:port`, `[IPv6]` or `[IPv6]:port`, or nothing at all: whatever else a Host may hold would have to be
/// understood alike by everybody who reads it.
pub fn is_host(host: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(host) else { return false };
    let (is_name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<std::net::Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (name.is_empty() || is_name(name), port)
        }
    };
    is_name && (port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit())))
}

/// Bytes of the longest name that there can be (RFC 1035, 2.3.4, without the length of its last label).
const NAME_BYTES: usize = 253;

fn is_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    labels.len() <= NAME_BYTES && !labels.split('.').any(str::is_empty) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Limits, parse_request, parse_response};

    const LIMITS: Limits = Limits { bytes: 1024, fields: 20 };

    fn of_request(first: &str, lines: &[&str]) -> Result<Framing, Violation> {
        let head = format!("{first}\r\n{}\r\n", lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
        let mut fields = Vec::new();
        let line = parse_request(head.as_bytes(), LIMITS, &mut fields)?;
        request_framing(line.version, line.method.of(head.as_bytes()), head.as_bytes(), &fields)
    }

    fn of_response(to: ResponseTo, first: &str, lines: &[&str]) -> Result<Framing, Violation> {
        let head = format!("{first}\r\n{}\r\n", lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
        let mut fields = Vec::new();
        let line = parse_response(head.as_bytes(), LIMITS, &mut fields)?;
        response_framing(to, line, head.as_bytes(), &fields)
    }

    #[test]
    fn the_end_of_a_request_is_one_that_all_readers_agree_on() {
        let post = "POST / HTTP/1.1";
        for (lines, framing) in [
            (&[][..], Ok(Framing::None)),
            (&["Content-Length: 5"], Ok(Framing::Length(5))),
            (&["Content-Length: 0"], Ok(Framing::Length(0))),
            (&["Content-Length: 9223372036854775807"], Ok(Framing::Length(i64::MAX as u64))),
            (&["Transfer-Encoding: chunked"], Ok(Framing::Chunked)),
            (&["transfer-encoding: \tCHUNKED "], Ok(Framing::Chunked)),
            (&["Content-Length: 5", "Transfer-Encoding: chunked"], Err(Violation::TwoFramings)),
            (&["Transfer-Encoding: chunked", "Content-Length: 5"], Err(Violation::TwoFramings)),
            (&["Content-Length: 5", "Content-Length: 5"], Err(Violation::ManyContentLengths)),
            (&["Content-Length: 5, 5"], Err(Violation::ManyContentLengths)),
            (&["Content-Length:"], Err(Violation::ContentLength)),
            (&["Content-Length: +5"], Err(Violation::ContentLength)),
            (&["Content-Length: -1"], Err(Violation::ContentLength)),
            (&["Content-Length: 0x5"], Err(Violation::ContentLength)),
            (&["Content-Length: 5 5"], Err(Violation::ContentLength)),
            (&["Content-Length: 9223372036854775808"], Err(Violation::ContentLength)),
            (&["Transfer-Encoding: gzip, chunked"], Err(Violation::UnknownCoding)),
            (&["Transfer-Encoding: gzip"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked, gzip"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked, chunked"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked,"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked;q=1"], Err(Violation::Coding)),
            (&["Transfer-Encoding: xchunked"], Err(Violation::Coding)),
            (&["Transfer-Encoding:"], Err(Violation::Coding)),
            (&["Transfer-Encoding: identity"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], Err(Violation::Coding)),
            (&["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], Err(Violation::Coding)),
        ] {
            assert_eq!(of_request(post, lines), framing, "{lines:?}");
        }
        assert_eq!(of_request("POST / HTTP/1.0", &[]), Err(Violation::NoLength));
        assert_eq!(of_request("GET / HTTP/1.0", &[]), Ok(Framing::None));
        assert_eq!(of_request("POST / HTTP/1.0", &["Transfer-Encoding: chunked"]), Err(Violation::CodingInHttp10));
    }

    #[test]
    fn the_end_of_a_response_depends_on_its_request_and_status() {
        let ok = "HTTP/1.1 200 OK";
        for (to, first, lines, framing) in [
            (ResponseTo::Other, ok, &["Content-Length: 5"][..], Ok(Framing::Length(5))),
            (ResponseTo::Other, ok, &["Content-Length: 5, 5", "Content-Length: 5"], Ok(Framing::Length(5))),
            (ResponseTo::Other, ok, &["Content-Length: 5, 6"], Err(Violation::ManyContentLengths)),
            (ResponseTo::Other, ok, &["Content-Length: 5", "Content-Length: 6"], Err(Violation::ManyContentLengths)),
            (ResponseTo::Other, ok, &["Content-Length: five"], Err(Violation::ContentLength)),
            (ResponseTo::Other, ok, &["Transfer-Encoding: chunked"], Ok(Framing::Chunked)),
            (ResponseTo::Other, ok, &["Transfer-Encoding: chunked", "Content-Length: 5"], Err(Violation::TwoFramings)),
            (ResponseTo::Other, ok, &["Transfer-Encoding: gzip, chunked"], Err(Violation::UnknownCoding)),
            (ResponseTo::Other, "HTTP/1.0 200 OK", &["Transfer-Encoding: chunked"], Err(Violation::CodingInHttp10)),
            (ResponseTo::Other, ok, &[], Ok(Framing::UntilClose)),
            (ResponseTo::Head, ok, &["Content-Length: 5"], Ok(Framing::None)),
            (ResponseTo::Head, ok, &["Transfer-Encoding: chunked"], Ok(Framing::None)),
            (ResponseTo::Other, "HTTP/1.1 304 Not Modified", &["Content-Length: 5"], Ok(Framing::None)),
            (ResponseTo::Other, "HTTP/1.1 204 No Content", &[], Ok(Framing::None)),
            (ResponseTo::Other, "HTTP/1.1 103 Early Hints", &[], Ok(Framing::None)),
        ] {
            assert_eq!(of_response(to, first, lines), framing, "{first} {lines:?}");
        }
    }

    #[test]
    fn a_host_is_one_name_or_address_with_a_port_or_without() {
        let of = |first: &str, lines: &[&str]| {
            let head = format!("{first}\r\n{}\r\n", lines.iter().map(|line| format!("{line}\r\n")).collect::<String>());
            let mut fields = Vec::new();
            let line = parse_request(head.as_bytes(), LIMITS, &mut fields).unwrap();
            host(line.version, head.as_bytes(), &fields).map(|host| host.map(<[u8]>::to_vec))
        };
        assert_eq!(of("GET / HTTP/1.1", &["Host: a:80"]), Ok(Some(b"a:80".to_vec())));
        assert_eq!(of("GET / HTTP/1.0", &[]), Ok(None));
        assert_eq!(of("GET / HTTP/1.1", &[]), Err(Violation::NoHost));
        assert_eq!(of("GET / HTTP/1.0", &["Host: a", "Host: a"]), Err(Violation::ManyHosts));
        assert_eq!(of("GET / HTTP/1.1", &["Host: a b"]), Err(Violation::OddHost));
        for host in ["", "a", "a.example.", "a_b.example", "127.0.0.1:80", "[::1]", "[::1]:8080", "a:", ":80"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in ["a..b", ".", "a,b", "a/b", "u@a", "[::1", "[::g]", "a:port", "a:1:2", "a:123456", "a%2e", "caf\u{e9}", "a\\b"] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}

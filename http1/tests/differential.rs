//! The parsers beside `httparse`, on random and on mutated heads: what both accept has the same meaning, and ours is at least as strict with
//! requests.
//!
//! `WAYPOST_PARSE_TIMING=1 cargo test --profile fleet -p waypost-http1 --test differential -- --nocapture` prints what a head costs in both.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Instant;

use proptest::prelude::*;
use waypost_http1::{Field, HeadEnd, Limits, Place, Violation, parse_request, parse_response};

const LIMITS: Limits = Limits { bytes: 16 * 1024, fields: 64 };

const REQUEST: &[u8] = b"GET /shop/items/17?page=2&sort=price HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=9f86d081884c7d659a2feaa0c55ad015; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 29 Nov 2026 12:00:00 GMT\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 65\r\nETag: \"65-5f\"\r\nVary: Accept-Encoding\r\nConnection: keep-alive\r\n\r\n";

/// Names and values.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// First line, and fields.
type Read = (Vec<u8>, Fields);

fn ours(head: &[u8]) -> Result<Read, Violation> {
    let end = HeadEnd::default().find(head, Place::Head, LIMITS.bytes)?.unwrap_or(head.len());
    let (head, mut fields) = (&head[..end], Vec::new());
    let line = parse_request(head, LIMITS, &mut fields)?;
    Ok(([line.method.of(head), b" ", line.target.of(head)].concat(), of(head, &fields)))
}

fn of(head: &[u8], fields: &[Field]) -> Fields {
    fields.iter().map(|field| (field.name_at.of(head).to_vec(), field.value(head).to_vec())).collect()
}

/// What `httparse` reads; nothing if it refuses the head, or it is not whole.
fn theirs(head: &[u8]) -> Option<Read> {
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.fields];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(head).ok()?;
    status.is_complete().then(|| {
        let first = format!("{} {}", request.method.unwrap_or_default(), request.path.unwrap_or_default()).into_bytes();
        (first, request.headers.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec())).collect())
    })
}

fn ours_of_response(head: &[u8]) -> Result<(u16, Fields), Violation> {
    let end = HeadEnd::default().find(head, Place::Head, LIMITS.bytes)?.unwrap_or(head.len());
    let (head, mut fields) = (&head[..end], Vec::new());
    let line = parse_response(head, LIMITS, &mut fields)?;
    Ok((line.status, of(head, &fields)))
}

fn theirs_of_response(head: &[u8]) -> Option<(u16, Fields)> {
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.fields];
    let mut response = httparse::Response::new(&mut fields);
    let mut config = httparse::ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    let status = config.parse_response(&mut response, head).ok()?;
    let whole = status.is_complete().then_some(response.code?)?;
    Some((whole, response.headers.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec())).collect()))
}

/// A head with some bytes replaced, removed or repeated.
fn mutated(head: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => proptest::sample::select(b"\r\n\t :;,/?%#\0\x7f\x0b1.".to_vec()), 1 => any::<u8>()];
    proptest::collection::vec((0..head.len(), 0_u8..3, byte), 1..4).prop_map(move |changes| {
        let mut head = head.to_vec();
        for (at, what, byte) in changes {
            let at = at.min(head.len() - 1);
            match what {
                0 => head[at] = byte,
                1 => drop(head.remove(at)),
                _ => head.insert(at, byte),
            }
        }
        head
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_request_that_is_accepted_is_read_as_httparse_reads_it(head in mutated(REQUEST)) {
        if let Ok(read) = ours(&head) {
            // Later minor versions are read as 1.1.
            let known = head.windows(9).any(|text| text == b"HTTP/1.1\r");
            if known && let Some(theirs) = theirs(&head) {
                prop_assert_eq!(read, theirs);
            }
        }
    }

    #[test]
    fn what_httparse_refuses_in_a_request_is_refused(head in mutated(REQUEST)) {
        let is_whole = HeadEnd::default().find(&head, Place::Head, LIMITS.bytes).is_ok_and(|end| end.is_some());
        let known = head.windows(9).any(|text| text == b"HTTP/1.1\r");
        // A target of other bytes than UTF-8 is matched as their escapes.
        if is_whole && known && ours(&head).is_ok() && std::str::from_utf8(&head).is_ok() {
            prop_assert!(theirs(&head).is_some(), "only we accept {:?}", String::from_utf8_lossy(&head));
        }
    }

    #[test]
    fn a_response_that_is_accepted_is_read_as_httparse_reads_it(head in mutated(RESPONSE)) {
        let known = head.windows(9).any(|text| text == b"HTTP/1.1 ");
        if let (true, Ok(read), Some(theirs)) = (known, ours_of_response(&head), theirs_of_response(&head)) {
            prop_assert_eq!(read, theirs);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(head in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(ours(&head).is_ok() || ours(&head).is_err());
        prop_assert!(ours_of_response(&head).is_ok() || ours_of_response(&head).is_err());
    }
}

#[test]
fn a_head_costs_no_more_than_in_httparse() {
    let rounds = if std::env::var_os("WAYPOST_PARSE_TIMING").is_some() { 200_000_u32 } else { 100 };
    let mut fields = Vec::with_capacity(64);
    let nanos = |began: Instant| began.elapsed().as_nanos() / u128::from(rounds);
    let began = Instant::now();
    for _ in 0..rounds {
        let head = std::hint::black_box(REQUEST);
        assert!(HeadEnd::default().find(head, Place::Head, LIMITS.bytes).is_ok_and(|end| end.is_some()));
        assert!(parse_request(head, LIMITS, &mut fields).is_ok() && fields.len() == 8);
    }
    let ours = nanos(began);
    let began = Instant::now();
    for _ in 0..rounds {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        assert!(request.parse(std::hint::black_box(REQUEST)).is_ok_and(|status| status.is_complete()));
    }
    println!("a request's head of {} bytes: {ours} ns, and {} ns in httparse", REQUEST.len(), nanos(began));
}

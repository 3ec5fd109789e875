//! A body in chunks (RFC 9112, 7.1), taken apart as its bytes come.

use crate::field::Field;
use crate::head::{HeadEnd, Limits, parse_trailers};
use crate::violation::{Place, Violation};

/// Bytes of extensions that a body may have beyond its data: they are dropped, and must not keep a proxy busy for nothing.
const EXTENSIONS: usize = 16 * 1024;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes of framing, which are done with.
    Framing(usize),
    /// The number of bytes of data. The decoder returns it again until [`ChunkDecoder::took`] is called.
    Data(usize),
    /// The end of the body, with the number of bytes of the trailers; their fields are in the list.
    End(usize),
    /// More bytes are needed; nothing was taken.
    More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a size: its value, and whether it has a digit yet.
    Size {
        size: u64,
        is_begun: bool,
    },
    /// Blanks behind a size, which some endpoints send.
    Blanks(u64),
    /// In an extension.
    Extension(u64),
    /// Behind the CR of a size line.
    SizeEnd(u64),
    /// In data, with the number of bytes that are left.
    Data(u64),
    /// Behind data.
    DataCr,
    DataLf,
    /// Behind the last chunk.
    Trailers(HeadEnd),
    End,
}

/// Takes a chunked body apart. Give it the bytes that are not taken yet, and take away as many as its answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkDecoder {
    state: State,
    /// Whether the body comes from an endpoint, which may put blanks behind a size.
    is_lenient: bool,
    /// Bytes of extensions, less the data that came beside them.
    extensions: usize,
    trailers: Limits,
}

impl ChunkDecoder {
    /// For the body of a request: strict.
    pub const fn of_request(trailers: Limits) -> Self {
        Self { state: State::Size { size: 0, is_begun: false }, is_lenient: false, extensions: 0, trailers }
    }

    /// For the body of a response, where blanks behind a size are skipped.
    pub const fn of_response(trailers: Limits) -> Self {
        Self { is_lenient: true, ..Self::of_request(trailers) }
    }

    /// Whether the body's end was reached.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// What the first bytes of `bytes` are. At the end, the trailers are put into `fields`, with offsets into `bytes`.
    ///
    /// # Errors
    /// The body cannot be understood; nothing behind it can.
    pub fn next(&mut self, bytes: &[u8], fields: &mut Vec<Field>) -> Result<Piece, Violation> {
        match self.state {
            State::End => {
                fields.clear();
                Ok(Piece::End(0))
            }
            State::Data(left) if !bytes.is_empty() => Ok(Piece::Data(usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len())))),
            State::Trailers(end) => self.end(end, bytes, fields),
            _ => self.framing(bytes),
        }
    }

    /// The caller has taken `count` bytes of data, at most the number of the last [`Piece::Data`].
    pub fn took(&mut self, count: usize) {
        if let State::Data(left) = self.state {
            let left = left.saturating_sub(count as u64);
            self.extensions = self.extensions.saturating_sub(count);
            self.state = if left == 0 { State::DataCr } else { State::Data(left) };
        }
    }

    /// Takes the bytes between data.
    fn framing(&mut self, bytes: &[u8]) -> Result<Piece, Violation> {
        let mut taken = 0;
        for byte in bytes {
            if matches!(self.state, State::Data(_) | State::Trailers(_)) {
                break;
            }
            self.state = self.after(*byte)?;
            taken += 1;
        }
        Ok(if taken == 0 { Piece::More } else { Piece::Framing(taken) })
    }

    /// The state behind one byte of framing.
    fn after(&mut self, byte: u8) -> Result<State, Violation> {
        Ok(match (self.state, byte) {
            (State::Size { size, .. }, digit) if digit.is_ascii_hexdigit() => State::Size { size: larger(size, digit)?, is_begun: true },
            (State::Size { size, is_begun: true } | State::Blanks(size), b';') => State::Extension(size),
            (State::Size { size, is_begun: true } | State::Blanks(size), b'\r') => State::SizeEnd(size),
            (State::Size { size, is_begun: true } | State::Blanks(size), b' ' | b'\t') if self.is_lenient => {
                self.extend()?;
                State::Blanks(size)
            }
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(size), byte) if byte >= b' ' && byte != 0x7f || byte == b'\t' => {
                self.extend()?;
                State::Extension(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailers(HeadEnd::default()),
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, is_begun: false },
            (State::DataCr | State::DataLf, _) => return Err(Violation::ChunkEnd),
            (State::SizeEnd(_) | State::Extension(_), _) => return Err(Violation::LineEnd),
            _ => return Err(Violation::ChunkSize),
        })
    }

    /// Counts a byte that says nothing.
    fn extend(&mut self) -> Result<(), Violation> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS { Err(Violation::ChunkExtensions(EXTENSIONS)) } else { Ok(()) }
    }

    fn end(&mut self, mut end: HeadEnd, bytes: &[u8], fields: &mut Vec<Field>) -> Result<Piece, Violation> {
        let Some(length) = end.find(bytes, Place::Trailers, self.trailers.bytes)? else {
            self.state = State::Trailers(end);
            return Ok(Piece::More);
        };
        parse_trailers(bytes.get(..length).unwrap_or_default(), self.trailers, fields)?;
        self.state = State::End;
        Ok(Piece::End(length))
    }
}

/// A size with one more hexadecimal digit.
fn larger(size: u64, digit: u8) -> Result<u64, Violation> {
    let digit = char::from(digit).to_digit(16).ok_or(Violation::ChunkSize)?;
    // Peers read sizes into signed numbers.
    let grown = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
    grown.filter(|size| i64::try_from(*size).is_ok()).ok_or(Violation::ChunkSize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 64, fields: 2 };

    /// The data, the trailers and what is left.
    type Decoded = (Vec<u8>, Vec<String>, Vec<u8>);

    /// The data, the trailers and what is left, of a body that comes in pieces of so many bytes.
    fn decode(mut decoder: ChunkDecoder, body: &[u8], step: usize) -> Result<Decoded, Violation> {
        let (mut fields, mut data, mut at) = (Vec::new(), Vec::new(), 0);
        let mut upto = 0;
        loop {
            match decoder.next(&body[at..upto], &mut fields)? {
                Piece::Framing(taken) => at += taken,
                Piece::Data(taken) => {
                    data.extend_from_slice(&body[at..at + taken]);
                    decoder.took(taken);
                    at += taken;
                }
                Piece::End(taken) => {
                    let text = |field: &Field| {
                        let rest = &body[at..];
                        format!("{}={}", String::from_utf8_lossy(field.name_at.of(rest)), String::from_utf8_lossy(field.value(rest)))
                    };
                    assert!(decoder.is_done());
                    return Ok((data, fields.iter().map(text).collect(), body[at + taken..].to_vec()));
                }
                Piece::More if upto == body.len() => return Ok((data, vec!["unfinished".to_owned()], Vec::new())),
                Piece::More => upto = (upto + step).min(body.len()),
            }
        }
    }

    #[test]
    fn a_body_is_the_same_however_its_bytes_come() {
        let body = b"5;a=\"b\"\r\nhello\r\n1F\r\n0123456789012345678901234567890\r\n0\r\nx-sum: 7\r\n\r\nGET /";
        for step in 1..body.len() {
            let (data, trailers, rest) = decode(ChunkDecoder::of_request(LIMITS), body, step).unwrap();
            assert_eq!(
                (data.as_slice(), trailers.join(","), rest.as_slice()),
                (&b"hello0123456789012345678901234567890"[..], "x-sum=7".to_owned(), &b"GET /"[..])
            );
        }
    }

    #[test]
    fn what_has_no_clear_end_is_refused() {
        let refused = |body: &[u8]| decode(ChunkDecoder::of_request(LIMITS), body, 3).unwrap_err();
        for (body, violation) in [
            (&b"+5\r\nhello\r\n0\r\n\r\n"[..], Violation::ChunkSize),
            (b"-5\r\n", Violation::ChunkSize),
            (b" 5\r\n", Violation::ChunkSize),
            (b"5 \r\n", Violation::ChunkSize),
            (b"0x5\r\n", Violation::ChunkSize),
            (b"\r\n", Violation::ChunkSize),
            (b"g\r\n", Violation::ChunkSize),
            (b"5\n", Violation::ChunkSize),
            (b"5\rx", Violation::LineEnd),
            (b"5;a\nb", Violation::LineEnd),
            (b"5;a\0\r\n", Violation::LineEnd),
            (b"8000000000000000\r\n", Violation::ChunkSize),
            (b"10000000000000005\r\n", Violation::ChunkSize),
            (b"5\r\nhello!\r\n", Violation::ChunkEnd),
            (b"5\r\nhello\n", Violation::ChunkEnd),
            (b"0\r\nbad trailer\r\n\r\n", Violation::FieldName),
            (b"0\r\n a: b\r\n\r\n", Violation::Folded),
            (b"0\r\na: b\n\r\n", Violation::LineEnd),
            (b"0\r\na:\r\nb:\r\nc:\r\n\r\n", Violation::TooManyFields { place: Place::Trailers, limit: 2 }),
        ] {
            assert_eq!(refused(body), violation, "{:?}", String::from_utf8_lossy(body));
        }
        let endless = [b"0\r\na: ".to_vec(), vec![b'x'; 100]].concat();
        assert_eq!(refused(&endless), Violation::TooLarge { place: Place::Trailers, limit: 64 });
        assert_eq!(decode(ChunkDecoder::of_response(LIMITS), b"5 \t\r\nhello\r\n0 \r\n\r\n", 1).unwrap().0, b"hello");
        assert_eq!(decode(ChunkDecoder::of_request(LIMITS), b"5\r\nhel", 2).unwrap().1, ["unfinished"], "a body that is cut never looks whole");
    }

    #[test]
    fn extensions_are_bounded_by_the_data_beside_them() {
        let mut body = Vec::new();
        for _ in 0..2_000 {
            body.extend_from_slice(b"1;0123456789\r\na\r\n");
        }
        let refused = decode(ChunkDecoder::of_request(LIMITS), &body, 4_096).unwrap_err();
        assert_eq!(refused, Violation::ChunkExtensions(EXTENSIONS));
        let mut body = Vec::new();
        for _ in 0..2_000 {
            body.extend_from_slice(b"10;signature\r\n0123456789abcdef\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(decode(ChunkDecoder::of_request(LIMITS), &body, 4_096).unwrap().0.len(), 32_000, "signed chunks have as many bytes of both");
    }

    proptest! {
        #[test]
        fn any_chunks_come_out_as_they_went_in(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..8), step in 1_usize..400) {
            let mut body = Vec::new();
            let mut writer = crate::Writer::new(&mut body);
            for chunk in &chunks {
                writer.chunk(chunk);
            }
            writer.last_chunk(std::iter::empty());
            let (data, trailers, rest) = decode(ChunkDecoder::of_request(LIMITS), &body, step).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(trailers.is_empty() && rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused_and_never_read_beyond(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'5'), Just(b';'), any::<u8>()], 0..200), step in 1_usize..50) {
            let whole = decode(ChunkDecoder::of_request(LIMITS), &bytes, bytes.len().max(1));
            prop_assert_eq!(decode(ChunkDecoder::of_request(LIMITS), &bytes, step), whole, "the pieces decide nothing");
        }
    }
}

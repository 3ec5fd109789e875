//! Bodies as they come over a connection of HTTP/1.1: which of the bytes that wait are data, and when the body has ended.

use waypost_http1::{ChunkDecoder, Field, Framing, Limits, Piece, Violation};

use crate::http::io::Patience;
use crate::http::io::{ReadError, Reader};

/// What trailers may have.
pub(crate) const TRAILERS: Limits = Limits { bytes: 16 * 1024, fields: 64 };

/// Why a body did not come whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The other side closed before its end.
    #[error("it closed before the end of the body")]
    Cut,
    /// Its framing cannot be understood.
    #[error("a body with {0}")]
    Broken(Violation),
    /// The average rate was below this number of bytes a second.
    #[error("it came slower than {0} bytes a second")]
    Slow(u32),
    /// Nothing came in time, or the connection broke.
    #[error(transparent)]
    Read(ReadError),
}

/// A field of the trailers.
pub(crate) type Trailer = (Vec<u8>, Vec<u8>);

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Incoming {
    state: State,
    trailers: Vec<Trailer>,
    fields: Vec<Field>,
}

#[derive(Debug)]
enum State {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
    Done,
    Broken(Violation),
}

impl Incoming {
    /// The body of a client's request.
    pub(crate) fn of_request(framing: Framing) -> Self {
        Self::new(framing, ChunkDecoder::of_request(TRAILERS))
    }

    /// The body of an endpoint's response.
    pub(crate) fn of_response(framing: Framing) -> Self {
        Self::new(framing, ChunkDecoder::of_response(TRAILERS))
    }

    fn new(framing: Framing, decoder: ChunkDecoder) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(decoder),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, trailers: Vec::new(), fields: Vec::new() }
    }

    /// Whether all of it was taken.
    pub(crate) const fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Whether nothing behind it can be understood.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken(_))
    }

    /// The trailers, at the end.
    pub(crate) fn trailers(&self) -> &[Trailer] {
        &self.trailers
    }

    /// How many of the bytes that wait are data, from the first on; zero if more have to come first, or the body is done. Framing before them
    /// is used up.
    ///
    /// # Errors
    /// The framing cannot be understood.
    pub(crate) fn available(&mut self, reader: &mut Reader) -> Result<usize, Violation> {
        loop {
            let waiting = reader.unread().len();
            match &mut self.state {
                State::Done => return Ok(0),
                State::Broken(violation) => return Err(*violation),
                State::UntilClose => return Ok(waiting),
                State::Length(left) => return Ok(usize::try_from(*left).map_or(waiting, |left| left.min(waiting))),
                State::Chunked(decoder) => match decoder.next(reader.unread(), &mut self.fields) {
                    Err(violation) => self.state = State::Broken(violation),
                    Ok(Piece::Framing(count)) => reader.consume(count),
                    Ok(Piece::Data(count)) => return Ok(count),
                    Ok(Piece::More) => return Ok(0),
                    Ok(Piece::End(count)) => {
                        let section = reader.unread();
                        self.trailers = self.fields.iter().map(|field| (field.name_at.of(section).to_vec(), field.value(section).to_vec())).collect();
                        self.state = State::Done;
                        reader.consume(count);
                    }
                },
            }
        }
    }

    /// So many bytes of data were used.
    pub(crate) fn took(&mut self, reader: &mut Reader, count: usize) {
        reader.consume(count);
        match &mut self.state {
            State::Chunked(decoder) => decoder.took(count),
            State::Length(left) => {
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::UntilClose | State::Done | State::Broken(_) => {}
        }
    }

    /// The connection ended: whether that is the body's end.
    pub(crate) fn ended(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Done => Ok(()),
            State::Length(_) | State::Chunked(_) | State::Broken(_) => Err(BodyError::Cut),
        }
    }

    /// Waits for data: how many bytes of it wait then; zero at the body's end.
    pub(crate) async fn next(&mut self, reader: &mut Reader, patience: Patience) -> Result<usize, BodyError> {
        loop {
            let available = self.available(reader).map_err(BodyError::Broken)?;
            if available > 0 || self.is_done() {
                return Ok(available);
            }
            if reader.fill(patience).await.map_err(BodyError::Read)? == 0 {
                self.ended()?;
            }
        }
    }
}

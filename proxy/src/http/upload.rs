//! The request's body on its way to an endpoint.

use std::io;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use waypost_http1::{Framing, Writer as Message};

use crate::http::body::{BodyError, Incoming};
use crate::http::fields::may_trail;
use crate::http::gate::Progress;
use crate::http::io::{Patience, ReadError, Reader, Writer};
use crate::table::CompiledRule;

/// Why a body was not sent as a whole.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client's body did not come whole.
    Client(BodyError),
    /// The endpoint takes no more. It may have answered.
    Endpoint(io::Error),
}

/// A body to send.
pub(crate) struct Upload<'a> {
    pub(crate) body: &'a mut Incoming,
    pub(crate) framing: Framing,
    pub(crate) rule: &'a CompiledRule,
    pub(crate) patience: Patience,
    /// Bytes a second that a body of known length brings at least; 0 for any.
    pub(crate) min_rate: u32,
    pub(crate) progress: &'a Progress,
}

/// A body's average rate counts from this much time on.
const RATED_FROM: Duration = Duration::from_secs(60);

/// How fast a body comes. Only the time that is waited for the client counts.
struct Pace {
    min_rate: u32,
    waited: Duration,
    received: u64,
}

impl Pace {
    fn new(framing: Framing, min_rate: u32) -> Self {
        // A body without a length may be a stream of events, which has no rate of its own.
        let min_rate = if matches!(framing, Framing::Length(_)) { min_rate } else { 0 };
        Self { min_rate, waited: Duration::ZERO, received: 0 }
    }

    /// How much longer may be waited for the next byte.
    fn left(&self) -> Duration {
        let earned = Duration::from_secs(self.received / u64::from(self.min_rate).max(1));
        RATED_FROM.max(earned).saturating_sub(self.waited)
    }

    /// Waits for data.
    async fn next(&mut self, body: &mut Incoming, client: &mut Reader, (patience, progress): (Patience, &Progress)) -> Result<usize, UploadError> {
        loop {
            let began = Instant::now();
            let is_rated = self.min_rate > 0 && !progress.has_responded();
            let slowest = is_rated.then(|| began + self.left());
            let limited = Patience { deadline: [patience.deadline, slowest].into_iter().flatten().min(), ..patience };
            let result = body.next(client, limited).await;
            self.waited += began.elapsed();
            match result {
                Ok(count) => {
                    self.received += count as u64;
                    return Ok(count);
                }
                Err(BodyError::Read(ReadError::Deadline)) if patience.deadline.is_none_or(|deadline| deadline > Instant::now()) => {
                    // Once there is a response, its end decides.
                    if !progress.has_responded() {
                        return Err(UploadError::Client(BodyError::Slow(self.min_rate)));
                    }
                }
                Err(error) => return Err(UploadError::Client(error)),
            }
        }
    }
}

impl Upload<'_> {
    /// Sends the head, which is pending, and then the body as it comes.
    pub(crate) async fn run(self, client: &mut Reader, endpoint: &mut Writer) -> Result<(), UploadError> {
        let is_chunked = self.framing == Framing::Chunked;
        if self.progress.waits() || self.body.available(client).map_err(|violation| UploadError::Client(BodyError::Broken(violation)))? == 0 {
            endpoint.send(&[], b"").await.map_err(UploadError::Endpoint)?;
        }
        // Who waits to be asked sends nothing before.
        std::future::poll_fn(|_| if self.progress.waits() { Poll::Pending } else { Poll::Ready(()) }).await;
        let mut pace = Pace::new(self.framing, self.min_rate);
        loop {
            let count = pace.next(self.body, client, (self.patience, self.progress)).await?;
            if count == 0 {
                break;
            }
            if is_chunked {
                Message::new(endpoint.pending()).chunk_size(count);
            }
            let data = client.unread().get(..count).unwrap_or_default();
            endpoint.send(data, if is_chunked { b"\r\n" } else { b"" }).await.map_err(UploadError::Endpoint)?;
            self.body.took(client, count);
        }
        if is_chunked {
            let decided = |name: &[u8]| self.rule.request_headers.decides(name);
            let trailers = self.body.trailers().iter().filter(|(name, _)| may_trail(name, &decided));
            Message::new(endpoint.pending()).last_chunk(trailers.map(|(name, value)| (name.as_slice(), value.as_slice())));
            endpoint.send(&[], b"").await.map_err(UploadError::Endpoint)?;
        }
        self.progress.sent();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_take_a_minute_and_then_as_long_as_its_bytes_are_worth() {
        let left = |waited: u64, received: u64| Pace { min_rate: 256, waited: Duration::from_secs(waited), received }.left().as_secs();
        assert_eq!((left(0, 0), left(59, 1), left(60, 1), left(240, 1)), (60, 1, 0, 0));
        assert_eq!((left(100, 256 * 200), left(300, 256 * 200)), (100, 0));
        assert_eq!((Pace::new(Framing::Chunked, 256).min_rate, Pace::new(Framing::Length(9), 256).min_rate), (0, 256));
    }
}

//! The response on its way to the client: its head as soon as it is whole, and the body as it comes.

use std::task::{Context, Poll};

use tokio::time::Instant;
use waypost_http1::{Framing, HeadEnd, Limits, Place, ResponseTo, Version, Violation, Writer as Message};

use crate::http::body::{BodyError, Incoming};
use crate::http::fields::may_trail;
use crate::http::gate::Progress;
use crate::http::io::{Reader, Writer};
use crate::http::limits::TimeLimits;
use crate::http::response::Response;
use crate::table::CompiledRule;

/// What the head of a response may have.
const LIMITS: Limits = Limits { bytes: crate::config::DEFAULT_HEAD_BYTES, fields: 400 };
/// So many interim responses are passed on; more of them are a mistake.
const INTERIM: usize = 64;

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum HeadError {
    /// The endpoint closed, or the connection broke, before a byte of a head.
    Nothing(String),
    /// It did so in the middle.
    Cut(String),
    /// It cannot be understood.
    Broken(Violation),
    /// It did not come in time.
    Late,
    /// The client does not take an interim response.
    Client,
}

/// Waits for the head of the final response; interim ones go to the client.
pub(crate) struct Awaiting<'a> {
    pub(crate) to: ResponseTo,
    pub(crate) version: Version,
    pub(crate) limits: &'a TimeLimits,
    pub(crate) progress: &'a Progress,
}

impl Awaiting<'_> {
    /// The head of the final response.
    pub(crate) async fn run(&self, endpoint: &mut Reader, client: &mut Writer) -> Result<Response, HeadError> {
        for _ in 0..INTERIM {
            let response = self.head(endpoint, client).await?;
            if !(100..200).contains(&response.status()) || response.status() == 101 {
                return Ok(response);
            }
            let is_wanted = match response.status() {
                100 => self.progress.waits(),
                _ => self.version == Version::Http11,
            };
            if is_wanted {
                response.write_interim(client.pending());
                client.send(&[], b"").await.map_err(|_| HeadError::Client)?;
            }
            if response.status() == 100 {
                self.progress.ask();
            }
        }
        Err(HeadError::Broken(Violation::StatusLine))
    }

    async fn head(&self, endpoint: &mut Reader, client: &mut Writer) -> Result<Response, HeadError> {
        let (mut end, mut first_byte) = (HeadEnd::default(), None);
        loop {
            if let Some(length) = end.find(endpoint.unread(), Place::Head, LIMITS.bytes).map_err(HeadError::Broken)? {
                let bytes = endpoint.unread().get(..length).unwrap_or_default().to_vec();
                endpoint.consume(length);
                return Response::read(bytes, self.to, LIMITS).map_err(HeadError::Broken);
            }
            let waited = std::future::poll_fn(|context| self.poll_bytes(context, (&mut *endpoint, &mut *client), &mut first_byte)).await;
            let broke = |reason: String, endpoint: &Reader| if endpoint.unread().is_empty() { HeadError::Nothing(reason) } else { HeadError::Cut(reason) };
            match waited {
                Waited::Bytes(Ok(0)) => return Err(broke("it closed the connection without a response".to_owned(), endpoint)),
                Waited::Bytes(Ok(_)) => {}
                Waited::Bytes(Err(error)) => return Err(broke(error.to_string(), endpoint)),
                Waited::Late => return Err(HeadError::Late),
                Waited::Ask => {
                    Message::new(client.pending()).status_line(Version::Http11, 100, b"Continue");
                    Message::new(client.pending()).end();
                    client.send(&[], b"").await.map_err(|_| HeadError::Client)?;
                    self.progress.ask();
                }
            }
        }
    }

    fn poll_bytes(&self, context: &mut Context<'_>, (endpoint, client): (&mut Reader, &mut Writer), first_byte: &mut Option<Instant>) -> Poll<Waited> {
        if let Poll::Ready(result) = endpoint.poll_fill(context) {
            return Poll::Ready(Waited::Bytes(result));
        }
        // The wait for the first byte begins when the request is sent: until then its body has time limits of its own.
        if self.progress.is_sent() && first_byte.is_none() {
            *first_byte = self.limits.first_byte.map(|limit| Instant::now() + limit);
        }
        let asks_at = self.progress.asks_at().filter(|_| self.progress.waits());
        let until = [*first_byte, self.limits.deadline, asks_at].into_iter().flatten().min();
        // The client's timer is of this task and is kept; that of the endpoint's connection would go with it to another one.
        std::task::ready!(client.poll_deadline(context, until));
        Poll::Ready(if asks_at == until { Waited::Ask } else { Waited::Late })
    }
}

enum Waited {
    Bytes(std::io::Result<usize>),
    Late,
    Ask,
}

/// Why a response did not reach the client as a whole.
#[derive(Debug)]
pub(crate) enum DownloadError {
    /// The endpoint's body did not come whole.
    Endpoint(BodyError),
    /// The client takes no more.
    Client,
}

/// Sends the head, which is pending, and then the body as it comes. `sent` is called with the bytes of each piece.
pub(crate) async fn body(
    endpoint: &mut Reader,
    client: &mut Writer,
    incoming: &mut Incoming,
    (framing, limits): (Framing, &TimeLimits),
    rule: &CompiledRule,
    mut sent: impl FnMut(usize),
) -> Result<(), DownloadError> {
    let is_chunked = framing == Framing::Chunked;
    let available = incoming.available(endpoint).map_err(|violation| DownloadError::Endpoint(BodyError::Broken(violation)))?;
    if available == 0 && !(incoming.is_done() && is_chunked) {
        client.send(&[], b"").await.map_err(|_| DownloadError::Client)?;
    }
    loop {
        let count = incoming.next(endpoint, limits.of_body()).await.map_err(DownloadError::Endpoint)?;
        if count == 0 {
            break;
        }
        if is_chunked {
            Message::new(client.pending()).chunk_size(count);
        }
        let data = endpoint.unread().get(..count).unwrap_or_default();
        client.send(data, if is_chunked { b"\r\n" } else { b"" }).await.map_err(|_| DownloadError::Client)?;
        incoming.took(endpoint, count);
        sent(count);
    }
    if is_chunked {
        let trailers = incoming.trailers().iter().filter(|(name, _)| may_trail(name, &|name| rule.response_headers.decides(name)));
        Message::new(client.pending()).last_chunk(trailers.map(|(name, value)| (name.as_slice(), value.as_slice())));
        client.send(&[], b"").await.map_err(|_| DownloadError::Client)?;
    }
    Ok(())
}

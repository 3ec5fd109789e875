//! The bodies of requests and responses on their way through, with their time-outs.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clients::Busy;
use crate::endpoint::Attempt;
use crate::http::discard::discard;
use crate::http::expect::Gate;
use crate::http::headers;
use crate::http::sent::Sent;
use crate::metrics::Metrics;
use crate::pool::{Pool, Sender};
use crate::table::CompiledRule;
use crate::tail::Record;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The other side broke off.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("nothing came for {0:?}")]
    Idle(Duration),
    /// The request took longer than its rule allows.
    #[error("the request took longer than its rule allows")]
    Deadline,
    /// The response was over before the body was.
    #[error("the endpoint answered without waiting for the whole body")]
    Unwanted,
}

/// Fires when nothing has moved for a while, or at a fixed time. Costs nothing while data flows.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    idle: Option<Duration>,
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    /// Waits at most `idle` for each piece, and at most until `deadline` for all of them.
    pub(crate) const fn new(idle: Option<Duration>, deadline: Option<Instant>) -> Self {
        Self { idle, deadline, sleep: None, waiting: false }
    }

    /// Something moved.
    const fn moved(&mut self) {
        self.waiting = false;
    }

    /// Nothing moves at the moment; ready when that has lasted too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if !self.waiting {
            self.waiting = true;
            let idle = self.idle.map(|idle| Instant::now() + idle);
            let until = [idle, self.deadline].into_iter().flatten().min();
            match (until, &mut self.sleep) {
                (None, _) => return Poll::Pending,
                (Some(until), Some(sleep)) => sleep.as_mut().reset(until),
                (Some(until), none) => *none = Some(Box::pin(sleep_until(until))),
            }
        }
        let Some(sleep) = &mut self.sleep else { return Poll::Pending };
        std::task::ready!(sleep.as_mut().poll(context));
        let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        Poll::Ready(if late { BodyError::Deadline } else { BodyError::Idle(self.idle.unwrap_or_default()) })
    }
}

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// There is none.
    Empty,
    /// The client's.
    Client(Box<ClientBody>),
}

/// A client's body. What is left of it when it is dropped is read and thrown away, so that the client hears the answer.
#[derive(Debug)]
pub(crate) struct ClientBody {
    incoming: Option<Incoming>,
    patience: Patience,
    gate: Option<Gate>,
    sent: Arc<Sent>,
    /// The rule that the request matched: what it sets or removes cannot come as a trailer.
    rule: Arc<CompiledRule>,
}

impl RequestBody {
    /// A client's body; `sent` is told once all of it was passed on.
    pub(crate) fn client(incoming: Incoming, patience: Patience, gate: Option<Gate>, sent: Arc<Sent>, rule: Arc<CompiledRule>) -> Self {
        Self::Client(Box::new(ClientBody { incoming: Some(incoming), patience, gate, sent, rule }))
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // At the end of the process there is no runtime to read with.
        if let (Some(incoming), Ok(_runtime)) = (self.incoming.take(), tokio::runtime::Handle::try_current()) {
            discard(incoming);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Self::Client(body) = this else { return Poll::Ready(None) };
        if body.sent.poll_abandoned(context).is_ready() {
            *this = Self::Empty;
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        if let Some(gate) = &mut body.gate {
            std::task::ready!(gate.poll_open(context));
            body.gate = None;
        }
        let Some(incoming) = &mut body.incoming else { return Poll::Ready(None) };
        match Pin::new(&mut *incoming).poll_frame(context) {
            Poll::Ready(frame) => {
                body.patience.moved();
                if ends(frame.as_ref()) || incoming.is_end_stream() {
                    body.sent.finish();
                }
                let decided = |name: &str| body.rule.request_headers.decides(name);
                Poll::Ready(frame.map(|frame| frame.map(|frame| without_decisive_trailers(frame, &decided)).map_err(BodyError::from)))
            }
            Poll::Pending => body.patience.poll(context).map(|error| Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.incoming.as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint),
        }
    }
}

/// A connection that goes back to its pool once the response was read.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The connection.
    pub(crate) sender: Sender,
    /// Where it goes back to.
    pub(crate) pool: Arc<Pool>,
    /// Whom it connects to.
    pub(crate) address: Arc<str>,
    /// How far the request's body has come; before its end the connection cannot take another request.
    pub(crate) sent: Option<Arc<Sent>>,
}

impl Lease {
    /// Gives the connection back.
    pub(crate) fn give_back(self) {
        match &self.sent {
            Some(sent) if !sent.is_whole() => sent.abandon(),
            _ => self.pool.put(&self.address, self.sender),
        }
    }
}

/// Counts a request of a client until dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    _busy: Busy,
}

impl Counted {
    /// Counts from now on.
    pub(crate) fn begin(metrics: &Arc<Metrics>, busy: Busy) -> Self {
        metrics.in_flight.inc();
        Self { metrics: metrics.clone(), _busy: busy }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

impl Drop for EndpointBody {
    /// Cut off in the middle: whoever still sends the request's body need not go on.
    fn drop(&mut self) {
        if let Some(sent) = self.lease.as_ref().and_then(|lease| lease.sent.as_ref()) {
            sent.abandon();
        }
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    _counted: Option<Counted>,
}

#[derive(Debug)]
enum Source {
    Own(Option<Bytes>),
    Endpoint(Box<EndpointBody>),
}

/// An endpoint's body.
#[derive(Debug)]
pub(crate) struct EndpointBody {
    /// The body itself.
    pub(crate) incoming: Incoming,
    /// The connection it comes over.
    pub(crate) lease: Option<Lease>,
    /// How long to wait for it.
    pub(crate) patience: Patience,
    /// Counts the request at its endpoint until the body is dropped.
    #[expect(dead_code, reason = "counts by being held")]
    pub(crate) attempt: Attempt,
}

impl ResponseBody {
    /// A body of the proxy itself.
    pub(crate) fn own(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { source: Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty())), record: None, _counted: None }
    }

    /// The body of an endpoint. Without any content the connection goes back at once.
    pub(crate) fn endpoint(mut body: EndpointBody) -> Self {
        if body.incoming.is_end_stream() {
            body.lease.take().map(Lease::give_back).unwrap_or_default();
        }
        Self { source: Source::Endpoint(Box::new(body)), record: None, _counted: None }
    }

    /// Counts and records the request until the body ends.
    pub(crate) fn accompany(&mut self, counted: Counted, mut record: Option<Box<Record>>) {
        if let Some(record) = record.as_mut().filter(|_| self.is_end_stream()) {
            record.whole();
        }
        self.record = record;
        self._counted = Some(counted);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Endpoint(body) => poll_endpoint(body, context),
        };
        if let Some(record) = &mut this.record
            && let Poll::Ready(frame) = &polled
        {
            if let Some(Ok(frame)) = frame {
                record.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            // Where nothing follows nobody asks again.
            let over = match &this.source {
                Source::Own(rest) => rest.is_none(),
                Source::Endpoint(body) => body.incoming.is_end_stream(),
            };
            if over || ends(frame.as_ref()) {
                record.whole();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Endpoint(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or_default())),
            Source::Endpoint(body) => body.incoming.size_hint(),
        }
    }
}

/// Whether nothing follows: the end itself, or trailers, after which nobody asks again.
fn ends<E>(frame: Option<&Result<Frame<Bytes>, E>>) -> bool {
    frame.is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers))
}

fn poll_endpoint(body: &mut EndpointBody, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match Pin::new(&mut body.incoming).poll_frame(context) {
        Poll::Ready(frame) => {
            body.patience.moved();
            if ends(frame.as_ref()) || (matches!(frame, Some(Ok(_))) && body.incoming.is_end_stream()) {
                body.lease.take().map(Lease::give_back).unwrap_or_default();
            }
            Poll::Ready(frame.map(|frame| frame.map(|frame| without_decisive_trailers(frame, &|_| false)).map_err(BodyError::from)))
        }
        Poll::Pending => body.patience.poll(context).map(|error| Some(Err(error))),
    }
}

/// A frame as it came, but for trailers that may only come in a head.
fn without_decisive_trailers(mut frame: Frame<Bytes>, decided: &dyn Fn(&str) -> bool) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::clean_trailers(trailers, decided);
    }
    frame
}

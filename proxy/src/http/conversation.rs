//! One attempt: the request goes to an endpoint and its response comes back, both at once.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use waypost_http1::Framing;

use crate::http::answer::Answer;
use crate::http::body::{BodyError, Incoming};
use crate::http::call::Call;
use crate::http::download::{self, Awaiting, DownloadError, HeadError};
use crate::http::gate::Progress;
use crate::http::head::keeps_connection;
use crate::http::io::{ReadError, Reader, Timer, Writer};
use crate::http::limits::TimeLimits;
use crate::http::response::{Onward, onward_framing};
use crate::http::upload::{Upload, UploadError};
use crate::metrics::Metrics;
use crate::tail::Record;
use crate::upstream::connection::Connection;

/// A client that has closed its side after its request gets the response within this time, or not at all.
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Why an attempt gave the client nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection closed before a byte of a response.
    Unanswered(String),
    /// The endpoint failed in the middle of its head, or said something that cannot be understood.
    Broken(String),
    /// Nothing came in time.
    Late,
    /// The client's own body did not come.
    Client(Box<Answer>),
    /// The client has gone.
    ClientGone,
}

/// What came of an attempt that gave the client a response.
#[derive(Debug)]
pub(crate) struct Spoken {
    /// Whether the client has all of it.
    pub(crate) is_whole: bool,
    /// Whether the client's connection is kept.
    pub(crate) keep: bool,
    /// Whether the endpoint's connection can take another request.
    pub(crate) is_reusable: bool,
    /// Whether both sides have switched to another protocol: the connection is a tunnel now.
    pub(crate) switched: bool,
    /// The endpoint's connection, if it is a tunnel.
    pub(crate) upstream: Option<Connection>,
}

/// An attempt.
pub(crate) struct Conversation<'a, 'c> {
    pub(crate) call: &'a Call<'c>,
    pub(crate) limits: &'a TimeLimits,
    pub(crate) body: &'a mut Incoming,
    pub(crate) record: &'a mut Option<Box<Record>>,
}

impl Conversation<'_, '_> {
    /// Sends the request, whose head is pending, and passes the response on. `answered` is called with its status.
    pub(crate) async fn run(self, client: (&mut Reader, &mut Writer), upstream: &mut Connection, answered: impl FnMut(u16)) -> Result<Spoken, Failure> {
        let Self { call, limits, body, record } = self;
        let (reader, writer) = client;
        let progress = Progress::new(call.expects);
        let (from, to) = (&mut upstream.reader, &mut upstream.writer);
        let mut back = Back { call, limits, progress: &progress, record, answered, keep_alive: None };
        if body.is_done() {
            if let Err(error) = to.send(&[], b"").await {
                return Err(Failure::Unanswered(error.to_string()));
            }
            progress.sent();
            let result = unless_gone(back.run(from, writer), reader).await;
            upstream.keep_alive = back.keep_alive;
            return result;
        }
        let upload = Upload {
            body,
            framing: call.head.framing(),
            rule: call.rule,
            patience: limits.of_body(),
            min_rate: call.connection.core.shared.limits.min_body_rate,
            progress: &progress,
        };
        let result = both(back.run(from, writer), there(upload, reader, to, &call.connection.core.shared.metrics), &progress).await;
        upstream.keep_alive = back.keep_alive;
        result.map(|spoken| Spoken { is_reusable: spoken.is_reusable && progress.is_sent(), ..spoken })
    }
}

/// The way there: sends the request's body, and then looks whether the client goes. Only a failure ends it.
async fn there(upload: Upload<'_>, client: &mut Reader, endpoint: &mut Writer, metrics: &Metrics) -> Failure {
    match upload.run(client, endpoint).await {
        Ok(()) => {
            let mut watch = Watch::new(client);
            std::future::poll_fn(move |context| watch.poll(context)).await;
            Failure::ClientGone
        }
        // The endpoint may have answered without waiting for the rest.
        Err(UploadError::Endpoint(error)) => {
            tracing::debug!(%error, "an endpoint takes no more of a request's body");
            std::future::pending().await
        }
        Err(UploadError::Client(error)) => of_client(error, metrics),
    }
}

/// Runs the way back beside the way there.
async fn both(back: impl Future<Output = Result<Spoken, Failure>>, there: impl Future<Output = Failure>, progress: &Progress) -> Result<Spoken, Failure> {
    let (mut back, mut there) = (pin!(back), pin!(there));
    std::future::poll_fn(|context| {
        if let Poll::Ready(result) = back.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        let was_sent = progress.is_sent();
        if let Poll::Ready(failure) = there.as_mut().poll(context) {
            // A client that has a part of a response gets no other one.
            return Poll::Ready(Err(if progress.has_responded() { Failure::ClientGone } else { failure }));
        }
        // The wait for the response begins with the end of the request.
        if !was_sent && progress.is_sent() { back.as_mut().poll(context) } else { Poll::Pending }
    })
    .await
}

/// Why the client's body ends the exchange.
fn of_client(error: BodyError, metrics: &Metrics) -> Failure {
    let label = match &error {
        BodyError::Broken(violation) => Some(violation.label()),
        BodyError::Slow(_) => Some("slow_body"),
        BodyError::Read(ReadError::Idle(_)) => Some("idle_body"),
        BodyError::Cut | BodyError::Read(_) => None,
    };
    if let Some(label) = label {
        metrics.refused_request(label);
    }
    match error {
        BodyError::Slow(rate) => Failure::Client(Answer::refusal(408, format!("the request's body came slower than {rate} bytes a second (--min-body-rate)"))),
        BodyError::Cut | BodyError::Read(ReadError::Io(_)) => Failure::ClientGone,
        BodyError::Broken(violation) => Failure::Client(Answer::refusal(violation.status(), format!("a request with {violation}"))),
        BodyError::Read(ReadError::Idle(limit)) => Failure::Client(Answer::refusal(408, format!("nothing of the request's body came for {limit:?}"))),
        BodyError::Read(ReadError::Deadline) => Failure::Client(Answer::refusal(504, "the request took longer than its rule allows")),
    }
}

/// Runs the way back, unless the client goes: a reset ends it at once, the end of what the client sends after a grace.
async fn unless_gone(back: impl Future<Output = Result<Spoken, Failure>>, client: &mut Reader) -> Result<Spoken, Failure> {
    let mut back = pin!(back);
    let mut watch = Watch::new(client);
    std::future::poll_fn(|context| {
        if let Poll::Ready(result) = back.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        watch.poll(context).map(|()| Err(Failure::ClientGone))
    })
    .await
}

struct Watch<'a> {
    client: &'a mut Reader,
    /// When the client said that it sends nothing more.
    closed: Option<Instant>,
    /// Nothing more is read.
    is_over: bool,
    timer: Timer,
}

impl<'a> Watch<'a> {
    fn new(client: &'a mut Reader) -> Self {
        Self { client, closed: None, is_over: false, timer: Timer::default() }
    }

    /// Ready when the client has gone.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // Requests that come before their time wait in the buffer.
        while self.closed.is_none() && !self.is_over {
            match self.client.poll_fill(context) {
                Poll::Ready(Ok(0)) => self.closed = Some(Instant::now()),
                Poll::Ready(Ok(_)) => self.is_over = self.client.is_full(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.timer.poll(context, self.closed.map(|closed| closed + HALF_CLOSE_GRACE))
    }
}

/// The way back.
struct Back<'a, 'c, A> {
    call: &'a Call<'c>,
    limits: &'a TimeLimits,
    progress: &'a Progress,
    record: &'a mut Option<Box<Record>>,
    answered: A,
    /// How long the endpoint keeps an idle connection.
    keep_alive: Option<Duration>,
}

impl<A: FnMut(u16)> Back<'_, '_, A> {
    async fn run(&mut self, endpoint: &mut Reader, client: &mut Writer) -> Result<Spoken, Failure> {
        let call = self.call;
        let awaiting = Awaiting { to: call.response_to(), version: call.version(), limits: self.limits, progress: self.progress };
        let response = awaiting.run(endpoint, client).await.map_err(|error| match error {
            HeadError::Nothing(reason) => Failure::Unanswered(reason),
            HeadError::Cut(reason) => Failure::Broken(reason),
            HeadError::Broken(violation) => Failure::Broken(format!("a response with {violation}")),
            HeadError::Late => Failure::Late,
            HeadError::Client => Failure::ClientGone,
        })?;
        (self.answered)(response.status());
        if let Some(record) = self.record {
            record.status(response.status());
        }
        let metrics = &call.connection.core.shared.metrics;
        if response.status() == 101 {
            return self.switch(&response, client).await;
        }
        metrics.response(response.status());
        let framing = onward_framing(response.framing(), call.version());
        let keep = keeps_connection(call.head) && !call.connection.ending() && framing != Framing::UntilClose && !self.progress.waits();
        self.progress.respond();
        response.write(client.pending(), call.rule, Onward { framing, version: call.version(), keep, marks: call.marks });
        self.keep_alive = response.keep_alive();
        let is_kept = response.keeps_connection() && response.framing() != Framing::UntilClose;
        let mut incoming = Incoming::of_response(response.framing());
        drop(response);
        let record = &mut *self.record;
        let sent = |count| {
            if let Some(record) = record {
                record.sent(count);
            }
        };
        let result = download::body(endpoint, client, &mut incoming, (framing, self.limits), call.rule, sent).await;
        let is_whole = result.is_ok();
        if let Err(DownloadError::Endpoint(error)) = result {
            tracing::debug!(%error, "an endpoint's body did not come whole");
            if framing == Framing::UntilClose {
                client.abort();
            }
        }
        let is_reusable = is_whole && is_kept && endpoint.unread().is_empty();
        Ok(Spoken { is_whole, keep: keep && is_whole, is_reusable, switched: false, upstream: None })
    }

    /// The endpoint switches to a protocol, which the client must have asked for (RFC 9110, 7.8).
    async fn switch(&mut self, response: &crate::http::response::Response, client: &mut Writer) -> Result<Spoken, Failure> {
        let call = self.call;
        let chosen = response.protocol().unwrap_or_default();
        let was_offered = call.outgoing.upgrade.as_ref().is_some_and(|offered| offered.split(", ").any(|offered| offered.eq_ignore_ascii_case(chosen)));
        if !was_offered {
            return Err(Failure::Client(Answer::refusal(502, "the endpoint switched to a protocol that it was not asked for")));
        }
        call.connection.core.shared.metrics.response(101);
        response.write_switch(client.pending(), call.rule, chosen, call.marks);
        client.send(&[], b"").await.map_err(|_| Failure::ClientGone)?;
        Ok(Spoken { is_whole: true, keep: false, is_reusable: false, switched: true, upstream: None })
    }
}

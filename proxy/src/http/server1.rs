//! A client's connection of HTTP/1.1, from accept to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use waypost_http1::{HeadEnd, Limits, Place, Version, Violation};

use crate::http::answer::{Answer, Terms};
use crate::http::connection::{Accepting, Connection};
use crate::http::exchange::{Next, exchange, refusal};
use crate::http::head::Head;
use crate::http::io::{Patience, ReadError, Reader, Writer, halves};
use crate::stream::Stream;
use crate::tail::Record;
use crate::worker::Core;

/// After this long without another request a connection that is to end is closed: until then the answer to the next request says so, and no
/// request is lost on its way.
const END_TIME: Duration = Duration::from_secs(3);
/// What a client still sends is read for so long, and so much of it, before its connection is closed: closed over unread bytes it is reset,
/// and the reset would overtake the last answer.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 1024 * 1024;

/// Serves a connection until it ends, or until it is idle and its place is needed.
pub(crate) async fn serve(core: Arc<Core>, stream: Stream, accepting: Accepting) {
    let Accepting { peer, listener, end, place, admission } = accepting;
    let abort = core.shared.abort.clone();
    let connection = Connection::new(core, peer, listener, place, admission);
    let shed = connection.shed();
    let (reader, writer) = halves(stream, connection.core.shared.limits.stall_timeout);
    let server = Server { connection: &connection, reader, writer };
    let serving = server.run();
    tokio::pin!(serving);
    let ending = async {
        end.cancelled().await;
        connection.end();
        // So that an idle connection looks at it.
        tokio::task::yield_now().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = &mut serving => {}
        () = ending => {}
        () = abort.cancelled() => {}
        () = shed.cancelled() => {}
    }
}

/// Why a head was not read.
enum Refused {
    /// It cannot be understood.
    Violation(Violation),
    /// It was not whole within this time.
    Late(Duration),
}

impl From<Violation> for Refused {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl Refused {
    fn answer(&self) -> Box<Answer> {
        match self {
            Self::Violation(violation) => refusal(*violation),
            Self::Late(limit) => Answer::refusal(408, format!("a request whose head was not whole within {limit:?}")),
        }
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::Violation(violation) => violation.label(),
            Self::Late(_) => "late_head",
        }
    }
}

/// Gives a connection that does not speak HTTP as it should one answer.
pub(crate) async fn refuse(core: Arc<Core>, stream: Stream, accepting: Accepting, answer: &Answer) {
    let Accepting { peer, listener, end: _, place, admission } = accepting;
    let (abort, connection) = (core.shared.abort.clone(), Connection::new(core, peer, listener, place, admission));
    let (shed, (reader, writer)) = (connection.shed(), halves(stream, connection.core.shared.limits.stall_timeout));
    let mut server = Server { connection: &connection, reader, writer };
    let refusing = async {
        if server.answer(answer).await == Next::Close {
            server.linger().await;
        }
    };
    tokio::select! {
        () = refusing => {}
        () = abort.cancelled() => {}
        () = shed.cancelled() => {}
    }
}

struct Server<'a> {
    connection: &'a Connection,
    reader: Reader,
    writer: Writer,
}

impl Server<'_> {
    async fn run(mut self) {
        loop {
            let next = match self.head().await {
                Ok(Some(head)) => Box::pin(exchange(self.connection, &mut self.reader, &mut self.writer, &head)).await,
                Ok(None) => return,
                Err(refused) => self.refuse(refused).await,
            };
            match next {
                Next::Keep => {}
                Next::Close => return self.linger().await,
                Next::Abort => return,
            }
        }
    }

    /// The next request's head; nothing if the client has gone, or nothing came in time.
    async fn head(&mut self) -> Result<Option<Head>, Refused> {
        if self.reader.unread().is_empty() && !self.wait().await {
            return Ok(None);
        }
        let own = self.connection.core.shared.limits;
        let limits = Limits { bytes: own.max_head_bytes, fields: own.max_head_fields };
        let patience = Patience { idle: None, deadline: Some(Instant::now() + own.head_timeout) };
        // One empty line before a request is skipped (RFC 9112, 2.2).
        let (mut end, mut may_skip) = (HeadEnd::default(), true);
        loop {
            let unread = self.reader.unread();
            if may_skip && unread.starts_with(b"\r\n") {
                may_skip = false;
                self.reader.consume(2);
                continue;
            }
            may_skip &= unread.len() < 2;
            if unread.first() == Some(&0x16) {
                return Err(Violation::Tls.into());
            }
            // What begins no method is not waited for.
            if unread.first().is_some_and(|byte| !byte.is_ascii_graphic() && *byte != b'\r') {
                return Err(Violation::RequestLine.into());
            }
            if let Some(length) = end.find(unread, Place::Head, limits.bytes)? {
                let bytes = unread.get(..length).unwrap_or_default().to_vec();
                self.reader.consume(length);
                return Ok(Some(Head::read(bytes, limits)?));
            }
            match self.reader.fill(patience).await {
                Err(ReadError::Deadline) => return Err(Refused::Late(own.head_timeout)),
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Waits for the first bytes of a request. Returns whether they came.
    async fn wait(&mut self) -> bool {
        let (began, idle_timeout) = (Instant::now(), self.connection.core.shared.limits.idle_timeout);
        let mut ends_at = None;
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(result) = self.reader.poll_fill(context) {
                return std::task::Poll::Ready(result.is_ok_and(|count| count > 0));
            }
            if self.connection.ending() && ends_at.is_none() {
                ends_at = Some(Instant::now() + END_TIME);
            }
            let until = ends_at.map_or(began + idle_timeout, |ends| ends.min(began + idle_timeout));
            self.reader.poll_deadline(context, Some(until)).map(|()| false)
        })
        .await
    }

    /// Answers what cannot be read; it is counted, and logged with the reason.
    async fn refuse(&mut self, refused: Refused) -> Next {
        let answer = refused.answer();
        let shared = &self.connection.core.shared;
        shared.metrics.refused_request(refused.label());
        let _record = shared.tail.wanted().then(|| {
            let mut record = Record::begin(&shared.tail, "", "", "", self.connection.client.address);
            record.refused(&self.connection.listener.name, answer.status, refused.label());
            record
        });
        self.answer(&answer).await
    }

    /// Sends the last answer.
    async fn answer(&mut self, answer: &Answer) -> Next {
        self.connection.core.shared.metrics.response(answer.status);
        answer.write(self.writer.pending(), Terms { rule: None, version: Version::Http11, keep: false, is_head: false, marks: &[] });
        if self.writer.send(&[], b"").await.is_err() { Next::Abort } else { Next::Close }
    }

    /// Closes the connection so that the client reads the last answer.
    async fn linger(mut self) {
        let closing = async {
            if self.writer.shutdown().await.is_err() {
                return;
            }
            let mut left = LINGER_BYTES;
            while let Ok(count) = self.reader.fill(Patience::default()).await {
                self.reader.consume(self.reader.unread().len());
                left = left.saturating_sub(count);
                if count == 0 || left == 0 {
                    return;
                }
            }
        };
        timeout(LINGER_TIME, closing).await.unwrap_or_default();
    }
}

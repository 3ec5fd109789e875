//! A client's connection of HTTP/1.1, from accept to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use waypost_http1::{HeadEnd, Limits, Place, Version, Violation};

use crate::http::answer::Terms;
use crate::http::connection::{Accepting, Connection};
use crate::http::exchange::{Next, exchange, refusal};
use crate::http::head::Head;
use crate::http::io::{Patience, Reader, Writer, halves};
use crate::worker::Core;

/// A head may take so long from its first byte.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A connection without a request is closed after this time: later than balancers in front give theirs up.
const IDLE_TIME: Duration = Duration::from_secs(620);
/// After this long without another request a connection that is to end is closed: until then the answer to the next request says so, and no
/// request is lost on its way.
const END_TIME: Duration = Duration::from_secs(3);
/// Fields of a request.
const FIELDS: usize = 200;
/// What a client still sends is read for so long, and so much of it, before its connection is closed: closed over unread bytes it is reset,
/// and the reset would overtake the last answer.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 1024 * 1024;

/// Serves a connection until it ends, or until it is idle and its place is needed.
pub(crate) async fn serve(core: Arc<Core>, stream: TcpStream, accepting: Accepting) {
    let Accepting { peer, listener, end, place, admission } = accepting;
    let abort = core.shared.abort.clone();
    let connection = Connection::new(core, peer, listener, place, admission);
    let shed = connection.shed();
    let (reader, writer) = halves(stream);
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
                Err(violation) => self.refuse(violation).await,
            };
            match next {
                Next::Keep => {}
                Next::Close => return self.linger().await,
                Next::Abort => return,
            }
        }
    }

    /// The next request's head; nothing if the client has gone, or nothing came in time.
    async fn head(&mut self) -> Result<Option<Head>, Violation> {
        if self.reader.unread().is_empty() && !self.wait().await {
            return Ok(None);
        }
        let limits = Limits { bytes: self.connection.core.shared.max_head_bytes, fields: FIELDS };
        let patience = Patience { idle: None, deadline: Some(Instant::now() + HEAD_TIME) };
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
                return Err(Violation::Tls);
            }
            if let Some(length) = end.find(unread, Place::Head, limits.bytes)? {
                let bytes = unread.get(..length).unwrap_or_default().to_vec();
                self.reader.consume(length);
                return Head::read(bytes, limits).map(Some);
            }
            match self.reader.fill(patience).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// Waits for the first bytes of a request. Returns whether they came.
    async fn wait(&mut self) -> bool {
        let began = Instant::now();
        let mut ends_at = None;
        std::future::poll_fn(|context| {
            if let std::task::Poll::Ready(result) = self.reader.poll_fill(context) {
                return std::task::Poll::Ready(result.is_ok_and(|count| count > 0));
            }
            if self.connection.ending() && ends_at.is_none() {
                ends_at = Some(Instant::now() + END_TIME);
            }
            let until = ends_at.map_or(began + IDLE_TIME, |ends| ends.min(began + IDLE_TIME));
            self.reader.poll_deadline(context, Some(until)).map(|()| false)
        })
        .await
    }

    /// Answers what cannot be read.
    async fn refuse(&mut self, violation: Violation) -> Next {
        let answer = refusal(violation);
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

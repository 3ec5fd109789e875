//! One request and its response.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use waypost_http1::{Framing, Name, Violation};

use crate::clients::Busy;
use crate::http::answer::{Answer, Terms};
use crate::http::body::Incoming;
use crate::http::call::{Call, Called};
use crate::http::connection::Connection;
use crate::http::head::{Head, keeps_connection};
use crate::http::io::{Patience, Reader, Writer};
use crate::http::plan::{Forward, Plan, plan};
use crate::http::request::{Outgoing, forwards_left};
use crate::http::tunnel::tunnel;
use crate::metrics::Metrics;
use crate::table::{CompiledRule, Table};
use crate::tail::Record;

/// So much of a body that nobody wants is read, so that the connection can be kept.
const DISCARD_BYTES: u64 = 1024 * 1024;
/// And for so long.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// What becomes of a connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It takes another request.
    Keep,
    /// It is closed, but so that the client has read what was sent.
    Close,
    /// It is closed at once.
    Abort,
}

/// Counts a request of a client until dropped.
struct Counted {
    metrics: Arc<Metrics>,
    _busy: Busy,
}

impl Counted {
    fn begin(connection: &Connection) -> Self {
        let metrics = connection.core.shared.metrics.clone();
        metrics.in_flight.inc();
        Self { metrics, _busy: connection.busy() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

/// Serves one request.
pub(crate) async fn exchange(connection: &Connection, reader: &mut Reader, writer: &mut Writer, head: &Head) -> Next {
    let _counted = Counted::begin(connection);
    let shared = &connection.core.shared;
    let mut record =
        shared.tail.wanted().then(|| Record::begin(&shared.tail, head.method(), head.host().unwrap_or_default(), head.path(), connection.client.address));
    let (planned, marks) = {
        let table = shared.active.pin();
        (plan(connection, &table, head, &mut record), marks(connection, &table))
    };
    let mut body = Incoming::of_request(head.framing());
    let planned = match last_hop(head) {
        Some(answer) => Plan::Answer(answer, planned.into_rule()),
        None => planned,
    };
    match planned {
        Plan::Answer(answer, rule) => {
            let own = Own { connection, head, rule: rule.as_deref(), marks: &marks };
            own.send(&answer, reader, writer, &mut body, &mut record).await
        }
        Plan::Forward(forward) => forwarded(connection, head, &forward, &marks, (reader, writer), &mut body, record).await,
    }
}

/// Fields of every response: those of the listener, the version that is served and how old it may be, as far as these are wanted.
fn marks(connection: &Connection, table: &Table) -> Vec<(&'static str, String)> {
    let shared = &connection.core.shared;
    let version = shared.version_header.then(|| ("waypost-version", table.version_text.to_string()));
    let is_secure = connection.listener.tls.is_some();
    let tls = is_secure.then(|| table.listener_of(&connection.listener)).and_then(|listener| listener.tls.as_ref());
    let hsts = tls.and_then(|tls| tls.hsts()).map(|value| ("strict-transport-security", value.to_owned()));
    let age = shared.age_header.as_ref().map(|fresh| {
        let age = fresh.borrow().age().map_or_else(|| "unknown".to_owned(), |age| age.as_secs().to_string());
        ("waypost-age", age)
    });
    version.into_iter().chain(age).chain(hsts).collect()
}

/// The answer to a request that may not go on (RFC 9110, 7.6.2).
fn last_hop(head: &Head) -> Option<Box<Answer>> {
    if forwards_left(head) != Some(0) {
        return None;
    }
    match head.method() {
        "OPTIONS" => {
            let mut answer = Answer::of(200, String::new(), bytes::Bytes::new());
            answer.fields.push(("allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH".to_owned()));
            Some(Box::new(answer))
        }
        "TRACE" => Some(Answer::refusal(405, "TRACE is not answered here")),
        _ => None,
    }
}

/// Whether the client waits to be asked for its body (RFC 9110, 10.1.1).
fn expects_continue(head: &Head, body: &Incoming) -> bool {
    head.version() == waypost_http1::Version::Http11
        && !body.is_done()
        && head.value(Name::Expect).is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
}

async fn forwarded(
    connection: &Connection,
    head: &Head,
    forward: &Forward,
    marks: &[(&'static str, String)],
    (reader, writer): (&mut Reader, &mut Writer),
    body: &mut Incoming,
    mut record: Option<Box<Record>>,
) -> Next {
    let path = forward.path.as_deref().map_or_else(|| Cow::Borrowed(head.path()), Cow::Borrowed);
    let outgoing = Outgoing { head, rule: &forward.rule, client: &connection.client, path, upgrade: forward.upgrade.clone(), trusted: forward.trusted };
    let expects = expects_continue(head, body);
    let call = Call { connection, head, rule: &forward.rule, name: &forward.name, backend: &forward.backend, outgoing, marks, expects };
    match call.run((&mut *reader, &mut *writer), body, &mut record).await {
        Called::Responded { mut spoken, attempt } => {
            if spoken.is_whole
                && let Some(record) = &mut record
            {
                record.whole();
            }
            if let Some(upstream) = &mut spoken.upstream {
                // A client that sent bytes before the switch was agreed spoke a protocol that nobody had accepted.
                if reader.unread().is_empty() {
                    tunnel((&mut *reader, &mut *writer), (&mut upstream.reader, &mut upstream.writer), connection.core.shared.limits.tunnel_timeout).await;
                }
                return Next::Abort;
            }
            drop((attempt, record));
            match (spoken.is_whole, spoken.keep) {
                (false, _) => Next::Abort,
                (true, true) if body.is_done() || discard(reader, body).await => Next::Keep,
                (true, _) => Next::Close,
            }
        }
        Called::Refused(answer) => {
            let own = Own { connection, head, rule: Some(&forward.rule), marks };
            own.send(&answer, reader, writer, body, &mut record).await
        }
        Called::Aborted => Next::Abort,
    }
}

/// An answer of the proxy to a request.
struct Own<'a> {
    connection: &'a Connection,
    head: &'a Head,
    rule: Option<&'a CompiledRule>,
    marks: &'a [(&'static str, String)],
}

impl Own<'_> {
    async fn send(&self, answer: &Answer, reader: &mut Reader, writer: &mut Writer, body: &mut Incoming, record: &mut Option<Box<Record>>) -> Next {
        // Who was not asked for its body may send it or not: nobody knows what comes next.
        let is_long = matches!(self.head.framing(), Framing::Length(length) if length > DISCARD_BYTES);
        let goes_on = body.is_done() || !is_long && !body.is_broken() && !expects_continue(self.head, body) && answer.status != 408;
        let keep = keeps_connection(self.head) && !self.connection.ending() && goes_on;
        let terms = Terms { rule: self.rule, version: self.head.version(), keep, is_head: self.head.method() == "HEAD", marks: self.marks };
        self.connection.core.shared.metrics.response(answer.status);
        answer.write(writer.pending(), terms);
        if let Some(record) = record {
            record.status(answer.status);
        }
        if writer.send(&[], b"").await.is_err() {
            return Next::Abort;
        }
        if let Some(record) = record {
            record.sent(answer.body.len());
            record.whole();
        }
        if keep && (body.is_done() || discard(reader, body).await) { Next::Keep } else { Next::Close }
    }
}

/// Reads what is left of a body that nobody wants. Returns whether all of it came.
async fn discard(reader: &mut Reader, body: &mut Incoming) -> bool {
    let patience = Patience { idle: None, deadline: Some(Instant::now() + DISCARD_TIME) };
    let mut left = DISCARD_BYTES;
    while !body.is_done() {
        let Ok(count) = body.next(reader, patience).await else { return false };
        body.took(reader, count);
        left = left.saturating_sub(count as u64);
        if left == 0 {
            return body.is_done();
        }
    }
    true
}

/// The answer to a request that cannot be read.
pub(crate) fn refusal(violation: Violation) -> Box<Answer> {
    let setting = if violation.status() == 431 { "; --max-head-bytes allows more" } else { "" };
    let text = if violation == Violation::Tls { violation.to_string() } else { format!("a request with {violation}{setting}") };
    Answer::refusal(violation.status(), text)
}

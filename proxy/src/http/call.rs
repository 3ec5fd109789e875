//! A request at the endpoints of its backend: choose one, connect, speak, and try again where that is safe.

use std::sync::Arc;

use waypost_http1::{Framing, ResponseTo, Version};

use crate::balance::Endpoint;
use crate::endpoint::Attempt;
use crate::http::answer::Answer;
use crate::http::body::Incoming;
use crate::http::connection::Connection;
use crate::http::conversation::{Conversation, Failure, Spoken};
use crate::http::head::Head;
use crate::http::io::{Reader, Writer};
use crate::http::limits::TimeLimits;
use crate::http::request::Outgoing;
use crate::metrics::{Metrics, RetryGuard};
use crate::outlier::Outcome;
use crate::table::{Backend, CompiledRule};
use crate::tail::Record;
use crate::upstream::connect::{self, ConnectError};
use crate::upstream::pool::Need;

/// Endpoints that one request may try.
const ATTEMPTS: usize = 3;

/// A request for an endpoint of a backend.
pub(crate) struct Call<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) head: &'a Head,
    pub(crate) rule: &'a Arc<CompiledRule>,
    pub(crate) name: &'a str,
    pub(crate) backend: &'a Backend,
    pub(crate) outgoing: Outgoing<'a>,
    /// The version that is served, and how old it may be, if responses carry them.
    pub(crate) marks: &'a [(&'static str, String)],
    /// Whether the client waits to be asked for its body.
    pub(crate) expects: bool,
}

/// What became of a request.
pub(crate) enum Called {
    /// The client has a response, or part of one.
    Responded {
        spoken: Box<Spoken>,
        /// Counts the request at its endpoint.
        attempt: Attempt,
    },
    /// The client gets this.
    Refused(Box<Answer>),
    /// The client has gone, or must not get anything that looks like a response.
    Aborted,
}

/// What was tried, and what may still be.
struct Tries<'m> {
    metrics: &'m Arc<Metrics>,
    tried: Vec<Arc<str>>,
    count: u32,
    /// Retries that are paid for, until the request ends.
    budget: Vec<RetryGuard<'m>>,
    last: Option<Box<Answer>>,
}

impl Tries<'_> {
    /// No connection could be made: another endpoint may be tried. A refusal costs the backend nothing; a connection that hangs is load, and
    /// pays from the budget.
    fn after_no_connection(&mut self, endpoint: &Endpoint, reason: &str, is_slow: bool) -> Result<(), Box<Answer>> {
        endpoint.state.refused();
        if endpoint.suspect {
            endpoint.state.exclude_suspect();
        }
        self.metrics.connect_errors.inc();
        self.tried.push(endpoint.id.clone());
        let who = named(endpoint);
        let refusal =
            if is_slow { Answer::refusal(504, format!("{who}: {reason}")) } else { Answer::refusal(502, format!("{who} could not be reached: {reason}")) };
        if self.tried.len() >= ATTEMPTS || is_slow && !self.pay() {
            return Err(refusal);
        }
        self.last = Some(refusal);
        self.count += 1;
        Ok(())
    }

    /// Whether a request whose kept connection had closed is sent once more, out of the budget.
    fn may_repeat(&mut self) -> bool {
        let may = self.count == 0 && self.pay();
        self.count += 1;
        may
    }

    fn pay(&mut self) -> bool {
        let paid = self.metrics.retry();
        let could = paid.is_some();
        self.budget.extend(paid);
        could
    }
}

impl Call<'_> {
    /// Tries endpoints until one responds or no further try is safe.
    pub(crate) async fn run(&self, client: (&mut Reader, &mut Writer), body: &mut Incoming, record: &mut Option<Box<Record>>) -> Called {
        let (reader, writer) = client;
        let limits = TimeLimits::of(self.rule, self.backend);
        let core = &self.connection.core;
        let mut tries = Tries { metrics: &core.shared.metrics, tried: Vec::new(), count: 0, budget: Vec::new(), last: None };
        let mut again: Option<&Endpoint> = None;
        loop {
            let is_fresh = again.is_some();
            let Some(endpoint) = again.take().or_else(|| self.backend.balancer.pick(&tries.tried)) else {
                return Called::Refused(tries.last.unwrap_or_else(|| Answer::refusal(503, format!("no endpoint in backend {}", self.name))));
            };
            let mut attempt = endpoint.state.begin();
            if let Some(record) = record {
                record.taken(self.name, endpoint, tries.count);
            }
            let need = (!is_fresh).then_some(if self.is_repeatable() { Need::Any } else { Need::Fresh });
            let mut upstream = match connect::connection(core, endpoint, &limits, need).await {
                Ok(upstream) => upstream,
                Err(ConnectError::Refused { reason, is_slow }) => {
                    self.failed(endpoint, &mut attempt);
                    match tries.after_no_connection(endpoint, &reason, is_slow) {
                        Ok(()) => continue,
                        Err(refusal) => return Called::Refused(refusal),
                    }
                }
                Err(ConnectError::Local(reason)) => {
                    attempt.end_without_outcome();
                    return Called::Refused(Answer::refusal(503, format!("this proxy cannot connect to anything now: {reason}")));
                }
                Err(ConnectError::Deadline) => {
                    return Called::Refused(Answer::refusal(504, format!("{}: the rule's time was over before there was a connection", named(endpoint))));
                }
            };
            self.outgoing.write(upstream.writer.pending(), &endpoint.address);
            let conversation = Conversation { call: self, limits: &limits, body, record };
            let failure = match conversation.run((&mut *reader, &mut *writer), &mut upstream, |status| self.answered(endpoint, &mut attempt, status)).await {
                Ok(spoken) => return self.finish(spoken, upstream, attempt),
                Err(failure) => failure,
            };
            match self.after(failure, endpoint, &mut attempt, upstream.is_reused, &limits) {
                After::Refuse(answer) => return Called::Refused(answer),
                After::Abort => return Called::Aborted,
                After::Repeat(reason) if tries.may_repeat() => {
                    tracing::debug!(reason, "a kept connection had closed");
                    again = Some(endpoint);
                }
                After::Repeat(reason) => return Called::Refused(broken(endpoint, &reason)),
            }
        }
    }

    /// Whether the request may be sent twice (RFC 9110, 9.2.2): it has no body, and its method is idempotent.
    fn is_repeatable(&self) -> bool {
        let is_idempotent = matches!(self.head.method(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE");
        is_idempotent && matches!(self.head.framing(), Framing::None | Framing::Length(0))
    }

    fn finish(&self, spoken: Spoken, upstream: crate::upstream::connection::Connection, attempt: Attempt) -> Called {
        let mut spoken = Box::new(spoken);
        if spoken.is_reusable {
            self.connection.core.pool.put(upstream);
        } else if spoken.switched {
            spoken.upstream = Some(upstream);
        }
        Called::Responded { spoken, attempt }
    }

    fn answered(&self, endpoint: &Endpoint, attempt: &mut Attempt, status: u16) {
        if attempt.end(Outcome::Answered(status)) {
            self.judge(endpoint);
        }
    }

    fn failed(&self, endpoint: &Endpoint, attempt: &mut Attempt) {
        if attempt.end(Outcome::Failed) {
            self.judge(endpoint);
        }
    }

    /// What to do after an attempt without a response; its outcome is recorded if that says something about the endpoint.
    fn after(&self, failure: Failure, endpoint: &Endpoint, attempt: &mut Attempt, is_reused: bool, limits: &TimeLimits) -> After {
        match failure {
            Failure::Unanswered(reason) if is_reused && self.is_repeatable() => {
                attempt.end_without_outcome();
                After::Repeat(reason)
            }
            Failure::Unanswered(reason) | Failure::Broken(reason) => {
                self.failed(endpoint, attempt);
                After::Refuse(broken(endpoint, &reason))
            }
            Failure::Late => {
                // The end of the rule's time says, like a client that leaves, only how long it would have taken at least.
                if !limits.are_over() {
                    self.failed(endpoint, attempt);
                }
                After::Refuse(Answer::refusal(504, format!("{}: no response in time", named(endpoint))))
            }
            Failure::Client(answer) => {
                attempt.end_without_outcome();
                After::Refuse(answer)
            }
            Failure::ClientGone => After::Abort,
        }
    }

    /// Ejects an endpoint whose outcomes stand out.
    fn judge(&self, endpoint: &Endpoint) {
        if !self.backend.ejects {
            return;
        }
        if let Some((time, why)) = self.backend.balancer.judge(endpoint) {
            self.connection.core.shared.metrics.ejections.inc();
            tracing::warn!(endpoint = &*endpoint.id, address = &*endpoint.address, ?time, "an endpoint is ejected: {why}");
        }
    }

    /// To what the response answers, as far as its framing depends on that.
    pub(crate) fn response_to(&self) -> ResponseTo {
        if self.head.method() == "HEAD" { ResponseTo::Head } else { ResponseTo::Other }
    }

    /// The version that the client speaks.
    pub(crate) const fn version(&self) -> Version {
        self.head.version()
    }
}

enum After {
    Refuse(Box<Answer>),
    Repeat(String),
    Abort,
}

fn named(endpoint: &Endpoint) -> String {
    format!("endpoint {} ({})", endpoint.id, endpoint.address)
}

fn broken(endpoint: &Endpoint, reason: &str) -> Box<Answer> {
    Answer::refusal(502, format!("{} failed: {reason}", named(endpoint)))
}

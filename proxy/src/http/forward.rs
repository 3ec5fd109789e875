//! From a rule to an endpoint's response: choose, connect, send, and try again where that is safe.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout_at};

use crate::balance::Endpoint;
use crate::endpoint::Attempt;
use crate::http::answer::Refusal;
use crate::http::body::{BodyError, Counted, EndpointBody, Lease, Patience, RequestBody, ResponseBody};
use crate::http::connect::{self, Connected};
use crate::http::route::StartTunnel;
use crate::http::sent::Sent;
use crate::http::serve::Connection;
use crate::http::{answer, expect, headers, upgrade};
use crate::metrics::{Metrics, RetryGuard};
use crate::outlier::Outcome;
use crate::pool::Sender;
use crate::table::{Action, Backend, CompiledRule, Table, Target};
use crate::tail::Record;

/// Endpoints that one request may try.
const ATTEMPTS: usize = 3;

/// A request that goes to an endpoint.
pub(crate) struct Job<'a> {
    /// The client's connection.
    pub(crate) connection: &'a Arc<Connection>,
    /// The table that the request began with.
    pub(crate) table: &'a Table,
    /// The rule that it matched.
    pub(crate) rule: &'a Arc<CompiledRule>,
    /// The protocol that the client wants to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Time-outs of one request.
pub(super) struct Limits {
    pub(super) connect: Option<Duration>,
    first_byte: Option<Duration>,
    idle: Option<Duration>,
    pub(super) deadline: Option<Instant>,
}

/// Why an attempt gave no response.
pub(super) enum Failure {
    /// No connection could be made: nothing was sent.
    Connect { reason: String, slow: bool },
    /// This proxy ran short of descriptors, ports or memory: nothing was sent.
    Local(String),
    /// The connection closed before it took anything: nothing was sent.
    Stale(Box<Request<RequestBody>>),
    /// A connection that had been used before closed without a single byte of a response.
    Unanswered(String),
    /// The endpoint failed after it may have begun to work.
    Broken(String),
    /// The client's own body broke off, or did not come in time.
    Client(StatusCode, String),
    /// Nothing came in time.
    Timeout(&'static str),
}

type Answer = Response<ResponseBody>;

impl Limits {
    /// Why there is no connection in time: the endpoint's fault, or the end of the rule's own time.
    pub(super) fn connect_failure(&self) -> Failure {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Failure::Timeout("the rule's time was over before there was a connection");
        }
        Failure::Connect { reason: "no connection in time".to_owned(), slow: true }
    }

    /// Ready when the response to a request with a body is late: the wait for its first byte begins when the body has
    /// gone, for until then the body has its own time-outs.
    async fn late_after(&self, sent: &Sent) {
        let first_byte = async {
            sent.finished().await;
            match self.first_byte {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        match self.deadline {
            Some(deadline) => timeout_at(deadline, first_byte).await.unwrap_or_default(),
            None => first_byte.await,
        }
    }
}

/// What a request got from an endpoint.
struct Responded {
    response: Response<Incoming>,
    attempt: Attempt,
    sender: Sender,
    /// Under which the connection is kept.
    key: Arc<str>,
}

/// What was tried for one request, and what may still be.
struct Tries<'m> {
    metrics: &'m Arc<Metrics>,
    tried: Vec<Arc<str>>,
    count: u32,
    /// Retries that are paid for, held until the request ends.
    budget: Vec<RetryGuard<'m>>,
    last: Option<Refusal>,
}

impl Tries<'_> {
    /// No connection could be made: another endpoint may be tried. A refusal costs the backend nothing; a connection that
    /// hangs is load, and pays from the budget.
    fn after_no_connection(&mut self, endpoint: &Endpoint, failure: Failure) -> Result<(), Refusal> {
        endpoint.state.refused();
        if endpoint.suspect {
            endpoint.state.exclude_suspect();
        }
        self.metrics.connect_errors.inc();
        self.tried.push(endpoint.id.clone());
        let slow = matches!(failure, Failure::Connect { slow: true, .. });
        let refusal = failed(endpoint, failure);
        if self.tried.len() >= ATTEMPTS || slow && !self.pay() {
            return Err(refusal);
        }
        self.last = Some(refusal);
        self.count += 1;
        Ok(())
    }

    /// A connection closed before it took anything: a new one is made, unless that happens every time.
    fn after_stale(&mut self, backend: &str) -> Result<(), Refusal> {
        self.count += 1;
        if usize::try_from(self.count).unwrap_or(usize::MAX) > 2 * ATTEMPTS {
            return Err(answer::refuse(StatusCode::BAD_GATEWAY, format!("an endpoint of {backend} closes every connection")));
        }
        Ok(())
    }

    /// Whether a request that may be repeated is, once, out of the budget.
    fn may_repeat(&mut self) -> bool {
        let may = self.count == 0 && self.pay();
        self.count += 1;
        may
    }

    fn pay(&mut self) -> bool {
        self.metrics.retry().map(|guard| self.budget.push(guard)).is_some()
    }
}

/// A request on its way.
struct Outgoing {
    request: Request<RequestBody>,
    /// Whether it may be sent again after it may have been received.
    replayable: bool,
    /// How far its body has come, if it has one.
    sent: Option<Arc<Sent>>,
}

impl Job<'_> {
    /// Runs the request, which is taken once there is somebody to send it to.
    pub(crate) async fn run(
        self,
        request: &mut Option<Request<Incoming>>,
        record: &mut Option<Box<Record>>,
        upgraded: &mut Option<StartTunnel>,
    ) -> Result<Answer, Refusal> {
        let (name, backend) = self.backend()?;
        let limits = self.limits(backend);
        let Some(mut request) = request.take() else { return Err(answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the request was taken already")) };
        let client = self.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, incoming) = request.into_parts();
        let replayable = incoming.is_end_stream() && is_idempotent(&parts.method);
        let (request, sent) = outgoing(parts, incoming, &limits, self.rule);
        let outgoing = Outgoing { request, replayable, sent: sent.clone() };
        let Responded { response, attempt, sender, key } = self.attempts(name, backend, &limits, outgoing, record).await?;
        let lease = Lease { sender, pool: self.connection.core.pool.clone(), address: key, sent };
        check_coding(response.headers()).map_err(|reason| answer::refuse(StatusCode::BAD_GATEWAY, reason))?;
        Ok(self.respond(response, lease, attempt, &limits, client, upgraded))
    }

    /// One of the rule's backends that has an endpoint which takes requests, by their shares.
    fn backend(&self) -> Result<(&str, &Backend), Refusal> {
        let Action::Forward { targets } = &self.rule.action else {
            return Err(answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the rule goes nowhere"));
        };
        let usable = |target: &&Target| self.table.backends.get(&target.backend).is_some_and(|backend| !backend.balancer.is_empty());
        let chosen = choose(targets.iter().filter(usable));
        let found = chosen.and_then(|target| Some((&*target.backend, &**self.table.backends.get(&target.backend)?)));
        found.ok_or_else(|| answer::refuse(StatusCode::SERVICE_UNAVAILABLE, self.nobody(targets)))
    }

    fn nobody(&self, targets: &[Target]) -> String {
        let told = targets.iter().map(|target| match self.table.backends.get(&target.backend) {
            Some(backend) if !backend.endpoints.is_empty() => {
                format!("no endpoint in backend {} takes requests: all {} drain or have weight 0", target.backend, backend.endpoints.len())
            }
            _ => format!("no endpoint in backend {}", target.backend),
        });
        let told: Vec<String> = told.collect();
        told.join("; ")
    }

    fn limits(&self, backend: &Backend) -> Limits {
        Limits {
            connect: backend.timeouts.connect.enabled(),
            first_byte: self.rule.first_byte.unwrap_or(backend.timeouts.first_byte).enabled(),
            idle: self.rule.idle.unwrap_or(backend.timeouts.idle).enabled(),
            deadline: self.rule.request_timeout.map(|limit| Instant::now() + limit),
        }
    }

    /// Tries endpoints until one responds or no further try is safe.
    async fn attempts(
        &self,
        name: &str,
        backend: &Backend,
        limits: &Limits,
        outgoing: Outgoing,
        record: &mut Option<Box<Record>>,
    ) -> Result<Responded, Refusal> {
        let Outgoing { mut request, replayable, sent } = outgoing;
        let mut tries = Tries { metrics: &self.connection.core.shared.metrics, tried: Vec::new(), count: 0, budget: Vec::new(), last: None };
        let mut again: Option<&Endpoint> = None;
        loop {
            let fresh = again.is_some();
            let chosen = again.take().or_else(|| backend.balancer.pick(&tries.tried));
            let Some(endpoint) = chosen else {
                return Err(tries.last.unwrap_or_else(|| answer::refuse(StatusCode::SERVICE_UNAVAILABLE, format!("no endpoint in backend {name}"))));
            };
            let mut attempt = endpoint.state.begin();
            if let Some(record) = record {
                record.taken(name, endpoint, tries.count);
            }
            let connected = match connect::connection(&self.connection.core, endpoint, limits, fresh).await {
                Ok(connected) => connected,
                Err(failure) => {
                    self.end(backend, endpoint, &mut attempt, limits, &failure);
                    // The rule's own time is over, or this proxy ran short of something: that is not the endpoint's fault.
                    if matches!(failure, Failure::Timeout(_) | Failure::Local(_)) {
                        return Err(failed(endpoint, failure));
                    }
                    tries.after_no_connection(endpoint, failure)?;
                    continue;
                }
            };
            with_host(&mut request, endpoint);
            let Connected { sender, reused, key } = connected;
            let copy = (reused && replayable).then(|| head_of(&request));
            let failure = match self.send(sender, request, reused, limits, sent.as_deref()).await {
                Ok((response, sender)) => {
                    if attempt.end(Outcome::Answered(response.status().as_u16())) {
                        self.judge(backend, endpoint);
                    }
                    return Ok(Responded { response, attempt, sender, key });
                }
                Err(failure) => failure,
            };
            self.end(backend, endpoint, &mut attempt, limits, &failure);
            match failure {
                // The pool's connection had closed; a new one to the same endpoint is no second load on it.
                Failure::Stale(unsent) => {
                    request = *unsent;
                    tries.after_stale(name)?;
                }
                Failure::Unanswered(reason) => match copy.filter(|_| tries.may_repeat()) {
                    Some(copy) => request = copy,
                    None => return Err(failed(endpoint, Failure::Broken(reason))),
                },
                failure => return Err(failed(endpoint, failure)),
            }
            again = Some(endpoint);
        }
    }

    /// An attempt had no response: tells its outcome, if that says something about the endpoint.
    fn end(&self, backend: &Backend, endpoint: &Endpoint, attempt: &mut Attempt, limits: &Limits, failure: &Failure) {
        let is_over = limits.deadline.is_some_and(|deadline| deadline <= Instant::now());
        match failure {
            Failure::Connect { .. } | Failure::Broken(_) => {}
            Failure::Timeout(_) if !is_over => {}
            // The rule's time was over: like a client that leaves, that says how long it would have taken at least.
            Failure::Timeout(_) => return,
            Failure::Stale(_) | Failure::Unanswered(_) | Failure::Client(..) | Failure::Local(_) => return attempt.end_without_outcome(),
        }
        if attempt.end(Outcome::Failed) {
            self.judge(backend, endpoint);
        }
    }

    /// Takes an endpoint out whose outcomes stand out.
    fn judge(&self, backend: &Backend, endpoint: &Endpoint) {
        if !backend.ejects {
            return;
        }
        if let Some((time, why)) = backend.balancer.judge(endpoint) {
            self.connection.core.shared.metrics.ejections.inc();
            tracing::warn!(endpoint = &*endpoint.id, address = &*endpoint.address, ?time, "an endpoint is ejected: {why}");
        }
    }

    async fn send(
        &self,
        mut sender: Sender,
        request: Request<RequestBody>,
        reused: bool,
        limits: &Limits,
        sent: Option<&Sent>,
    ) -> Result<(Response<Incoming>, Sender), Failure> {
        let sending = sender.try_send_request(request);
        let result = match sent {
            None => match limits.first_byte.map(|limit| Instant::now() + limit).into_iter().chain(limits.deadline).min() {
                Some(limit) => timeout_at(limit, sending).await.map_err(|_| Failure::Timeout("no response in time"))?,
                None => sending.await,
            },
            Some(sent) => tokio::select! {
                result = sending => result,
                () = limits.late_after(sent) => return Err(Failure::Timeout("no response in time")),
            },
        };
        match result {
            Ok(response) => Ok((response, sender)),
            Err(mut error) => Err(match error.take_message() {
                Some(request) => Failure::Stale(Box::new(request)),
                None => classify(error.error(), reused),
            }),
        }
    }

    fn respond(
        &self,
        response: Response<Incoming>,
        lease: Lease,
        attempt: Attempt,
        limits: &Limits,
        client: Option<hyper::upgrade::OnUpgrade>,
        upgraded: &mut Option<StartTunnel>,
    ) -> Answer {
        let (mut parts, incoming) = response.into_parts();
        let received = parts.version;
        let protocol = headers::strip_hop_by_hop(&mut parts.headers);
        headers::clean_trailer_names(&mut parts.headers);
        headers::via(&mut parts.headers, received);
        self.rule.response_headers.apply(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(parts, incoming, attempt, client, protocol, upgraded);
        }
        let body = EndpointBody { incoming, lease: Some(lease), patience: Patience::new(limits.idle, limits.deadline), attempt };
        Response::from_parts(parts, ResponseBody::endpoint(body))
    }

    fn switch(
        &self,
        mut parts: http::response::Parts,
        incoming: Incoming,
        attempt: Attempt,
        client: Option<hyper::upgrade::OnUpgrade>,
        protocol: Option<HeaderValue>,
        upgraded: &mut Option<StartTunnel>,
    ) -> Answer {
        let offered = self.upgrade.as_ref().and_then(|offered| offered.to_str().ok()).unwrap_or_default();
        let chosen = protocol.as_ref().and_then(|protocol| protocol.to_str().ok()).unwrap_or_default();
        let was_offered = offered.split(", ").any(|offered| offered.eq_ignore_ascii_case(chosen));
        let Some(client) = client.filter(|_| was_offered) else {
            let mut refused = answer::plain(StatusCode::BAD_GATEWAY, "the endpoint switched to a protocol that it was not asked for");
            self.rule.response_headers.apply(refused.headers_mut());
            return refused;
        };
        let endpoint = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
        if let Some(protocol) = protocol {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        let connection = self.connection.clone();
        *upgraded = Some(Box::new(move |counted: Counted| {
            tokio::spawn(upgrade::tunnel(client, endpoint, connection, (counted, attempt)));
        }));
        Response::from_parts(parts, ResponseBody::own(""))
    }
}

/// The request as the endpoint gets it, and how far its body has come.
fn outgoing(mut parts: http::request::Parts, incoming: Incoming, limits: &Limits, rule: &Arc<CompiledRule>) -> (Request<RequestBody>, Option<Arc<Sent>>) {
    if incoming.is_end_stream() {
        return (Request::from_parts(parts, RequestBody::Empty), None);
    }
    if incoming.size_hint().exact().is_none() {
        // Without it a GET's body of unknown length would be left out.
        parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let sent = Sent::begin();
    let (gate, open) = expect::expects_continue(&parts.headers).then(expect::gate).unzip();
    let patience = Patience::new(limits.idle, limits.deadline);
    let body = RequestBody::client(incoming, patience, gate, sent.clone(), rule.clone());
    let mut request = Request::from_parts(parts, body);
    if let Some(open) = open {
        hyper::ext::on_informational(&mut request, move |response| open(response.status()));
    }
    (request, Some(sent))
}

/// A target by its share.
fn choose<'t>(mut targets: impl Iterator<Item = &'t Target> + Clone) -> Option<&'t Target> {
    let total: u64 = targets.clone().map(|target| target.weight).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = fastrand::u64(0..total);
    targets.find(|target| {
        let hit = ticket < target.weight;
        ticket = ticket.saturating_sub(target.weight);
        hit
    })
}

/// Only HTTP/1.0 may come without a host; whoever gets HTTP/1.1 needs one.
fn with_host(request: &mut Request<RequestBody>, endpoint: &Endpoint) {
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(&*endpoint.address)
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// Only `chunked` is taken off and put on again here; of another coding the endpoint's or client's word would be lost.
pub(crate) fn check_coding(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let only_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.all(only_chunked) { Ok(()) } else { Err("a transfer coding other than chunked") }
}

/// Methods that may be sent twice (RFC 9110, 9.2.2).
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE].contains(method)
}

/// A copy of a request without a body.
fn head_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    let (method, uri, headers): (&Method, &Uri, &HeaderMap) = (request.method(), request.uri(), request.headers());
    *copy.method_mut() = method.clone();
    *copy.uri_mut() = uri.clone();
    *copy.headers_mut() = headers.clone();
    copy
}

fn classify(error: &hyper::Error, reused: bool) -> Failure {
    if let Some(failure) = client_body(error) {
        return failure;
    }
    let reason = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).last().map_or_else(|| error.to_string(), ToString::to_string);
    let unanswered = error.is_incomplete_message() || error.is_closed() || error.is_canceled() || io_reset(error);
    if reused && unanswered { Failure::Unanswered(reason) } else { Failure::Broken(reason) }
}

/// Whether it was the client's body that failed, and how to answer.
fn client_body(error: &hyper::Error) -> Option<Failure> {
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let status = match causes.find_map(|cause| cause.downcast_ref::<BodyError>()) {
        Some(BodyError::Idle(limit)) => return Some(Failure::Client(StatusCode::REQUEST_TIMEOUT, format!("nothing of the request's body came for {limit:?}"))),
        Some(BodyError::Deadline) => return Some(Failure::Timeout("the request took longer than its rule allows")),
        Some(_) => StatusCode::BAD_REQUEST,
        None if error.is_user() => StatusCode::BAD_REQUEST,
        None => return None,
    };
    Some(Failure::Client(status, "the request's body broke off".to_owned()))
}

fn io_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&io.kind())))
}

fn failed(endpoint: &Endpoint, failure: Failure) -> Refusal {
    let who = format!("endpoint {} ({})", endpoint.id, endpoint.address);
    match failure {
        Failure::Local(reason) => answer::refuse(StatusCode::SERVICE_UNAVAILABLE, format!("this proxy cannot connect to anything now: {reason}")),
        Failure::Connect { reason, slow: true } => answer::refuse(StatusCode::GATEWAY_TIMEOUT, format!("{who}: {reason}")),
        Failure::Connect { reason, .. } => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} could not be reached: {reason}")),
        Failure::Unanswered(reason) | Failure::Broken(reason) => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} failed: {reason}")),
        Failure::Stale(_) => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} closed the connection")),
        Failure::Client(status, reason) => answer::refuse(status, reason),
        Failure::Timeout(reason) => answer::refuse(StatusCode::GATEWAY_TIMEOUT, format!("{who}: {reason}")),
    }
}

//! From a rule to an endpoint's response: choose, connect, send, and try again where that is safe.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::balance::Endpoint;
use crate::http::answer::Refusal;
use crate::http::body::{Counted, EndpointBody, Lease, Patience, RequestBody, ResponseBody};
use crate::http::route::StartTunnel;
use crate::http::serve::Connection;
use crate::http::{answer, expect, headers, upgrade};
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
    pub(crate) table: &'a Arc<Table>,
    /// The rule that it matched.
    pub(crate) rule: &'a Arc<CompiledRule>,
    /// The protocol that the client wants to switch to.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Time-outs of one request.
struct Limits {
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    idle: Option<Duration>,
    deadline: Option<Instant>,
}

/// Why an attempt gave no response.
enum Failure {
    /// No connection could be made: nothing was sent.
    Connect { reason: String, slow: bool },
    /// The connection closed before it took anything: nothing was sent.
    Stale(Box<Request<RequestBody>>),
    /// A connection that had been used before closed without a single byte of a response.
    Unanswered(String),
    /// The endpoint failed after it may have begun to work.
    Broken(String),
    /// The client's own body broke off.
    Client,
    /// Nothing came in time.
    Timeout(&'static str),
}

type Answer = Response<ResponseBody>;

impl Job<'_> {
    /// Runs the request.
    pub(crate) async fn run(
        self,
        mut request: Request<Incoming>,
        record: &mut Option<Box<Record>>,
        upgraded: &mut Option<StartTunnel>,
    ) -> Result<Answer, Refusal> {
        let (name, backend) = self.backend()?;
        let limits = self.limits(&backend);
        let client = self.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, incoming) = request.into_parts();
        let replayable = incoming.is_end_stream() && is_idempotent(&parts.method) && client.is_none();
        let (request, sent) = outgoing(parts, incoming, &limits);
        let (response, endpoint, lease) = self.attempts(&name, &backend, &limits, request, replayable, record).await?;
        let in_flight = endpoint.1;
        let lease = Lease { sender: lease, pool: self.connection.core.pool.clone(), address: endpoint.0.address.clone(), request_done: sent };
        Ok(self.respond(response, lease, in_flight, &limits, client, upgraded))
    }

    /// One of the rule's backends that has an endpoint which takes requests, by their shares.
    fn backend(&self) -> Result<(Arc<str>, Arc<Backend>), Refusal> {
        let Action::Forward { targets, total } = &self.rule.action else {
            return Err(answer::refuse(StatusCode::INTERNAL_SERVER_ERROR, "the rule goes nowhere"));
        };
        let usable = |target: &&Target| self.table.backends.get(&target.backend).is_some_and(|backend| !backend.balancer.is_empty());
        let chosen = choose(targets, *total).filter(usable).or_else(|| {
            let rest: Vec<&Target> = targets.iter().filter(|target| target.weight > 0).filter(usable).collect();
            rest.get(fastrand::usize(0..rest.len().max(1))).copied()
        });
        let found = chosen.and_then(|target| Some((target.backend.clone(), self.table.backends.get(&target.backend)?.clone())));
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
        mut request: Request<RequestBody>,
        replayable: bool,
        record: &mut Option<Box<Record>>,
    ) -> Result<(Response<Incoming>, (Endpoint, crate::endpoint::InFlight), Sender), Refusal> {
        let metrics = &self.connection.core.shared.metrics;
        let mut tried: Vec<Arc<str>> = Vec::new();
        let mut retries = 0;
        let mut budget = Vec::new();
        let mut fresh = false;
        let mut again: Option<Endpoint> = None;
        let mut last = None;
        loop {
            let chosen = again.take().or_else(|| backend.balancer.pick(&tried).cloned());
            let Some(endpoint) = chosen else {
                return Err(last.unwrap_or_else(|| answer::refuse(StatusCode::SERVICE_UNAVAILABLE, format!("no endpoint in backend {name}"))));
            };
            let in_flight = endpoint.state.begin();
            if let Some(record) = record {
                record.taken(name, &endpoint, retries);
            }
            let (sender, reused) = match self.sender(&endpoint, limits, fresh).await {
                Ok(found) => found,
                Err(failure) => {
                    endpoint.state.refused();
                    metrics.connect_errors.inc();
                    tried.push(endpoint.id.clone());
                    let slow = matches!(failure, Failure::Connect { slow: true, .. });
                    last = Some(failed(&endpoint, failure));
                    // A refusal costs the backend nothing; a connection that hangs is load, and pays from the budget.
                    let allowed = tried.len() < ATTEMPTS && (!slow || metrics.retry().map(|guard| budget.push(guard)).is_some());
                    if !allowed {
                        return Err(last.unwrap_or_else(|| answer::refuse(StatusCode::BAD_GATEWAY, "no endpoint could be reached")));
                    }
                    retries += 1;
                    continue;
                }
            };
            let copy = (reused && replayable).then(|| head_of(&request));
            match self.send(sender, request, reused, limits).await {
                Ok((response, sender)) => return Ok((response, (endpoint, in_flight), sender)),
                Err(Failure::Stale(unsent)) => {
                    // The pool's connection had closed; a new one to the same endpoint is no second load on it.
                    (request, fresh, again) = (*unsent, true, Some(endpoint));
                    retries += 1;
                    if retries > 2 * u32::try_from(ATTEMPTS).unwrap_or(3) {
                        return Err(answer::refuse(StatusCode::BAD_GATEWAY, format!("endpoint {name} closes every connection")));
                    }
                }
                Err(Failure::Unanswered(reason)) => {
                    let retry = copy.filter(|_| retries == 0).zip(metrics.retry());
                    let Some((copy, guard)) = retry else { return Err(failed(&endpoint, Failure::Broken(reason))) };
                    budget.push(guard);
                    (request, fresh, again) = (copy, true, Some(endpoint));
                    retries += 1;
                }
                Err(failure) => return Err(failed(&endpoint, failure)),
            }
        }
    }

    /// A connection to an endpoint, and whether it was used before.
    async fn sender(&self, endpoint: &Endpoint, limits: &Limits, fresh: bool) -> Result<(Sender, bool), Failure> {
        let core = &self.connection.core;
        while let Some(mut sender) = core.pool.take(&endpoint.address).filter(|_| !fresh) {
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Ok((sender, true));
            }
        }
        let connecting = connect(endpoint);
        let limit = limits.connect.map(|limit| Instant::now() + limit).into_iter().chain(limits.deadline).min();
        let stream = match limit {
            Some(limit) => timeout_at(limit, connecting).await.map_err(|_| Failure::Connect { reason: "no connection in time".to_owned(), slow: true })?,
            None => connecting.await,
        };
        let stream = stream.map_err(|error| Failure::Connect { reason: error.to_string(), slow: false })?;
        let broken = |error: hyper::Error| Failure::Connect { reason: error.to_string(), slow: false };
        let (sender, driver) = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await.map_err(broken)?;
        endpoint.state.connected();
        core.shared.metrics.connects.inc();
        tokio::spawn(async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(%error, "a connection to an endpoint broke off");
            }
        });
        Ok((sender, false))
    }

    async fn send(&self, mut sender: Sender, request: Request<RequestBody>, reused: bool, limits: &Limits) -> Result<(Response<Incoming>, Sender), Failure> {
        let bodyless = request.body().is_end_stream();
        let sending = sender.try_send_request(request);
        // With a body, the first byte of the response is awaited once the body has gone; the body has its own time-outs.
        let first_byte = limits.first_byte.filter(|_| bodyless).map(|limit| Instant::now() + limit);
        let result = match first_byte.into_iter().chain(limits.deadline).min() {
            Some(limit) => timeout_at(limit, sending).await.map_err(|_| Failure::Timeout("no response in time"))?,
            None => sending.await,
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
        in_flight: crate::endpoint::InFlight,
        limits: &Limits,
        client: Option<hyper::upgrade::OnUpgrade>,
        upgraded: &mut Option<StartTunnel>,
    ) -> Answer {
        let (mut parts, incoming) = response.into_parts();
        let received = parts.version;
        let protocol = headers::strip_hop_by_hop(&mut parts.headers);
        headers::via(&mut parts.headers, received);
        self.rule.response_headers.apply(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return switch(parts, incoming, in_flight, client, protocol, upgraded);
        }
        let body = EndpointBody { incoming, lease: Some(lease), patience: Patience::new(limits.idle, limits.deadline), in_flight };
        Response::from_parts(parts, ResponseBody::endpoint(body))
    }
}

fn switch(
    mut parts: http::response::Parts,
    incoming: Incoming,
    in_flight: crate::endpoint::InFlight,
    client: Option<hyper::upgrade::OnUpgrade>,
    protocol: Option<HeaderValue>,
    upgraded: &mut Option<StartTunnel>,
) -> Answer {
    let Some(client) = client else { return answer::plain(StatusCode::BAD_GATEWAY, "the endpoint switched protocols without being asked") };
    let endpoint = hyper::upgrade::on(Response::from_parts(parts.clone(), incoming));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    *upgraded = Some(Box::new(move |counted: Counted| {
        tokio::spawn(upgrade::tunnel(client, endpoint, (counted, in_flight)));
    }));
    Response::from_parts(parts, ResponseBody::own(""))
}

/// The request as the endpoint gets it, and the flag that says that its body was passed on whole.
fn outgoing(parts: http::request::Parts, incoming: Incoming, limits: &Limits) -> (Request<RequestBody>, Option<Arc<AtomicBool>>) {
    if incoming.is_end_stream() {
        return (Request::from_parts(parts, RequestBody::Empty), None);
    }
    let done = Arc::new(AtomicBool::new(false));
    let waits = expect::expects_continue(&parts.headers);
    let (gate, open) = expect::gate();
    let patience = Patience::new(limits.idle, limits.deadline);
    let body = RequestBody::client(incoming, patience, waits.then_some(gate), done.clone());
    let mut request = Request::from_parts(parts, body);
    if waits {
        hyper::ext::on_informational(&mut request, move |response| open(response.status()));
    }
    (request, Some(done))
}

/// A target by its share.
fn choose(targets: &[Target], total: u64) -> Option<&Target> {
    if let [only] = targets {
        return Some(only).filter(|only| only.weight > 0);
    }
    if total == 0 {
        return None;
    }
    let mut ticket = fastrand::u64(0..total);
    targets.iter().find(|target| {
        let hit = ticket < target.weight;
        ticket = ticket.saturating_sub(target.weight);
        hit
    })
}

async fn connect(endpoint: &Endpoint) -> std::io::Result<TcpStream> {
    let stream = match endpoint.socket {
        Some(socket) => TcpStream::connect(socket).await?,
        // Every new connection asks the resolver again, so a changed record is followed when its TTL ends there.
        None => TcpStream::connect(&*endpoint.address).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
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
    if error.is_user() || is_client_body(error) {
        return Failure::Client;
    }
    let reason = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).last().map_or_else(|| error.to_string(), ToString::to_string);
    let unanswered = error.is_incomplete_message() || error.is_closed() || error.is_canceled() || io_reset(error);
    if reused && unanswered { Failure::Unanswered(reason) } else { Failure::Broken(reason) }
}

fn is_client_body(error: &hyper::Error) -> bool {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source()).any(|cause| cause.is::<crate::http::body::BodyError>())
}

fn io_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&io.kind())))
}

fn failed(endpoint: &Endpoint, failure: Failure) -> Refusal {
    let who = format!("endpoint {} ({})", endpoint.id, endpoint.address);
    match failure {
        Failure::Connect { reason, slow: true } => answer::refuse(StatusCode::GATEWAY_TIMEOUT, format!("{who}: {reason}")),
        Failure::Connect { reason, .. } => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} could not be reached: {reason}")),
        Failure::Unanswered(reason) | Failure::Broken(reason) => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} failed: {reason}")),
        Failure::Stale(_) => answer::refuse(StatusCode::BAD_GATEWAY, format!("{who} closed the connection")),
        Failure::Client => answer::refuse(StatusCode::BAD_REQUEST, "the request's body broke off"),
        Failure::Timeout(reason) => answer::refuse(StatusCode::GATEWAY_TIMEOUT, format!("{who}: {reason}")),
    }
}

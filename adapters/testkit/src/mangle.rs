//! A relay that makes a server's watches unreliable: their events are lost, repeated, late or stale, and lists are empty or incomplete.
//! Consistent reads stay correct. All anomalies have been observed on real clusters.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::unfold;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The protocol of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC; watches are the streams with a path that ends in `/Watch`.
    Grpc,
    /// HTTP/1.1; watches are requests with an `index`, answered by a JSON list and an `X-Consul-Index`.
    BlockingQueries,
    /// Packets with a length prefix; watches are those with the transaction id −1.
    Packets,
}

/// The fault of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    Lost,
    Twice,
    Late(Duration),
    /// An older message is repeated after it.
    Yesterday,
}

#[derive(Debug)]
struct Plan {
    random: Mutex<fastrand::Rng>,
    on: AtomicBool,
    /// Whether every list is empty, also one that is read consistently.
    empty: AtomicBool,
    harms: AtomicU64,
}

impl Plan {
    fn next(&self) -> Harm {
        if !self.on.load(Ordering::Relaxed) {
            return Harm::None;
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let harm = match random.u8(0..100) {
            0..15 => Harm::Lost,
            15..25 => Harm::Twice,
            25..35 => Harm::Late(Duration::from_millis(random.u64(20..600))),
            35..45 => Harm::Yesterday,
            _ => Harm::None,
        };
        self.harms.fetch_add(u64::from(harm != Harm::None), Ordering::Relaxed);
        harm
    }

    fn below(&self, end: usize) -> usize {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).usize(0..end)
    }
}

/// A relay between client and server.
#[derive(Debug)]
pub struct Mangler {
    address: SocketAddr,
    plan: Arc<Plan>,
    task: JoinHandle<()>,
}

impl Mangler {
    /// A relay in front of `target`, which is `host:port`. It changes nothing before [`Mangler::harm`].
    ///
    /// # Panics
    /// No port is free.
    pub async fn before(target: &str, protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let plan = Arc::new(Plan { random: Mutex::default(), on: AtomicBool::new(false), empty: AtomicBool::new(false), harms: AtomicU64::new(0) });
        let (shared, target) = (plan.clone(), target.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                drop((near.set_nodelay(true), far.set_nodelay(true)));
                let plan = shared.clone();
                match protocol {
                    Protocol::Grpc => drop(tokio::spawn(grpc(near, far, plan))),
                    Protocol::BlockingQueries => drop(tokio::spawn(queries(near, far, plan))),
                    Protocol::Packets => drop(tokio::spawn(packets(near, far, plan))),
                }
            }
        });
        Self { address, plan, task }
    }

    /// The address for clients.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Starts the faults; the seed determines them.
    pub fn harm(&self, seed: u64) {
        *self.plan.random.lock().unwrap_or_else(PoisonError::into_inner) = fastrand::Rng::with_seed(seed);
        self.plan.on.store(true, Ordering::Relaxed);
    }

    /// Makes every list of [`Protocol::BlockingQueries`] empty, even if it is read consistently.
    pub fn empty(&self) {
        self.plan.empty.store(true, Ordering::Relaxed);
    }

    /// Stops the faults; returns their number so far.
    pub fn calm(&self) -> u64 {
        self.plan.empty.store(false, Ordering::Relaxed);
        self.plan.on.store(false, Ordering::Relaxed);
        self.plan.harms.load(Ordering::Relaxed)
    }
}

impl Drop for Mangler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Forwards messages with faults.
struct Teller {
    plan: Arc<Plan>,
    /// Earlier messages.
    old: Vec<Bytes>,
    /// The number of first messages that are forwarded unchanged, because they set up the watch.
    spared: usize,
}

impl Teller {
    /// The messages to forward in place of `piece`, after a possible delay.
    async fn forward(&mut self, piece: Bytes) -> Vec<Bytes> {
        if self.spared > 0 {
            self.spared -= 1;
            return vec![piece];
        }
        let messages = match self.plan.next() {
            Harm::None => vec![piece.clone()],
            Harm::Lost => Vec::new(),
            Harm::Twice => vec![piece.clone(), piece.clone()],
            Harm::Late(pause) => {
                tokio::time::sleep(pause).await;
                vec![piece.clone()]
            }
            Harm::Yesterday if self.old.is_empty() => vec![piece.clone()],
            Harm::Yesterday => vec![piece.clone(), self.old[self.plan.below(self.old.len())].clone()],
        };
        self.old.push(piece);
        if self.old.len() > 50 {
            self.old.remove(0);
        }
        messages
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn grpc(near: TcpStream, far: TcpStream, plan: Arc<Plan>) {
    let Ok((sender, driver)) = client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far)).await else { return };
    tokio::spawn(driver);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut sender, plan) = (sender.clone(), plan.clone());
        async move {
            let watch = request.uri().path().ends_with("/Watch");
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body: Body = if watch { mangled_stream(body, plan) } else { body.boxed() };
            Ok::<_, hyper::Error>(Response::from_parts(parts, body))
        }
    });
    let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
    // Either side may close the connection at any time.
    drop(builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(near), service).await);
}

/// The messages of a gRPC stream, with faults.
fn mangled_stream(mut body: Incoming, plan: Arc<Plan>) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(16);
    tokio::spawn(async move {
        // The first message confirms the watch.
        let mut forwarder = Teller { plan, old: Vec::new(), spared: 1 };
        let mut buffer = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(trailers) => {
                    drop(sender.send(Ok(trailers)).await);
                    continue;
                }
            };
            buffer.extend_from_slice(&data);
            while buffer.len() >= 5 {
                let length = 5 + usize::try_from(u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]])).expect("a length");
                if buffer.len() < length {
                    break;
                }
                for piece in forwarder.forward(buffer.split_to(length).freeze()).await {
                    if sender.send(Ok(Frame::data(piece))).await.is_err() {
                        return;
                    }
                }
            }
        }
    });
    StreamBody::new(unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|frame| (frame, receiver)) })).boxed()
}

async fn queries(near: TcpStream, far: TcpStream, plan: Arc<Plan>) {
    let Ok((sender, driver)) = client::conn::http1::handshake(TokioIo::new(far)).await else { return };
    tokio::spawn(driver);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let old: Arc<Mutex<Vec<(HeaderValue, Bytes)>>> = Arc::default();
    let service = service_fn(move |request: Request<Incoming>| {
        let (sender, plan, old) = (sender.clone(), plan.clone(), old.clone());
        async move {
            let has = |part: &str| request.uri().query().is_some_and(|query| query.contains(part));
            let (watch, list) = (has("index="), has("recurse"));
            let (mut parts, body) = sender.lock().await.send_request(request).await?.into_parts();
            let mut content = body.collect().await?.to_bytes();
            if list && plan.empty.load(Ordering::Relaxed) {
                (parts.status, content) = (StatusCode::OK, Bytes::from_static(b"[]"));
            } else if watch {
                let (otherwise, pause) = mangled_answer(&plan, &old, &mut parts.headers, content);
                content = otherwise;
                tokio::time::sleep(pause).await;
            }
            parts.headers.remove(TRANSFER_ENCODING);
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
            Ok::<_, hyper::Error>(Response::from_parts(parts, Full::new(content).map_err(|never: Infallible| match never {}).boxed()))
        }
    });
    drop(server::conn::http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(near), service).await);
}

/// An answer with its fault, and the delay before it.
fn mangled_answer(plan: &Plan, old: &Mutex<Vec<(HeaderValue, Bytes)>>, headers: &mut HeaderMap, content: Bytes) -> (Bytes, Duration) {
    let Some(index) = headers.get("x-consul-index").cloned() else { return (content, Duration::ZERO) };
    let mut answers = old.lock().unwrap_or_else(PoisonError::into_inner);
    answers.push((index, content.clone()));
    match plan.next() {
        Harm::None => (content, Duration::ZERO),
        Harm::Late(pause) => (content, pause),
        // As in an election: for a moment the list is empty or incomplete.
        Harm::Lost if plan.below(2) == 0 => (Bytes::from_static(b"[]"), Duration::ZERO),
        Harm::Lost => (half(&content), Duration::ZERO),
        // As from servers that were restored or lag behind.
        Harm::Yesterday => {
            let (index, body) = answers[plan.below(answers.len())].clone();
            headers.insert("x-consul-index", index);
            (body, Duration::ZERO)
        }
        // As if the index was lost.
        Harm::Twice => {
            headers.insert("x-consul-index", HeaderValue::from_static(if plan.below(2) == 0 { "0" } else { "1" }));
            (content, Duration::ZERO)
        }
    }
}

/// The first half of a JSON list of flat objects.
fn half(list: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(list);
    let ends: Vec<usize> = text.match_indices("},").map(|(at, _)| at).collect();
    ends.get(ends.len() / 2).map_or_else(|| Bytes::from_static(b"[]"), |end| Bytes::from(format!("{}}}]", &text[..*end])))
}

async fn packets(near: TcpStream, far: TcpStream, plan: Arc<Plan>) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    tokio::spawn(async move { drop(tokio::io::copy(&mut from_near, &mut to_far).await) });
    let mut forwarder = Teller { plan, old: Vec::new(), spared: 0 };
    let mut buffer = BytesMut::new();
    while from_far.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
        while buffer.len() >= 8 {
            let (mut head, mut id) = (&buffer[..4], &buffer[4..8]);
            let length = 4 + usize::try_from(head.get_u32()).expect("a length");
            if buffer.len() < length {
                break;
            }
            let event = id.get_i32() == -1;
            let packet = buffer.split_to(length).freeze();
            let pieces = if event { forwarder.forward(packet).await } else { vec![packet] };
            for piece in pieces {
                if to_near.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
    }
}

//! Requests on keep-alive connections: one after the other on each, as fast as they are answered or at a fixed pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::origin::{head_end, header};

/// A response as received.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name.as_bytes())
    }
}

/// A keep-alive connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: Vec::with_capacity(70_000) }
    }

    /// Sends one request and reads its whole response. A broken connection is an error, and the next request opens a new one.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Response, String> {
        let result = tokio::time::timeout(Duration::from_secs(10), self.exchange(request)).await;
        let result = result.unwrap_or_else(|_| Err("no response within 10 s".to_owned()));
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<Response, String> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await.map_err(|error| format!("connect: {error}"))?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().expect("a connection");
        stream.write_all(request).await.map_err(|error| format!("write: {error}"))?;
        self.buffer.clear();
        let end = loop {
            if stream.read_buf(&mut self.buffer).await.map_err(|error| format!("read: {error}"))? == 0 {
                return Err(format!("closed after {} bytes", self.buffer.len()));
            }
            if let Some(end) = head_end(&self.buffer) {
                break end;
            }
        };
        let head = self.buffer[..end].to_vec();
        if header(&head, b"transfer-encoding").is_some() {
            // The content of such a body is ignored; only its end is searched.
            while !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
                if stream.read_buf(&mut self.buffer).await.map_err(|error| format!("read: {error}"))? == 0 {
                    return Err("closed in the middle of a body".to_owned());
                }
            }
            return Ok(Response { status: 200, head, body: Vec::new() });
        }
        let length: usize = header(&head, b"content-length").and_then(|length| length.parse().ok()).ok_or("a response without length")?;
        while self.buffer.len() < end + length {
            if stream.read_buf(&mut self.buffer).await.map_err(|error| format!("read: {error}"))? == 0 {
                return Err("closed in the middle of a body".to_owned());
            }
        }
        if header(&head, b"connection").is_some_and(|option| option.eq_ignore_ascii_case("close")) {
            self.stream = None;
        }
        let status = std::str::from_utf8(&head).ok().and_then(|head| head.get(9..12)).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Response { status, head, body: self.buffer[end..end + length].to_vec() })
    }
}

/// Supplies the requests of a connection, and checks the responses.
pub(crate) trait Check: Send + 'static {
    /// The next request.
    fn next(&mut self) -> Arc<[u8]>;
    /// Checks a response; the error describes what is wrong.
    fn check(&mut self, response: &Response) -> Result<(), String>;
}

/// The results of a load.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) failures: Vec<String>,
    /// For each response, when it was complete and how long it took.
    pub(crate) latencies: Vec<(Instant, Duration)>,
}

/// A load that runs until [`Load::finish`].
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<Outcome>>,
}

impl Load {
    /// Starts a thread that drives all connections. With `pace` each connection sends one request per that time, otherwise as fast as
    /// possible.
    pub(crate) fn start<C: Check>(address: SocketAddr, pace: Option<Duration>, checks: Vec<C>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let count = u32::try_from(checks.len()).expect("few connections");
                let tasks = checks.into_iter().enumerate().map(|(number, check)| {
                    let lag = pace.unwrap_or_default() * u32::try_from(number).expect("few") / count.max(1);
                    tokio::spawn(drive(Client::new(address), check, pace, lag, stopped.clone()))
                });
                let mut all = Outcome::default();
                for task in tasks.collect::<Vec<_>>() {
                    let mut one = task.await.expect("a connection's task");
                    all.sent += one.sent;
                    all.failures.append(&mut one.failures);
                    all.latencies.append(&mut one.latencies);
                }
                all
            })
        });
        Self { stop, threads: vec![thread] }
    }

    /// Ends the load; returns its results.
    pub(crate) fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads {
            let mut one = thread.join().expect("a load's thread");
            all.sent += one.sent;
            all.failures.append(&mut one.failures);
            all.latencies.append(&mut one.latencies);
        }
        all
    }
}

async fn drive<C: Check>(mut client: Client, mut check: C, pace: Option<Duration>, lag: Duration, stop: Arc<AtomicBool>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut tick = pace.map(|pace| {
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + lag, pace);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        tick
    });
    while !stop.load(Ordering::Relaxed) {
        // The time counts from when the request was due, so that requests which wait behind a stall include the wait.
        let due = match &mut tick {
            Some(tick) => Some(tick.tick().await.into_std()),
            None => None,
        };
        let request = check.next();
        let begun = due.unwrap_or_else(Instant::now);
        let result = client.ask(&request).await.and_then(|response| check.check(&response));
        outcome.latencies.push((Instant::now(), begun.elapsed()));
        outcome.sent += 1;
        if let Err(why) = result {
            outcome.failures.push(why);
        }
    }
    outcome
}

/// Repeats one request; any status except 200 is a failure.
#[derive(Debug, Clone)]
pub(crate) struct Same(pub(crate) Arc<[u8]>);

impl Same {
    pub(crate) fn get(host: &str) -> Self {
        Self(format!("GET /bench HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n").into_bytes().into())
    }
}

impl Check for Same {
    fn next(&mut self) -> Arc<[u8]> {
        self.0.clone()
    }

    fn check(&mut self, response: &Response) -> Result<(), String> {
        if response.status == 200 { Ok(()) } else { Err(format!("status {}", response.status)) }
    }
}

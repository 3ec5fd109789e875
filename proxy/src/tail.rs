//! The access log and the live tail: one JSON line per request, encoded only if there is a reader.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::config::AccessLog;
use crate::metrics::Metrics;

/// Maximum lines that wait for the disk; further ones are dropped and counted.
const LINE_QUEUE_LENGTH: usize = 8_192;
/// Maximum lines that a slow tail may lag behind before it misses some.
const MAX_TAIL_LAG: usize = 1_024;

/// Writes the records of requests to the log and the tail.
#[derive(Debug)]
pub(crate) struct Tail {
    live: broadcast::Sender<Arc<str>>,
    log: Option<SyncSender<Arc<str>>>,
    metrics: Arc<Metrics>,
}

impl Tail {
    /// Starts the writer of the access log, if `log` is set.
    pub(crate) fn new(log: Option<AccessLog>, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let log = log.map(start_writer).transpose()?;
        Ok(Self { live: broadcast::channel(MAX_TAIL_LAG).0, log, metrics })
    }

    /// Whether there is any reader.
    pub(crate) fn wanted(&self) -> bool {
        self.log.is_some() || self.live.receiver_count() > 0
    }

    /// Follows the records from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<str>> {
        self.live.subscribe()
    }

    fn write(&self, record: &Line) {
        let Ok(line) = serde_json::to_string(record) else { return };
        let line: Arc<str> = line.into();
        if let Some(log) = &self.log
            && log.try_send(line.clone()).is_err()
        {
            self.metrics.log_dropped.inc();
        }
        // The last follower may have left meanwhile.
        drop(self.live.send(line));
    }
}

fn start_writer(log: AccessLog) -> std::io::Result<SyncSender<Arc<str>>> {
    let (sender, receiver) = sync_channel(LINE_QUEUE_LENGTH);
    let open = move || -> std::io::Result<Box<dyn std::io::Write + Send>> {
        match &log {
            AccessLog::Stdout => Ok(Box::new(std::io::stdout())),
            AccessLog::File(path) => Ok(Box::new(std::fs::OpenOptions::new().create(true).append(true).open(path)?)),
        }
    };
    let first = open()?;
    std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_lines(&receiver, first, &open))?;
    Ok(sender)
}

fn write_lines(receiver: &Receiver<Arc<str>>, first: Box<dyn std::io::Write + Send>, open: &dyn Fn() -> std::io::Result<Box<dyn std::io::Write + Send>>) {
    let mut out = std::io::BufWriter::new(first);
    let mut opened = Instant::now();
    while let Ok(line) = receiver.recv() {
        let mut lines = vec![line];
        lines.extend(receiver.try_iter());
        // A renamed log is reopened within a second, without a signal.
        if opened.elapsed().as_secs() >= 1 {
            if let Ok(file) = open() {
                out = std::io::BufWriter::new(file);
            }
            opened = Instant::now();
        }
        let written = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        if let Err(error) = written {
            tracing::warn!(%error, "the access log could not be written; free some space or correct --access-log");
        }
    }
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    time: f64,
    method: String,
    host: String,
    path: String,
    status: u16,
    bytes: u64,
    seconds: f64,
    client: String,
    listener: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    route: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    backend: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    endpoint: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(skip_serializing_if = "is_zero")]
    retries: u32,
    version: String,
    /// Why the request was refused before it was routed.
    #[serde(skip_serializing_if = "str::is_empty")]
    refused: &'static str,
    /// Whether the body was not transferred completely.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The record of a request in progress; it is written when dropped, however the request ends.
#[derive(Debug)]
pub(crate) struct Record {
    line: Line,
    started: Instant,
    tail: Arc<Tail>,
}

impl Record {
    /// Begins the record of a request.
    pub(crate) fn begin(tail: &Arc<Tail>, method: &str, host: &str, path: &str, client: std::net::IpAddr) -> Box<Self> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let line = Line {
            time,
            method: method.to_string(),
            host: host.to_owned(),
            path: path.to_owned(),
            client: client.to_string(),
            aborted: true,
            ..Line::default()
        };
        Box::new(Self { line, started: Instant::now(), tail: tail.clone() })
    }

    /// Sets how a request that cannot be understood was answered, and why.
    pub(crate) fn refused(&mut self, listener: &str, status: u16, reason: &'static str) {
        listener.clone_into(&mut self.line.listener);
        (self.line.status, self.line.refused, self.line.aborted) = (status, reason, false);
    }

    /// Sets the listener, and the version of the table.
    pub(crate) fn came(&mut self, listener: &str, version: &str) {
        (self.line.listener, self.line.version) = (listener.to_owned(), version.to_owned());
    }

    /// Sets the route.
    pub(crate) fn routed(&mut self, route: &str) {
        self.line.route = route.to_owned();
    }

    /// Sets the endpoint and the number of retries.
    pub(crate) fn taken(&mut self, backend: &str, endpoint: &crate::balance::Endpoint, retries: u32) {
        (self.line.backend, self.line.endpoint, self.line.retries) = (backend.to_owned(), endpoint.id.to_string(), retries);
        self.line.zone = endpoint.zone.as_deref().unwrap_or_default().to_owned();
    }

    /// Sets the response's status.
    pub(crate) fn status(&mut self, status: u16) {
        self.line.status = status;
    }

    /// Adds transferred bytes of the body.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.line.bytes += u64::try_from(bytes).unwrap_or_default();
    }

    /// Marks the body as transferred completely.
    pub(crate) fn whole(&mut self) {
        self.line.aborted = false;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.line.seconds = self.started.elapsed().as_secs_f64();
        self.tail.write(&self.line);
    }
}

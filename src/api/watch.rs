//! The watch stream: snapshots as deltas, for proxies, and for people with `curl -N`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use waypost_model::snapshot::Snapshot;
use waypost_wire::{Frame, HEARTBEAT_SECONDS, WATCH_PATH, WatchRequest, encode, publication};

use super::asked::JsonBody;
use super::caller::Caller;
use super::context::{Api, lines, refuse};
use super::streams::Streams;
use crate::controller::handle::Handle;
use crate::controller::message::{Input, Upstream};

/// Maximum number of chunks that wait for a slow reader; publications are merged meanwhile.
const CHUNK_QUEUE_LENGTH: usize = 8;
/// Length of a chunk in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// Time after which a complete snapshot in progress no longer counts against the limit.
const ADMISSION_TIME: Duration = Duration::from_secs(10);
/// Highest epoch that is accepted; larger numbers do not survive every JSON reader. It is far above
/// the highest epoch that a claim can cause, so that no claim can lock out other controllers.
const HIGHEST_EPOCH: u64 = 1 << 53;

pub(super) async fn watch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<WatchRequest>,
) -> Response {
    let (what, name) = request.controller.as_ref().map_or(("proxy", &request.name), |controller| ("controller", controller));
    if let Err(message) = waypost_model::key::check_name(what, name) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    if let Err(why) = caller.check_program(request.controller.as_deref(), &request.name) {
        return api.refuse_caller(&caller, StatusCode::FORBIDDEN, why, WATCH_PATH).await;
    }
    if request.highest.is_some_and(|highest| highest.epoch > HIGHEST_EPOCH) {
        return refuse(StatusCode::BAD_REQUEST, format!("no controller has published under an epoch above {HIGHEST_EPOCH}; correct \"highest\""));
    }
    if let Some(refusal) = cut_off(&api.handle, &request) {
        return refusal;
    }
    if request.controller.is_some() {
        return stream(api, request, accepts_gzip(&headers));
    }
    let opened = Input::ProxyOpened { name: request.name.clone(), highest: request.highest.unwrap_or_default(), cluster: request.cluster.clone() };
    if let Err(stopped) = api.handle.send(opened).await {
        return stopped.into_response();
    }
    stream(api, request, accepts_gzip(&headers))
}

/// Whether the caller is better served by another controller: a follower needs the leader, a proxy a controller that has not
/// less than others.
fn is_useless(upstream: &Upstream, request: &WatchRequest) -> bool {
    match upstream {
        Upstream::Through(_) => false,
        Upstream::Nobody => request.controller.is_some(),
        // People see this controller's state.
        Upstream::CutOff => request.controller.is_some() || !request.name.is_empty(),
    }
}

/// Refuses callers for which another controller has newer state: there is a leader that this controller does not receive.
fn cut_off(handle: &Handle, request: &WatchRequest) -> Option<Response> {
    let version = handle.snapshots().borrow().version;
    let has_all = version.sequence == 0 || request.highest.is_some_and(|highest| highest >= version);
    let message = "this controller does not hear the leader and has nothing newer; ask another one, or try again";
    (is_useless(&handle.upstream().borrow(), request) && has_all).then(|| refuse(StatusCode::SERVICE_UNAVAILABLE, message))
}

/// The same for people: the complete snapshot and every change.
pub(super) async fn look(State(api): State<Api>, headers: HeaderMap) -> Response {
    stream(api, WatchRequest::default(), accepts_gzip(&headers))
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut offers = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offers.any(|offer| {
        let (name, weight) = offer.split_once(';').unwrap_or((offer, ""));
        name.trim().eq_ignore_ascii_case("gzip") && weight.trim() != "q=0"
    })
}

fn stream(api: Api, request: WatchRequest, gzip: bool) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(CHUNK_QUEUE_LENGTH);
    tokio::spawn(async move {
        let (name, is_proxy) = (request.name.clone(), request.controller.is_none() && !request.name.is_empty());
        let handle = api.handle.clone();
        tokio::select! {
            () = api.stop.cancelled() => {}
            () = Stream { handle: handle.clone(), streams: api.streams, sender, packer: gzip.then(Packer::default), sent: None }.run(request) => {}
        }
        if is_proxy && handle.send(Input::ProxyClosed(name)).await.is_err() {
            tracing::debug!("the controller stopped before a stream did");
        }
    });
    let mut response = lines(receiver);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Compresses a stream chunk by chunk, so that each chunk can be decoded when it arrives.
#[derive(Debug)]
struct Packer(GzEncoder<Vec<u8>>);

impl Default for Packer {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }
}

impl Packer {
    fn pack(&mut self, piece: &[u8]) -> std::io::Result<Vec<u8>> {
        self.0.write_all(piece)?;
        self.0.flush()?;
        Ok(std::mem::take(self.0.get_mut()))
    }
}

fn same_cluster(request: &WatchRequest, snapshot: &Snapshot) -> bool {
    request.cluster.as_ref() == Some(&snapshot.cluster)
}

/// The reader has disconnected.
struct Closed;

struct Stream {
    handle: Handle,
    streams: Arc<Streams>,
    sender: mpsc::Sender<Bytes>,
    packer: Option<Packer>,
    /// The snapshot that the reader has.
    sent: Option<Arc<Snapshot>>,
}

impl Stream {
    async fn run(mut self, request: WatchRequest) {
        let (mut snapshots, mut upstream) = (self.handle.snapshots(), self.handle.upstream());
        let mut beat = Instant::now();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let done = self.sent.as_ref().is_some_and(|sent| sent.version == snapshot.version);
            // This controller may be behind the leader that this proxy followed before; the proxy is not asked to go back.
            let done = done || same_cluster(&request, &snapshot) && request.highest.is_some_and(|highest| highest > snapshot.version);
            if snapshot.version.sequence > 0 && !done && self.publish(&snapshot, &request).await.is_err() {
                return;
            }
            // Heartbeats are sent at their interval, however often there are publications.
            if Instant::now() >= beat {
                beat = Instant::now() + Duration::from_secs(HEARTBEAT_SECONDS);
                if self.send(&[Frame::Heartbeat(self.handle.heartbeat())]).await.is_err() {
                    return;
                }
            }
            let next = tokio::select! {
                // Its readers are better served by another controller.
                _ = upstream.wait_for(|upstream| is_useless(upstream, &request)) => return,
                next = timeout_at(beat, snapshots.changed()) => next,
            };
            if matches!(next, Ok(Err(_))) {
                return;
            }
            if self.sender.is_closed() {
                return;
            }
        }
    }

    async fn publish(&mut self, snapshot: &Arc<Snapshot>, request: &WatchRequest) -> Result<(), Closed> {
        self.streams.remember(snapshot);
        let base = self.sent.take().or_else(|| self.streams.recent(&snapshot.cluster, request));
        match base {
            Some(base) => {
                let frames = self.adopting(publication(snapshot, Some(&base), &request.bucket_digests));
                self.send(&frames).await?;
            }
            None => self.send_admitted(snapshot, request).await?,
        }
        self.sent = Some(snapshot.clone());
        Ok(())
    }

    /// Names the clusters whose proxies may follow this one.
    fn adopting(&self, mut frames: Vec<Frame>) -> Vec<Frame> {
        if let Some(Frame::Begin(begin)) = frames.first_mut() {
            begin.adopts = self.handle.adopted();
        }
        frames
    }

    /// Sends a complete snapshot when a permit is free; it is encoded only then. A reader that does not take it keeps
    /// its permit only for a limited time.
    async fn send_admitted(&mut self, snapshot: &Snapshot, request: &WatchRequest) -> Result<(), Closed> {
        let streams = self.streams.clone();
        let mut permit = streams.admission.acquire().await.ok();
        let frames = self.adopting(publication(snapshot, None, &request.bucket_digests));
        let sending = self.send(&frames);
        tokio::pin!(sending);
        match timeout(ADMISSION_TIME, &mut sending).await {
            Ok(sent) => sent,
            Err(_) => {
                drop(permit.take());
                sending.await
            }
        }
    }

    async fn send(&mut self, frames: &[Frame]) -> Result<(), Closed> {
        let mut piece = BytesMut::new();
        for frame in frames {
            let line = encode(frame).map_err(|error| {
                tracing::error!(%error, "a frame could not be written");
                Closed
            })?;
            piece.extend_from_slice(&line);
            if piece.len() >= CHUNK_BYTES {
                self.send_piece(piece.split().freeze()).await?;
            }
        }
        if piece.is_empty() { Ok(()) } else { self.send_piece(piece.freeze()).await }
    }

    async fn send_piece(&mut self, piece: Bytes) -> Result<(), Closed> {
        let piece = match &mut self.packer {
            Some(packer) => packer.pack(&piece).map_err(|_| Closed)?.into(),
            None => piece,
        };
        self.sender.send(piece).await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn every_piece_can_be_read_before_the_next_one_is_packed() {
        let mut packer = Packer::default();
        let mut packed = Vec::new();
        let mut wanted = Vec::new();
        for piece in [b"one\n".as_slice(), b"two\n"] {
            packed.extend(packer.pack(piece).unwrap());
            wanted.extend_from_slice(piece);
            let mut read = vec![0; wanted.len()];
            flate2::read::GzDecoder::new(packed.as_slice()).read_exact(&mut read).unwrap();
            assert_eq!(read, wanted);
        }
    }

    #[test]
    fn compression_is_for_those_who_ask_for_it() {
        for (offer, wanted) in [("gzip, deflate", true), ("br;q=1, GZIP;q=0.5", true), ("gzip;q=0", false), ("identity", false)] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(offer))]);
            assert_eq!(accepts_gzip(&headers), wanted, "{offer}");
        }
    }
}

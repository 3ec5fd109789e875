//! The watch stream: snapshots as deltas, for proxies, and for people with `curl -N`.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, extract::rejection::JsonRejection};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::unfold;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use waypost_model::lane::{Change, Lane as Objects};
use waypost_model::snapshot::Snapshot;
use waypost_wire::{Begin, Commit, Delete, Frame, HEARTBEAT_SECONDS, Lane, Put, Track, WatchRequest, encode};

use super::{Api, refuse};
use crate::controller::Handle;
use crate::controller::step::Input;

/// Pieces of a stream that wait for a slow reader; meanwhile publications are merged.
const QUEUE: usize = 8;
/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// Snapshots from which a returning proxy is brought up to date without comparing buckets.
const REMEMBERED: usize = 64;
/// Streams that are sent a whole snapshot at the same time.
const FULL_SYNCS: usize = 16;

/// A full synchronisation that takes longer goes on without holding up others.
const ADMITTED: Duration = Duration::from_secs(10);
/// No controller has published under a higher epoch than this; numbers beyond do not survive every JSON reader. Far above
/// what a claim may raise an epoch to, so that no claim can shut the others out.
const HIGHEST_EPOCH: u64 = 1 << 53;

/// What the streams of one controller share.
#[derive(Debug)]
pub(super) struct Streams {
    admission: Semaphore,
    /// Snapshots that were sent a while ago.
    recent: Mutex<VecDeque<Arc<Snapshot>>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { admission: Semaphore::new(FULL_SYNCS), recent: Mutex::default() }
    }
}

impl Streams {
    fn remember(&self, snapshot: &Arc<Snapshot>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.iter().any(|known| known.version == snapshot.version && known.cluster == snapshot.cluster) {
            return;
        }
        if recent.len() >= REMEMBERED {
            recent.pop_front();
        }
        recent.push_back(snapshot.clone());
    }

    fn recall(&self, cluster: &str, request: &WatchRequest) -> Option<Arc<Snapshot>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|known| Some(known.version) == request.from && known.cluster == cluster).cloned()
    }
}

pub(super) async fn watch(State(api): State<Api>, headers: HeaderMap, body: Result<Json<WatchRequest>, JsonRejection>) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.body_text()),
    };
    if let Err(message) = waypost_model::key::check_name("proxy", &request.name) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    if request.highest.is_some_and(|highest| highest.epoch > HIGHEST_EPOCH) {
        return refuse(StatusCode::BAD_REQUEST, format!("no controller has published under an epoch above {HIGHEST_EPOCH}; correct \"highest\""));
    }
    let opened = Input::ProxyOpened { name: request.name.clone(), highest: request.highest.unwrap_or_default(), cluster: request.cluster.clone() };
    if let Err(gone) = api.handle.tell(opened).await {
        return gone.into_response();
    }
    stream(api, request, accepts_gzip(&headers))
}

/// The same for people: everything, and what changes.
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
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    tokio::spawn(async move {
        let name = request.name.clone();
        let handle = api.handle.clone();
        tokio::select! {
            () = api.stop.cancelled() => {}
            () = Stream { handle: handle.clone(), streams: api.streams, sender, packer: gzip.then(Packer::default), sent: None }.run(request) => {}
        }
        if !name.is_empty() && handle.tell(Input::ProxyClosed(name)).await.is_err() {
            tracing::debug!("the controller stopped before a stream did");
        }
    });
    let body = unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (Ok::<_, std::convert::Infallible>(piece), receiver)) });
    let mut response = ([(header::CONTENT_TYPE, "application/jsonl"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Compresses a stream piece by piece: each can be read as soon as it is there.
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

/// The reader has gone.
struct Closed;

struct Stream {
    handle: Handle,
    streams: Arc<Streams>,
    sender: mpsc::Sender<Bytes>,
    packer: Option<Packer>,
    /// What the reader has.
    sent: Option<Arc<Snapshot>>,
}

impl Stream {
    async fn run(mut self, request: WatchRequest) {
        let mut snapshots = self.handle.snapshots();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let done = self.sent.as_ref().is_some_and(|sent| sent.version == snapshot.version);
            if snapshot.version.sequence > 0 && !done && self.publish(&snapshot, &request).await.is_err() {
                return;
            }
            match timeout(Duration::from_secs(HEARTBEAT_SECONDS), snapshots.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    if self.send(&[Frame::Heartbeat]).await.is_err() {
                        return;
                    }
                }
            }
            if self.sender.is_closed() {
                return;
            }
        }
    }

    async fn publish(&mut self, snapshot: &Arc<Snapshot>, request: &WatchRequest) -> Result<(), Closed> {
        self.streams.remember(snapshot);
        let known = self.sent.take().or_else(|| self.streams.recall(&snapshot.cluster, request));
        match known {
            Some(known) => self.send(&frames(snapshot, Some(&known), request)).await?,
            None => self.send_admitted(snapshot, request).await?,
        }
        self.sent = Some(snapshot.clone());
        Ok(())
    }

    /// Sends much, when it is this stream's turn: it is not even put together before. A reader that does not take it keeps
    /// its turn only for a while.
    async fn send_admitted(&mut self, snapshot: &Snapshot, request: &WatchRequest) -> Result<(), Closed> {
        let streams = self.streams.clone();
        let mut permit = streams.admission.acquire().await.ok();
        let frames = frames(snapshot, None, request);
        let sending = self.send(&frames);
        tokio::pin!(sending);
        match timeout(ADMITTED, &mut sending).await {
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
            if piece.len() >= PIECE {
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

/// The frames that bring a reader to `snapshot`: from `known` if that is what it has, else by the buckets in which
/// it differs.
fn frames(snapshot: &Snapshot, known: Option<&Snapshot>, request: &WatchRequest) -> Vec<Frame> {
    let lanes =
        [(Lane::Stable, &snapshot.config, known.map(|known| &known.config)), (Lane::Membership, &snapshot.membership, known.map(|known| &known.membership))];
    let mut replace = BTreeMap::new();
    let mut lines = Vec::new();
    for (lane, objects, before) in lanes {
        match before {
            Some(before) => lines.extend(before.changes_to(objects).into_iter().filter_map(|change| line(lane, change))),
            None => {
                let buckets = objects.differing(request.held.get(&lane).map_or(&[], Vec::as_slice));
                lines.extend(whole(lane, objects, &buckets));
                replace.insert(lane, buckets);
            }
        }
    }
    let digests = BTreeMap::from([(Lane::Stable, snapshot.config.digest()), (Lane::Membership, snapshot.membership.digest())]);
    let mut frames = vec![Frame::Begin(Begin { version: snapshot.version, cluster: snapshot.cluster.clone(), replace, base: BTreeMap::new() })];
    frames.append(&mut lines);
    if known.is_none() {
        frames.push(Frame::Track(Track { lane: Lane::Stable }));
    }
    frames.push(Frame::Commit(Commit { version: snapshot.version, digests }));
    frames
}

fn whole(lane: Lane, objects: &Objects, buckets: &[u8]) -> Vec<Frame> {
    let all = buckets.iter().filter_map(|number| objects.bucket(*number)).flat_map(|bucket| bucket.objects());
    all.filter_map(|object| line(lane, Change::Put(object.clone()))).collect()
}

fn line(lane: Lane, change: Change) -> Option<Frame> {
    match change {
        Change::Put(object) => Put::of(lane, &object).ok().map(Frame::Put),
        Change::Delete(path) => {
            let (kind, name) = path.split_once('/')?;
            Some(Frame::Delete(Delete { lane, kind: kind.to_owned(), name: name.to_owned() }))
        }
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

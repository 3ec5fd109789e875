//! The watch stream: snapshots as deltas, for proxies, and for people with `curl -N`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, extract::rejection::JsonRejection};
use bytes::{Bytes, BytesMut};
use futures_util::stream::unfold;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
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

static ADMISSION: Semaphore = Semaphore::const_new(FULL_SYNCS);

/// Snapshots that were sent a while ago.
static RECENT: LazyLock<Mutex<VecDeque<Arc<Snapshot>>>> = LazyLock::new(Mutex::default);

fn remember(snapshot: &Arc<Snapshot>) {
    let mut recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if recent.iter().any(|known| known.version == snapshot.version && known.cluster == snapshot.cluster) {
        return;
    }
    if recent.len() >= REMEMBERED {
        recent.pop_front();
    }
    recent.push_back(snapshot.clone());
}

fn recall(cluster: &str, request: &WatchRequest) -> Option<Arc<Snapshot>> {
    let recent = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    recent.iter().find(|known| Some(known.version) == request.from && known.cluster == cluster).cloned()
}

pub(super) async fn watch(State(api): State<Api>, body: Result<Json<WatchRequest>, JsonRejection>) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, error.body_text()),
    };
    if let Err(message) = waypost_model::key::check_name("proxy", &request.name) {
        return refuse(StatusCode::BAD_REQUEST, message);
    }
    let opened = Input::ProxyOpened { name: request.name.clone(), highest: request.highest.unwrap_or_default(), cluster: request.cluster.clone() };
    if let Err(gone) = api.handle.tell(opened).await {
        return gone.into_response();
    }
    stream(api, request)
}

/// The same for people: everything, and what changes.
pub(super) async fn look(State(api): State<Api>) -> Response {
    stream(api, WatchRequest::default())
}

fn stream(api: Api, request: WatchRequest) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    tokio::spawn(async move {
        let name = request.name.clone();
        let handle = api.handle.clone();
        tokio::select! {
            () = api.stop.cancelled() => {}
            () = Stream { handle: handle.clone(), sender: sender.clone(), sent: None }.run(request) => {}
        }
        if !name.is_empty() && handle.tell(Input::ProxyClosed(name)).await.is_err() {
            tracing::debug!("the controller stopped before a stream did");
        }
    });
    let body = unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|piece| (Ok::<_, std::convert::Infallible>(piece), receiver)) });
    ([(header::CONTENT_TYPE, "application/jsonl"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(body)).into_response()
}

/// The reader has gone.
struct Closed;

struct Stream {
    handle: Handle,
    sender: mpsc::Sender<Bytes>,
    /// What the reader has.
    sent: Option<Arc<Snapshot>>,
}

impl Stream {
    async fn run(mut self, request: WatchRequest) {
        let mut snapshots = self.handle.snapshots();
        let mut heartbeat = Instant::now();
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let done = self.sent.as_ref().is_some_and(|sent| sent.version == snapshot.version);
            if snapshot.version.sequence > 0 && !done && self.publish(&snapshot, &request).await.is_err() {
                return;
            }
            heartbeat = heartbeat.max(Instant::now()) + Duration::from_secs(HEARTBEAT_SECONDS);
            match timeout_at(heartbeat, snapshots.changed()).await {
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
        remember(snapshot);
        let known = self.sent.take().or_else(|| recall(&snapshot.cluster, request));
        let permit = if known.is_none() { ADMISSION.acquire().await.ok() } else { None };
        let frames = frames(snapshot, known.as_deref(), request);
        self.send(&frames).await?;
        drop(permit);
        self.sent = Some(snapshot.clone());
        Ok(())
    }

    async fn send(&self, frames: &[Frame]) -> Result<(), Closed> {
        let mut piece = BytesMut::new();
        for frame in frames {
            let line = encode(frame).map_err(|error| {
                tracing::error!(%error, "a frame could not be written");
                Closed
            })?;
            piece.extend_from_slice(&line);
            if piece.len() >= PIECE {
                self.sender.send(piece.split().freeze()).await.map_err(|_| Closed)?;
            }
        }
        self.sender.send(piece.freeze()).await.map_err(|_| Closed)
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

//! The open connections of the API, and which of them are closed at the limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// Maximum number of connections; lower if the limit of descriptors is low. One address may have three quarters.
const MAX_CONNECTIONS: usize = 4_096;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    requests: AtomicUsize,
    /// When the last request ended, in milliseconds since `began`.
    idle_since: AtomicU64,
    began: Instant,
}

impl Activity {
    fn new() -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), idle_since: AtomicU64::new(0), began: Instant::now() })
    }

    /// A request is in progress until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// How long it has had no request in progress; nothing while it has one.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let idle = self.began.elapsed().saturating_sub(Duration::from_millis(self.idle_since.load(Ordering::Relaxed)));
        (self.requests.load(Ordering::Relaxed) == 0).then_some(idle)
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, which is in progress until it was sent.
pub(super) struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl BusyBody {
    /// `body`, for the request that `busy` counts.
    pub(super) fn around(body: Body, busy: Busy) -> Body {
        Body::new(Self { body, _busy: busy })
    }
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
struct Entry {
    ip: IpAddr,
    /// Whether a certificate says who it is.
    is_identified: bool,
    activity: Arc<Activity>,
    shed: CancellationToken,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    next: u64,
}

/// All open connections.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    open: Arc<Mutex<Open>>,
    most: usize,
}

/// A connection's place; it is released when dropped.
#[derive(Debug)]
pub(super) struct Admission {
    open: Arc<Mutex<Open>>,
    number: u64,
    pub(super) activity: Arc<Activity>,
    /// Asks the connection to close, because its place is needed.
    pub(super) shed: CancellationToken,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&self.number);
    }
}

/// What became of a new connection.
#[derive(Debug)]
pub(super) enum Admitted {
    /// It has a place.
    Yes(Admission),
    /// It has the place of an idle connection, of this address.
    InsteadOf(Admission, IpAddr),
    /// There are too many connections, or too many of its address, and none of them is idle and without a certificate.
    No,
}

impl Connections {
    /// Room for as many connections as the limit of descriptors allows.
    pub(super) fn of_process() -> Self {
        let descriptors = rlimit::Resource::NOFILE.get_soft().ok().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(1_024);
        Self::new(MAX_CONNECTIONS.min(descriptors / 8).max(16))
    }

    fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// How many there may be.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Takes a connection of `ip` in.
    pub(super) fn admit(&self, ip: IpAddr, is_identified: bool) -> Admitted {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = open.entries.values().filter(|entry| entry.ip == ip).count();
        let is_full = open.entries.len() >= self.most;
        let is_crowded = is_full || of_ip >= self.most * 3 / 4;
        let shed = if is_crowded { open.shed(|entry| is_full || entry.ip == ip) } else { None };
        if shed.is_none() && is_crowded {
            return Admitted::No;
        }
        let number = open.next;
        open.next += 1;
        let (activity, token) = (Activity::new(), CancellationToken::new());
        open.entries.insert(number, Entry { ip, is_identified, activity: activity.clone(), shed: token.clone() });
        let admission = Admission { open: self.open.clone(), number, activity, shed: token };
        match shed {
            Some(of) => Admitted::InsteadOf(admission, of),
            None => Admitted::Yes(admission),
        }
    }
}

impl Open {
    /// Closes the connection that was idle longest, of those without a certificate; returns its address.
    fn shed(&mut self, may_go: impl Fn(&Entry) -> bool) -> Option<IpAddr> {
        let idle = self.entries.iter().filter(|(_, entry)| !entry.is_identified && may_go(entry));
        let longest = idle.filter_map(|(number, entry)| Some((entry.activity.idle_for()?, *number))).max()?;
        let entry = self.entries.remove(&longest.1)?;
        entry.shed.cancel();
        Some(entry.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(admitted: Admitted) -> Option<(Admission, bool)> {
        match admitted {
            Admitted::Yes(admission) => Some((admission, false)),
            Admitted::InsteadOf(admission, _) => Some((admission, true)),
            Admitted::No => None,
        }
    }

    #[test]
    fn at_the_limit_the_connection_that_was_idle_longest_makes_room_unless_it_has_a_certificate_or_a_request() {
        let connections = Connections::new(4);
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let proxy = admission(connections.admit(ip(1), true)).unwrap().0;
        let busy = admission(connections.admit(ip(2), false)).unwrap().0;
        let request = busy.activity.begin();
        let idle = admission(connections.admit(ip(3), false)).unwrap().0;
        std::thread::sleep(Duration::from_millis(5));
        let later = admission(connections.admit(ip(4), false)).unwrap().0;
        let (newcomer, shed) = admission(connections.admit(ip(5), true)).unwrap();
        assert!(shed && idle.shed.is_cancelled());
        assert!(![&proxy, &busy, &later, &newcomer].iter().any(|one| one.shed.is_cancelled()));
        let _last = admission(connections.admit(ip(6), true)).unwrap();
        assert!(later.shed.is_cancelled() && admission(connections.admit(ip(7), true)).is_none(), "all others have a request or a certificate");
        drop(request);
        assert!(busy.activity.idle_for().is_some() && admission(connections.admit(ip(7), true)).is_some());
    }

    #[test]
    fn one_address_has_three_quarters_at_most() {
        let connections = Connections::new(8);
        let from = |last: u8| connections.admit(IpAddr::from([10, 0, 0, last]), true);
        let held: Vec<_> = (0..8).filter_map(|_| admission(from(1))).collect();
        assert_eq!(held.len(), 6);
        assert!(admission(from(2)).is_some());
    }
}

//! The open client connections, and which of them are closed at the limit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::descriptors::{Descriptor, Descriptors};
use crate::metrics::Metrics;
use crate::table::ListenerConfig;

/// At the limit, one of this many connections is closed at once, so that one search through all of them makes room for many new ones.
const SHED_SHARE: usize = 100;
/// When a search found no idle connection, the next one comes after this time: a search looks at every connection.
const SEARCH_PAUSE: Duration = Duration::from_millis(100);
/// Time after the last closed connection during which the proxy reports that it sheds connections, and between two messages of that.
const REPORT_TIME: Duration = Duration::from_secs(60);

/// The requests of one connection. It is shared with the registry, which may close the connection.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Requests in progress.
    requests: AtomicUsize,
    /// When the last request ended, in milliseconds since the first connection.
    idle_since: AtomicU64,
    began: Instant,
    /// Asks an idle connection to close.
    pub(crate) shed: CancellationToken,
}

impl Activity {
    /// Counts a request as in progress until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time since which the connection is idle; `None` if it is not.
    fn idle_since(&self) -> Option<u64> {
        (self.requests.load(Ordering::Relaxed) == 0).then(|| self.idle_since.load(Ordering::Relaxed))
    }
}

/// A request in progress on a connection.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    /// The client's network.
    network: IpAddr,
    /// Whether the client is a trusted proxy, which many clients share.
    is_trusted: bool,
    activity: Arc<Activity>,
}

#[derive(Debug, Default)]
struct Open {
    entries: HashMap<u64, Entry>,
    next: u64,
    /// The last search for idle connections that found none.
    searched_at: Option<Instant>,
    /// When the limit was last in force.
    shed_at: Option<Instant>,
    /// Connections that were closed or refused since the last message.
    unreported: usize,
    message: Option<(Instant, String)>,
}

/// All open client connections of the process.
#[derive(Debug)]
pub(crate) struct Clients {
    cap: usize,
    descriptors: Arc<Descriptors>,
    began: Instant,
    open: Mutex<Open>,
    metrics: Arc<Metrics>,
}

/// A connection's place in the limit; it is released when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    clients: Arc<Clients>,
    number: u64,
    /// The connection's requests.
    pub(crate) activity: Arc<Activity>,
    _descriptor: Descriptor,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.clients.lock().entries.remove(&self.number);
    }
}

impl Clients {
    /// A registry with a limit of `cap` connections, which use some of the `descriptors`.
    pub(crate) fn new(cap: usize, descriptors: Arc<Descriptors>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { cap, descriptors, began: Instant::now(), open: Mutex::default(), metrics })
    }

    /// What connections may use.
    pub(crate) const fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    /// Admits a connection. At the limit it closes the oldest idle connections of the network that has most of them; `None` if every
    /// connection has a request in progress.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr, listener: &ListenerConfig) -> Option<Admission> {
        let mut open = self.lock();
        if open.entries.len() >= self.cap || self.descriptors.are_exhausted() {
            let shed = open.shed(self.cap.div_ceil(SHED_SHARE));
            self.metrics.crowded.shed.inc_by(u64::try_from(shed).unwrap_or_default());
            open.shed_at = Some(Instant::now());
            open.unreported += shed.max(1);
            if shed == 0 {
                self.metrics.crowded.refused.inc();
                return None;
            }
        }
        let number = open.next;
        open.next += 1;
        let ip = peer.ip().to_canonical();
        let is_trusted = listener.trusted.iter().any(|network| network.contains(ip));
        let idle_since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let activity =
            Arc::new(Activity { requests: AtomicUsize::new(0), idle_since: AtomicU64::new(idle_since), began: self.began, shed: CancellationToken::new() });
        open.entries.insert(number, Entry { network: network_of(ip), is_trusted, activity: activity.clone() });
        Some(Admission { clients: self.clone(), number, activity, _descriptor: self.descriptors.take() })
    }

    /// A message for people, while connections are being shed. It changes once a minute, so that the controller makes an event of it as often.
    pub(crate) fn trouble(&self) -> Option<String> {
        let mut open = self.lock();
        if open.shed_at.is_none_or(|at| at.elapsed() >= REPORT_TIME) {
            (open.message, open.unreported) = (None, 0);
            return None;
        }
        if open.message.as_ref().is_none_or(|(at, _)| at.elapsed() >= REPORT_TIME) && open.unreported > 0 {
            let message = format!(
                "{} client connections are open, of at most {} (--max-connections, within the limit of open files, which connections to endpoints use as \
                 well); {} were closed or refused since the last message: for new ones the oldest idle ones are closed",
                open.entries.len(),
                self.cap.min(self.descriptors.limit()),
                std::mem::take(&mut open.unreported)
            );
            tracing::warn!("{message}");
            open.message = Some((Instant::now(), message));
        }
        open.message.as_ref().map(|(_, message)| message.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Closes at most `count` idle connections of the network that has most of them. Returns the number.
    fn shed(&mut self, count: usize) -> usize {
        if self.searched_at.is_some_and(|at| at.elapsed() < SEARCH_PAUSE) {
            return 0;
        }
        let mut by_network: HashMap<IpAddr, Vec<(u64, u64)>> = HashMap::new();
        for (number, entry) in self.entries.iter().filter(|(_, entry)| !entry.is_trusted) {
            if let Some(since) = entry.activity.idle_since() {
                by_network.entry(entry.network).or_default().push((since, *number));
            }
        }
        let Some(mut idle) = by_network.into_values().max_by_key(Vec::len) else {
            self.searched_at = Some(Instant::now());
            return 0;
        };
        idle.sort_unstable();
        idle.truncate(count);
        for (_, number) in &idle {
            if let Some(entry) = self.entries.remove(number) {
                entry.activity.shed.cancel();
            }
        }
        idle.len()
    }
}

/// The network of a client: for IPv6 the /64 that one customer has, for IPv4 the address.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(trusted: &str) -> ListenerConfig {
        ListenerConfig {
            tls: None,
            name: "web".into(),
            address: "127.0.0.1:80".parse().unwrap(),
            explicit_only: false,
            trusted: vec![trusted.to_owned().try_into().unwrap()],
            paths: waypost_model::resource::PathNormalization::Standard,
        }
    }

    fn peer(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 1)
    }

    #[test]
    fn at_the_limit_the_oldest_idle_connection_of_the_client_with_the_most_connections_is_closed() {
        let clients = Clients::new(4, Descriptors::new(100), Arc::default());
        let listener = listener("10.9.9.9");
        let front = clients.admit(peer("10.9.9.9"), &listener).unwrap();
        let first = clients.admit(peer("2001:db8::1"), &listener).unwrap();
        let busy = clients.admit(peer("2001:db8::2"), &listener).unwrap();
        let request = busy.activity.begin();
        let other = clients.admit(peer("10.0.0.1"), &listener).unwrap();
        assert!(clients.trouble().is_none());
        let newcomer = clients.admit(peer("10.0.0.1"), &listener).unwrap();
        assert!(first.activity.shed.is_cancelled() ^ other.activity.shed.is_cancelled());
        assert!(!busy.activity.shed.is_cancelled() && !front.activity.shed.is_cancelled() && !newcomer.activity.shed.is_cancelled());
        assert!(clients.trouble().is_some());
        drop(request);
        let all: Vec<_> = (0..4).filter_map(|_| clients.admit(peer("10.0.0.1"), &listener)).collect();
        let requests: Vec<_> = all.iter().map(|admission| admission.activity.begin()).collect();
        assert!(!front.activity.shed.is_cancelled());
        let _busy = newcomer.activity.begin();
        assert!(clients.lock().entries.len() <= 4);
        drop(requests);
    }
}

//! Resolves endpoints with host names, independently of requests, and again when an answer expires, so that a changed record is followed at
//! any load.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::endpoint::{EndpointState, Peer};

/// Minimum and maximum lifetime of an answer, whatever its TTL.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
const MAX_LIFETIME: Duration = Duration::from_secs(300);
/// Pause before a failed lookup is repeated; it doubles with each failure. The last addresses stay in use.
const LOOKUP_RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Maximum concurrent lookups.
const MAX_CONCURRENT_LOOKUPS: usize = 16;

/// The endpoints of the table with host names, by `host:port`.
pub(crate) type Names = BTreeMap<Arc<str>, Vec<Weak<EndpointState>>>;

/// Resolves the names until their sender is dropped.
pub(crate) async fn run(names: watch::Receiver<Arc<Names>>) {
    follow(names, system_resolver).await;
}

async fn follow(mut names: watch::Receiver<Arc<Names>>, make: impl Fn() -> Option<TokioResolver>) {
    let mut resolver = None;
    let mut by_name: HashMap<Arc<str>, Lookup> = HashMap::new();
    let mut lookups = JoinSet::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        by_name.retain(|name, _| wanted.contains_key(name));
        for (name, states) in wanted.iter() {
            // A new endpoint may have a name that is resolved already.
            by_name.entry(name.clone()).or_insert_with(Lookup::new).publish(states);
        }
        let now = Instant::now();
        while lookups.len() < MAX_CONCURRENT_LOOKUPS
            && let Some((name, one)) = by_name.iter_mut().filter(|(_, one)| !one.asked && one.due <= now).min_by_key(|(_, one)| one.due)
        {
            one.asked = true;
            // Created for the first name, so that a proxy without names has no resolver.
            lookups.spawn(look_up(resolver.get_or_insert_with(&make).clone(), name.clone()));
        }
        let next = by_name.values().filter(|one| !one.asked).map(|one| one.due).min().unwrap_or(now + MAX_LIFETIME);
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            Some(found) = lookups.join_next() => {
                let Ok((name, found)) = found else { continue };
                if let (Some(one), Some(states)) = (by_name.get_mut(&name), wanted.get(&name)) {
                    one.found(&name, found);
                    one.publish(states);
                }
            }
            () = sleep_until(next), if lookups.len() < MAX_CONCURRENT_LOOKUPS => {}
        }
    }
}

/// The state of a name.
struct Lookup {
    peers: Vec<Peer>,
    /// When the next lookup is due.
    due: Instant,
    /// Whether a lookup is in progress.
    asked: bool,
    /// The pause after the next failure.
    pause: Duration,
    /// The last failure that was logged.
    logged: Option<String>,
}

impl Lookup {
    fn new() -> Self {
        Self { peers: Vec::new(), due: Instant::now(), asked: false, pause: LOOKUP_RETRY_PAUSE, logged: None }
    }

    fn found(&mut self, name: &str, found: Result<(Vec<Peer>, Duration), String>) {
        self.asked = false;
        match found {
            Ok((peers, lasts)) => (self.peers, self.due, self.pause, self.logged) = (peers, Instant::now() + lasts, LOOKUP_RETRY_PAUSE, None),
            Err(reason) => {
                (self.due, self.pause) = (Instant::now() + self.pause, (self.pause * 2).min(MAX_LIFETIME));
                if self.logged.as_ref() != Some(&reason) {
                    tracing::warn!(name, reason, "the name of an endpoint cannot be resolved; its last addresses are kept");
                    self.logged = Some(reason);
                }
            }
        }
    }

    fn publish(&self, states: &[Weak<EndpointState>]) {
        if !self.peers.is_empty() {
            states.iter().filter_map(Weak::upgrade).for_each(|state| state.resolved(&self.peers));
        }
    }
}

/// The resolver of the system's configuration; `None` if there is no usable configuration.
fn system_resolver() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    built.inspect_err(|error| tracing::warn!(%error, "the system's DNS configuration cannot be used; names are resolved by the C library, without TTL")).ok()
}

/// The result of a lookup: the addresses and their lifetime, or the reason for the failure.
type Found = (Arc<str>, Result<(Vec<Peer>, Duration), String>);

async fn look_up(resolver: Option<TokioResolver>, name: Arc<str>) -> Found {
    let found = addresses(resolver.as_ref(), &name).await;
    (name, found)
}

/// The addresses of `host:port`, and their lifetime.
async fn addresses(resolver: Option<&TokioResolver>, name: &str) -> Result<(Vec<Peer>, Duration), String> {
    let (host, port) = name.rsplit_once(':').ok_or("the address has no port")?;
    let port: u16 = port.parse().map_err(|_| "the port is no number")?;
    let peers = |addresses: Vec<std::net::IpAddr>| addresses.into_iter().map(|ip| Peer::new(SocketAddr::new(ip, port))).collect::<Vec<_>>();
    let by_dns = match resolver {
        Some(resolver) => resolver.lookup_ip(host).await.map_err(|error| error.to_string()),
        None => Err("there is no resolver".to_owned()),
    };
    match by_dns {
        Ok(found) => {
            let lasts = found.valid_until().saturating_duration_since(std::time::Instant::now()).clamp(MIN_LIFETIME, MAX_LIFETIME);
            Ok((peers(found.iter().collect()), lasts))
        }
        // A fallback for names that only the C library resolves, such as those of a local service.
        Err(reason) => {
            let found = tokio::net::lookup_host((host, port)).await.map_err(|_| reason)?;
            Ok((peers(found.map(|address| address.ip()).collect()), LOOKUP_RETRY_PAUSE))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use tokio::net::UdpSocket;

    use super::*;

    /// The answer to a query for an address: the header, the question, and one A record with a TTL of a second; no record for other types.
    fn answer(query: &[u8], ip: [u8; 4]) -> Vec<u8> {
        let question_end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let wants_a = query[question_end - 4..question_end - 2] == [0, 1];
        let mut reply = query[..question_end].to_vec();
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[6..12].copy_from_slice(&[0, u8::from(wants_a), 0, 0, 0, 0]);
        if wants_a {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            reply.extend(ip);
        }
        reply
    }

    #[tokio::test]
    async fn a_record_that_changes_is_followed_when_its_time_is_over() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let ip = Arc::new(Mutex::new([10, 0, 0, 1]));
        let served = ip.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut buffer).await {
                let reply = answer(&buffer[..count], *served.lock().unwrap());
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        let make = move || {
            let mut server = NameServerConfig::udp(IpAddr::from([127, 0, 0, 1]));
            server.connections[0].port = port;
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().ok()
        };
        let state = Arc::new(EndpointState::default());
        let names = Names::from([("shop.test:8080".into(), vec![Arc::downgrade(&state)])]);
        let (_sender, receiver) = watch::channel(Arc::new(names));
        tokio::spawn(follow(receiver, make));
        let until = async |wanted: &str| {
            while state.peers().is_none_or(|peers| peers.iter().map(|peer| &*peer.text).ne([wanted])) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), until("10.0.0.1:8080")).await.expect("the first address");
        *ip.lock().unwrap() = [10, 0, 0, 2];
        tokio::time::timeout(Duration::from_secs(10), until("10.0.0.2:8080")).await.expect("the next one");
    }
}

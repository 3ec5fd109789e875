//! Endpoints that are written as names: resolved beside the requests, and again when the answer's time is over, so that a
//! changed record is followed whatever the load.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::endpoint::{EndpointState, Peer};

/// An answer is taken as good for at least and at most this long, whatever its TTL.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(300);
/// A name that cannot be resolved is tried again after this; what it was keeps serving.
const RETRY: Duration = Duration::from_secs(2);
/// Names that are resolved at the same time.
const AT_ONCE: usize = 16;

/// The endpoints of the table that are names, by `host:port`.
pub(crate) type Names = BTreeMap<Arc<str>, Vec<Weak<EndpointState>>>;

/// Keeps the names resolved until their sender is gone.
pub(crate) async fn run(names: watch::Receiver<Arc<Names>>) {
    follow(names, system_resolver).await;
}

async fn follow(mut names: watch::Receiver<Arc<Names>>, make: impl Fn() -> Option<TokioResolver>) {
    let mut resolver = None;
    let mut due: HashMap<Arc<str>, Instant> = HashMap::new();
    let mut told: HashMap<Arc<str>, String> = HashMap::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        due.retain(|name, _| wanted.contains_key(name));
        for name in wanted.keys() {
            due.entry(name.clone()).or_insert_with(Instant::now);
        }
        let now = Instant::now();
        let late: Vec<Arc<str>> = due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).take(AT_ONCE).collect();
        if late.is_empty() {
            let next = due.values().min().copied().unwrap_or(now + MOST);
            tokio::select! {
                changed = names.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
            continue;
        }
        // Made with the first name: a proxy without any does not pay for it.
        let resolver = resolver.get_or_insert_with(&make);
        let mut lookups = JoinSet::new();
        for name in late {
            let resolver = resolver.clone();
            lookups.spawn(async move {
                let found = look_up(resolver.as_ref(), &name).await;
                (name, found)
            });
        }
        while let Some(Ok((name, found))) = lookups.join_next().await {
            let lasts = found.as_ref().map_or(RETRY, |(_, lasts)| *lasts);
            due.insert(name.clone(), Instant::now() + lasts);
            match found {
                Ok((peers, _)) => {
                    told.remove(&name);
                    wanted.get(&name).into_iter().flatten().filter_map(Weak::upgrade).for_each(|state| state.resolved(peers.clone()));
                }
                Err(reason) => {
                    if told.insert(name.clone(), reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!(name = &*name, reason, "the name of an endpoint cannot be resolved; its last addresses are kept");
                    }
                }
            }
        }
    }
}

/// The resolver that the system's configuration describes; `None` if it describes none.
fn system_resolver() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    built.inspect_err(|error| tracing::warn!(%error, "the system's DNS configuration cannot be used; names are resolved by the C library, without TTL")).ok()
}

/// The addresses of `host:port`, and how long they are good.
async fn look_up(resolver: Option<&TokioResolver>, name: &str) -> Result<(Vec<Peer>, Duration), String> {
    let (host, port) = name.rsplit_once(':').ok_or("the address has no port")?;
    let port: u16 = port.parse().map_err(|_| "the port is no number")?;
    let peers = |addresses: Vec<std::net::IpAddr>| addresses.into_iter().map(|ip| Peer::new(SocketAddr::new(ip, port))).collect::<Vec<_>>();
    let by_dns = match resolver {
        Some(resolver) => resolver.lookup_ip(host).await.map_err(|error| error.to_string()),
        None => Err("there is no resolver".to_owned()),
    };
    match by_dns {
        Ok(found) => {
            let lasts = found.valid_until().saturating_duration_since(std::time::Instant::now()).clamp(LEAST, MOST);
            Ok((peers(found.iter().collect()), lasts))
        }
        // What only the C library knows, such as names of a local service.
        Err(reason) => {
            let found = tokio::net::lookup_host((host, port)).await.map_err(|_| reason)?;
            Ok((peers(found.map(|address| address.ip()).collect()), RETRY))
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

    /// The answer to a query for an address: the header, the question again, and one A record that lives for a second;
    /// nothing for other types.
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

//! Which endpoint of a backend takes a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypost_model::resource::{Balancing, Fitness, HealthCheck};

use crate::endpoint::{EndpointState, Peer};

/// An endpoint as requests see it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its id within the backend.
    pub id: Arc<str>,
    /// Where to connect: `host:port`.
    pub address: Arc<str>,
    /// The same as a socket's address, unless the host is a name.
    pub peer: Option<Peer>,
    /// Its share.
    pub weight: u32,
    /// Its zone, for the access log.
    pub zone: Option<Arc<str>>,
    /// Takes no new requests.
    pub drain: bool,
    /// The store says that it is gone, and whether that is meant is not known yet: it takes what no other can.
    pub suspect: bool,
    /// Its probers agree that it cannot take requests.
    pub unhealthy: bool,
    /// What is known of it.
    pub state: Arc<EndpointState>,
}

/// Above this many endpoints least-request looks at a sample instead of all.
const LOOK_AT_ALL: usize = 64;
const SAMPLE: usize = 8;
/// So many are drawn where weights differ.
const DRAWS: usize = 4;
/// The longest schedule of a weighted round robin.
const SCHEDULE: u64 = 4_096;

/// The endpoints of a backend that may take requests, ready to be chosen from.
#[derive(Debug, Default)]
pub struct Balancer {
    endpoints: Vec<Endpoint>,
    /// Those that take what no other can.
    suspects: Vec<Endpoint>,
    total_weight: u64,
    /// All weights are the same.
    even: bool,
    policy: Policy,
}

#[derive(Debug, Default)]
enum Policy {
    #[default]
    LeastRequest,
    Random,
    RoundRobin {
        schedule: Vec<usize>,
        turn: Arc<AtomicU64>,
    },
}

impl Balancer {
    /// A balancer over the endpoints that take requests; `turn` is shared with the tables before and after. With a `check`,
    /// those that are unhealthy take none, unless that would leave too few.
    pub fn new(all: &[Endpoint], balancing: Balancing, check: Option<&HealthCheck>, turn: Arc<AtomicU64>) -> Self {
        let usable: Vec<Endpoint> = all.iter().filter(|endpoint| !endpoint.drain && endpoint.weight > 0).cloned().collect();
        let (suspects, endpoints): (Vec<Endpoint>, Vec<Endpoint>) = healthy(usable, check).into_iter().partition(|endpoint| endpoint.suspect);
        let total_weight = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        let policy = match balancing {
            Balancing::LeastRequest => Policy::LeastRequest,
            Balancing::Random => Policy::Random,
            Balancing::WeightedRoundRobin => {
                let weights: Vec<u64> = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).collect();
                Policy::RoundRobin { schedule: schedule(&weights), turn }
            }
        };
        let even = endpoints.windows(2).all(|pair| pair.first().map(|one| one.weight) == pair.last().map(|other| other.weight));
        Self { endpoints, suspects, total_weight, even, policy }
    }

    /// Whether nothing can take a request.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.suspects.iter().all(|endpoint| endpoint.state.ejected())
    }

    /// Chooses an endpoint that is not in `tried`. Endpoints that just refused a connection come last.
    pub fn pick(&self, tried: &[Arc<str>]) -> Option<&Endpoint> {
        let usable = |endpoint: &&Endpoint| !tried.contains(&endpoint.id);
        let first = self.choose().filter(usable).filter(|endpoint| !endpoint.state.avoided());
        first
            .or_else(|| self.least(|endpoint| usable(&endpoint) && !endpoint.state.avoided()))
            .or_else(|| self.least(|endpoint| usable(&endpoint)))
            .or_else(|| self.suspect(tried))
    }

    /// The least busy of the suspects that are not ejected.
    fn suspect(&self, tried: &[Arc<str>]) -> Option<&Endpoint> {
        let usable = self.suspects.iter().filter(|endpoint| !tried.contains(&endpoint.id) && !endpoint.state.ejected());
        usable.min_by_key(|endpoint| endpoint.state.in_flight())
    }

    fn choose(&self) -> Option<&Endpoint> {
        match &self.policy {
            Policy::LeastRequest if self.even => self.least(|endpoint| !endpoint.state.avoided()),
            Policy::LeastRequest => self.least_drawn(),
            Policy::Random => self.random(),
            Policy::RoundRobin { schedule, turn } => {
                let length = u64::try_from(schedule.len()).ok().filter(|length| *length > 0)?;
                let at = usize::try_from(turn.fetch_add(1, Ordering::Relaxed) % length).ok()?;
                self.endpoints.get(*schedule.get(at)?)
            }
        }
    }

    fn random(&self) -> Option<&Endpoint> {
        if self.total_weight == 0 {
            return None;
        }
        let mut ticket = fastrand::u64(0..self.total_weight);
        self.endpoints.iter().find(|endpoint| {
            let weight = u64::from(endpoint.weight);
            let hit = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            hit
        })
    }

    /// Of a few endpoints that are drawn by their weights, the one with the fewest requests in proportion to its weight:
    /// while nothing is busy, the first one drawn, so that the shares are those of the weights.
    fn least_drawn(&self) -> Option<&Endpoint> {
        let load = |endpoint: &Endpoint| endpoint.state.in_flight() * 1_000_000 / u64::from(endpoint.weight.max(1));
        (0..DRAWS).filter_map(|_| self.random()).filter(|endpoint| !endpoint.state.avoided()).min_by_key(|endpoint| load(endpoint))
    }

    /// The endpoint with the fewest requests in proportion to its weight, of all or of a sample; ties are broken by
    /// where the look begins.
    fn least(&self, usable: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
        let count = self.endpoints.len();
        if count == 0 {
            return None;
        }
        let start = fastrand::usize(0..count);
        let cost = |endpoint: &Endpoint| (endpoint.state.in_flight() + 1) * 1_000_000 / u64::from(endpoint.weight.max(1));
        let ring = self.endpoints.iter().cycle().skip(start).take(count);
        let candidates = ring.filter(|endpoint| usable(endpoint));
        if count > LOOK_AT_ALL { candidates.take(SAMPLE).min_by_key(|endpoint| cost(endpoint)) } else { candidates.min_by_key(|endpoint| cost(endpoint)) }
    }
}

/// Without the unhealthy ones, unless too few would be left.
fn healthy(all: Vec<Endpoint>, check: Option<&HealthCheck>) -> Vec<Endpoint> {
    let fitness = all.iter().map(|endpoint| Fitness { unhealthy: endpoint.unhealthy, suspect: endpoint.suspect });
    match check {
        Some(check) if !check.panics(fitness) => all.into_iter().filter(|endpoint| !endpoint.unhealthy).collect(),
        _ => all,
    }
}

/// The order of a smooth weighted round robin: each turn the one that is furthest behind its share.
fn schedule(weights: &[u64]) -> Vec<usize> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let scale = sum.div_ceil(SCHEDULE).max(1);
    let shares: Vec<i64> = weights.iter().map(|weight| i64::try_from((weight / divisor).div_ceil(scale)).unwrap_or(1)).collect();
    let total: i64 = shares.iter().sum();
    let mut behind = vec![0i64; shares.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        behind.iter_mut().zip(&shares).for_each(|(behind, share)| *behind += share);
        let next = behind.iter().enumerate().max_by_key(|(at, behind)| (**behind, std::cmp::Reverse(*at))).map(|(at, _)| at);
        if let Some(at) = next {
            order.push(at);
            if let Some(behind) = behind.get_mut(at) {
                *behind -= total;
            }
        }
    }
    order
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, weight: u32) -> Endpoint {
        Endpoint {
            id: id.into(),
            address: "10.0.0.1:80".into(),
            peer: None,
            weight,
            zone: None,
            drain: false,
            suspect: false,
            unhealthy: false,
            state: Arc::new(EndpointState::default()),
        }
    }

    fn share(balancer: &Balancer, id: &str) -> usize {
        (0..1_000).filter(|_| balancer.pick(&[]).is_some_and(|endpoint| &*endpoint.id == id)).count()
    }

    #[test]
    fn round_robin_keeps_the_weights_exactly_and_spreads_them() {
        assert_eq!(schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(schedule(&[200, 100]).len(), 3);
        assert!(schedule(&[1_000_000, 999_999]).len() <= 4_097);
        let balancer = Balancer::new(&[endpoint("a", 3), endpoint("b", 1)], Balancing::WeightedRoundRobin, None, Arc::default());
        assert_eq!(share(&balancer, "a"), 750);
    }

    #[test]
    fn least_request_prefers_the_idle_one_in_proportion_to_the_weight() {
        let all = [endpoint("a", 1), endpoint("b", 1), endpoint("c", 1)];
        let balancer = Balancer::new(&all, Balancing::LeastRequest, None, Arc::default());
        let _busy = (all[0].state.begin(), all[2].state.begin());
        assert_eq!(share(&balancer, "b"), 1_000);
        let all = [endpoint("light", 1), endpoint("heavy", 9)];
        let balancer = Balancer::new(&all, Balancing::LeastRequest, None, Arc::default());
        let idle = share(&balancer, "light");
        assert!((50..=160).contains(&idle), "a tenth, while nothing is busy: {idle}");
        let _busy: Vec<_> = (0..9).map(|_| all[1].state.begin()).collect();
        let busy = share(&balancer, "light");
        assert!((250..=450).contains(&busy), "1 of 4 draws finds it, and it is less busy: {busy}");
    }

    #[test]
    fn a_suspect_takes_what_no_other_can_until_it_refuses_once() {
        let mut suspect = endpoint("s", 1);
        suspect.suspect = true;
        let all = [endpoint("a", 1), suspect];
        for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
            all[1].state.trusted();
            let balancer = Balancer::new(&all, balancing, None, Arc::default());
            assert_eq!(share(&balancer, "s"), 0, "{balancing:?}");
            assert_eq!(&*balancer.pick(&["a".into()]).unwrap().id, "s");
            all[1].state.eject();
            assert!(balancer.pick(&["a".into()]).is_none());
        }
        let alone = Balancer::new(&all[1..], Balancing::LeastRequest, None, Arc::default());
        assert!(alone.is_empty());
        all[1].state.trusted();
        assert!(!alone.is_empty());
    }

    #[test]
    fn unhealthy_endpoints_take_nothing_unless_too_few_are_healthy() {
        let check: HealthCheck = serde_json::from_str("{}").unwrap();
        let mut all = [endpoint("a", 1), endpoint("b", 1), endpoint("c", 1), endpoint("s", 1)];
        (all[0].unhealthy, all[3].suspect) = (true, true);
        for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
            let balancer = Balancer::new(&all, balancing, Some(&check), Arc::default());
            assert_eq!(share(&balancer, "a"), 0, "{balancing:?}");
            assert_eq!(&*balancer.pick(&["b".into(), "c".into()]).unwrap().id, "s", "a suspect comes before one that is known to fail");
        }
        all[1].unhealthy = true;
        let lenient: HealthCheck = serde_json::from_str(r#"{"panicThreshold":30}"#).unwrap();
        let balancer =
            Balancer::new(&all[..2].iter().chain(&all[3..]).cloned().collect::<Vec<_>>(), Balancing::WeightedRoundRobin, Some(&lenient), Arc::default());
        assert_eq!(share(&balancer, "s"), 1_000, "also where no other is left, if that is enough");
        all[3].unhealthy = true;
        let panicking = Balancer::new(&all, Balancing::WeightedRoundRobin, Some(&check), Arc::default());
        assert!(share(&panicking, "a") > 300 && share(&panicking, "s") == 0, "one of three is less than half");
        let strict: HealthCheck = serde_json::from_str(r#"{"panicThreshold":0}"#).unwrap();
        all[2].unhealthy = true;
        assert!(Balancer::new(&all, Balancing::LeastRequest, Some(&strict), Arc::default()).is_empty());
        assert_eq!(share(&Balancer::new(&all, Balancing::Random, None, Arc::default()), "s"), 0, "without a check nothing is known");
    }

    #[test]
    fn random_follows_the_weights() {
        let balancer = Balancer::new(&[endpoint("a", 9), endpoint("b", 1)], Balancing::Random, None, Arc::default());
        let hits = share(&balancer, "a");
        assert!((800..=990).contains(&hits), "{hits}");
    }

    #[test]
    fn draining_weightless_and_tried_endpoints_are_not_chosen_and_refusing_ones_come_last() {
        let mut drained = endpoint("d", 1);
        drained.drain = true;
        let all = [endpoint("a", 1), endpoint("zero", 0), drained, endpoint("b", 1)];
        for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
            let balancer = Balancer::new(&all, balancing, None, Arc::default());
            let tried: Vec<Arc<str>> = vec!["a".into()];
            assert!((0..100).all(|_| &*balancer.pick(&tried).unwrap().id == "b"));
            all[0].state.refused();
            assert_eq!(share(&balancer, "b"), 1_000, "{balancing:?}");
            assert_eq!(&*balancer.pick(&["b".into()]).unwrap().id, "a", "better than nothing");
            all[0].state.connected();
            assert!(balancer.pick(&["a".into(), "b".into()]).is_none());
        }
    }
}

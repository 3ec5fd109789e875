//! Load balancing: decides which endpoint of a backend takes a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypost_model::resource::{Balancing, Fitness, HealthCheck};

use crate::endpoint::{EndpointState, Peer};
#[cfg(test)]
use crate::outlier::Outcome;
use crate::outlier::{Detector, Suspicion};

/// An endpoint as the balancer uses it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its id within the backend.
    pub id: Arc<str>,
    /// The address to connect to: `host:port`.
    pub address: Arc<str>,
    /// The address as a socket address; `None` if the host is a name.
    pub peer: Option<Peer>,
    /// Its share of requests.
    pub weight: u32,
    /// Its zone, for the access log.
    pub zone: Option<Arc<str>>,
    /// Whether it takes no new requests.
    pub drain: bool,
    /// Whether it is missing in its store, and it is not known yet whether that is meant. It takes only requests that no other endpoint
    /// can.
    pub suspect: bool,
    /// Its probers agree that it cannot take requests.
    pub unhealthy: bool,
    /// Its state on this proxy, shared over tables and cores.
    pub state: Arc<EndpointState>,
}

/// Maximum number of endpoints of which least-request reads all; of more it reads a sample.
const MAX_READ_ENDPOINTS: usize = 64;
const ENDPOINT_SAMPLE: usize = 8;
/// Number of endpoints drawn by weight, if weights differ.
const WEIGHTED_DRAWS: usize = 4;
/// Maximum length of the schedule of a weighted round robin. Beyond it turns are spread over the sum of the weights by [`TURN_STEP`].
const MAX_SCHEDULE: u64 = 4_096;
/// The golden ratio's fractional part in units of 2^-64: its multiples are spread evenly, however many there are.
const TURN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;
/// Clients count as having given up on an endpoint if they waited ten times as long as other endpoints take, and at least 0.1 s.
const GIVE_UP_FACTOR: u32 = 10;
const MIN_GIVE_UP_TIME: std::time::Duration = std::time::Duration::from_millis(100);

/// The endpoints of a backend that may take requests, with the balancing policy.
#[derive(Debug, Default)]
pub struct Balancer {
    endpoints: Vec<Endpoint>,
    /// Suspect endpoints, which take only requests that no other endpoint can.
    suspects: Vec<Endpoint>,
    total_weight: u64,
    /// For each endpoint, the sum of its weight and those of all endpoints before it.
    weights_up_to: Vec<u64>,
    /// Whether all weights are equal.
    even: bool,
    policy: Policy,
}

#[derive(Debug, Default)]
enum Policy {
    #[default]
    LeastRequest,
    Random,
    RoundRobin {
        /// The endpoints in the order of their turns; `None` if that would be too long.
        schedule: Option<Vec<usize>>,
        turn: Arc<AtomicU64>,
    },
}

impl Balancer {
    /// A balancer over the endpoints that take requests; `turn` is shared with the previous and next tables. With a `check`, unhealthy
    /// endpoints take no requests, unless that would leave too few.
    pub fn new(all: &[Endpoint], balancing: Balancing, check: Option<&HealthCheck>, turn: Arc<AtomicU64>) -> Self {
        let usable: Vec<Endpoint> = all.iter().filter(|endpoint| !endpoint.drain && endpoint.weight > 0).cloned().collect();
        let (suspects, endpoints): (Vec<Endpoint>, Vec<Endpoint>) = healthy(usable, check).into_iter().partition(|endpoint| endpoint.suspect);
        let sums = endpoints.iter().scan(0, |sum, endpoint| {
            *sum += u64::from(endpoint.weight);
            Some(*sum)
        });
        let weights_up_to: Vec<u64> = sums.collect();
        let total_weight = weights_up_to.last().copied().unwrap_or_default();
        let policy = match balancing {
            Balancing::LeastRequest => Policy::LeastRequest,
            Balancing::Random => Policy::Random,
            Balancing::WeightedRoundRobin => {
                let weights: Vec<u64> = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).collect();
                Policy::RoundRobin { schedule: schedule(&weights), turn }
            }
        };
        let even = endpoints.windows(2).all(|pair| pair.first().map(|one| one.weight) == pair.last().map(|other| other.weight));
        Self { endpoints, suspects, total_weight, weights_up_to, even, policy }
    }

    /// Whether no endpoint can take a request.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.suspects.iter().all(|endpoint| endpoint.state.is_excluded_suspect())
    }

    /// Chooses an endpoint that is not in `tried`. Endpoints that just refused a connection, or that clients give up on, come last; ejected
    /// endpoints are chosen only if there is no other.
    pub fn pick(&self, tried: &[Arc<str>]) -> Option<&Endpoint> {
        let chosen = self.pick_once(tried)?;
        if !self.is_given_up(chosen) {
            return Some(chosen);
        }
        chosen.state.leave_alone();
        self.pick_once(tried)
    }

    fn pick_once(&self, tried: &[Arc<str>]) -> Option<&Endpoint> {
        let untried = |endpoint: &&Endpoint| !tried.contains(&endpoint.id);
        let usable = |endpoint: &&Endpoint| untried(endpoint) && !endpoint.state.is_out();
        let first = self.choose().filter(usable).filter(|endpoint| !endpoint.state.avoided());
        first
            .or_else(|| self.least(|endpoint| usable(&endpoint) && !endpoint.state.avoided()))
            .or_else(|| self.least(|endpoint| usable(&endpoint)))
            .or_else(|| self.least(|endpoint| untried(&endpoint)))
            .or_else(|| self.suspect(tried))
    }

    /// Whether clients gave up on an endpoint after they waited much longer than other endpoints take.
    fn is_given_up(&self, endpoint: &Endpoint) -> bool {
        let Some(waited) = endpoint.state.detector().take_abandoned() else { return false };
        let others = self.others(endpoint).filter_map(|other| other.state.detector().latency());
        median(others.collect()).is_some_and(|typical| waited >= (typical * GIVE_UP_FACTOR).max(MIN_GIVE_UP_TIME))
    }

    /// Ejects an endpoint after a failed attempt or an error, if its share of these stands out among the other endpoints. Returns the
    /// duration and the reason.
    pub fn judge(&self, endpoint: &Endpoint) -> Option<(std::time::Duration, &'static str)> {
        let detector = endpoint.state.detector();
        let failures = detector.suspicious_failures().is_some_and(|own| self.stands_out(own, endpoint, Detector::failure_share));
        let errors = detector.suspicious_errors().is_some_and(|own| self.stands_out(own, endpoint, Detector::error_share));
        if !failures && !errors {
            // A trial whose failures do not stand out is no reason to keep the endpoint ejected.
            if detector.is_ejected() && (detector.suspicious_failures().is_some() || detector.suspicious_errors().is_some()) {
                detector.readmit();
            }
            return None;
        }
        let ejected = self.endpoints.iter().filter(|other| other.id != endpoint.id && other.state.detector().is_ejected()).count();
        if (ejected + 1) * 2 > self.endpoints.len() {
            return None;
        }
        Some((
            endpoint.state.eject_for_outcomes(!failures),
            if failures { "its attempts have no response" } else { "it answers with errors, and others do not" },
        ))
    }

    /// Whether an endpoint's failures or errors are far more than those of most others. Without others, or where all have as many, none
    /// stands out.
    fn stands_out(&self, own: Suspicion, endpoint: &Endpoint, share: impl Fn(&Detector) -> Option<u32>) -> bool {
        let of_series = || self.others(endpoint).any(|other| other.state.detector().responded_during_series_of(endpoint.state.detector()));
        let typical = median(self.others(endpoint).filter_map(|other| share(other.state.detector())).collect());
        typical.is_some_and(|typical| own.stands_out(typical)) && (!matches!(own, Suspicion::Series(_)) || of_series())
    }

    /// The other endpoints of the backend; a sample, which begins anywhere, if there are many.
    fn others(&self, endpoint: &Endpoint) -> impl Iterator<Item = &Endpoint> {
        let id = endpoint.id.clone();
        let step = self.endpoints.len().div_ceil(MAX_READ_ENDPOINTS).max(1);
        self.endpoints.iter().skip(fastrand::usize(0..step)).step_by(step).filter(move |other| other.id != id)
    }

    /// The suspect endpoint with the fewest requests in flight, of those that have not refused a connection.
    fn suspect(&self, tried: &[Arc<str>]) -> Option<&Endpoint> {
        let usable = self.suspects.iter().filter(|endpoint| !tried.contains(&endpoint.id) && !endpoint.state.is_excluded_suspect());
        usable.min_by_key(|endpoint| endpoint.state.in_flight())
    }

    fn choose(&self) -> Option<&Endpoint> {
        match &self.policy {
            Policy::LeastRequest if self.even => self.least(|endpoint| !endpoint.state.avoided() && !endpoint.state.is_out()),
            Policy::LeastRequest => self.least_drawn(),
            Policy::Random => self.random(),
            Policy::RoundRobin { schedule, turn } => {
                let turn = turn.fetch_add(1, Ordering::Relaxed);
                match schedule {
                    Some(schedule) => {
                        let length = u64::try_from(schedule.len()).ok().filter(|length| *length > 0)?;
                        self.endpoints.get(*schedule.get(usize::try_from(turn % length).ok()?)?)
                    }
                    None => self.at_weight(scaled(turn.wrapping_mul(TURN_STEP), self.total_weight)),
                }
            }
        }
    }

    fn random(&self) -> Option<&Endpoint> {
        if self.total_weight == 0 {
            return None;
        }
        self.at_weight(fastrand::u64(0..self.total_weight))
    }

    /// The endpoint that has this place among the weights.
    fn at_weight(&self, place: u64) -> Option<&Endpoint> {
        self.endpoints.get(self.weights_up_to.partition_point(|sum| *sum <= place))
    }

    /// Draws a few endpoints by weight, and takes the one with the lowest cost in proportion to its weight. Without load that is the first
    /// one drawn, so the shares of requests are those of the weights.
    fn least_drawn(&self) -> Option<&Endpoint> {
        let load = |endpoint: &Endpoint| (endpoint.state.cost() - 1) * 1_000_000 / u64::from(endpoint.weight.max(1));
        (0..WEIGHTED_DRAWS)
            .filter_map(|_| self.random())
            .filter(|endpoint| !endpoint.state.avoided() && !endpoint.state.is_out())
            .min_by_key(|endpoint| load(endpoint))
    }

    /// The endpoint with the lowest cost in proportion to its weight, of all or of a sample. A random starting point breaks ties.
    fn least(&self, usable: impl Fn(&Endpoint) -> bool) -> Option<&Endpoint> {
        let count = self.endpoints.len();
        if count == 0 {
            return None;
        }
        let cost = |endpoint: &Endpoint| endpoint.state.cost() * 1_000_000 / u64::from(endpoint.weight.max(1));
        if count > MAX_READ_ENDPOINTS {
            let drawn = (0..ENDPOINT_SAMPLE).filter_map(|_| self.endpoints.get(fastrand::usize(0..count)));
            if let Some(least) = drawn.filter(|endpoint| usable(endpoint)).min_by_key(|endpoint| cost(endpoint)) {
                return Some(least);
            }
        }
        let start = fastrand::usize(0..count);
        let ring = self.endpoints.iter().cycle().skip(start).take(count).filter(|endpoint| usable(endpoint));
        if count > MAX_READ_ENDPOINTS { ring.take(ENDPOINT_SAMPLE).min_by_key(|endpoint| cost(endpoint)) } else { ring.min_by_key(|endpoint| cost(endpoint)) }
    }
}

/// The median of some values; of two in the middle, the lower one.
fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Removes the unhealthy endpoints, unless too few would be left.
fn healthy(all: Vec<Endpoint>, check: Option<&HealthCheck>) -> Vec<Endpoint> {
    let fitness = all.iter().map(|endpoint| Fitness { unhealthy: endpoint.unhealthy, suspect: endpoint.suspect });
    match check {
        Some(check) if !check.panics(fitness) => all.into_iter().filter(|endpoint| !endpoint.unhealthy).collect(),
        _ => all,
    }
}

/// The order of a weighted round robin with the turns of each endpoint spread evenly: turn k of an endpoint with n turns is due at (2k + 1)
/// / 2n of the whole. `None` if it has more than [`MAX_SCHEDULE`] turns.
fn schedule(weights: &[u64]) -> Option<Vec<usize>> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let shares = weights.iter().map(|weight| weight / divisor);
    if shares.clone().sum::<u64>() > MAX_SCHEDULE {
        return None;
    }
    let due = |turn: u64, share: u64| ((2 * turn + 1) << 32) / (2 * share);
    let mut turns: Vec<(u64, usize)> = shares.enumerate().flat_map(|(at, share)| (0..share).map(move |turn| (due(turn, share), at))).collect();
    turns.sort_unstable();
    Some(turns.into_iter().map(|(_, at)| at).collect())
}

/// A fraction of 2^64 as that fraction of `whole`.
fn scaled(fraction: u64, whole: u64) -> u64 {
    u64::try_from((u128::from(fraction) * u128::from(whole)) >> 64).unwrap_or_default()
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
        assert_eq!(schedule(&[5, 1, 1]).unwrap(), [0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(schedule(&[2, 1]).unwrap(), [0, 1, 0]);
        assert_eq!(schedule(&[200, 100]).unwrap().len(), 3);
        assert!(schedule(&[1_000_000, 999_999]).is_none());
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
    fn a_suspect_takes_requests_that_no_other_endpoint_can_take_until_it_refuses_once() {
        let mut suspect = endpoint("s", 1);
        suspect.suspect = true;
        let all = [endpoint("a", 1), suspect];
        for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
            all[1].state.include_suspect();
            let balancer = Balancer::new(&all, balancing, None, Arc::default());
            assert_eq!(share(&balancer, "s"), 0, "{balancing:?}");
            assert_eq!(&*balancer.pick(&["a".into()]).unwrap().id, "s");
            all[1].state.exclude_suspect();
            assert!(balancer.pick(&["a".into()]).is_none());
        }
        let alone = Balancer::new(&all[1..], Balancing::LeastRequest, None, Arc::default());
        assert!(alone.is_empty());
        all[1].state.include_suspect();
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
    fn ten_thousand_distinct_weights_are_built_within_milliseconds_and_kept() {
        let mut all: Vec<Endpoint> = (1..=10_000).map(|weight| endpoint(&weight.to_string(), weight)).collect();
        let begun = std::time::Instant::now();
        let balancer = Balancer::new(&all, Balancing::WeightedRoundRobin, None, Arc::default());
        assert!(begun.elapsed() < std::time::Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 10 }), "{:?}", begun.elapsed());
        let heavy = (0..40_000).filter(|_| balancer.pick(&[]).is_some_and(|endpoint| endpoint.weight > 5_000)).count();
        assert!((29_000..=31_000).contains(&heavy), "three quarters of the weight: {heavy}");
        all.iter_mut().enumerate().for_each(|(at, endpoint)| endpoint.weight = if at < 5_000 { 1 } else { 10 });
        let balancer = Balancer::new(&all, Balancing::WeightedRoundRobin, None, Arc::default());
        let light = (0..44_000).filter(|_| balancer.pick(&[]).is_some_and(|endpoint| endpoint.weight == 1)).count();
        assert!((3_900..=4_100).contains(&light), "an eleventh: {light}");
        let all = [endpoint("light", 1), endpoint("heavy", 1_000_000)];
        let balancer = Balancer::new(&all, Balancing::WeightedRoundRobin, None, Arc::default());
        assert!((0..10_000).filter(|_| balancer.pick(&[]).is_some_and(|endpoint| &*endpoint.id == "light")).count() <= 1);
    }

    /// Makes attempts at the picked endpoints, and checks for outliers as requests do.
    fn attempts(balancer: &Balancer, count: usize, outcome: impl Fn(&str) -> Outcome) -> std::collections::BTreeMap<String, usize> {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..count {
            let endpoint = balancer.pick(&[]).unwrap();
            *counts.entry(endpoint.id.to_string()).or_default() += 1;
            if endpoint.state.begin().end(outcome(&endpoint.id)) {
                balancer.judge(endpoint);
            }
        }
        counts
    }

    #[test]
    fn one_that_fails_at_once_takes_next_to_nothing_and_a_client_that_fails_everywhere_ejects_nobody() {
        for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
            for bad in [Outcome::Failed, Outcome::Answered(500)] {
                let all = [endpoint("a", 1), endpoint("b", 1), endpoint("bad", 1)];
                let balancer = Balancer::new(&all, balancing, None, Arc::default());
                let counts = attempts(&balancer, 5_000, |id| if id == "bad" { bad } else { Outcome::Answered(200) });
                assert!(counts["bad"] <= 40, "{balancing:?} {bad:?}: {counts:?}");
                let all = [endpoint("a", 1), endpoint("b", 1), endpoint("c", 1)];
                let balancer = Balancer::new(&all, balancing, None, Arc::default());
                attempts(&balancer, 500, |_| bad);
                assert!(all.iter().all(|endpoint| !endpoint.state.detector().is_ejected()), "{balancing:?} {bad:?}");
            }
        }
    }

    #[test]
    fn a_client_that_fails_everywhere_after_a_good_time_ejects_nobody() {
        fastrand::seed(7);
        for (endpoints, good) in [(3, 60), (3, 6), (10, 200), (10, 20), (100, 2_000)] {
            for balancing in [Balancing::LeastRequest, Balancing::WeightedRoundRobin, Balancing::Random] {
                let all: Vec<Endpoint> = (0..endpoints).map(|at| endpoint(&at.to_string(), 1)).collect();
                let balancer = Balancer::new(&all, balancing, None, Arc::default());
                attempts(&balancer, good, |_| Outcome::Answered(200));
                attempts(&balancer, endpoints * 12, |_| Outcome::Failed);
                let ejected = all.iter().filter(|endpoint| endpoint.state.detector().is_ejected()).count();
                assert_eq!(ejected, 0, "of {endpoints} endpoints, {balancing:?}, {good} good before");
                // A quarter of the requests fail, at all endpoints alike.
                attempts(&balancer, endpoints * 200, |_| if fastrand::u8(0..4) == 0 { Outcome::Failed } else { Outcome::Answered(200) });
                let ejected = all.iter().filter(|endpoint| endpoint.state.detector().is_ejected()).count();
                assert!(ejected <= endpoints / 20, "{ejected} of {endpoints} endpoints, {balancing:?}, one of four fails");
            }
        }
    }

    #[test]
    fn at_most_half_of_many_are_ejected() {
        let all: Vec<Endpoint> = (0..200).map(|at| endpoint(&at.to_string(), 1)).collect();
        let balancer = Balancer::new(&all, Balancing::Random, None, Arc::default());
        // Just over half succeed, so that failures stand out.
        attempts(&balancer, 40_000, |id| if id.parse::<usize>().is_ok_and(|at| at % 20 < 11) { Outcome::Answered(200) } else { Outcome::Failed });
        let ejected = || all.iter().filter(|endpoint| endpoint.state.detector().is_ejected()).count();
        assert!((80..=100).contains(&ejected()), "{}", ejected());
        attempts(&balancer, 40_000, |id| if id.parse::<usize>().is_ok_and(|at| at % 4 == 0) { Outcome::Answered(200) } else { Outcome::Failed });
        assert!(ejected() <= 100, "{}", ejected());
    }

    #[test]
    fn an_endpoint_is_not_compared_with_those_that_were_never_tried() {
        let all = [endpoint("a", 1), endpoint("b", 1), endpoint("c", 1)];
        let balancer = Balancer::new(&all, Balancing::Random, None, Arc::default());
        let fail_at = |endpoint: &Endpoint| endpoint.state.begin().end(Outcome::Failed).then(|| balancer.judge(endpoint)).flatten();
        assert!((0..10).all(|_| fail_at(&all[0]).is_none()), "nothing says that the others are better");
        all[1].state.begin().end(Outcome::Answered(200));
        assert!(fail_at(&all[0]).is_some());
    }

    #[test]
    fn at_most_half_are_ejected_and_the_last_one_never() {
        let all: Vec<Endpoint> = ["a", "b", "c", "d"].map(|id| endpoint(id, 1)).into();
        let balancer = Balancer::new(&all, Balancing::Random, None, Arc::default());
        attempts(&balancer, 2_000, |id| if id == "a" { Outcome::Answered(200) } else { Outcome::Failed });
        assert!(all.iter().filter(|endpoint| endpoint.state.detector().is_ejected()).count() <= 2);
        let alone = Balancer::new(&all[1..2], Balancing::LeastRequest, None, Arc::default());
        all[1].state.detector().readmit();
        attempts(&alone, 100, |_| Outcome::Failed);
        assert!(!all[1].state.detector().is_ejected());
    }

    #[test]
    fn an_endpoint_that_clients_give_up_on_is_left_alone_while_there_are_others() {
        let all = [endpoint("a", 1), endpoint("b", 1), endpoint("slow", 1)];
        let balancer = Balancer::new(&all, Balancing::LeastRequest, None, Arc::default());
        attempts(&balancer, 100, |_| Outcome::Answered(200));
        all[2].state.detector().abandon(std::time::Duration::from_millis(50));
        assert!(share(&balancer, "slow") > 200, "not long enough to say anything");
        all[2].state.detector().abandon(std::time::Duration::from_secs(1));
        assert_eq!(share(&balancer, "slow"), 0);
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

//! Outlier detection for one endpoint on this proxy, from the outcomes of its attempts. All cores share it and it survives table swaps, so
//! every field is an atomic: recording costs two of them per attempt. The comparison with other endpoints is in [`crate::balance`].

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Attempts in a row without a response that are a reason to eject, if attempts at other endpoints succeed.
const MIN_FAILURE_SERIES: u32 = 5;
/// So many more are needed for each 10 % of failures at other endpoints: the longer a series is, the less likely it is by chance.
const EXTRA_SERIES_PER_TENTH: u32 = 5;
/// The share of failures at other endpoints, in percent, above which no series stands out.
const MAX_OTHER_FAILURE_PERCENT: u32 = 30;
/// Number of recent attempts whose failures are counted; half of them failed is a reason to eject as well.
const RECENT_ATTEMPTS: u32 = 20;
/// Percentage points by which a share has to exceed that of a typical other endpoint to stand out.
const MIN_EXCESS_PERCENT: u32 = 50;
/// Number of recent statuses that are counted, and the minimum for a meaningful share of errors.
const RECENT_STATUSES: u32 = 32;
const MIN_STATUSES: u32 = 20;
/// Duration of the first ejection; each further one takes twice as long, up to the maximum.
const FIRST_EJECTION: Duration = Duration::from_secs(5);
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
/// How long an endpoint costs more after an attempt without a response.
const FAILURE_PENALTY_TIME: Duration = Duration::from_secs(1);
/// How long an endpoint gets half of the requests after it answered that it is overloaded.
const OVERLOAD_RELIEF_TIME: Duration = Duration::from_secs(1);
/// How long an endpoint is avoided after clients gave up on it; it doubles each time, up to a minute.
const SLOW_AVOIDANCE_TIME: Duration = Duration::from_secs(1);
const MAX_SLOW_DOUBLINGS: u32 = 6;

/// The outcome of an attempt, as far as it concerns the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The head of a response was received, with this status.
    Answered(u16),
    /// No response was received: no connection, a reset, or a time-out.
    Failed,
}

/// A reason why failures may be the endpoint's own fault. It is compared with the failures of the other endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// So many failures in a row.
    Series(u32),
    /// So many percent of the recent attempts failed.
    Share(u32),
}

impl Suspicion {
    /// Whether it stands out where `others` percent of the recent attempts at a typical other endpoint failed. A series counts by its length
    /// and not as a share, because the others' shares have a longer memory: when everything begins to fail, they are still low.
    pub const fn stands_out(self, others: u32) -> bool {
        match self {
            Self::Series(length) => others <= MAX_OTHER_FAILURE_PERCENT && length >= MIN_FAILURE_SERIES + others * EXTRA_SERIES_PER_TENTH / 10,
            Self::Share(own) => own >= others + MIN_EXCESS_PERCENT,
        }
    }
}

/// The most recent of a series of booleans, newest in the lowest bit, and their number.
#[derive(Debug, Default)]
struct Ring(AtomicU64);

impl Ring {
    fn push(&self, yes: bool, length: u32) {
        let mask = (1u64 << length) - 1;
        let next = |ring: u64| {
            let (bits, count) = (ring & mask, (ring >> 32).min(u64::from(length) - 1));
            Some((count + 1) << 32 | (bits << 1 | u64::from(yes)) & mask)
        };
        // It never fails, because the closure always returns a value.
        self.0.fetch_update(Relaxed, Relaxed, next).unwrap_or_default();
    }

    fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    fn count(&self) -> u32 {
        u32::try_from(self.0.load(Relaxed) >> 32).unwrap_or_default()
    }

    fn yes(&self) -> u32 {
        (self.0.load(Relaxed) & u64::from(u32::MAX)).count_ones()
    }

    /// The number of newest values in a row that are true.
    fn in_a_row(&self) -> u32 {
        (self.0.load(Relaxed) & u64::from(u32::MAX)).trailing_ones().min(self.count())
    }

    /// The share of true values, in percent.
    fn share(&self) -> u32 {
        self.yes() * 100 / self.count().max(1)
    }
}

/// The recent attempts at an endpoint. Times are milliseconds since the endpoint's state was created; 0 is never.
#[derive(Debug, Default)]
pub struct Detector {
    failures: Ring,
    errors: Ring,
    /// When the present series of failures began, and when a response was received last, on the clock that all endpoints share.
    series_since: AtomicU64,
    responded_at: AtomicU64,
    failed_at: AtomicU64,
    relief_until: AtomicU64,
    /// The end of the ejection. After it the endpoint stays out until a trial succeeds.
    out_until: AtomicU64,
    ejections: AtomicU32,
    /// Whether it was ejected for its statuses: then a trial with an error status fails.
    for_errors: AtomicBool,
    /// Whether a trial is in progress.
    on_trial: AtomicBool,
    /// Smoothed time to a response's head, in microseconds.
    latency: AtomicU64,
    /// The longest time that a client waited before it cancelled, since the last [`Detector::take_abandoned`], in microseconds.
    abandoned: AtomicU64,
    slow_until: AtomicU64,
    slow_times: AtomicU32,
}

/// Microseconds since the first attempt of the process: a clock that all endpoints share.
#[derive(Debug, Clone, Copy, Default)]
pub struct SharedTime(u64);

impl SharedTime {
    /// The time of an instant.
    pub fn of(instant: Instant) -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let since = instant.saturating_duration_since(*START.get_or_init(|| instant));
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX).saturating_add(1))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Detector {
    /// Records the outcome of an attempt that took `took`, at `now`, which is `shared_now` on the clock that all endpoints share. Returns whether
    /// it may be a reason to eject the endpoint.
    pub fn record(&self, outcome: Outcome, took: Duration, was_trial: bool, (now, shared_now): (u64, SharedTime)) -> bool {
        let failed = outcome == Outcome::Failed;
        let error = matches!(outcome, Outcome::Answered(500..));
        if !failed {
            self.responded_at.store(shared_now.0, Relaxed);
        } else if self.failures.in_a_row() == 0 {
            self.series_since.store(shared_now.0, Relaxed);
        }
        self.failures.push(failed, RECENT_ATTEMPTS);
        if failed {
            self.failed_at.store(now.max(1), Relaxed);
        } else {
            self.errors.push(error, RECENT_STATUSES);
            self.answered(took);
        }
        if matches!(outcome, Outcome::Answered(429 | 503)) {
            self.relief_until.store(now + millis(OVERLOAD_RELIEF_TIME), Relaxed);
        }
        if was_trial && !failed && !(error && self.for_errors.load(Relaxed)) {
            self.readmit();
            return false;
        }
        failed || error
    }

    /// Whether it responded after another endpoint's present series of failures began. If none did, the requests may be the reason.
    pub fn responded_during_series_of(&self, other: &Self) -> bool {
        self.responded_at.load(Relaxed) > other.series_since.load(Relaxed)
    }

    fn answered(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency.load(Relaxed);
        self.latency.store(if before == 0 { took } else { (before * 7 + took) / 8 }, Relaxed);
        if self.slow_times.load(Relaxed) > 0 && self.slow_until.load(Relaxed) > 0 {
            self.slow_times.store(0, Relaxed);
            self.slow_until.store(0, Relaxed);
        }
        // After a full series of successes since its last ejection, the endpoint counts as never ejected.
        if self.failures.count() == RECENT_ATTEMPTS && self.failures.yes() == 0 && self.ejections.load(Relaxed) > 0 && self.out_until.load(Relaxed) == 0 {
            self.ejections.store(0, Relaxed);
        }
    }

    /// Records that the client cancelled without a response.
    pub fn abandon(&self, waited: Duration) {
        self.abandoned.fetch_max(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Takes the longest time that a client waited before it cancelled.
    pub fn take_abandoned(&self) -> Option<Duration> {
        if self.abandoned.load(Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_micros(self.abandoned.swap(0, Relaxed))).filter(|waited| *waited > Duration::ZERO)
    }

    /// Avoids it for a while, if there are others, because clients give up on it.
    pub fn leave_alone(&self, now: u64) {
        let times = self.slow_times.fetch_add(1, Relaxed).min(MAX_SLOW_DOUBLINGS);
        self.slow_until.store(now + (millis(SLOW_AVOIDANCE_TIME) << times), Relaxed);
    }

    /// The end of the time in which it is avoided.
    pub fn slow_until(&self) -> u64 {
        self.slow_until.load(Relaxed)
    }

    /// Smoothed time to a response's head; `None` before the first one.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency.load(Relaxed)).filter(|latency| *latency > 0).map(Duration::from_micros)
    }

    /// The share of attempts without a response, in percent; `None` without attempts.
    pub fn failure_share(&self) -> Option<u32> {
        (self.failures.count() > 0).then(|| self.failures.share())
    }

    /// The share of responses that were errors, in percent; `None` without responses.
    pub fn error_share(&self) -> Option<u32> {
        (self.errors.count() > 0).then(|| self.errors.share())
    }

    /// Why its failures may be a reason to eject the endpoint, if they are.
    pub fn suspicious_failures(&self) -> Option<Suspicion> {
        let in_a_row = self.failures.in_a_row();
        if self.is_failed_trial() && in_a_row > 0 {
            return Some(Suspicion::Share(100));
        }
        if in_a_row >= MIN_FAILURE_SERIES {
            return Some(Suspicion::Series(in_a_row));
        }
        Some(self.failures.share()).filter(|share| self.failures.count() == RECENT_ATTEMPTS && *share >= 50).map(Suspicion::Share)
    }

    /// The same for its errors.
    pub fn suspicious_errors(&self) -> Option<Suspicion> {
        if self.is_failed_trial() && self.for_errors.load(Relaxed) && self.errors.in_a_row() > 0 {
            return Some(Suspicion::Share(100));
        }
        Some(Suspicion::Share(self.errors.share())).filter(|_| self.errors.count() >= MIN_STATUSES)
    }

    /// Whether a trial has failed: the endpoint is still out after the end of its ejection.
    fn is_failed_trial(&self) -> bool {
        self.out_until.load(Relaxed) > 0
    }

    /// Ejects it, for twice as long as the last time. Returns the duration.
    pub fn eject(&self, for_errors: bool, now: u64) -> Duration {
        let doublings = self.ejections.fetch_add(1, Relaxed).min(16);
        let time = (FIRST_EJECTION * 2u32.pow(doublings)).min(LONGEST_EJECTION);
        self.for_errors.store(for_errors, Relaxed);
        self.out_until.store(now + millis(time), Relaxed);
        self.on_trial.store(false, Relaxed);
        time
    }

    /// Readmits it, and clears the recorded attempts.
    pub fn readmit(&self) {
        self.failures.clear();
        self.errors.clear();
        self.out_until.store(0, Relaxed);
        self.failed_at.store(0, Relaxed);
        self.on_trial.store(false, Relaxed);
    }

    /// Whether it was ejected and has not been readmitted.
    pub fn is_ejected(&self) -> bool {
        self.out_until.load(Relaxed) > 0
    }

    /// Whether it can take no request now. `now` is called only if the result depends on it.
    pub fn is_out(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.out_until.load(Relaxed);
        until > 0 && (self.on_trial.load(Relaxed) || now() < until)
    }

    /// Begins an attempt. Returns whether it is the trial that decides whether an ejected endpoint is readmitted.
    pub fn begin_trial(&self) -> bool {
        self.is_ejected() && !self.on_trial.swap(true, Relaxed)
    }

    /// Ends a trial without an outcome.
    pub fn end_trial(&self) {
        self.on_trial.store(false, Relaxed);
    }

    /// The factor by which requests in flight at it count more than at other endpoints.
    pub fn cost_factor(&self, now: impl Fn() -> u64) -> u64 {
        let (failed_at, relief) = (self.failed_at.load(Relaxed), self.relief_until.load(Relaxed));
        if failed_at == 0 && relief == 0 {
            return 1;
        }
        let now = now();
        let failing = if failed_at > 0 && now < failed_at + millis(FAILURE_PENALTY_TIME) { u64::from(self.failures.yes()) * 4 } else { 0 };
        1 + failing + u64::from(now < relief)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    const fn at(now: u64) -> (u64, SharedTime) {
        (now, SharedTime(now * 1_000))
    }

    #[test]
    fn five_failures_in_a_row_or_half_of_the_last_twenty_are_suspicious() {
        let detector = Detector::default();
        for _ in 0..4 {
            detector.record(Outcome::Failed, SHORT, false, at(1));
        }
        assert_eq!(detector.suspicious_failures(), None);
        assert!(detector.record(Outcome::Failed, SHORT, false, at(1)));
        assert_eq!(detector.suspicious_failures(), Some(Suspicion::Series(5)));
        detector.readmit();
        for turn in 0..RECENT_ATTEMPTS {
            assert_eq!(detector.suspicious_failures(), None);
            detector.record(if turn % 2 == 0 { Outcome::Failed } else { Outcome::Answered(200) }, SHORT, false, at(1));
        }
        assert_eq!(detector.suspicious_failures(), Some(Suspicion::Share(50)));
    }

    #[test]
    fn a_series_stands_out_by_its_length_where_others_fail_too() {
        let stands_out = |length, others| Suspicion::Series(length).stands_out(others);
        assert!(stands_out(5, 0) && !stands_out(4, 0));
        assert!(stands_out(7, 5) && !stands_out(9, 10) && stands_out(10, 10), "two of twenty");
        assert!(!stands_out(19, 30) && stands_out(20, 30) && !stands_out(20, 35));
        assert!(Suspicion::Share(70).stands_out(20) && !Suspicion::Share(69).stands_out(20));
    }

    #[test]
    fn an_ejection_is_ended_by_a_trial_that_goes_well_and_doubled_by_one_that_does_not() {
        let detector = Detector::default();
        assert_eq!(detector.eject(false, 0), Duration::from_secs(5));
        assert!(detector.is_out(|| 4_999) && !detector.is_out(|| 5_000));
        assert!(detector.begin_trial() && !detector.begin_trial());
        assert!(detector.is_out(|| 6_000), "others wait for the trial");
        assert!(detector.record(Outcome::Failed, SHORT, true, at(6_000)));
        assert_eq!(detector.suspicious_failures(), Some(Suspicion::Share(100)));
        assert_eq!(detector.eject(false, 6_000), Duration::from_secs(10));
        detector.begin_trial();
        detector.end_trial();
        assert!(!detector.is_out(|| 16_000), "a trial that said nothing is repeated");
        assert!(detector.begin_trial() && !detector.record(Outcome::Answered(500), SHORT, true, at(16_000)));
        assert!(!detector.is_ejected(), "it was not out for its errors");
        assert_eq!((0..10).map(|_| detector.eject(false, 0)).last(), Some(LONGEST_EJECTION));
    }

    #[test]
    fn failures_and_too_much_to_do_make_an_endpoint_more_expensive_for_a_moment() {
        let detector = Detector::default();
        assert_eq!(detector.cost_factor(|| 1), 1);
        detector.record(Outcome::Answered(503), SHORT, false, at(1));
        assert_eq!((detector.cost_factor(|| 500), detector.cost_factor(|| 1_500)), (2, 1));
        detector.record(Outcome::Failed, SHORT, false, at(1_500));
        assert_eq!((detector.cost_factor(|| 2_000), detector.cost_factor(|| 2_600)), (5, 1));
    }
}

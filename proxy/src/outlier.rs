//! What the outcomes of attempts say about one endpoint on this proxy. Kept over swaps and shared by all cores, so everything is
//! an atomic: recording costs two of them for each attempt. The comparison with other endpoints is [`crate::balance`]'s.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// So many attempts in a row without a response are a reason to eject.
const CONSECUTIVE: u64 = 5;
/// So many attempts are remembered for the share of those without a response; half of them are a reason, too.
const RECENT: u32 = 20;
/// So many statuses are remembered, and needed before their share says something.
const STATUSES: u32 = 32;
const STATUSES_NEEDED: u32 = 20;
/// The first ejection; each further one is twice as long, up to the longest.
const FIRST_EJECTION: Duration = Duration::from_secs(5);
const LONGEST_EJECTION: Duration = Duration::from_secs(300);
/// An endpoint whose last attempt had no response a moment ago is more expensive for this long.
const PENALTY: Duration = Duration::from_secs(1);
/// An endpoint that said that it has too much to do gets half as much for this long.
const RELIEF: Duration = Duration::from_secs(1);
/// An endpoint that clients gave up on is left alone for this long; twice as long each further time, up to a minute.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_DOUBLINGS: u32 = 6;

/// How an attempt ended that says something about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response's head came, with this status.
    Answered(u16),
    /// There was none: no connection, a reset, or a time-out.
    Failed,
}

/// The last of some yes or no, newest in the lowest bit, and how many there are.
#[derive(Debug, Default)]
struct Ring(AtomicU64);

impl Ring {
    fn push(&self, yes: bool, length: u32) {
        let mask = (1u64 << length) - 1;
        let next = |ring: u64| {
            let (bits, count) = (ring & mask, (ring >> 32).min(u64::from(length) - 1));
            Some((count + 1) << 32 | (bits << 1 | u64::from(yes)) & mask)
        };
        // It never fails: there is always a next one.
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

    /// The newest of them that are all yes.
    fn in_a_row(&self) -> u64 {
        let ring = self.0.load(Relaxed);
        u64::from(ring.trailing_ones()).min(ring >> 32)
    }

    /// The part of yes, in percent.
    fn share(&self) -> u32 {
        self.yes() * 100 / self.count().max(1)
    }
}

/// What is remembered of an endpoint's attempts. Times are milliseconds since the endpoint's state was made; 0 is never.
#[derive(Debug, Default)]
pub struct Detector {
    failures: Ring,
    errors: Ring,
    failed_at: AtomicU64,
    relief_until: AtomicU64,
    /// Until when it is ejected; it stays out after that until a trial goes well.
    out_until: AtomicU64,
    ejections: AtomicU32,
    /// Ejected for its statuses: a trial with an error goes badly.
    for_errors: AtomicBool,
    /// A trial is under way.
    on_trial: AtomicBool,
    /// Smoothed time to a response's head, in microseconds.
    latency: AtomicU64,
    /// The longest that a client waited in vain since that was last looked at, in microseconds.
    abandoned: AtomicU64,
    slow_until: AtomicU64,
    slow_times: AtomicU32,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Detector {
    /// Takes in how an attempt ended that took `took`, at `now`. Returns whether that may be a reason to eject the endpoint.
    pub fn record(&self, outcome: Outcome, took: Duration, was_trial: bool, now: u64) -> bool {
        let failed = outcome == Outcome::Failed;
        let error = matches!(outcome, Outcome::Answered(500..));
        self.failures.push(failed, RECENT);
        if failed {
            self.failed_at.store(now.max(1), Relaxed);
        } else {
            self.errors.push(error, STATUSES);
            self.answered(took);
        }
        if matches!(outcome, Outcome::Answered(429 | 503)) {
            self.relief_until.store(now + millis(RELIEF), Relaxed);
        }
        if was_trial && !failed && !(error && self.for_errors.load(Relaxed)) {
            self.readmit();
            return false;
        }
        failed || error
    }

    fn answered(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency.load(Relaxed);
        self.latency.store(if before == 0 { took } else { (before * 7 + took) / 8 }, Relaxed);
        if self.slow_times.load(Relaxed) > 0 && self.slow_until.load(Relaxed) > 0 {
            self.slow_times.store(0, Relaxed);
            self.slow_until.store(0, Relaxed);
        }
        // Long after its last ejection it is an endpoint like any other.
        if self.failures.count() == RECENT && self.failures.yes() == 0 && self.ejections.load(Relaxed) > 0 && self.out_until.load(Relaxed) == 0 {
            self.ejections.store(0, Relaxed);
        }
    }

    /// The client left without a response.
    pub fn abandon(&self, waited: Duration) {
        self.abandoned.fetch_max(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long a client waited in vain, once.
    pub fn take_abandoned(&self) -> Option<Duration> {
        if self.abandoned.load(Relaxed) == 0 {
            return None;
        }
        Some(Duration::from_micros(self.abandoned.swap(0, Relaxed))).filter(|waited| *waited > Duration::ZERO)
    }

    /// Clients give up on it: it is left alone for a while, if there are others.
    pub fn leave_alone(&self, now: u64) {
        let times = self.slow_times.fetch_add(1, Relaxed).min(SLOW_DOUBLINGS);
        self.slow_until.store(now + (millis(SLOW) << times), Relaxed);
    }

    /// Until when it is left alone.
    pub fn slow_until(&self) -> u64 {
        self.slow_until.load(Relaxed)
    }

    /// Smoothed time to a response's head; `None` before the first.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency.load(Relaxed)).filter(|latency| *latency > 0).map(Duration::from_micros)
    }

    /// The part of attempts without a response, in percent, if there were any attempts.
    pub fn failure_share(&self) -> Option<u32> {
        (self.failures.count() > 0).then(|| self.failures.share())
    }

    /// The part of responses that were errors, in percent, if there are any.
    pub fn error_share(&self) -> Option<u32> {
        (self.errors.count() > 0).then(|| self.errors.share())
    }

    /// By how much its failures stand out, if they are a reason to eject it: in percent.
    pub fn suspicious_failures(&self) -> Option<u32> {
        if self.failures.in_a_row() >= CONSECUTIVE || self.is_failed_trial() && self.failures.in_a_row() > 0 {
            return Some(100);
        }
        Some(self.failures.share()).filter(|share| self.failures.count() == RECENT && *share >= 50)
    }

    /// The same of its errors.
    pub fn suspicious_errors(&self) -> Option<u32> {
        if self.is_failed_trial() && self.for_errors.load(Relaxed) && self.errors.in_a_row() > 0 {
            return Some(100);
        }
        Some(self.errors.share()).filter(|_| self.errors.count() >= STATUSES_NEEDED)
    }

    /// Whether a trial has gone badly: it is still out, and its time is over.
    fn is_failed_trial(&self) -> bool {
        self.out_until.load(Relaxed) > 0
    }

    /// Takes it out, for twice as long as the last time. Returns for how long.
    pub fn eject(&self, for_errors: bool, now: u64) -> Duration {
        let doublings = self.ejections.fetch_add(1, Relaxed).min(16);
        let time = (FIRST_EJECTION * 2u32.pow(doublings)).min(LONGEST_EJECTION);
        self.for_errors.store(for_errors, Relaxed);
        self.out_until.store(now + millis(time), Relaxed);
        self.on_trial.store(false, Relaxed);
        time
    }

    /// It takes requests like any other again, and what was remembered is forgotten.
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

    /// Whether it can take no request now. `now` is asked for only where that matters.
    pub fn is_out(&self, now: impl FnOnce() -> u64) -> bool {
        let until = self.out_until.load(Relaxed);
        until > 0 && (self.on_trial.load(Relaxed) || now() < until)
    }

    /// An attempt begins. Returns whether it is the trial that decides whether an ejected endpoint comes back.
    pub fn begin_trial(&self) -> bool {
        self.is_ejected() && !self.on_trial.swap(true, Relaxed)
    }

    /// A trial ended without saying anything.
    pub fn end_trial(&self) {
        self.on_trial.store(false, Relaxed);
    }

    /// By how much requests under way at it count more than at others.
    pub fn cost_factor(&self, now: impl Fn() -> u64) -> u64 {
        let (failed_at, relief) = (self.failed_at.load(Relaxed), self.relief_until.load(Relaxed));
        if failed_at == 0 && relief == 0 {
            return 1;
        }
        let now = now();
        let failing = if failed_at > 0 && now < failed_at + millis(PENALTY) { u64::from(self.failures.yes()) * 4 } else { 0 };
        1 + failing + u64::from(now < relief)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn five_failures_in_a_row_or_half_of_the_last_twenty_are_suspicious() {
        let detector = Detector::default();
        for _ in 0..4 {
            detector.record(Outcome::Failed, SHORT, false, 1);
        }
        assert_eq!(detector.suspicious_failures(), None);
        assert!(detector.record(Outcome::Failed, SHORT, false, 1));
        assert_eq!(detector.suspicious_failures(), Some(100));
        detector.readmit();
        for turn in 0..RECENT {
            assert_eq!(detector.suspicious_failures(), None);
            detector.record(if turn % 2 == 0 { Outcome::Failed } else { Outcome::Answered(200) }, SHORT, false, 1);
        }
        assert_eq!(detector.suspicious_failures(), Some(50));
    }

    #[test]
    fn an_ejection_is_ended_by_a_trial_that_goes_well_and_doubled_by_one_that_does_not() {
        let detector = Detector::default();
        assert_eq!(detector.eject(false, 0), Duration::from_secs(5));
        assert!(detector.is_out(|| 4_999) && !detector.is_out(|| 5_000));
        assert!(detector.begin_trial() && !detector.begin_trial());
        assert!(detector.is_out(|| 6_000), "others wait for the trial");
        assert!(detector.record(Outcome::Failed, SHORT, true, 6_000));
        assert_eq!(detector.suspicious_failures(), Some(100));
        assert_eq!(detector.eject(false, 6_000), Duration::from_secs(10));
        detector.begin_trial();
        detector.end_trial();
        assert!(!detector.is_out(|| 16_000), "a trial that said nothing is repeated");
        assert!(detector.begin_trial() && !detector.record(Outcome::Answered(500), SHORT, true, 16_000));
        assert!(!detector.is_ejected(), "it was not out for its errors");
        assert_eq!((0..10).map(|_| detector.eject(false, 0)).last(), Some(LONGEST_EJECTION));
    }

    #[test]
    fn failures_and_too_much_to_do_make_an_endpoint_more_expensive_for_a_moment() {
        let detector = Detector::default();
        assert_eq!(detector.cost_factor(|| 1), 1);
        detector.record(Outcome::Answered(503), SHORT, false, 1);
        assert_eq!((detector.cost_factor(|| 500), detector.cost_factor(|| 1_500)), (2, 1));
        detector.record(Outcome::Failed, SHORT, false, 1_500);
        assert_eq!((detector.cost_factor(|| 2_000), detector.cost_factor(|| 2_600)), (5, 1));
    }
}

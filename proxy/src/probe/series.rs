//! The health of one endpoint, from the series of its probes. Pure.

use std::time::Duration;

use waypost_model::resource::HealthCheck;
use waypost_wire::Finding;

/// The state of an endpoint, from its probes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Series {
    /// Whether it can take requests; `None` before the first result.
    pub(super) healthy: Option<bool>,
    /// The error of the last probe, if it failed.
    pub(super) why: String,
    /// Number of probes in a row that contradict `healthy`.
    against: u32,
}

impl Series {
    /// What there is to report.
    pub(super) fn finding(&self) -> Finding {
        match self.healthy {
            Some(true) => Finding::Well,
            Some(false) => Finding::Failing(self.why.clone()),
            None => Finding::Unsure,
        }
    }

    /// Records the outcome of a probe. Returns whether there is something to report: the endpoint's health changed or became known, or the
    /// error is another one.
    pub(super) fn observe(&mut self, outcome: Result<(), String>, how: &HealthCheck) -> bool {
        let (good, why) = (outcome.is_ok(), outcome.err().unwrap_or_default());
        if self.healthy == Some(good) {
            self.against = 0;
            let otherwise = why != self.why;
            self.why = why;
            return otherwise;
        }
        self.against += 1;
        let enough = match (self.healthy, good) {
            // The first good probe is enough to know that it is healthy.
            (None, true) => 1,
            (_, true) => how.healthy_threshold,
            (_, false) => how.unhealthy_threshold,
        };
        let turned = self.against >= enough;
        if turned {
            *self = Self { healthy: Some(good), why, against: 0 };
        }
        turned
    }

    /// Time from the start of a probe to the start of the next. While the health is in doubt, the probes come closer together, so that an
    /// endpoint which does not answer is detected as soon as one that refuses: `unhealthyThreshold` intervals after its last good probe.
    pub(super) fn pace(&self, how: &HealthCheck) -> Duration {
        let (interval, timeout) = (how.interval.get(), how.timeout.get());
        if self.healthy == Some(false) || self.against == 0 || how.unhealthy_threshold < 2 {
            return interval;
        }
        interval.saturating_sub(timeout / (how.unhealthy_threshold - 1)).max(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(json: &str) -> HealthCheck {
        serde_json::from_str(json).unwrap()
    }

    fn fails() -> Result<(), String> {
        Err("status 503".to_owned())
    }

    #[test]
    fn an_endpoint_turns_after_its_number_of_probes_in_a_row() {
        let how = how("{}");
        let mut watched = Series::default();
        assert!(watched.observe(Ok(()), &how), "one good answer is enough at first");
        assert!(!watched.observe(fails(), &how) && !watched.observe(fails(), &how));
        assert!(!watched.observe(Ok(()), &how), "in a row");
        assert!(!watched.observe(fails(), &how) && !watched.observe(fails(), &how));
        assert!(watched.observe(fails(), &how));
        assert_eq!((watched.healthy, watched.why.as_str()), (Some(false), "status 503"));
        assert!(!watched.observe(fails(), &how), "that is known");
        assert!(watched.observe(Err("no answer".to_owned()), &how) && watched.observe(fails(), &how), "people see what it fails with now");
        assert!(!watched.observe(Ok(()), &how) && !watched.observe(fails(), &how) && !watched.observe(Ok(()), &how));
        assert!(watched.observe(Ok(()), &how));
        let mut new = Series::default();
        assert!(!new.observe(fails(), &how) && !new.observe(fails(), &how) && new.observe(fails(), &how), "nor is one bad answer");
    }

    #[test]
    fn one_that_never_answers_is_out_after_as_many_intervals_as_one_that_refuses() {
        for (json, intervals) in
            [(r#"{"interval":"1s","timeout":"500ms"}"#, 3), (r#"{"interval":"3s"}"#, 3), (r#"{"interval":"2s","timeout":"1s","unhealthyThreshold":2}"#, 2)]
        {
            let how = how(json);
            let mut watched = Series { healthy: Some(true), ..Series::default() };
            // It hangs just after a good probe: the next probe begins an interval later.
            let mut at = how.interval.get();
            while !watched.observe(Err("no answer".to_owned()), &how) {
                at += watched.pace(&how);
            }
            let detected = at + how.timeout.get();
            assert!(detected <= how.interval.get() * intervals, "{json}: {detected:?}");
        }
    }
}

//! When a lane is published: the first change at once, a storm in growing windows.

use std::time::Duration;

/// The window that a lone change opens.
const SHORTEST: Duration = Duration::from_millis(10);
/// The window of a storm.
const LONGEST: Duration = Duration::from_millis(100);

/// One lane's window. Times are since the start of the process.
#[derive(Debug)]
pub struct Window {
    /// Until when changes are collected; zero when none is open.
    until: Duration,
    length: Duration,
    pending: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self { until: Duration::ZERO, length: SHORTEST, pending: false }
    }
}

impl Window {
    /// Something changed. Returns whether to publish now.
    pub fn changed(&mut self, now: Duration) -> bool {
        if now < self.until {
            self.pending = true;
            return false;
        }
        self.until = now + self.length;
        true
    }

    /// Time has passed. Returns whether to publish now: the window ended and was not empty.
    pub fn tick(&mut self, now: Duration) -> bool {
        if self.until.is_zero() || now < self.until {
            return false;
        }
        if std::mem::take(&mut self.pending) {
            self.length = (self.length * 2).min(LONGEST);
            self.until = now + self.length;
            return true;
        }
        (self.length, self.until) = (SHORTEST, Duration::ZERO);
        false
    }

    /// Whether changes wait.
    pub const fn is_pending(&self) -> bool {
        self.pending
    }

    /// When to look again.
    pub fn due(&self) -> Option<Duration> {
        (!self.until.is_zero()).then_some(self.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_lone_change_goes_out_at_once_and_a_storm_in_growing_windows() {
        let mut window = Window::default();
        assert!(window.changed(ms(1_000)));
        assert!(!window.changed(ms(1_005)));
        assert!(!window.tick(ms(1_009)));
        assert!(window.tick(ms(1_010)));
        assert!(!window.changed(ms(1_015)));
        assert_eq!(window.due(), Some(ms(1_030)), "20 ms now");
        let mut now = 1_030;
        for length in [40, 80, 100, 100] {
            assert!(window.tick(ms(now)));
            assert!(!window.changed(ms(now + 1)));
            now += length;
            assert_eq!(window.due(), Some(ms(now)));
        }
        assert!(window.tick(ms(now)));
        assert!(!window.tick(ms(now + 100)), "an empty window");
        assert_eq!(window.due(), None);
        assert!(window.changed(ms(now + 101)));
        assert_eq!(window.due(), Some(ms(now + 111)), "and everything is as at first");
    }
}

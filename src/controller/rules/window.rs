//! Decides when a lane is published: the first change at once, further ones in windows that grow while they fill.

use std::time::Duration;

/// Length of the window that a lone change opens.
const SHORTEST_WINDOW: Duration = Duration::from_millis(10);
/// Maximum length of a window, reached in a storm of changes.
const LONGEST_WINDOW: Duration = Duration::from_millis(100);
/// This number of changes fills a window. A single writer that waits for each of its writes to be live never reaches it: each of its writes is
/// published within ten milliseconds, however long it goes on.
const CHANGES_PER_FULL_WINDOW: u32 = 4;

/// One lane's window. Times are since the start of the process.
#[derive(Debug)]
pub struct Window {
    /// Until when changes are collected; zero when none is open.
    until: Duration,
    length: Duration,
    /// Changes that wait.
    pending: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { until: Duration::ZERO, length: SHORTEST_WINDOW, pending: 0 }
    }
}

impl Window {
    /// Something changed. Returns whether to publish now.
    pub fn changed(&mut self, now: Duration) -> bool {
        if now < self.until {
            self.pending = self.pending.saturating_add(1);
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
        let pending = std::mem::take(&mut self.pending);
        if pending == 0 {
            (self.length, self.until) = (SHORTEST_WINDOW, Duration::ZERO);
            return false;
        }
        self.length = if pending >= CHANGES_PER_FULL_WINDOW { (self.length * 2).min(LONGEST_WINDOW) } else { (self.length / 2).max(SHORTEST_WINDOW) };
        self.until = now + self.length;
        true
    }

    /// Whether changes wait.
    pub const fn is_pending(&self) -> bool {
        self.pending > 0
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

    /// Changes that come together at `now`.
    fn fill(window: &mut Window, now: u64) {
        (0..CHANGES_PER_FULL_WINDOW).for_each(|_| assert!(!window.changed(ms(now))));
    }

    #[test]
    fn a_lone_change_goes_out_at_once_and_a_storm_in_growing_windows() {
        let mut window = Window::default();
        assert!(window.changed(ms(1_000)));
        fill(&mut window, 1_005);
        assert!(!window.tick(ms(1_009)));
        assert!(window.tick(ms(1_010)));
        fill(&mut window, 1_015);
        assert_eq!(window.due(), Some(ms(1_030)), "20 ms now");
        let mut now = 1_030;
        for length in [40, 80, 100, 100] {
            assert!(window.tick(ms(now)));
            fill(&mut window, now + 1);
            now += length;
            assert_eq!(window.due(), Some(ms(now)));
        }
        assert!(window.tick(ms(now)));
        assert!(!window.tick(ms(now + 100)), "an empty window");
        assert_eq!(window.due(), None);
        assert!(window.changed(ms(now + 101)));
        assert_eq!(window.due(), Some(ms(now + 111)), "and everything is as at first");
    }

    #[test]
    fn one_writer_after_the_other_never_waits_longer_than_the_shortest_window() {
        let mut window = Window::default();
        let mut now = 1_000;
        assert!(window.changed(ms(now)));
        for _ in 0..50 {
            assert!(!window.changed(ms(now + 3)));
            now += 10;
            assert!(window.tick(ms(now)), "live ten milliseconds after the one before");
        }
    }
}

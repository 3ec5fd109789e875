//! Random pauses, so that programs which lost the same peer do not all come back at once.

use std::time::Duration;

/// A random part of `pause`: full jitter.
pub fn jitter(pause: Duration) -> Duration {
    Duration::from_micros(fastrand::u64(0..=u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)))
}

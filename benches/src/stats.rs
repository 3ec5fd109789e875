//! Percentiles.

use std::time::Duration;

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> T {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[at]
}

/// Sorted, as milliseconds.
pub(crate) fn sorted_ms(mut values: Vec<Duration>) -> Vec<f64> {
    values.sort();
    values.into_iter().map(|value| value.as_secs_f64() * 1e3).collect()
}

/// The middle of some figures, with the least and the greatest.
pub(crate) fn median(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), sorted[0], sorted[sorted.len() - 1])
}

//! Percentiles.

use std::time::Duration;

/// The value below which the fraction `share` of the sorted values lies.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> T {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[at]
}

/// Sorts the values and converts them to milliseconds.
pub(crate) fn sorted_ms(mut values: Vec<Duration>) -> Vec<f64> {
    values.sort();
    values.into_iter().map(|value| value.as_secs_f64() * 1e3).collect()
}

/// The median of some values, with their minimum and maximum.
pub(crate) fn median(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (percentile(&sorted, 0.5), sorted[0], sorted[sorted.len() - 1])
}

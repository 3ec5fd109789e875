//! The present date as a field's value, written once a second on each thread.

use std::cell::RefCell;
use std::time::SystemTime;

use tokio::time::Instant;

/// How long a date is used.
const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

thread_local! {
    static DATE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
}

/// Calls `with` with the date (RFC 9110, 5.6.7).
pub(crate) fn with(with: impl FnOnce(&[u8])) {
    DATE.with_borrow_mut(|date| {
        let now = Instant::now();
        if date.as_ref().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SECOND) {
            *date = Some((now, httpdate::fmt_http_date(SystemTime::now())));
        }
        if let Some((_, text)) = date {
            with(text.as_bytes());
        }
    });
}

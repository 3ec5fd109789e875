//! Durations as the Gateway API writes them (GEP-2257): `10s`, `250ms`, `1h30m`.

use std::fmt;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};

/// A time-out or interval, written as `10s`, `250ms` or `1h30m`; `0s` switches the time-out off.
///
/// Source: Gateway API GEP-2257: one to four pairs of up to five digits and a unit of `h`, `m`, `s`, `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(StdDuration);

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(StdDuration::from_millis(millis))
    }

    /// The standard library's form.
    pub const fn get(self) -> StdDuration {
        self.0
    }

    /// `None` for zero, which means "no time-out".
    pub fn enabled(self) -> Option<StdDuration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl TryFrom<String> for Duration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse(&text)
            .map(Self)
            .ok_or_else(|| format!("duration {text:?} is not understood; write a number and a unit of h, m, s or ms, such as \"10s\" or \"250ms\""))
    }
}

fn parse(text: &str) -> Option<StdDuration> {
    let mut rest = text;
    let mut total = 0u64;
    for _ in 0..4 {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits)?;
        if number.is_empty() || number.len() > 5 {
            return None;
        }
        let units = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at_checked(units)?;
        let factor = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total += number.parse::<u64>().ok()? * factor;
        rest = tail;
        if rest.is_empty() {
            // A longer duration could not be written with five digits.
            return (total < 100_000 * 3_600_000).then(|| StdDuration::from_millis(total));
        }
    }
    None
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let parts = [(millis / 3_600_000, "h"), (millis / 60_000 % 60, "m"), (millis / 1_000 % 60, "s"), (millis % 1_000, "ms")];
        if millis == 0 {
            return f.write_str("0s");
        }
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{number}{unit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Duration, String> {
        Duration::try_from(text.to_owned())
    }

    #[test]
    fn durations_are_read_and_written_as_the_gateway_api_does() {
        for text in ["10s", "250ms", "1h30m", "0s", "1h1m1s1ms", "90s", "99999h59m59s999ms"] {
            let once = read(text).unwrap();
            assert_eq!(read(&once.to_string()).unwrap(), once, "{text}");
        }
        assert_eq!(read("1h30m").unwrap().get().as_secs(), 5_400);
        assert_eq!(read("90s").unwrap().to_string(), "1m30s");
    }

    #[test]
    fn text_that_is_not_a_duration_is_refused_with_an_example() {
        for text in ["", "10", "s", "1.5s", "-1s", "123456s", "10 s", "1s1s1s1s1s", "10us", "99999h99999h", "99999h60m"] {
            assert!(read(text).unwrap_err().contains("\"250ms\""), "{text}");
        }
    }
}

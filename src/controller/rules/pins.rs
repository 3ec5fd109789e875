//! Pins: an operator freezes the present config, or publishes an earlier one and pins it, until somebody ends that. Membership goes on meanwhile.
//! Pure: the date is an input.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use waypost_model::lane::Lane;
use waypost_model::object::Digest;
use waypost_model::verdict::{Condition, ConditionType};

/// Why the config stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It was frozen as it was.
    Frozen,
    /// It is one of the history.
    Pinned,
}

impl Reason {
    /// One word, as in conditions and events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Frozen => "Frozen",
            Self::Pinned => "Pinned",
        }
    }

    /// The command that lets go.
    pub const fn release(self) -> &'static str {
        match self {
            Self::Frozen => "waypost unfreeze",
            Self::Pinned => "waypost unpin",
        }
    }
}

/// The record of a pin: what survives a restart, and what is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinRecord {
    /// Why.
    pub reason: Reason,
    /// The config of the history that is published meanwhile.
    pub config: u64,
    /// Who asked for it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Until when, in milliseconds since 1970; until somebody lets go, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// The digest of the config: its number alone may stand for another one where histories went apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

impl PinRecord {
    /// Whether its time is over.
    pub fn is_over(&self, date: u64) -> bool {
        self.until.is_some_and(|until| until <= date)
    }

    /// How much of its time is left by the clock, if it has one; not more than it had.
    pub fn left(&self, date: u64) -> Option<Duration> {
        self.until.map(|until| Duration::from_millis(until.saturating_sub(date.max(self.at))))
    }

    /// One sentence for people: what, by whom, since when, and how to let go.
    pub fn describe(&self) -> String {
        let until = self.until.map(|until| format!(" until {}", date(until))).unwrap_or_default();
        let what = match self.reason {
            Reason::Frozen => format!("the config is frozen at C{}", self.config),
            Reason::Pinned => format!("config C{} is pinned", self.config),
        };
        format!("{what} by {} since {}{until}; `{}` releases it", self.by, date(self.at), self.reason.release())
    }
}

/// A pin record and the config that it names.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Its record.
    pub mark: PinRecord,
    /// The config that is published meanwhile.
    pub lane: Lane,
    /// How much of its time is left, if it has one.
    pub left: Option<Duration>,
}

impl Pin {
    /// With the time that is left by the clock.
    pub fn new(mark: PinRecord, lane: Lane, date: u64) -> Self {
        let left = mark.left(date);
        Self { mark, lane, left }
    }

    /// The condition of an entry that waits behind the pin.
    pub fn condition(&self) -> Condition {
        Condition::no(ConditionType::Programmed, self.mark.reason.word(), self.mark.describe())
    }
}

/// An action of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase", deny_unknown_fields)]
pub enum Action {
    /// Keep the config that is published.
    Freeze,
    /// End the freeze.
    Unfreeze,
    /// Publish this config of the history, or keep the one that is published, for so many seconds or until unpinned.
    Pin {
        /// Its number; the one that is published if absent.
        config: Option<u64>,
        /// Seconds.
        seconds: Option<u64>,
    },
    /// End the pin.
    Unpin,
    /// Let the proxies of another cluster follow this one.
    Adopt {
        /// Its id.
        cluster: String,
    },
}

/// Maximum time of a pin in seconds: ten years. A longer one has no end, and so needs no time.
const MAX_PIN_SECONDS: u64 = 10 * 366 * 86_400;

impl Action {
    /// Whether the action makes sense.
    ///
    /// # Errors
    /// The right form, in one sentence.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Pin { seconds: Some(seconds), .. } if *seconds > MAX_PIN_SECONDS => {
                Err("a pin lasts ten years at most; leave --for away to pin until it is released".to_owned())
            }
            Self::Adopt { cluster } if cluster.is_empty() || cluster.len() > 128 || cluster.contains(|c: char| c.is_control() || c == ' ') => {
                Err("a cluster's id has 1 to 128 characters without spaces; `waypost status` tells it of a proxy that refuses".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Whether an action may follow the present pin.
///
/// # Errors
/// Why not, and what to do first.
pub fn check(action: &Action, pin: Option<&PinRecord>) -> Result<(), String> {
    match (action, pin) {
        (Action::Freeze | Action::Pin { .. }, Some(mark)) if mark.reason == Reason::Frozen => Err(format!("{} first", mark.describe())),
        (Action::Unfreeze, None) => Err("nothing is frozen".to_owned()),
        (Action::Unfreeze, Some(mark)) if mark.reason != Reason::Frozen => Err(format!("nothing is frozen; {}", mark.describe())),
        (Action::Unpin, None) => Err("nothing is pinned".to_owned()),
        (Action::Unpin, Some(mark)) if mark.reason != Reason::Pinned => Err(format!("nothing is pinned; {}", mark.describe())),
        _ => Ok(()),
    }
}

/// A date as people read it (RFC 9110, 5.6.7).
pub fn date(millis: u64) -> String {
    /// The last second of the year 9999, beyond which there is no such date.
    const LAST: u64 = 253_402_300_799_000;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis.min(LAST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(reason: Reason, until: Option<u64>) -> PinRecord {
        PinRecord { reason, config: 12, by: "alice".to_owned(), at: 1_767_225_599_000, until, digest: None }
    }

    #[test]
    fn a_pin_is_described_with_its_author_its_date_and_the_command_that_ends_it() {
        assert_eq!(
            mark(Reason::Frozen, None).describe(),
            "the config is frozen at C12 by alice since Wed, 31 Dec 2025 23:59:59 GMT; `waypost unfreeze` releases it"
        );
        assert_eq!(
            mark(Reason::Pinned, Some(1_767_225_600_000)).describe(),
            "config C12 is pinned by alice since Wed, 31 Dec 2025 23:59:59 GMT until Thu, 01 Jan 2026 00:00:00 GMT; `waypost unpin` releases it"
        );
    }

    #[test]
    fn a_freeze_is_ended_only_by_unfreeze() {
        let (frozen, pinned) = (mark(Reason::Frozen, None), mark(Reason::Pinned, None));
        let pin = Action::Pin { config: Some(3), seconds: None };
        for (action, record, ok) in [
            (&Action::Freeze, None, true),
            (&Action::Freeze, Some(&pinned), true),
            (&pin, Some(&pinned), true),
            (&pin, Some(&frozen), false),
            (&Action::Unpin, Some(&frozen), false),
            (&Action::Unpin, None, false),
            (&Action::Unfreeze, Some(&frozen), true),
            (&Action::Unfreeze, Some(&pinned), false),
        ] {
            assert_eq!(check(action, record).is_ok(), ok, "{action:?} after {record:?}");
        }
    }

    #[test]
    fn no_date_is_too_far_and_no_pin_too_long() {
        assert_eq!(date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert!(Action::Pin { config: None, seconds: Some(300_000_000_000) }.check().is_err());
        assert!(Action::Pin { config: None, seconds: Some(7_200) }.check().is_ok());
    }

    #[test]
    fn a_pin_ends_at_its_time() {
        let pin = PinRecord { at: 300, ..mark(Reason::Pinned, Some(1_000)) };
        assert!(!pin.is_over(999) && pin.is_over(1_000));
        assert_eq!((pin.left(400), pin.left(2_000)), (Some(Duration::from_millis(600)), Some(Duration::ZERO)));
        assert_eq!(pin.left(0), Some(Duration::from_millis(700)), "a clock that went back makes it no longer");
    }
}

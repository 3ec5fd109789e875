//! The result of a verb and its exit code.

use std::fmt;

/// A failure with its exit code: 1 failed, 2 usage, 3 rejected by validation, 4 not reachable.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self { code: 1, message: message.to_string() }
    }

    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 2, message: message.to_string() }
    }

    pub(super) fn rejected(message: impl fmt::Display) -> Self {
        Self { code: 3, message: message.to_string() }
    }

    pub(super) fn unreachable(message: impl fmt::Display) -> Self {
        Self { code: 4, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub(super) type Outcome = Result<(), Failure>;

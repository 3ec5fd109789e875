//! The time limits of one request.

use std::time::Duration;

use tokio::time::Instant;

use crate::http::io::Patience;
use crate::table::{Backend, CompiledRule};

/// How long each part of a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// To a connection.
    pub(crate) connect: Option<Duration>,
    /// From the end of the request to the head of the response.
    pub(crate) first_byte: Option<Duration>,
    /// Between two pieces of a body.
    idle: Option<Duration>,
    /// The end of the whole.
    pub(crate) deadline: Option<Instant>,
}

impl TimeLimits {
    /// Those of a rule, and of the backend where the rule says nothing.
    pub(crate) fn of(rule: &CompiledRule, backend: &Backend) -> Self {
        Self {
            connect: backend.timeouts.connect.enabled(),
            first_byte: rule.first_byte.unwrap_or(backend.timeouts.first_byte).enabled(),
            idle: rule.idle.unwrap_or(backend.timeouts.idle).enabled(),
            deadline: rule.request_timeout.map(|limit| Instant::now() + limit),
        }
    }

    /// For a body.
    pub(crate) const fn of_body(&self) -> Patience {
        Patience { idle: self.idle, deadline: self.deadline }
    }

    /// Whether the end of the whole has come.
    pub(crate) fn are_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}

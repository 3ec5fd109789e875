//! Errors of stores: the endpoint, what happened, and what a person can do about it.

use thiserror::Error;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store does not answer, or cannot serve the request now: try again.
    Unreachable,
    /// The credential is wrong or lacks the permission: a person must act.
    Denied,
    /// The store cannot accept this key or value: trying again does not help.
    Refused,
    /// A write may or may not have happened, and reading the entry back failed as well.
    UnknownOutcome,
    /// The settings are wrong: a person must act.
    Settings,
}

/// An error of a store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{endpoint}: {message}; {remedy}")]
pub struct AdapterError {
    /// What a caller can do.
    pub kind: ErrorKind,
    /// The endpoint that the request was sent to.
    pub endpoint: String,
    /// What happened.
    pub message: String,
    /// What a person can do.
    pub remedy: String,
}

impl AdapterError {
    /// An error of `endpoint`. Never put a secret into the message.
    pub fn new(kind: ErrorKind, endpoint: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, endpoint: endpoint.into(), message: message.into(), remedy: remedy.into() }
    }

    /// The same error for a write that may have happened nevertheless.
    pub fn unknown_outcome(&self) -> Self {
        Self { kind: ErrorKind::UnknownOutcome, message: format!("{}; whether it was written is not known", self.message), ..self.clone() }
    }
}

//! Verdicts: the result of validating an entry, in the shape of Gateway API conditions.

use serde::{Deserialize, Serialize};

/// One condition of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs` or `Programmed`.
    pub r#type: ConditionType,
    /// Whether the condition holds.
    pub status: Status,
    /// A single word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The question that a condition answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionType {
    /// Is the value valid and in force?
    Accepted,
    /// Does everything it refers to exist?
    ResolvedRefs,
    /// Do the proxies serve it?
    Programmed,
}

/// The answer of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl Condition {
    /// A condition that holds.
    pub fn yes(kind: ConditionType, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type: kind, status: Status::True, reason: reason.to_owned(), message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(kind: ConditionType, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type: kind, status: Status::False, reason: reason.to_owned(), message: message.into() }
    }
}

impl Condition {
    /// Whether the entry is accepted with a warning.
    pub fn is_warning(&self) -> bool {
        self.r#type == ConditionType::Accepted && self.status == Status::True && self.reason != "Accepted"
    }
}

/// The conditions of one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// At most one of each type, in the order of the types.
    pub conditions: Vec<Condition>,
}

impl Verdict {
    /// The condition of that type.
    pub fn get(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.r#type == kind)
    }

    /// Whether the entry was accepted.
    pub fn accepted(&self) -> bool {
        self.get(ConditionType::Accepted).is_some_and(|condition| condition.status == Status::True)
    }

    /// The warning of an accepted entry, if there is one.
    pub fn warning(&self) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.is_warning())
    }

    /// The first condition that does not hold.
    pub fn problem(&self) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.status == Status::False)
    }
}

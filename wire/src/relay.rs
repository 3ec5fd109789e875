//! What a controller that relays tells the one that it follows, and what controllers tell each other of themselves.

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;

use crate::report::{Content, Report};

/// One message of a controller that relays: all proxies that follow it, directly or through others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayReport {
    /// The controller's name.
    pub controller: String,
    /// Its proxies.
    pub proxies: Vec<Downstream>,
    /// How far it has what operators did: the epoch and count of the last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operated: Option<(u64, u64)>,
    /// The version of what it relays itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The digests of that, to be compared with what was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// What happened on it that nobody else can know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub told: Vec<Told>,
}

/// What whoever leads answers to that; often nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayAnswer {
    /// It has lost what was published: proxies that have seen more than this are to be asked what they hold.
    pub recall: Option<Version>,
}

/// An event of a controller that relays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// One word, such as `StateDamaged`.
    pub reason: String,
    /// What it is about.
    pub about: String,
    /// One sentence.
    pub message: String,
}

/// One proxy that follows a controller which relays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Downstream {
    /// Its name.
    pub name: String,
    /// The cluster it believes to belong to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The highest version it had seen when it connected.
    pub highest: Version,
    /// Its last report, if that was not passed on yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// What a controller says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerInfo {
    /// Its name.
    pub name: String,
    /// Where its API is.
    pub url: String,
    /// Its cluster; empty before it knows.
    pub cluster: String,
    /// The epoch under which it leads or takes care, if it does.
    pub epoch: Option<u64>,
    /// Whether it holds a lease under that epoch: it publishes what the stores say.
    pub leads: bool,
    /// What it publishes or relays.
    pub version: Option<Version>,
    /// The controllers that it follows, the nearest first; empty if it follows nobody now.
    pub upstream: Vec<String>,
}

//! Messages between controllers: the reports of a follower to its upstream, and each controller's description of itself.

use serde::{Deserialize, Serialize};
use waypost_model::snapshot::Version;

use crate::report::{Content, Report};

/// One message of a follower: all proxies that follow it, directly or through others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayReport {
    /// The controller's name.
    pub controller: String,
    /// Its proxies.
    pub proxies: Vec<Downstream>,
    /// The last operator action that it has stored: the epoch and count of that change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operated: Option<(u64, u64)>,
    /// The version that it relays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The digests of the content that it relays, to be compared with those of the publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Events on this controller that no other one can observe.
    #[serde(rename = "told", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<RelayedEvent>,
}

/// The leader's answer to a relay report; often empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayAnswer {
    /// Set if the leader has lost the published state: proxies that have received a higher version than this are to upload their state.
    pub recall: Option<Version>,
    /// Proxies of which the leader has other results of health checks than the report builds on: their reports are to come as a whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resend: Vec<String>,
    /// Set if the leader understands reports with only the changed results of health checks. Leaders of release 0.1 take every report for
    /// a whole one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub takes_changes: bool,
}

/// An event of a follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayedEvent {
    /// The reason as one word, such as `StateDamaged`.
    pub reason: String,
    /// The object of the event.
    pub about: String,
    /// The message, one sentence.
    pub message: String,
}

/// One proxy that follows a follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Downstream {
    /// Its name.
    pub name: String,
    /// The cluster that it believes it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The highest version that it had received when it connected.
    pub highest: Version,
    /// Its last report, if that was not relayed before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// A controller's description of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerInfo {
    /// Its name.
    pub name: String,
    /// The URL of its API.
    pub url: String,
    /// Its cluster; empty as long as it does not know it.
    pub cluster: String,
    /// The epoch under which it is leader or caretaker; absent if it is neither.
    pub epoch: Option<u64>,
    /// Whether it has a lease under that epoch, and hence publishes the content of the stores.
    pub leads: bool,
    /// The version that it publishes or relays.
    pub version: Option<Version>,
    /// The controllers that it follows, the nearest first; empty if it follows none now.
    pub upstream: Vec<String>,
}

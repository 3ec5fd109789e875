//! A proxy's report to its controller: the version it applied, the objects it could not use, and its load.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

/// One report, sent after every change and at the latest after [`REPORT_SECONDS`](crate::REPORT_SECONDS).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Identifies one run of one process.
    pub run_id: String,
    /// The proxy's labels.
    pub labels: BTreeMap<String, String>,
    /// The address of its admin surface, for people.
    pub admin: String,
    /// Its release.
    pub release: String,
    /// The cluster whose version it serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The version that it serves.
    pub applied: Option<Version>,
    /// The highest version that it has received.
    pub highest: Option<Version>,
    /// Why the last publication was refused as a whole; absent if it was not.
    pub refused: Option<String>,
    /// Objects that it could not use; it still serves their last good form.
    pub problems: Vec<ObjectProblem>,
    /// The state of its listeners.
    pub listeners: Vec<ListenerState>,
    /// Its load.
    pub load: Load,
    /// Draining endpoints with requests in progress.
    pub draining: Vec<DrainingEndpoint>,
    /// The results of its health checks; absent if it cannot probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<Probed>,
    /// The digests of the content that it serves, to be compared with those of the publication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Milliseconds since the stores were confirmed as current, as of the last heartbeat that has reached the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_millis: Option<u64>,
    /// The version of the shared keys that it has; absent if it does not follow them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Version>,
}

/// A controller's answer to a report; often empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportAnswer {
    /// Set if the controller has lost the published state: the proxy is asked to upload its own, in the form of [`whole`](crate::whole).
    pub recall: bool,
    /// The number of the last change of health checks that the controller has; absent before release 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<u64>,
}

/// The digests of the content that a proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Digest of the config.
    pub config: Digest,
    /// Digest of the membership.
    pub membership: Digest,
}

/// The results of a proxy's health checks, or what changed of them. Endpoints that it probes and that are not named are healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probed {
    /// The version that decided which endpoints it probes.
    pub version: Version,
    /// Endpoints (`BACKEND/ID`) that failed too often in a row, with the error.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failing: BTreeMap<String, String>,
    /// Endpoints without a result yet.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unsure: BTreeSet<String>,
    /// The number of the last change that this message has, counted by the proxy; see [`Findings`](crate::Findings).
    #[serde(skip_serializing_if = "is_zero")]
    pub number: u64,
    /// Only what changed after this number is named; absent if everything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Endpoints that were failing or without a result and are healthy now.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub recovered: BTreeSet<String>,
    /// There are more changes than fit; they follow, and `version` counts once they came.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Content {
    /// The digests of a snapshot.
    pub const fn of(snapshot: &Snapshot) -> Self {
        Self { config: snapshot.config.digest(), membership: snapshot.membership.digest() }
    }
}

/// An object that a proxy could not use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectProblem {
    /// Its kind, in the singular.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

/// The state of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerState {
    /// Its name.
    pub name: String,
    /// The address that it binds.
    pub address: String,
    /// Whether it is bound.
    pub bound: bool,
}

/// The load of a proxy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// Requests answered since the start.
    pub requests: u64,
}

/// A draining endpoint with requests in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainingEndpoint {
    /// `<backend>/<id>`.
    pub name: String,
    /// Requests in progress.
    pub in_flight: u64,
}

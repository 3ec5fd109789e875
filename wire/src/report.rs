//! What a proxy tells the controller: what it applied, what it could not, and how it fares.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waypost_model::object::Digest;
use waypost_model::snapshot::{Snapshot, Version};

/// One report, sent after every change and at least with every heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// One run of one process.
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
    /// The highest version that it has seen.
    pub highest: Option<Version>,
    /// Why the last publication was refused as a whole, if it was.
    pub refused: Option<String>,
    /// Objects that it could not put to use; it keeps their last good form.
    pub problems: Vec<ObjectProblem>,
    /// What became of its listeners.
    pub listeners: Vec<ListenerState>,
    /// How busy it is.
    pub load: Load,
    /// Endpoints that drain and still have requests.
    pub draining: Vec<DrainingEndpoint>,
    /// What it found out of the endpoints that it probes; absent if it cannot probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<Probed>,
    /// The digests of what it serves, to be compared with those of what was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// How long ago the stores were confirmed, as far as it has heard, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_millis: Option<u64>,
    /// The version of the shared keys that it holds; absent if it does not follow them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Version>,
}

/// What a controller answers to a report; often nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportAnswer {
    /// It has lost what was published: the proxy is asked to tell what it holds, as [`whole`](crate::whole).
    pub recall: bool,
}

/// The digests of what a proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Of the config.
    pub config: Digest,
    /// Of the membership.
    pub membership: Digest,
}

/// What a proxy found out of the endpoints that it probes. Those that are not named are healthy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probed {
    /// The version from which it took what it has to probe.
    pub version: Version,
    /// Endpoints (`BACKEND/ID`) that failed too often in a row, and how.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failing: BTreeMap<String, String>,
    /// Endpoints of which it cannot tell yet.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unsure: BTreeSet<String>,
}

impl Content {
    /// That of a snapshot.
    pub const fn of(snapshot: &Snapshot) -> Self {
        Self { config: snapshot.config.digest(), membership: snapshot.membership.digest() }
    }
}

/// An object that a proxy could not put to use.
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

/// What became of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerState {
    /// Its name.
    pub name: String,
    /// Where it is bound.
    pub address: String,
    /// Whether it is.
    pub bound: bool,
}

/// How busy a proxy is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Load {
    /// Client connections that are open.
    pub connections: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests answered since the start.
    pub requests: u64,
}

/// An endpoint that drains and still has requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainingEndpoint {
    /// `<backend>/<id>`.
    pub name: String,
    /// Requests under way.
    pub in_flight: u64,
}

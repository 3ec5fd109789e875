//! What a request gets: a rule's own answer, a backend's, or the reason why there is none.

use std::borrow::Cow;
use std::sync::Arc;

use waypost_http1::Name;
use waypost_model::limits::MAX_LOOKUP_STEPS;
use waypost_model::path::{PathError, Paths};
use waypost_model::resource::{PathNormalization, PathRewrite, Work};

use crate::http::answer::Answer;
use crate::http::connection::Connection;
use crate::http::head::{Head, tokens};
use crate::http::redirect::{addressed, redirect, split_port};
use crate::table::{self, Action, Backend, Candidate, CompiledRule, Table, Target};
use crate::tail::Record;

/// What a request gets.
pub(crate) enum Plan {
    /// An answer of the proxy, and the rule that it is of, if one matched.
    Answer(Box<Answer>, Option<Arc<CompiledRule>>),
    /// A backend's response.
    Forward(Forward),
}

impl Plan {
    /// The rule that the request matched.
    pub(crate) fn into_rule(self) -> Option<Arc<CompiledRule>> {
        match self {
            Self::Answer(_, rule) => rule,
            Self::Forward(forward) => Some(forward.rule),
        }
    }
}

/// A request for a backend. It holds its rule and backend, and not the table.
pub(crate) struct Forward {
    pub(crate) rule: Arc<CompiledRule>,
    pub(crate) name: Arc<str>,
    pub(crate) backend: Arc<Backend>,
    /// The path that the endpoint gets, if it is not the client's.
    pub(crate) path: Option<String>,
    /// The protocols that the connection may switch to.
    pub(crate) upgrade: Option<String>,
    /// Whether the client is a proxy that is believed.
    pub(crate) trusted: bool,
}

/// Finds what a request gets in this table.
pub(crate) fn plan(connection: &Connection, table: &Table, head: &Head, record: &mut Option<Box<Record>>) -> Plan {
    match found(connection, table, head, record) {
        Ok(plan) => plan,
        Err((answer, rule)) => Plan::Answer(answer, rule),
    }
}

type Refused = (Box<Answer>, Option<Arc<CompiledRule>>);

fn refused(status: u16, why: impl Into<String>) -> Refused {
    (Answer::refusal(status, why), None)
}

fn found(connection: &Connection, table: &Table, head: &Head, record: &mut Option<Box<Record>>) -> Result<Plan, Refused> {
    if head.method() == "CONNECT" {
        let mut answer = Answer::refusal(405, "CONNECT is not served here");
        answer.fields.push(("allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE".to_owned()));
        return Err((answer, None));
    }
    let host = host_name(head.host().unwrap_or_default());
    let listener = table.listener_of(&connection.listener);
    if let Some(record) = record {
        record.came(&listener.name, &table.version_text);
    }
    let paths = match listener.paths {
        PathNormalization::Standard if head.path() != "*" => Paths::of(head.path()).map_err(|error| refused(400, error.to_string()))?,
        PathNormalization::Standard | PathNormalization::None => Paths::as_received(head.path()),
    };
    let work = Work::new(MAX_LOOKUP_STEPS);
    let find = |path: &str| {
        let fields = head.for_lookup();
        table.find(&table::Request {
            listener: &listener.name,
            explicit_only: listener.explicit_only,
            host: &host,
            path,
            query: head.query(),
            method: head.method(),
            fields,
            work: &work,
        })
    };
    let matched = find(&paths.matched);
    if let Some(read) = &paths.with_slashes
        && !is_same(matched, find(read))
    {
        return Err(refused(400, PathError::Ambiguous.to_string()));
    }
    if work.is_exhausted() {
        return Err(refused(
            414,
            format!("comparing this request with the regular expressions and conditions of host {host} takes too many steps; it is too long"),
        ));
    }
    let Some(Candidate { rule, found, .. }) = matched else { return Err(refused(404, no_route(&host, &paths.matched))) };
    if let Some(record) = record {
        record.routed(&rule.route);
    }
    let resolved = match paths.sent_on {
        Cow::Borrowed(_) => None,
        Cow::Owned(path) => Some(path),
    };
    let trusted = listener.trusted.iter().any(|network| network.contains(connection.client.address));
    let own = |answer: Answer| Ok(Plan::Answer(Box::new(answer), Some(rule.clone())));
    match &rule.action {
        Action::Redirect(to) => {
            own(redirect(to, &found.path, &addressed(head, connection.client.scheme, trusted), (resolved.as_deref().unwrap_or(head.path()), head.query())))
        }
        Action::Fixed { status, body, content_type } => {
            own(Answer::of(status.as_u16(), String::from_utf8_lossy(content_type.as_bytes()).into_owned(), body.clone()))
        }
        Action::Forward { targets } => {
            let (name, backend) = chosen(table, targets).map_err(|answer| (answer, Some(rule.clone())))?;
            let change = |rewrite: &PathRewrite| table::rewritten(rewrite, &found.path, resolved.as_deref().unwrap_or(head.path()));
            let path = rule.rewrite_path.as_ref().map(change).or(resolved.clone());
            Ok(Plan::Forward(Forward { rule: rule.clone(), name, backend, path, upgrade: upgrade(connection, head, rule), trusted }))
        }
    }
}

/// Whether two lookups found the same rule.
fn is_same(one: Option<&Candidate>, other: Option<&Candidate>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.rule.is_same_rule(&other.rule),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn no_route(host: &str, path: &str) -> String {
    let host = if host.is_empty() { "a request without a host".to_owned() } else { format!("host {host}") };
    format!("no route for {host} and path {path}")
}

/// Protocols of one request that are looked at: browsers offer one.
const MAX_OFFERED_PROTOCOLS: usize = 16;

/// The protocols to switch to that the client wants and the rule allows.
fn upgrade(connection: &Connection, head: &Head, rule: &CompiledRule) -> Option<String> {
    if head.version() != waypost_http1::Version::Http11 || !head.has_token(Name::Connection, "upgrade") {
        return None;
    }
    let allowed: Vec<&str> = tokens(head.values(Name::Upgrade)).take(MAX_OFFERED_PROTOCOLS).filter(|protocol| rule.allows_upgrade(protocol)).collect();
    if allowed.is_empty() {
        if head.values(Name::Upgrade).next().is_some() {
            connection.core.shared.metrics.upgrades_dropped.inc();
        }
        return None;
    }
    Some(allowed.join(", "))
}

/// One of a rule's backends, by its share.
fn chosen(table: &Table, targets: &[Target]) -> Result<(Arc<str>, Arc<Backend>), Box<Answer>> {
    let usable = |target: &&Target| table.backends.get(&target.backend).is_some_and(|backend| !backend.balancer.is_empty());
    let target = by_share(targets.iter().filter(usable));
    let found = target.and_then(|target| Some((target.backend.clone(), table.backends.get(&target.backend)?.clone())));
    found.ok_or_else(|| Answer::refusal(503, nobody(table, targets)))
}

/// Why no backend takes the request.
fn nobody(table: &Table, targets: &[Target]) -> String {
    let why = targets.iter().map(|target| match table.backends.get(&target.backend) {
        Some(backend) if !backend.endpoints.is_empty() => {
            format!("no endpoint in backend {} takes requests: all {} drain or have weight 0", target.backend, backend.endpoints.len())
        }
        _ => format!("no endpoint in backend {}", target.backend),
    });
    why.collect::<Vec<_>>().join("; ")
}

fn by_share<'t>(mut targets: impl Iterator<Item = &'t Target> + Clone) -> Option<&'t Target> {
    let total: u64 = targets.clone().map(|target| target.weight).sum();
    if total == 0 {
        return None;
    }
    let mut ticket = fastrand::u64(0..total);
    targets.find(|target| {
        let hit = ticket < target.weight;
        ticket = ticket.saturating_sub(target.weight);
        hit
    })
}

/// A host without its port, in the spelling of a route's hostnames.
fn host_name(host: &str) -> Cow<'_, str> {
    let (name, _) = split_port(host);
    if let Some(address) = name.strip_prefix('[').and_then(|_| waypost_model::value::host_address(name)) {
        return address.to_string().into();
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

//! `waypost status`

use std::collections::BTreeSet;

use clap::Args;

use super::client::{ControllerFlag, OutputFlag};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::{HeldInfo, OtherController, ProxyInfo, SourceInfo, StatusInfo, UnhealthyBackend, date};

#[derive(Debug, Args)]
pub(super) struct StatusFlags {
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: StatusFlags) -> Outcome {
    let status = flags.controller.get::<StatusInfo>("/v1/status", &[]).await?.counted();
    if !machine(flags.output.output, &status)? {
        print(&status);
    }
    if status.needs_attention() { Err(Failure::failed("")) } else { Ok(()) }
}

/// The state of another controller, in words.
fn follower(other: &OtherController) -> String {
    let version = other.version.unwrap_or_default();
    match other {
        OtherController { follows: false, name, .. } => format!("ABSENT; if it is gone for good, delete controllers/{name} below the status root"),
        OtherController { drifted: true, .. } => format!("follows, HAS OTHER CONTENT than was published as version {version}"),
        OtherController { behind: true, .. } => format!("follows, BEHIND with version {version}"),
        _ => "follows".to_owned(),
    }
}

fn print(status: &StatusInfo) {
    let version = status.version.map_or_else(
        || "nothing published yet".to_owned(),
        |version| format!("version {version} (config {}, membership {})", status.config, status.membership),
    );
    match &status.leader {
        Some(leader) => {
            let caretaker = if leader.caretaker { "; without the store: only what operators ask for is published" } else { "" };
            say!("Leader:   {} at {}, epoch {}{caretaker}", leader.name, leader.url, leader.epoch);
        }
        None => say!("Leader:   none; what was published serves on"),
    }
    if let Some(why) = &status.leader_failure {
        say!("          NOT HEARD: {why}; below is what the controller knows that was asked");
    }
    for other in &status.controllers {
        say!("          {} at {}: {}", other.name, other.url, follower(other));
    }
    say!("Serving:  {version}");
    if let Some(pin) = &status.pin {
        say!("Pinned:   {}", pin.describe());
    }
    if let Some(tree) = &status.active_tree {
        say!("Tree:     {tree} (named by current)");
    }
    status.sources.iter().for_each(print_source);
    print_held(status);
    status.unhealthy.iter().for_each(print_unhealthy);
    let connected = status.proxies.iter().filter(|proxy| proxy.connected).count();
    say!("Proxies:  {connected} connected of {} known", status.proxies.len());
    status.proxies.iter().for_each(print_proxy);
    if status.rejected_count > 0 {
        say!("Rejected: {} entries; `waypost describe KEY` says why", status.rejected_count);
        status.rejected.iter().take(20).for_each(|key| say!("  {key}"));
    }
    for limit in status.limits.iter().filter(|limit| limit.used * 5 >= limit.limit * 4) {
        say!("Limit:    {} of {} {}", limit.used, limit.limit, limit.name);
    }
    say!("{}", if status.needs_attention() { "Attention is needed." } else { "Everything is current." });
}

/// Prints the removals that are held, and the commands that end that.
fn print_held(status: &StatusInfo) {
    let held: Vec<&HeldInfo> = status.held.iter().filter(|held| held.why.is_some()).collect();
    if status.judged_count > 0 {
        say!("Judged:   {} entries went a moment ago; they serve on until that is judged or confirmed", status.judged_count);
    }
    if status.held_count == 0 {
        return;
    }
    say!("Held:     {} entries are gone from their store and serve on:", status.held_count);
    for one in held.iter().take(20) {
        say!("  {} since {}: {}", one.key, date(one.since), one.why.as_deref().unwrap_or_default());
    }
    if status.held_count > 20 {
        say!("  and {} more; `waypost export --held` has all", status.held_count - 20);
    }
    say!("          if that is meant: waypost approve --all (or KEY...)");
    let stores: BTreeSet<&str> = held.iter().map(|one| one.store.as_str()).collect();
    stores.iter().for_each(|store| say!("          if not, write them back: waypost export --held --to {store}"));
}

/// Prints a backend with unhealthy endpoints.
fn print_unhealthy(one: &UnhealthyBackend) {
    let used = if one.panics { "; TOO FEW, so all are used as if they were healthy" } else { "" };
    say!("Health:   backend {}: {} of {} endpoints are unhealthy{used}", one.backend, one.count, one.endpoints);
    one.unhealthy.iter().take(5).for_each(|(id, why)| say!("  {}/{id}: {why}", one.backend));
    if one.count > 5 {
        say!("  and {} more; -o json names them", one.count - 5);
    }
}

fn print_source(source: &SourceInfo) {
    let age = source.age_seconds.map_or_else(|| "never read".to_owned(), |age| format!("confirmed {age:.1} s ago"));
    let state = if source.current { "current" } else { "BEHIND" };
    say!(
        "Store:    {} {state}, {age}, revision {}, {} entries{}",
        source.url,
        source.at,
        source.entries,
        if source.drift > 0 { format!(", {} drifted", source.drift) } else { String::new() }
    );
    for message in source.error.iter().chain(&source.other_spelling) {
        say!("          {message}");
    }
}

fn print_proxy(proxy: &ProxyInfo) {
    let state = match (proxy.connected, proxy.behind) {
        (false, _) => format!("absent for {} s", proxy.contact_age_seconds),
        (true, true) => "BEHIND".to_owned(),
        (true, false) => "connected".to_owned(),
    };
    let applied = proxy.applied.map_or_else(|| "nothing yet".to_owned(), |version| format!("version {version}"));
    let drifted = if proxy.drifted { ", WITH OTHER CONTENT than was published" } else { "" };
    let stale = proxy.age_seconds.filter(|_| proxy.is_stale()).map(|age| format!(", and has heard nothing of the stores for {age} s"));
    say!("  {}: {state}, serves {applied}{drifted}{}", proxy.name, stale.unwrap_or_default());
    proxy.refused.iter().for_each(|reason| say!("    refused: {reason}"));
    proxy.problems.iter().for_each(|problem| say!("    {}/{}: {}", problem.kind, problem.name, problem.message));
}

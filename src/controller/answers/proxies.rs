//! The proxies, as people see them.

use crate::controller::answers::shapes::ProxyInfo;
use crate::controller::message::Now;
use crate::controller::state::State;
use crate::controller::state::proxies::{Proxies, Proxy};

/// All proxies.
pub fn proxies(state: &State, now: Now) -> Vec<ProxyInfo> {
    let one = |(name, proxy): (&String, &Proxy)| ProxyInfo {
        name: name.clone(),
        labels: proxy.report.labels.clone(),
        connected: proxy.connected(now.since_start),
        behind: Proxies::behind(proxy, state.snapshot.version, state.published, now.since_start),
        drifted: proxy.drifted,
        secrets: proxy.report.secrets,
        age_seconds: proxy.report.age_millis.map(|age| age / 1_000 + now.since_start.saturating_sub(proxy.last_contact).as_secs()),
        applied: proxy.report.applied,
        release: proxy.report.release.clone(),
        admin: proxy.report.admin.clone(),
        refused: proxy.report.refused.clone(),
        problems: proxy.report.problems.clone(),
        listeners: proxy.report.listeners.clone(),
        load: proxy.report.load,
        draining: proxy.report.draining.clone(),
        contact_age_seconds: now.since_start.saturating_sub(proxy.last_contact).as_secs(),
    };
    state.proxies.all().map(one).collect()
}

//! Health checks: how proxies find out which endpoints of a backend can take requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How the endpoints of a backend are probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "WrittenCheck")]
#[schemars(with = "WrittenCheck")]
pub struct HealthCheck {
    /// What a probe does.
    pub r#type: CheckType,
    /// The path that a probe requests, with its query; empty for a TCP check.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The host that a probe sends; the endpoint's address if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port that is probed; the endpoint's own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The statuses of a healthy response; 200 to 399 if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expected_statuses: Vec<u16>,
    /// Time from the start of a probe to the start of the next.
    pub interval: Duration,
    /// A probe without a response after this time has failed.
    pub timeout: Duration,
    /// Number of successful probes in a row that make an unhealthy endpoint healthy.
    pub healthy_threshold: u32,
    /// Number of failed probes in a row that make an endpoint unhealthy.
    pub unhealthy_threshold: u32,
    /// Number of proxies that probe each endpoint.
    pub probers: usize,
    /// Percentage of healthy endpoints below which all endpoints are used as if they were healthy.
    pub panic_threshold: u32,
}

/// The shared verdict of an endpoint's probers. No user writes it; it is published with membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the endpoint can take requests.
    pub healthy: bool,
}

/// The marks of an endpoint that could take requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitness {
    /// Its probers agree that it cannot take requests.
    pub unhealthy: bool,
    /// It is missing in its store, and it is not known yet whether that is meant.
    pub suspect: bool,
}

/// A proxy that probes endpoints. No user writes it; it is published with membership.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prober {
    /// The zone that the proxy runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What a probe does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckType {
    /// Requests a path over HTTP/1.1.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// Opens a connection.
    #[serde(rename = "TCP")]
    Tcp,
}

/// The written form of a health check.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", expecting = "a health check, such as {\"type\":\"HTTP\",\"path\":\"/healthz\"}")]
struct WrittenCheck {
    /// What a probe does: `HTTP` requests a path, `TCP` only opens a connection. Default HTTP.
    #[serde(default)]
    r#type: CheckType,
    /// The path that a probe asks for, with its query. Default `/`.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    path: Option<String>,
    /// The Host that a probe asks for. Default: the endpoint's address.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<String>")]
    host: Option<String>,
    /// The port that is probed. Default: the endpoint's own.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<u16>")]
    port: Option<u16>,
    /// The statuses of a healthy response. Default: 200 to 399.
    #[serde(default)]
    expected_statuses: Vec<u16>,
    /// Time from the start of a probe to the start of the next; 100ms to 1h. Default 3s.
    #[serde(default = "interval")]
    interval: Duration,
    /// A probe without an answer for this long has failed; at most the interval. Default 1s, or the interval if that is shorter.
    #[serde(default, deserialize_with = "super::optional::present")]
    #[schemars(with = "Option<Duration>")]
    timeout: Option<Duration>,
    /// Number of successful probes in a row that make an unhealthy endpoint healthy; 1 to 100. Default 2.
    #[serde(default = "two")]
    healthy_threshold: u32,
    /// Number of failed probes in a row that make an endpoint unhealthy; 1 to 100. Default 3.
    #[serde(default = "three")]
    unhealthy_threshold: u32,
    /// Number of proxies that probe each endpoint, of different zones if there are several; their majority decides. 1 to 15, default 3.
    #[serde(default = "probers")]
    probers: usize,
    /// Percentage of healthy endpoints below which all endpoints are used as if they were healthy; 0 switches that off. Default 50.
    #[serde(default = "half")]
    panic_threshold: u32,
}

const fn interval() -> Duration {
    Duration::from_millis(3_000)
}

const fn two() -> u32 {
    2
}

const fn three() -> u32 {
    3
}

const fn probers() -> usize {
    3
}

const fn half() -> u32 {
    50
}

impl TryFrom<WrittenCheck> for HealthCheck {
    type Error = String;

    fn try_from(written: WrittenCheck) -> Result<Self, String> {
        let http_only = [("path", written.path.is_some()), ("host", written.host.is_some()), ("expectedStatuses", !written.expected_statuses.is_empty())];
        if let (CheckType::Tcp, Some((field, _))) = (written.r#type, http_only.iter().find(|(_, is_there)| *is_there)) {
            return Err(format!("a TCP check has no {field}; take it out, or write \"type\":\"HTTP\""));
        }
        let usual = if written.r#type == CheckType::Http { "/" } else { "" };
        let path = written.path.unwrap_or_else(|| usual.to_owned());
        if path.starts_with('/') == usual.is_empty() || !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)) {
            return Err(format!("path {path:?} is not one that can be asked for; write it as in \"/healthz\", percent-encoded"));
        }
        let host_ok = |host: &String| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
        if let Some(host) = written.host.as_ref().filter(|host| !host_ok(host)) {
            return Err(format!("host {host:?} is not a host; write it as in \"shop.example.com\""));
        }
        if let Some(status) = written.expected_statuses.iter().find(|status| !(100..=599).contains(*status)) {
            return Err(format!("expectedStatuses has {status}; statuses are 100 to 599"));
        }
        if written.port == Some(0) {
            return Err("port 0 cannot be probed; ports are 1 to 65535".to_owned());
        }
        if !(100..=3_600_000).contains(&written.interval.get().as_millis()) {
            return Err("interval is not between 100ms and 1h".to_owned());
        }
        let timeout = written.timeout.unwrap_or_else(|| written.interval.min(Duration::from_millis(1_000)));
        if timeout > written.interval || timeout.get().is_zero() {
            return Err("timeout is not between 1ms and the interval; make it shorter, or the interval longer".to_owned());
        }
        within("healthyThreshold", written.healthy_threshold, 1, 100)?;
        within("unhealthyThreshold", written.unhealthy_threshold, 1, 100)?;
        within("probers", u32::try_from(written.probers).unwrap_or(u32::MAX), 1, 15)?;
        within("panicThreshold", written.panic_threshold, 0, 100)?;
        Ok(Self {
            r#type: written.r#type,
            path,
            host: written.host,
            port: written.port,
            expected_statuses: written.expected_statuses,
            interval: written.interval,
            timeout,
            healthy_threshold: written.healthy_threshold,
            unhealthy_threshold: written.unhealthy_threshold,
            probers: written.probers,
            panic_threshold: written.panic_threshold,
        })
    }
}

fn within(field: &str, number: u32, least: u32, most: u32) -> Result<(), String> {
    if (least..=most).contains(&number) { Ok(()) } else { Err(format!("{field} is {number}; it is {least} to {most}")) }
}

impl HealthCheck {
    /// Whether a status is that of a healthy response.
    pub fn expects(&self, status: u16) -> bool {
        if self.expected_statuses.is_empty() { (200..400).contains(&status) } else { self.expected_statuses.contains(&status) }
    }

    /// Whether so few endpoints of a backend are healthy that all are used as if they were. The caller leaves out endpoints that drain or
    /// have no weight. Suspect endpoints count only if they are healthy, because the unhealthy ones have probably been removed on purpose.
    pub fn panics(&self, endpoints: impl IntoIterator<Item = Fitness>) -> bool {
        let (mut healthy, mut all, mut lost) = (0, 0, 0);
        for Fitness { unhealthy, suspect } in endpoints {
            healthy += usize::from(!unhealthy);
            all += usize::from(!(unhealthy && suspect));
            lost += usize::from(unhealthy && suspect);
        }
        let none = healthy == 0 && all + lost > 0;
        self.panic_threshold > 0 && (none || healthy * 100 < all * self.panic_threshold as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HealthCheck, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_check_has_good_defaults_and_comes_back_from_its_own_form() {
        let check = read("{}").unwrap();
        assert_eq!((check.r#type, check.path.as_str(), check.probers, check.panic_threshold), (CheckType::Http, "/", 3, 50));
        assert!(check.expects(204) && check.expects(302) && !check.expects(404) && !check.expects(503));
        let opens = read(r#"{"type":"TCP","interval":"200ms"}"#).unwrap();
        for check in [check, opens] {
            assert_eq!(read(&serde_json::to_string(&check).unwrap()).unwrap(), check);
        }
        let quick = read(r#"{"interval":"200ms"}"#).unwrap();
        assert_eq!(quick.timeout, quick.interval);
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_the_remedy() {
        for (json, message) in [
            (r#"{"type":"TCP","path":"/x"}"#, "a TCP check has no path"),
            (r#"{"path":"healthz"}"#, "is not one that can be asked for"),
            (r#"{"path":"/a b"}"#, "percent-encoded"),
            (r#"{"path":"/a<b"}"#, "percent-encoded"),
            (r#"{"host":"a\r\nb"}"#, "is not a host"),
            (r#"{"expectedStatuses":[600]}"#, "statuses are 100 to 599"),
            (r#"{"interval":"10ms"}"#, "between 100ms and 1h"),
            (r#"{"interval":"1s","timeout":"2s"}"#, "timeout is not between"),
            (r#"{"timeout":"0s"}"#, "timeout is not between"),
            (r#"{"unhealthyThreshold":0}"#, "unhealthyThreshold is 0; it is 1 to 100"),
            (r#"{"probers":16}"#, "probers is 16; it is 1 to 15"),
            (r#"{"panicThreshold":101}"#, "panicThreshold is 101"),
            (r#"{"port":0}"#, "port 0"),
        ] {
            let refused = read(json).unwrap_err();
            assert!(refused.contains(message), "{json}: {refused}");
        }
    }

    #[test]
    fn fewer_healthy_than_the_threshold_is_panic() {
        let check = read("{}").unwrap();
        let of = |healthy: usize, all: usize| (0..all).map(move |number| Fitness { unhealthy: number >= healthy, suspect: false });
        assert!(!check.panics(of(1, 2)) && check.panics(of(1, 3)) && check.panics(of(0, 1)) && !check.panics(of(0, 0)));
        assert!(!read(r#"{"panicThreshold":0}"#).unwrap().panics(of(0, 5)));
        let suspect = |healthy: usize, all: usize| of(healthy, all).map(|one| Fitness { suspect: true, ..one });
        assert!(!check.panics(of(0, 2).chain(suspect(3, 3))), "what is said to be gone is healthy, and enough");
        assert!(!check.panics(of(2, 3).chain(suspect(0, 4))), "what is said to be gone is");
        assert!(check.panics(suspect(0, 3)) && check.panics(of(0, 1).chain(suspect(0, 3))), "nothing is left");
    }
}

//! `waypost tail`: prints the requests of a proxy as they end.

use clap::Args;
use serde_json::Value;

use super::client::{client, web_url};
use super::outcome::{Failure, Outcome};
use super::text::say;

#[derive(Debug, Args)]
pub(super) struct TailFlags {
    /// Address of the proxy's admin surface
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7410", env = "WAYPOST_PROXY", value_parser = web_url)]
    proxy: url::Url,
    /// Only requests of this route
    #[arg(long)]
    route: Option<String>,
    /// Only responses with this status, such as 404 or 5xx
    #[arg(long, value_parser = status)]
    status: Option<String>,
    /// End after this number of requests
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

pub(super) async fn run(flags: TailFlags) -> Outcome {
    let url = flags.proxy.join("/tail").map_err(Failure::usage)?;
    let not_reached = |error: reqwest::Error| {
        Failure::unreachable(format!("the proxy at {} cannot be reached: {}; name its admin surface with --proxy", flags.proxy, waypost_trust::cause(&error)))
    };
    let mut response = client().map_err(Failure::failed)?.get(url).send().await.map_err(not_reached)?;
    let mut buffer = Vec::new();
    let mut shown = 0;
    while let Some(chunk) = response.chunk().await.map_err(not_reached)? {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            if wanted(&flags, &line) {
                say!("{}", String::from_utf8_lossy(&line).trim_end());
                shown += 1;
            }
            if flags.count.is_some_and(|count| shown >= count) {
                return Ok(());
            }
        }
    }
    Err(Failure::unreachable("the proxy ended the stream"))
}

/// A status or a class of statuses.
fn status(typed: &str) -> Result<String, String> {
    let class = typed.strip_suffix("xx").filter(|class| ["1", "2", "3", "4", "5"].contains(class));
    let one = typed.parse().ok().filter(|status: &u16| (100..=999).contains(status) && typed.len() == 3);
    if class.is_some() || one.is_some() { Ok(typed.to_owned()) } else { Err("write a status such as 404, or a class such as 5xx".to_owned()) }
}

fn wanted(flags: &TailFlags, line: &[u8]) -> bool {
    let Ok(record) = serde_json::from_slice::<Value>(line) else { return true };
    let route = flags.route.as_ref().is_none_or(|route| record.get("route").and_then(Value::as_str) == Some(route));
    let status = flags.status.as_ref().is_none_or(|wanted| {
        let status = record.get("status").and_then(Value::as_u64).unwrap_or_default().to_string();
        status == *wanted || wanted.strip_suffix("xx").is_some_and(|class| status.starts_with(class))
    });
    route && status
}

//! A controller and a proxy as separate processes, as in production.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use waypost_testkit::{Process, free_port};

use crate::load::Client;

/// The path of a program, which is in the same directory as this one.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::current_exe().expect("our own path").with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --release --workspace", path.display());
    path
}

/// A free address on loopback.
pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A controller and a proxy.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) controller: Process,
    pub(crate) proxy: Process,
    pub(crate) admin: SocketAddr,
}

impl Product {
    /// Starts both; logs and state go to `folder`.
    pub(crate) fn start(folder: &Path, store: &str, threads: usize, extra: &[&str]) -> Self {
        let (api, admin) = (loopback(), loopback());
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = Command::new(program("waypost"));
        command.args(["controller", "--store", store, "--state", &path("controller"), "--api", &api.to_string()]);
        let mut controller = Process::start(&mut command, &folder.join("controller.log"));
        let mut command = Command::new(program("waypost-proxy"));
        command.args(["--controller", &format!("http://{api}"), "--state", &path("proxy"), "--admin", &admin.to_string(), "--name", "bench"]);
        command.args(["--threads", &threads.to_string(), "--drain-delay", "0s"]).args(extra);
        let mut proxy = Process::start(&mut command, &folder.join("proxy.log"));
        waypost_testkit::process::wait_for_port(api, &mut controller);
        waypost_testkit::process::wait_for_port(admin, &mut proxy);
        Self { controller, proxy, admin }
    }

    /// Waits until `web` answers requests for a host with 200.
    pub(crate) async fn until_served(web: SocketAddr, host: &str) {
        Self::until_status(web, host, 200).await;
    }

    /// Waits until `web` answers requests for a host with this status.
    pub(crate) async fn until_status(web: SocketAddr, host: &str, status: u16) {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes();
        let mut client = Client::new(web);
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            match client.ask(&request).await {
                Ok(response) if response.status == status => return,
                other => assert!(Instant::now() < end, "{host} is not served: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The samples of a metric of the proxy.
    pub(crate) async fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let response = Client::new(self.admin).ask(b"GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").await.expect("metrics");
        let text = String::from_utf8_lossy(&response.body).into_owned();
        text.lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }
}

/// CPU time used by the running threads of processes, in seconds, with microsecond resolution.
pub(crate) fn cpu_seconds(processes: &[u32]) -> f64 {
    let mut nanoseconds = 0u64;
    for process in processes {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for task in tasks.flatten() {
            let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "seconds")]
    let seconds = nanoseconds as f64 / 1e9;
    seconds
}

/// CPU time used by a process, including threads that have ended, in seconds, with a resolution of 0.01 s (proc(5), `stat`, fields 14 and
/// 15).
pub(crate) fn cpu_seconds_of_all(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The program's name is in brackets, and may contain any character.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Resident memory of a process, in MB.
pub(crate) fn resident_mb(process: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1_024.0
}

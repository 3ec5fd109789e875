//! Other proxies, started on loopback with the settings that make them comparable.

pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod traefik;

use std::process::Command;

/// The ids of a process and its children, because some proxies serve in a child.
pub(crate) fn family(process: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    std::iter::once(process).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

/// The first line of a program's version output.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output().unwrap_or_else(|error| panic!("{program}: {error}; run scripts/bench.sh, which installs it"));
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}

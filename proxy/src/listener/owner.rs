//! Finds the process that has a port, for the message when the port cannot be bound.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

/// Text about the process that listens on a port so that `address` cannot be bound, and what to do; `None` if it cannot be found, for
/// example because it belongs to another user.
pub(super) fn of(address: SocketAddr) -> Option<String> {
    let sockets = listening(address);
    if sockets.is_empty() {
        return None;
    }
    if has_any(Path::new("/proc/self"), &sockets) {
        return Some("this process has it for something else, such as its API or its admin surface; write another port".to_owned());
    }
    let processes = std::fs::read_dir("/proc").ok()?.flatten().map(|item| item.path());
    let owner = processes.filter(|path| path.file_name().is_some_and(is_number)).find(|path| has_any(path, &sockets))?;
    let name = std::fs::read_to_string(owner.join("comm")).unwrap_or_default();
    let number = owner.file_name()?.to_string_lossy();
    Some(format!("the process {number} ({}) has it; end that process or write another port", name.trim()))
}

fn is_number(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit())
}

/// Inodes of the sockets that listen on the port of an address.
fn listening(address: SocketAddr) -> HashSet<String> {
    const LISTENING: &str = "0A";
    let file = if address.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let table = std::fs::read_to_string(file).unwrap_or_default();
    let port = format!(":{:04X}", address.port());
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        (local.ends_with(&port) && *state == LISTENING).then(|| format!("socket:[{inode}]"))
    };
    table.lines().skip(1).filter_map(inode).collect()
}

/// Whether a process has one of these sockets open.
fn has_any(process: &Path, sockets: &HashSet<String>) -> bool {
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|item| std::fs::read_link(item.path()).ok()).any(|target| sockets.contains(target.to_string_lossy().as_ref()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_port_of_this_process_is_reported_as_its_own_and_a_free_port_has_no_owner() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert!(super::of(address).unwrap().contains("this process has it"));
        drop(taken);
        assert_eq!(super::of(address), None);
    }
}

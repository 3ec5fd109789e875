//! Finds the process that has a port, for the message when the port cannot be bound.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
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

/// Inodes of the sockets that listen where `address` would be bound: on its port, and on its IP address or on all.
fn listening(address: SocketAddr) -> HashSet<String> {
    const LISTENING: &str = "0A";
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let local = local_address(local)?;
        let is_same_ip = local.ip() == address.ip() || local.ip().is_unspecified() || address.ip().is_unspecified();
        (local.port() == address.port() && is_same_ip && *state == LISTENING).then(|| format!("socket:[{inode}]"))
    };
    // A socket of IPv6 that listens on all addresses takes IPv4 as well.
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(inode).collect()
}

/// An address as the kernel writes it: the IP address in words of four bytes, each in the machine's order, and the port.
fn local_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> =
        ip.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok().map(u32::to_ne_bytes)).collect::<Option<_>>()?;
    let ip = match *words.as_slice() {
        [ip] => IpAddr::from(ip),
        [..] => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
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
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(super::of(address).unwrap().contains("this process has it"));
        let other = std::net::SocketAddr::from(([127, 9, 9, 9], address.port()));
        assert_eq!(super::of(other), None, "the same port of another address");
        assert!(super::of(([0, 0, 0, 0], address.port()).into()).unwrap().contains("this process has it"), "all addresses include it");
        drop(listener);
        assert_eq!(super::of(address), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let read = |text: &str| super::local_address(text).map(|address| address.to_string()).unwrap_or_default();
        assert_eq!(read("0100007F:1F90"), "127.0.0.1:8080");
        assert_eq!(read("00000000000000000000000001000000:0050"), "[::1]:80");
        assert_eq!(read("0000000000000000FFFF00000100007F:0050"), "127.0.0.1:80", "mapped");
        assert_eq!((read(""), read("01:zz")), (String::new(), String::new()));
    }
}

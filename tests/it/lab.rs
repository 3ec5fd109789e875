//! A network of our own: a namespace for the test itself, and one for each host in it, joined by a bridge. Nothing in it
//! can reach, or be reached from, anything else. Needs root.

use std::process::Command;

/// The test's own address on the bridge; stores listen on its loopback and are reached through gates on this address.
pub(crate) const HUB: &str = "10.77.0.1";
/// A hardware address that no host has: packets to it are lost silently.
const NOWHERE: &str = "02:00:00:00:00:99";

/// The hosts. The thread that made it, and everything that it starts, is in the network.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    hosts: Vec<&'static str>,
}

impl Lab {
    /// Moves the calling thread into a new network with these hosts, at 10.77.0.11, .12 and so on.
    pub(crate) fn enter(name: &str, hosts: &[&'static str]) -> Self {
        #[allow(unsafe_code, reason = "the standard library cannot enter a namespace")]
        // SAFETY: unshare takes a number and touches only the calling thread.
        let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "a network namespace cannot be made ({}): run the tests as root", std::io::Error::last_os_error());
        let lab = Self { name: format!("wp{}{name}", std::process::id()), hosts: hosts.to_vec() };
        ip("link set lo up");
        ip("link add hub type bridge");
        ip(&format!("addr add {HUB}/24 dev hub"));
        ip("link set hub up");
        for (number, host) in hosts.iter().enumerate() {
            let ns = lab.ns(host);
            ip(&format!("netns add {ns}"));
            ip(&format!("link add {host} type veth peer name eth0 netns {ns}"));
            ip(&format!("link set {host} master hub up"));
            ip(&format!("-n {ns} addr add 10.77.0.{}/24 dev eth0", 11 + number));
            ip(&format!("-n {ns} link set eth0 up"));
            ip(&format!("-n {ns} link set lo up"));
        }
        lab
    }

    fn ns(&self, host: &str) -> String {
        format!("{}{host}", self.name)
    }

    /// A host's address.
    pub(crate) fn address(&self, host: &str) -> String {
        format!("10.77.0.{}", 11 + self.hosts.iter().position(|other| *other == host).unwrap())
    }

    /// A command that runs on a host.
    pub(crate) fn on(&self, host: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns(host)]).arg(program);
        command
    }

    /// From now on all packets between `host` and the host that has `address` are lost.
    pub(crate) fn cut(&self, host: &str, address: &str) {
        for neighbour in self.neighbours(host, address) {
            ip(&neighbour.replace("VERB", "replace").replace("DEV", &format!("lladdr {NOWHERE} nud permanent dev")));
        }
    }

    /// Undoes it.
    pub(crate) fn heal(&self, host: &str, address: &str) {
        for neighbour in self.neighbours(host, address) {
            ip(&neighbour.replace("VERB", "del").replace("DEV", "dev"));
        }
    }

    /// Both ends, as each knows the other.
    fn neighbours(&self, host: &str, address: &str) -> [String; 2] {
        let there = self.hosts.iter().find(|other| self.address(other) == address);
        let own = self.address(host);
        let back = there.map_or_else(|| format!("neigh VERB {own} DEV hub"), |there| format!("-n {} neigh VERB {own} DEV eth0", self.ns(there)));
        [format!("-n {} neigh VERB {address} DEV eth0", self.ns(host)), back]
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in &self.hosts {
            // The namespace itself ends with the last process in it.
            drop(Command::new("ip").args(["netns", "del", &self.ns(host)]).status());
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

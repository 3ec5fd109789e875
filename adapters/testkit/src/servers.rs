//! The real servers, on loopback, each with its own data directory.

mod consul;
mod etcd;
mod zookeeper;

use std::process::Command;

pub use consul::Consul;
pub use etcd::Etcd;
pub use zookeeper::ZooKeeper;

/// Operations and faults that every server supports.
pub trait Server: std::fmt::Debug + Send {
    /// The client address of each member, as `host:port`.
    fn endpoints(&self) -> Vec<String>;
    /// How many members there are.
    fn members(&self) -> usize {
        self.endpoints().len()
    }
    /// Kills one member.
    fn kill(&mut self, member: usize);
    /// Starts one member again, with its data, and waits until it answers.
    fn start(&mut self, member: usize);
    /// Freezes one member.
    fn freeze(&self, member: usize);
    /// Lets it continue.
    fn thaw(&self, member: usize);
    /// The member that leads.
    fn leader(&self) -> usize;
    /// Deletes all data of the members while they are down, and starts them empty.
    fn wipe(&mut self);
}

/// Runs a client tool and returns what it printed; `None` if it failed.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `ready` returns true.
fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !ready() {
        assert!(std::time::Instant::now() < end, "{what} in vain");
        std::thread::sleep(std::time::Duration::from_millis(30));
    }
}

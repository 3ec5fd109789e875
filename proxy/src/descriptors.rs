//! The descriptors of the process, and how many of them connections may use. They run out long before memory; without a reserve the admin
//! surface and the controller's stream would fail as well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors that are reserved for everything but connections of clients and to endpoints, whatever the limit.
const DESCRIPTOR_RESERVE: usize = 64;

/// Descriptors that clients leave to connections to endpoints, or a third of all where that is less. Without them, clients that are all in the
/// middle of a request would leave no descriptor to answer any of them.
const ENDPOINT_RESERVE: usize = 256;

/// The number of descriptors that this process may open; raises the soft limit to the hard one.
pub(crate) fn raise_descriptor_limit() -> usize {
    let limit = rlimit::increase_nofile_limit(u64::MAX).or_else(|_| rlimit::Resource::NOFILE.get_soft()).unwrap_or(1_024);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// The descriptors that listeners, connections of clients and connections to endpoints may use together.
#[derive(Debug)]
pub(crate) struct Descriptors {
    limit: usize,
    used: AtomicUsize,
}

impl Descriptors {
    /// What is left of the process's limit beside what is open now and the reserve.
    pub(crate) fn of_process() -> Arc<Self> {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self::new(raise_descriptor_limit().saturating_sub(open + DESCRIPTOR_RESERVE).max(8))
    }

    /// So many.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// The default limit of client connections: four fifths of all descriptors, or less if that leaves no reserve for endpoints.
    pub(crate) fn default_client_limit(&self, descriptors: usize) -> usize {
        (descriptors / 5 * 4).min(self.limit - ENDPOINT_RESERVE.min(self.limit / 3)).max(8)
    }

    /// Whether all are in use.
    pub(crate) fn are_exhausted(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }

    /// How many there are.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Counts a descriptor until the guard is dropped.
    pub(crate) fn take(self: &Arc<Self>) -> Descriptor {
        self.used.fetch_add(1, Ordering::Relaxed);
        Descriptor(self.clone())
    }
}

/// A descriptor in use.
#[derive(Debug)]
pub(crate) struct Descriptor(Arc<Descriptors>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error says that this machine or process ran short of something, and nothing about the endpoint.
pub(crate) fn is_local(error: &std::io::Error) -> bool {
    const SHORTAGES: [i32; 5] = [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_clients_and_to_endpoints_share_the_descriptors() {
        let descriptors = Descriptors::new(2);
        let client = descriptors.take();
        assert!(!descriptors.are_exhausted());
        let endpoint = descriptors.take();
        assert!(descriptors.are_exhausted());
        drop(client);
        assert!(!descriptors.are_exhausted());
        drop(endpoint);
    }

    #[test]
    fn by_default_clients_leave_descriptors_to_connections_to_endpoints() {
        for (limit, descriptors, expected) in [(175, 256, 117), (900, 1_000, 644), (1_048_400, 1_048_576, 838_860)] {
            assert_eq!(Descriptors::new(limit).default_client_limit(descriptors), expected);
        }
    }
}

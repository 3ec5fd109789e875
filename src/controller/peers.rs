//! Other controllers: follows the leader, replicates its state, and recovers the published snapshot before this controller leads.

pub mod follow;
pub mod keys;
pub mod offers;
mod recover;
mod recover_from_proxies;
mod replicate;
mod streams;

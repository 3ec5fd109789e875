//! Other controllers: following the leader, replicating what it keeps, and recovering what was published before we lead.

pub mod follow;
pub mod keys;
pub mod offers;
mod recover;
mod recover_from_proxies;
mod replicate;
mod streams;

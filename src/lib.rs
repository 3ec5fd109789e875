//! Waypost: a highly available load balancer that is steered from the store a team already runs.
//!
//! ARCHITECTURE.md lists the packages and their dependencies. This one has the [`controller`], its [`api`], and the command
//! line ([`cli`]); only [`stores`] names concrete stores.

pub mod api;
pub mod cli;
pub mod controller;
pub mod stores;
pub mod trust;

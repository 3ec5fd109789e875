//! Waypost: a highly available load balancer that is steered from the store a team already runs.
//!
//! The packages and who may use whom are in ARCHITECTURE.md. Here: the [`controller`], its [`api`], and the command
//! line ([`cli`]); [`stores`] is the one place that names the stores there are.

pub mod api;
pub mod cli;
pub mod controller;
pub mod stores;
pub mod trust;

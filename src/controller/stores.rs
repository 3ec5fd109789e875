//! The stores: reading them, and what is written below the status root.

pub mod elector;
pub mod feed;
pub mod identity;
pub mod verdicts;

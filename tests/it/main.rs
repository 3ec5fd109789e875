//! Whole-product tests: real programs, real stores, real traffic. One binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod architecture;
mod bad_input;
mod chaos;
mod harness;
mod hold;
mod http;
mod night;
mod outage;
mod swap;
mod transcript;
mod verbs;

//! Whole-product tests: real programs, real stores, real traffic. One binary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod architecture;
mod bad_input;
mod chaos;
mod clocks;
mod cluster;
mod deploy;
mod forged;
mod framing;
mod harness;
mod health;
mod hold;
mod http;
mod lab;
mod listeners;
mod night;
mod outage;
mod outcomes;
mod races;
mod routing;
mod shortage;
mod skew;
mod swap;
mod tls;
mod transcript;
mod trust;
mod verbs;

//! The pure core of Waypost: it turns the bytes that people and machines write into versioned snapshots.
//!
//! No function here reads a clock, a file or a socket; every one maps input to output.
//!
//! ```text
//! key + value ──parse──▶ resource or Problem ──compile──▶ Lane (C, M) ──▶ Snapshot
//!                                              └────────▶ Verdict of every entry
//! ```
//!
//! Where to look: [`key`] parses keys, [`resource`] has the types of values, [`parse`] turns bytes into a resource or a problem,
//! [`compile`] maintains all entries and their verdicts, [`object`], [`lane`] and [`snapshot`] are the digested form that proxies receive,
//! [`order`] decides which of two routes wins, [`path`] defines the form in which paths are compared, and [`probing`] which proxies probe
//! an endpoint.

pub mod compile;
pub mod duration;
pub mod key;
pub mod lane;
pub mod limits;
pub mod object;
pub mod order;
pub mod parse;
pub mod path;
pub mod probing;
pub mod problem;
pub mod resource;
pub mod schema;
pub mod snapshot;
pub mod value;
pub mod verdict;

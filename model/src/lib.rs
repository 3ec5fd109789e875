//! The pure core of Waypost: from the bytes that people and machines write to versioned snapshots.
//!
//! Nothing here reads a clock, a file or a socket; every function is input → output.
//!
//! ```text
//! key + value ──parse──▶ resource or Problem ──compile──▶ Lane (C, M) ──▶ Snapshot
//!                                              └────────▶ Verdict of every entry
//! ```
//!
//! Where to look: [`key`] says what a key names, [`resource`] what may be written under it, [`parse`] turns
//! bytes into one of those or says what is wrong, [`compile`] keeps the whole tree and its verdicts up to date,
//! [`object`], [`lane`] and [`snapshot`] are the digested form that proxies receive, [`order`] decides which of
//! two routes wins, [`path`] in which form paths are compared, [`probing`] which proxies probe an endpoint.

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

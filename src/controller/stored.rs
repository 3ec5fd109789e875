//! What is on disk, and on the streams between controllers, as types.

pub mod config;
pub mod entries;
pub mod identity;
pub mod operator;
pub mod programs;
pub mod published;
pub mod removals;
pub mod replica;

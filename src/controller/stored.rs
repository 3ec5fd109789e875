//! The types of the files on disk and of the streams between controllers.

pub mod config;
pub mod entries;
pub mod identity;
pub mod operator;
pub mod programs;
pub mod published;
pub mod removals;
pub mod replica;

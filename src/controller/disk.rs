//! The state directory: its files, the history, and the task that writes.

pub mod files;
pub mod history;
pub mod saver;

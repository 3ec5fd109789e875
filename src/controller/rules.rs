//! The decisions, pure: time and the messages of others are inputs.

pub mod election;
pub mod guard;
pub mod health;
pub mod objects;
pub mod overlay;
pub mod pins;
pub mod recovery;
pub mod ring;
pub mod window;

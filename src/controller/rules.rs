//! The decisions, pure: time and what others said are inputs.

pub mod election;
pub mod guard;
pub mod health;
pub mod objects;
pub mod pins;
pub mod recovery;
pub mod ring;
pub mod window;

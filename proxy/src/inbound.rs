//! From an accepted connection to the protocol that serves it: a handshake where the listener asks for one, then HTTP.

pub(crate) mod certificates;
mod pipeline;
mod tls;

pub(crate) use pipeline::serve;
pub(crate) use tls::Tls;

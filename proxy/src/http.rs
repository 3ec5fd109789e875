//! HTTP/1.1: from a request on a client's connection to a response from an endpoint.
//!
//! [`server1`] owns a client's connection and reads heads from it, [`exchange`] serves one request: [`plan`] decides what it gets, [`call`]
//! finds an endpoint for it, and [`conversation`] speaks with that, [`upload`] and [`download`] at once. [`request`] and [`response`] write heads for
//! the other side.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod conversation;
mod date;
pub(crate) mod download;
pub(crate) mod exchange;
pub(crate) mod fields;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod io;
pub(crate) mod limits;
pub(crate) mod plan;
pub(crate) mod redirect;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod server1;
pub(crate) mod tunnel;
pub(crate) mod upload;

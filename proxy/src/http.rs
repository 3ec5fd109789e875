//! HTTP/1.1: from a request on a client's connection to a response from an endpoint.
//!
//! [`serve`] owns a client's connection, [`route`] decides what a request gets, [`forward`] finds an endpoint for it,
//! [`headers`] does what a proxy must do to headers, [`body`] carries the two streams with their time-outs.

pub(crate) mod answer;
pub(crate) mod body;
mod connect;
pub(crate) mod discard;
pub(crate) mod expect;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod route;
pub(crate) mod sent;
pub(crate) mod serve;
pub(crate) mod stall;
pub(crate) mod upgrade;

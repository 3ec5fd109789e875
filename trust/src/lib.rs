//! Who is who between controllers, proxies and operators: certificates with names in them, tokens with roles, and the TLS
//! that checks both. No sockets and no clock of its own: time is an input, but where rustls brings it.
//!
//! A certificate carries the identity of a program as a URI (SPIFFE form): `spiffe://waypost/proxy/edge-1`,
//! `spiffe://waypost/controller/c1`. Programs check that, and not the address under which they found each other; people's tools
//! check the address, as with any server.

mod authority;
mod error;
mod files;
mod identity;
mod keyring;
mod own;
mod secret;
mod token;
mod verify;

pub use authority::{Authority, Issued, KeyPair, PublicKey, new_secret, own_secret, shared_secret};
pub use error::{TrustError, cause};
pub use files::{Files, FromFiles};
pub use identity::Identity;
pub use keyring::{Keyring, Material, joining_client};
pub use own::Own;
pub use secret::{load_secret, write_secret};
pub use token::{Claims, Joining, Role};
pub use verify::identity_of;

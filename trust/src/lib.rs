//! Authentication between controllers, proxies and operators: certificates with identities, tokens with roles, and the TLS settings that
//! verify both. No sockets and no clock of its own: time is an input, except where rustls supplies it.
//!
//! A certificate carries the identity of a program as a URI (SPIFFE form): `spiffe://waypost/proxy/edge-1`,
//! `spiffe://waypost/controller/c1`. Programs verify that instead of the address that they connected to; tools of people verify the
//! address, as with any server.

mod authority;
mod error;
mod files;
mod identity;
mod keyring;
mod own;
mod secret;
mod token;
mod trial;
mod verify;

pub use authority::{Authority, Issued, KeyPair, PublicKey, new_secret, own_secret, shared_secret};
pub use error::{TrustError, cause};
pub use files::{Files, FromFiles};
pub use identity::Identity;
pub use keyring::{Keyring, Material, joining_client};
pub use own::Own;
pub use secret::{load_secret, write_secret};
pub use token::{Claims, Joining, Role};
pub use trial::trial_certificate;
pub use verify::identity_of;

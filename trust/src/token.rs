//! Tokens: operators send one with each request, and a program sends one once to get its certificate. A token is its claims and their
//! HMAC-SHA-256 under a secret that all controllers of a cluster share, so no controller has to store the tokens.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::error::TrustError;

/// What an operator may do. Each role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May read everything.
    Read,
    /// May approve removals that the guard holds, and announce deletions.
    Write,
    /// May freeze and roll back the config, hand over leadership, and create tokens.
    Operate,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Operate => "operate",
        })
    }
}

/// The kind of program that a token admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Joining {
    /// A proxy.
    Proxy,
    /// A controller, which then has the cluster's authority as well.
    Controller,
}

impl fmt::Display for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxy => "proxy",
            Self::Controller => "controller",
        })
    }
}

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "for")]
pub enum Claims {
    /// The bearer is an operator.
    Operator {
        /// The operator's name, for the audit log.
        name: String,
        /// What the operator may do.
        role: Role,
        /// When the token expires, in seconds since 1970.
        until: u64,
        /// SHA-256 of the certificate of the authority that the bearer may show the token to. Absent if certificates are issued by others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        authority: Option<String>,
    },
    /// The bearer gets a certificate.
    Join {
        /// The kind of program.
        joining: Joining,
        /// The program's name; any free name if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// When the token expires, in seconds since 1970.
        until: u64,
        /// SHA-256 of the certificate of the authority that the bearer may send the token to.
        authority: String,
    },
}

const TOKEN_PREFIX: &str = "waypost1";

impl Claims {
    /// Encodes and signs the claims under the cluster's secret.
    pub fn sign(&self, secret: &[u8]) -> String {
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default());
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), claims.as_bytes());
        format!("{TOKEN_PREFIX}.{claims}.{}", URL_SAFE_NO_PAD.encode(mac.as_ref()))
    }

    /// The claims of a token, without checking the signature: the bearer reads them to find the authority that it may send the token to.
    ///
    /// # Errors
    /// The text is not a token.
    pub fn peek(token: &str) -> Result<Self, TrustError> {
        Ok(parts(token)?.0)
    }

    /// The claims of a token, if it is signed with this secret and has not expired at `now` (since 1970).
    ///
    /// # Errors
    /// The token is forged or expired, or the text is not a token.
    pub fn check(token: &str, secret: &[u8], now: Duration) -> Result<Self, TrustError> {
        let (claims, signed, mac) = parts(token)?;
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes(), &mac)
            .map_err(|_| TrustError::Token("no controller of this cluster made it"))?;
        if claims.until() <= now.as_secs() {
            return Err(TrustError::Token("its time is over; ask for a new one with `waypost token`"));
        }
        Ok(claims)
    }

    /// When the token expires, in seconds since 1970.
    pub const fn until(&self) -> u64 {
        match self {
            Self::Operator { until, .. } | Self::Join { until, .. } => *until,
        }
    }
}

/// The claims of a token, the signed part of its text, and the signature.
fn parts(token: &str) -> Result<(Claims, &str, Vec<u8>), TrustError> {
    let none = || TrustError::Token("it is no token; copy it whole");
    let mut pieces = token.trim().split('.');
    let (Some(TOKEN_PREFIX), Some(signed), Some(mac), None) = (pieces.next(), pieces.next(), pieces.next(), pieces.next()) else { return Err(none()) };
    let claims = URL_SAFE_NO_PAD.decode(signed).map_err(|_| none())?;
    let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| none())?;
    Ok((serde_json::from_slice(&claims).map_err(|_| none())?, signed, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(until: u64) -> Claims {
        Claims::Operator { name: "ann".to_owned(), role: Role::Write, until, authority: None }
    }

    #[test]
    fn a_token_is_believed_until_its_time_is_over_and_only_with_the_right_secret() {
        let token = operator(1_000).sign(b"secret");
        let at = Duration::from_secs;
        assert_eq!(Claims::check(&token, b"secret", at(999)).unwrap(), operator(1_000));
        for (token, secret, now, message) in [
            (token.clone(), b"secret".as_slice(), 1_000, "its time is over"),
            (token.clone(), b"other", 1, "no controller of this cluster made it"),
            (token.replace("waypost1.", "waypost1.x"), b"secret", 1, "it is no token"),
            (format!("{token}.x"), b"secret", 1, "it is no token"),
            (String::new(), b"secret", 1, "it is no token"),
        ] {
            let refused = Claims::check(&token, secret, at(now)).unwrap_err().to_string();
            assert!(refused.contains(message), "{token}: {refused}");
        }
    }

    #[test]
    fn claims_that_were_changed_are_forged() {
        let token = operator(1_000).sign(b"secret");
        let better = Claims::Operator { name: "ann".to_owned(), role: Role::Operate, until: 9_000, authority: None }.sign(b"guess");
        let mixed = format!("{}.{}", better.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().1);
        assert!(Claims::check(&mixed, b"secret", Duration::from_secs(1)).is_err());
        assert_eq!(Claims::peek(&mixed).unwrap(), Claims::peek(&better).unwrap());
        assert!(Role::Read < Role::Write && Role::Write < Role::Operate);
    }
}

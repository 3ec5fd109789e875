//! Making tokens: through the API for operators who may, and on a controller's own disk for whoever can read that.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waypost_trust::{Authority, Claims, Joining, Role, TrustError, own_secret};

/// Maximum lifetime of an operator's token.
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(366 * 86_400);
/// Maximum lifetime of a token that lets a program join.
const MAX_JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// Which token is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TokenRequest {
    /// For an operator, who may do this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// For a program that joins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Joining>,
    /// The operator's name; or the only name that a program may join with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For how long it is good, in seconds.
    pub seconds: u64,
}

impl TokenRequest {
    /// What was made, for the record.
    pub fn describe(&self) -> String {
        let name = self.name.as_deref().unwrap_or("any free name");
        match (self.role, self.join) {
            (Some(role), _) => format!("made a token for {name} with the role {role}, good for {} s", self.seconds),
            (None, Some(joining)) => format!("made a token that lets a {joining} join under {name}, good for {} s", self.seconds),
            (None, None) => "made a token".to_owned(),
        }
    }
}

/// A token that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The token; it is told once.
    pub token: String,
    /// When it ends, in seconds since 1970.
    pub until: u64,
}

/// Makes tokens and reads them.
#[derive(Clone)]
pub struct Signer {
    secret: Vec<u8>,
    /// SHA-256 of the certificate of the cluster's own authority, if it has one.
    authority: Option<String>,
}

/// Secrets do not belong into logs.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Signer {
    /// Under the secret of the cluster's own authority.
    pub fn of(authority: &Authority) -> Self {
        Self { secret: authority.secret(), authority: Some(authority.fingerprint()) }
    }

    /// Under a secret that stands beside others' certificates.
    pub const fn beside_files(secret: Vec<u8>) -> Self {
        Self { secret, authority: None }
    }

    /// That of a controller on this machine: whoever can read its state directory may do everything.
    ///
    /// # Errors
    /// There is nothing in the directory, or it cannot be used.
    pub fn on_disk(state: &Path) -> Result<Self, TrustError> {
        let folders = [state.join("trust"), state.join("controller").join("trust")];
        let Some(folder) = folders.iter().find(|folder| folder.join("secret").exists()) else {
            return Err(TrustError::Unusable {
                what: state.display().to_string(),
                reason: "no controller with certificates keeps its state there; name the directory that one was given as --state".to_owned(),
            });
        };
        match Authority::load(folder)? {
            Some(authority) => Ok(Self::of(&authority)),
            None => Ok(Self::beside_files(own_secret(folder)?)),
        }
    }

    /// What a token says at `now` (since 1970).
    ///
    /// # Errors
    /// It is forged, over, or none.
    pub fn check(&self, token: &str, now: Duration) -> Result<Claims, TrustError> {
        Claims::check(token, &self.secret, now)
    }

    /// Makes a token at `now` (since 1970).
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn make(&self, request: &TokenRequest, now: Duration) -> Result<TokenAnswer, String> {
        let longest = if request.join.is_some() { MAX_JOIN_TOKEN_LIFETIME } else { MAX_TOKEN_LIFETIME };
        if request.seconds == 0 || request.seconds > longest.as_secs() {
            return Err(format!("a token of this kind is good for 1s to {}h; correct --ttl", longest.as_secs() / 3_600));
        }
        let until = now.as_secs() + request.seconds;
        let claims = match (request.role, request.join) {
            (Some(role), None) => self.operator(request.name.as_deref(), role, until)?,
            (None, Some(joining)) => self.join(request.name.clone(), joining, until)?,
            _ => return Err("a token is for an operator or for a program that joins; give one of --role and --join".to_owned()),
        };
        Ok(TokenAnswer { token: claims.sign(&self.secret), until })
    }

    fn operator(&self, name: Option<&str>, role: Role, until: u64) -> Result<Claims, String> {
        let name = name.unwrap_or_default();
        let fits = !name.is_empty() && name.len() <= 128 && name.chars().all(|c| !c.is_control() && c.is_ascii());
        if !fits {
            return Err("an operator's token names its bearer, for the record, in 1 to 128 ASCII characters; give --name".to_owned());
        }
        Ok(Claims::Operator { name: name.to_owned(), role, until, authority: self.authority.clone() })
    }

    fn join(&self, name: Option<String>, joining: Joining, until: u64) -> Result<Claims, String> {
        let Some(authority) = self.authority.clone() else {
            return Err(
                "the certificates of this cluster come from files, and programs do not join it; give them --tls-cert, --tls-key and --tls-ca".to_owned()
            );
        };
        name.iter().try_for_each(|name| waypost_model::key::check_name("program", name))?;
        Ok(Claims::Join { joining, name, until, authority })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn tokens_say_what_was_asked_for_and_end() {
        let signer = Signer::of(&Authority::create(NOW).unwrap());
        let ann = TokenRequest { role: Some(Role::Write), name: Some("ann".to_owned()), seconds: 60, ..TokenRequest::default() };
        let made = signer.make(&ann, NOW).unwrap();
        assert!(matches!(signer.check(&made.token, NOW).unwrap(), Claims::Operator { name, role: Role::Write, authority: Some(_), .. } if name == "ann"));
        assert_eq!(made.until, NOW.as_secs() + 60);
        assert!(signer.check(&made.token, NOW + Duration::from_secs(60)).is_err());
        let other = Signer::of(&Authority::create(NOW).unwrap());
        assert!(other.check(&made.token, NOW).is_err());
    }

    #[test]
    fn what_no_token_can_be_is_refused_with_its_remedy() {
        let (own, files) = (Signer::of(&Authority::create(NOW).unwrap()), Signer::beside_files(vec![7; 32]));
        let join = TokenRequest { join: Some(Joining::Proxy), seconds: 60, ..TokenRequest::default() };
        let role = TokenRequest { role: Some(Role::Read), name: Some("ann".to_owned()), seconds: 60, ..TokenRequest::default() };
        for (signer, request, message) in [
            (&own, TokenRequest { seconds: 0, ..role.clone() }, "correct --ttl"),
            (&own, TokenRequest { seconds: 8 * 86_400, ..join.clone() }, "168h"),
            (&own, TokenRequest { name: None, ..role.clone() }, "give --name"),
            (&own, TokenRequest { name: Some("a\nb".to_owned()), ..role.clone() }, "give --name"),
            (&own, TokenRequest { name: Some("a b".to_owned()), ..join.clone() }, "program"),
            (&own, TokenRequest { join: Some(Joining::Proxy), ..role.clone() }, "one of --role and --join"),
            (&files, join, "come from files"),
        ] {
            let refused = signer.make(&request, NOW).map(|made| made.until).unwrap_err();
            assert!(refused.contains(message), "{request:?}: {refused}");
        }
        assert!(files.make(&role, NOW).is_ok());
    }
}

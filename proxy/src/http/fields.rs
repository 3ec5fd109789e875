//! What a proxy must know of fields: which end here (RFC 9110, 7.6.1), which decide something, and which only look like one of these.

use waypost_http1::Name;

use crate::http::head::tokens;

/// Fields that are meant for one connection.
pub(crate) const fn is_hop_by_hop(name: Name) -> bool {
    matches!(
        name,
        Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::Te
            | Name::TransferEncoding
            | Name::Upgrade
            | Name::ProxyAuthenticate
            | Name::ProxyAuthorization
            | Name::Http2Settings
    )
}

/// Fields that a Connection header may not take away, because what they mean is decided here.
const fn is_end_to_end(name: Name) -> bool {
    matches!(
        name,
        Name::Host | Name::ContentLength | Name::Forwarded | Name::XForwardedFor | Name::XForwardedProto | Name::XForwardedHost | Name::XForwardedPort
    )
}

/// The names that a Connection header takes away, beside those that end here anyway.
pub(crate) fn listed<'a>(connection: impl Iterator<Item = &'a [u8]>) -> Vec<&'a str> {
    let is_listed = |token: &&str| {
        let name = Name::of(token.as_bytes());
        !["close", "keep-alive", "upgrade"].iter().any(|usual| token.eq_ignore_ascii_case(usual)) && !is_hop_by_hop(name) && !is_end_to_end(name)
    };
    tokens(connection).filter(is_listed).collect()
}

/// Whether a name is in a list, in any case.
pub(crate) fn is_in(list: &[&str], name: &[u8]) -> bool {
    list.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(name))
}

/// Fields that decide where a message ends, where it goes, or who it is from. Trailers and fields with `_` for `-` cannot be them.
fn is_decisive(name: &str) -> bool {
    const NAMES: [&str; 34] = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expect",
        "expires",
        "forwarded",
        "host",
        "keep-alive",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-http-method-override",
        "x-real-ip",
    ];
    NAMES.contains(&name) || name.starts_with("x-forwarded") || name.starts_with("if-")
}

/// The name in lower case, with `-` for `_`: servers in the manner of CGI take one for the other.
fn dashed(name: &[u8]) -> String {
    name.iter().map(|byte| char::from(if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })).collect()
}

/// Whether a field differs only by `_` for `-` from one that decides something, or that `decided` says of.
pub(crate) fn is_twin(name: &[u8], decided: &dyn Fn(&[u8]) -> bool) -> bool {
    name.contains(&b'_') && {
        let dashed = dashed(name);
        is_decisive(&dashed) || decided(dashed.as_bytes())
    }
}

/// Whether a field may travel behind a body (RFC 9110, 6.5.1), where `decided` says of more names that they may not.
pub(crate) fn may_trail(name: &[u8], decided: &dyn Fn(&[u8]) -> bool) -> bool {
    let dashed = dashed(name);
    !is_decisive(&dashed) && !decided(name) && !decided(dashed.as_bytes())
}

/// The names of announced trailers that may come.
pub(crate) fn announced<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    tokens(values).filter(|name| may_trail(name.as_bytes(), &|_| false)).collect::<Vec<_>>().join(", ")
}

/// Whether a stranger says with this field where the request comes from: Forwarded, X-Real-IP, and every X-Forwarded field there is, for
/// frameworks act upon X-Forwarded-Prefix, -Ssl, -User and others as well.
pub(crate) fn is_claim(name: Name, spelled: &[u8]) -> bool {
    match name {
        Name::Forwarded | Name::XRealIp | Name::XForwardedFor | Name::XForwardedHost | Name::XForwardedPort | Name::XForwardedProto => true,
        Name::Other => {
            let same =
                |text: &[u8], wanted: &[u8]| text.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }).eq(wanted.iter().copied());
            spelled.get(.."x-forwarded".len()).is_some_and(|start| same(start, b"x-forwarded")) || same(spelled, b"x-real-ip")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_takes_away_what_is_not_decided_here() {
        let list = |value: &'static str| listed(std::iter::once(value.as_bytes()));
        assert_eq!(list("close, X-Private, Host, te, Content-Length"), ["X-Private"]);
        assert!(is_in(&list("x-a, x-b"), b"X-B") && !is_in(&list("x-a"), b"x-b"));
        assert!(list("keep-alive").is_empty());
    }

    #[test]
    fn strangers_claims_are_known_in_every_spelling() {
        for name in ["Forwarded", "X-Real-IP", "x_real_ip", "X-Forwarded-For", "x_forwarded_for", "X-Forwarded-Prefix", "x-forwarded"] {
            assert!(is_claim(Name::of(name.as_bytes()), name.as_bytes()), "{name}");
        }
        for name in ["x-forward", "x-real", "host", "x-request-id"] {
            assert!(!is_claim(Name::of(name.as_bytes()), name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn twins_and_trailers_that_decide_something_are_known() {
        let rule = |name: &[u8]| name == b"x-user";
        assert!(is_twin(b"Content_Length", &rule) && is_twin(b"X_User", &rule));
        assert!(!is_twin(b"x_harmless", &rule) && !is_twin(b"content-length", &rule));
        assert!(may_trail(b"x-sum", &rule) && !may_trail(b"Authorization", &rule) && !may_trail(b"x_user", &rule) && !may_trail(b"If-Match", &rule));
        assert_eq!(announced([&b"x-sum, authorization"[..], b"y"].into_iter()), "x-sum, y");
    }
}

//! The names of fields that a proxy decides something by, found without regard to case.

/// Declares [`Name`]: a variant and its text in lower case.
macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// A field name, or that it is none of those that are looked at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name {
            $($(#[$doc])* $variant,)*
            /// Any other name.
            Other,
        }

        /// All names with their texts.
        const ALL: &[(Name, &str)] = &[$((Name::$variant, $text),)*];

        impl Name {
            /// The name in lower case; nothing for [`Name::Other`].
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other => "",
                }
            }
        }
    };
}

names! {
    /// `Accept-Encoding`
    AcceptEncoding = "accept-encoding",
    /// `Connection`: names the fields that end at the next hop.
    Connection = "connection",
    /// `Content-Encoding`
    ContentEncoding = "content-encoding",
    /// `Content-Length`: where a body ends.
    ContentLength = "content-length",
    /// `Content-Type`
    ContentType = "content-type",
    /// `Cookie`
    Cookie = "cookie",
    /// `Date`: added where an endpoint's response has none.
    Date = "date",
    /// `Expect`: whether a client waits with its body.
    Expect = "expect",
    /// `Forwarded` (RFC 7239)
    Forwarded = "forwarded",
    /// `Host`: which hostname a request is for.
    Host = "host",
    /// `HTTP2-Settings`: never passed on.
    Http2Settings = "http2-settings",
    /// `Keep-Alive`: how long an endpoint keeps an idle connection.
    KeepAlive = "keep-alive",
    /// `Max-Forwards` (RFC 9110, 7.6.2)
    MaxForwards = "max-forwards",
    /// `Proxy-Authenticate`
    ProxyAuthenticate = "proxy-authenticate",
    /// `Proxy-Authorization`
    ProxyAuthorization = "proxy-authorization",
    /// `Proxy-Connection`: never meant, often sent.
    ProxyConnection = "proxy-connection",
    /// `Server`
    Server = "server",
    /// `TE`: whether trailers are wanted.
    Te = "te",
    /// `Trailer`: the names of fields behind the body.
    Trailer = "trailer",
    /// `Transfer-Encoding`: how a body is framed.
    TransferEncoding = "transfer-encoding",
    /// `Upgrade`: the protocols to switch to.
    Upgrade = "upgrade",
    /// `Via`: the proxies on the way.
    Via = "via",
    /// `WWW-Authenticate`: NTLM and Negotiate bind a connection to its client.
    WwwAuthenticate = "www-authenticate",
    /// `X-Forwarded-For`
    XForwardedFor = "x-forwarded-for",
    /// `X-Forwarded-Host`
    XForwardedHost = "x-forwarded-host",
    /// `X-Forwarded-Port`
    XForwardedPort = "x-forwarded-port",
    /// `X-Forwarded-Proto`
    XForwardedProto = "x-forwarded-proto",
    /// `X-Real-IP`
    XRealIp = "x-real-ip",
}

/// No name is longer.
const LONGEST: usize = 24;
/// So many names have the same length at most.
const SAME_LENGTH: usize = 6;

/// A name with its text.
type Entry = Option<(Name, &'static [u8])>;

/// The names of each length.
#[expect(clippy::indexing_slicing, reason = "a constant: an index out of bounds does not compile")]
const BY_LENGTH: [[Entry; SAME_LENGTH]; LONGEST] = {
    let mut table = [[None; SAME_LENGTH]; LONGEST];
    let mut at = 0;
    while at < ALL.len() {
        let text = ALL[at].1.as_bytes();
        let mut place = 0;
        while table[text.len()][place].is_some() {
            place += 1;
        }
        table[text.len()][place] = Some((ALL[at].0, text));
        at += 1;
    }
    table
};

impl Name {
    /// The name that these bytes spell, in any case.
    pub fn of(spelled: &[u8]) -> Self {
        let candidates = BY_LENGTH.get(spelled.len()).into_iter().flatten().map_while(|name| *name);
        candidates.into_iter().find(|(_, text)| text.eq_ignore_ascii_case(spelled)).map_or(Self::Other, |(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else_is() {
        for (name, text) in ALL {
            assert_eq!(Name::of(text.as_bytes()), *name);
            assert_eq!(Name::of(text.to_ascii_uppercase().as_bytes()), *name);
            assert_eq!(name.text(), *text);
            assert_eq!(Name::of(text.replace('-', "_").as_bytes()), if text.contains('-') { Name::Other } else { *name });
        }
        assert_eq!(Name::of(b""), Name::Other);
        assert_eq!(Name::of(b"x-request-id"), Name::Other);
    }
}

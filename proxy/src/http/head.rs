//! The head of a request, as it is passed through the proxy: the bytes as they came, and where its parts are. It is read from them as often as
//! needed: for the lookup, for each attempt, for the log.

use waypost_http1::{Field, Framing, Limits, Name, Span, Target, Version, Violation, host, is_host, parse_request, request_framing, target};

use crate::table::Fields;

/// A request's head.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    method: Span,
    version: Version,
    framing: Framing,
    path: Span,
    query: Option<Span>,
    host: Option<Span>,
}

impl Head {
    /// Reads a head that is whole.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn read(bytes: Vec<u8>, limits: Limits) -> Result<Self, Violation> {
        let mut fields = Vec::with_capacity(16);
        let line = parse_request(&bytes, limits, &mut fields)?;
        let method = line.method.of(&bytes);
        let (authority, path, query) = match target(&bytes, method, line.target)? {
            Target::Origin { path, query } => (None, path, query),
            Target::Absolute { authority, path, query, .. } => (Some(authority), path, query),
            Target::Authority(authority) => (Some(authority), Span::default(), None),
            Target::Asterisk => (None, line.target, None),
        };
        let named = host(line.version, &bytes, &fields)?;
        // An absolute target says for whom the request is, whatever Host says (RFC 9112, 3.2.2).
        if authority.is_some_and(|authority| !is_host(authority.of(&bytes))) {
            return Err(Violation::OddHost);
        }
        let of_field = named.and_then(|_| fields.iter().find(|field| field.name == Name::Host)).map(|field| field.value_at);
        let framing = request_framing(line.version, method, &bytes, &fields)?;
        let (method, version, host) = (line.method, line.version, authority.or(of_field));
        // Texts are looked up and logged as such.
        let is_text = |span: Span| std::str::from_utf8(span.of(&bytes)).is_ok();
        if !is_text(path) || !query.is_none_or(is_text) {
            return Err(Violation::Target);
        }
        Ok(Self { fields, method, version, framing, path, query, host, bytes })
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(span.of(&self.bytes)).unwrap_or_default()
    }

    /// The method.
    pub(crate) fn method(&self) -> &str {
        self.text(self.method)
    }

    /// The version that the client speaks.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// Where the body ends.
    pub(crate) const fn framing(&self) -> Framing {
        self.framing
    }

    /// The path as it came; `/` where the target has none.
    pub(crate) fn path(&self) -> &str {
        match self.text(self.path) {
            "" => "/",
            path => path,
        }
    }

    /// The query as it came, without its `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.map(|query| self.text(query))
    }

    /// For whom the request is, with a port if it has one; nothing in HTTP/1.0 without Host.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.map(|host| self.text(host))
    }

    /// The fields in their order: which name, the name as it was spelled, and the value.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (Name, &[u8], &[u8])> {
        self.fields.iter().map(|field| (field.name, field.name_at.of(&self.bytes), field.value(&self.bytes)))
    }

    /// The values of a field.
    pub(crate) fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.fields().filter(move |(found, ..)| *found == name).map(|(.., value)| value)
    }

    /// The only or first value of a field, as text.
    pub(crate) fn value(&self, name: Name) -> Option<&str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether a list of tokens has this one, in any case.
    pub(crate) fn has_token(&self, name: Name, token: &str) -> bool {
        tokens(self.values(name)).any(|found| found.eq_ignore_ascii_case(token))
    }

    /// The fields, for conditions.
    pub(crate) fn for_lookup(&self) -> Fields<'_> {
        Fields::new(&self.bytes, &self.fields)
    }
}

/// The members of a list that may be spread over several fields (RFC 9110, 5.6.1).
pub(crate) fn tokens<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a str> {
    values
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim_matches([' ', '\t']))
        .filter(|token| !token.is_empty())
}

/// Whether the client keeps its connection after this request (RFC 9112, 9.3).
pub(crate) fn keeps_connection(head: &Head) -> bool {
    is_persistent(head.version(), || head.values(Name::Connection))
}

/// Whether a connection is kept after a message of this version with these Connection fields (RFC 9112, 9.3).
pub(crate) fn is_persistent<'a, I: Iterator<Item = &'a [u8]>>(version: Version, connection: impl Fn() -> I) -> bool {
    let has = |option: &str| tokens(connection()).any(|found| found.eq_ignore_ascii_case(option));
    match version {
        Version::Http11 => !has("close"),
        Version::Http10 => has("keep-alive") && !has("close"),
    }
}

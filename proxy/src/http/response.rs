//! An endpoint's response: read from its connection, and written for the client in one pass.

use std::time::Duration;

use waypost_http1::{Field, Framing, Limits, Name, ResponseTo, StatusLine, Version, Violation, Writer, parse_response, response_framing};

use crate::http::fields::{announced, is_hop_by_hop, is_in, listed};
use crate::http::head::{is_persistent, tokens};
use crate::table::{CompiledRule, HeaderChanges};

/// A response's head.
#[derive(Debug)]
pub(crate) struct Response {
    bytes: Vec<u8>,
    fields: Vec<Field>,
    line: StatusLine,
    framing: Framing,
}

/// How a response goes on to the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Onward<'a> {
    /// Where the body ends for the client.
    pub(crate) framing: Framing,
    /// The version that the client speaks.
    pub(crate) version: Version,
    /// Whether its connection is kept.
    pub(crate) keep: bool,
    /// The version that is served, and how old it may be, if responses carry them.
    pub(crate) marks: &'a [(&'static str, String)],
}

impl Response {
    /// Reads a head that is whole, of the response to a request.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub(crate) fn read(bytes: Vec<u8>, to: ResponseTo, limits: Limits) -> Result<Self, Violation> {
        let mut fields = Vec::with_capacity(16);
        let line = parse_response(&bytes, limits, &mut fields)?;
        let framing = response_framing(to, line, &bytes, &fields)?;
        Ok(Self { bytes, fields, line, framing })
    }

    /// Its status.
    pub(crate) const fn status(&self) -> u16 {
        self.line.status
    }

    /// Where its body ends.
    pub(crate) const fn framing(&self) -> Framing {
        self.framing
    }

    fn fields(&self) -> impl Iterator<Item = (Field, &[u8], &[u8])> {
        self.fields.iter().map(|field| (*field, field.name_at.of(&self.bytes), field.value(&self.bytes)))
    }

    /// The values of a field.
    pub(crate) fn values(&self, name: Name) -> impl Iterator<Item = &[u8]> {
        self.fields().filter(move |(field, ..)| field.name == name).map(|(.., value)| value)
    }

    /// Whether the endpoint keeps the connection after it.
    pub(crate) fn keeps_connection(&self) -> bool {
        is_persistent(self.line.version, || self.values(Name::Connection))
    }

    /// How long the endpoint keeps an idle connection, if it says so (`Keep-Alive: timeout=5`).
    pub(crate) fn keep_alive(&self) -> Option<Duration> {
        let mut parameters = tokens(self.values(Name::KeepAlive)).filter_map(|parameter| parameter.split_once('='));
        let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
        seconds.trim().parse().ok().map(Duration::from_secs)
    }

    /// The protocol that it switches to.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.values(Name::Upgrade).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The length that it tells, also where no body follows; several equal ones count as one.
    fn told_length(&self) -> Option<&[u8]> {
        let first = self.values(Name::ContentLength).next()?.split(|byte| *byte == b',').next()?.trim_ascii();
        Some(first).filter(|_| !matches!(self.line.status, 100..=199 | 204))
    }

    /// Writes the head for the client.
    pub(crate) fn write(&self, out: &mut Vec<u8>, rule: &CompiledRule, onward: Onward<'_>) {
        let mut writer = Writer::new(out);
        let changes = &rule.response_headers;
        let decided = |name: &[u8]| changes.decides(name) || is_marked(onward.marks, name);
        writer.status_line(Version::Http11, self.line.status, self.line.reason.of(&self.bytes));
        self.write_fields(&mut writer, &decided);
        let has_date = decided(b"date") || self.values(Name::Date).next().is_some();
        if !has_date {
            super::date::with(|date| writer.field(b"date", date));
        }
        if !decided(b"via") {
            writer.field(b"via", if self.line.version == Version::Http10 { b"1.0 waypost" } else { b"1.1 waypost" });
        }
        self.write_connection(&mut writer, onward);
        changes.new_fields().for_each(|(name, value)| writer.field(name, value));
        write_marks(&mut writer, onward.marks, changes);
        writer.end();
    }

    /// Writes the fields that go on as they came: not those of this connection or of the framing, and none that is `decided` otherwise.
    fn write_fields(&self, writer: &mut Writer<'_>, decided: &dyn Fn(&[u8]) -> bool) {
        let away = listed(self.values(Name::Connection));
        for (field, spelled, value) in self.fields() {
            let is_ours = matches!(field.name, Name::ContentLength | Name::Trailer) || is_hop_by_hop(field.name);
            if is_ours || is_in(&away, spelled) || decided(spelled) {
                continue;
            }
            if field.is_folded { writer.folded_field(spelled, value) } else { writer.field(spelled, value) }
        }
    }

    /// What holds for the client's connection.
    fn write_connection(&self, writer: &mut Writer<'_>, onward: Onward<'_>) {
        match onward.framing {
            Framing::Length(length) => writer.number(b"content-length", length),
            Framing::Chunked => {
                writer.field(b"transfer-encoding", b"chunked");
                let trailers = announced(self.values(Name::Trailer));
                if !trailers.is_empty() {
                    writer.field(b"trailer", trailers.as_bytes());
                }
            }
            Framing::None => {
                if let Some(length) = self.told_length() {
                    writer.field(b"content-length", length);
                }
            }
            Framing::UntilClose => {}
        }
        // A 426 names the protocol that the client must use (RFC 9110, 15.5.22).
        let upgrade = Some(self.line.status).filter(|status| *status == 426).and_then(|_| self.protocol());
        match (upgrade, onward.keep) {
            (Some(protocol), keep) => {
                writer.field(b"upgrade", protocol.as_bytes());
                writer.field(b"connection", if keep { b"upgrade" } else { b"upgrade, close" });
            }
            (None, false) => writer.field(b"connection", b"close"),
            (None, true) if onward.version == Version::Http10 => writer.field(b"connection", b"keep-alive"),
            (None, true) => {}
        }
    }

    /// Writes an interim response for the client (RFC 9110, 15.2).
    pub(crate) fn write_interim(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.status_line(Version::Http11, self.line.status, self.line.reason.of(&self.bytes));
        self.write_fields(&mut writer, &|_| false);
        writer.end();
    }

    /// Writes the response that switches to `protocol`.
    pub(crate) fn write_switch(&self, out: &mut Vec<u8>, rule: &CompiledRule, protocol: &str, marks: &[(&'static str, String)]) {
        let mut writer = Writer::new(out);
        let changes = &rule.response_headers;
        writer.status_line(Version::Http11, 101, self.line.reason.of(&self.bytes));
        writer.field(b"connection", b"upgrade");
        writer.field(b"upgrade", protocol.as_bytes());
        self.write_fields(&mut writer, &|name| changes.decides(name));
        writer.field(b"via", b"1.1 waypost");
        changes.new_fields().for_each(|(name, value)| writer.field(name, value));
        write_marks(&mut writer, marks, changes);
        writer.end();
    }
}

/// Fields that responses of a listener carry, such as the version that is served.
type Marks<'a> = &'a [(&'static str, String)];

/// Whether the listener decides a field.
fn is_marked(marks: Marks<'_>, name: &[u8]) -> bool {
    marks.iter().any(|(mark, _)| mark.as_bytes().eq_ignore_ascii_case(name))
}

/// Writes the fields that the listener decides; a rule that says something of one decides it instead.
pub(crate) fn write_marks(writer: &mut Writer<'_>, marks: Marks<'_>, changes: &HeaderChanges) {
    for (name, value) in marks.iter().filter(|(name, _)| !changes.decides(name.as_bytes())) {
        writer.field(name.as_bytes(), value.as_bytes());
    }
}

/// Where the body of a response ends for the client: chunks are for HTTP/1.1 alone (RFC 9112, 6.1).
pub(crate) const fn onward_framing(framing: Framing, version: Version) -> Framing {
    match (framing, version) {
        (Framing::Chunked, Version::Http10) => Framing::UntilClose,
        (Framing::UntilClose, Version::Http11) => Framing::Chunked,
        (framing, _) => framing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_an_endpoint_keeps_a_connection_is_found_among_other_parameters() {
        let of = |value: &str| {
            let head = format!("HTTP/1.1 200 OK\r\nkeep-alive: {value}\r\n\r\n").into_bytes();
            Response::read(head, ResponseTo::Other, Limits { bytes: 1_000, fields: 9 }).unwrap().keep_alive()
        };
        let five = Some(Duration::from_secs(5));
        assert_eq!((of("timeout=5"), of("timeout=5, max=100"), of("max=100, Timeout = 5")), (five, five, five));
        assert_eq!((of("max=100"), of("timeout=soon")), (None, None));
    }
}

//! The request as an endpoint gets it: written from the client's head in one pass.

use std::borrow::Cow;

use waypost_http1::{Framing, Name, Version, Writer};

use crate::http::client::Client;
use crate::http::fields::{announced, is_claim, is_hop_by_hop, is_in, is_twin, listed};
use crate::http::head::Head;
use crate::http::redirect::parameter;
use crate::table::CompiledRule;

/// What is sent to an endpoint, beside the body.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) head: &'a Head,
    pub(crate) rule: &'a CompiledRule,
    pub(crate) client: &'a Client,
    /// The path, with what the rule changes.
    pub(crate) path: Cow<'a, str>,
    /// The protocols that the connection may switch to.
    pub(crate) upgrade: Option<String>,
    /// Whether the client is a proxy that is believed.
    pub(crate) trusted: bool,
}

impl Outgoing<'_> {
    /// Writes the head for an endpoint at `address`, which is the host where the client names none.
    pub(crate) fn write(&self, out: &mut Vec<u8>, address: &str) {
        let mut writer = Writer::new(out);
        let query = self.head.query();
        writer.request_line(
            self.head.method().as_bytes(),
            &[self.path.as_bytes(), if query.is_some() { b"?" } else { b"" }, query.unwrap_or_default().as_bytes()],
        );
        let host = self.head.host();
        let changes = &self.rule.request_headers;
        let decided = |name: &[u8]| changes.decides(name);
        if !decided(b"host") {
            let rewritten = self.rule.rewrite_host.as_ref().map(|host| host.as_bytes());
            writer.field(b"host", rewritten.or(host.map(str::as_bytes)).unwrap_or(address.as_bytes()));
        }
        let away = listed(self.head.values(Name::Connection));
        for (name, spelled, value) in self.head.fields() {
            let is_ours = match name {
                Name::Host | Name::ContentLength | Name::Trailer | Name::XForwardedFor | Name::Forwarded => true,
                Name::Expect => self.head.version() == Version::Http10,
                Name::MaxForwards => is_counted(self.head),
                _ => is_hop_by_hop(name),
            };
            let passes = !is_ours && (self.trusted || !is_claim(name, spelled)) && !is_in(&away, spelled) && !decided(spelled) && !is_twin(spelled, &decided);
            if passes {
                writer.field(spelled, value);
            }
        }
        self.write_origin(&mut writer, host.unwrap_or_default());
        if !decided(b"via") {
            writer.field(b"via", if self.head.version() == Version::Http10 { b"1.0 waypost" } else { b"1.1 waypost" });
        }
        self.write_connection(&mut writer);
        changes.new_fields().for_each(|(name, value)| writer.field(name, value));
        writer.end();
    }

    /// For whom the request is.
    fn write_origin(&self, writer: &mut Writer<'_>, host: &str) {
        let decided = |name: &str| self.rule.request_headers.decides(name.as_bytes());
        let has = |name: Name| self.trusted && self.head.values(name).next().is_some();
        let own = self.client.forwarded(host);
        if !decided("x-forwarded-for") {
            self.write_appended(writer, Name::XForwardedFor, &[self.client.address_text.as_bytes()]);
        }
        if !decided("x-forwarded-proto") && !has(Name::XForwardedProto) {
            let named = self.head.value(Name::Forwarded).filter(|_| self.trusted).and_then(|forwarded| parameter(forwarded, "proto"));
            let scheme = match named {
                Some(proto) if proto.eq_ignore_ascii_case("https") => "https",
                Some(_) => "http",
                None => self.client.scheme,
            };
            writer.field(b"x-forwarded-proto", scheme.as_bytes());
        }
        if !decided("x-forwarded-port") && !has(Name::XForwardedPort) {
            writer.field(b"x-forwarded-port", self.client.port.as_bytes());
        }
        if !decided("x-forwarded-host") && !has(Name::XForwardedHost) && self.head.host().is_some() {
            writer.field(b"x-forwarded-host", host.as_bytes());
        }
        if !decided("forwarded") && (!self.trusted || has(Name::Forwarded)) {
            self.write_appended(writer, Name::Forwarded, &own);
        }
    }

    /// A list with our element behind those of a proxy that is believed.
    fn write_appended(&self, writer: &mut Writer<'_>, name: Name, own: &[&[u8]]) {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(own.len());
        for value in self.head.values(name).filter(|_| self.trusted) {
            parts.extend([value, b", "]);
        }
        parts.extend(own);
        writer.field_of_parts(name.text().as_bytes(), &parts);
    }

    /// What holds for this connection.
    fn write_connection(&self, writer: &mut Writer<'_>) {
        if let Some(hops) = forwards_left(self.head).filter(|_| is_counted(self.head)) {
            writer.number(b"max-forwards", hops.saturating_sub(1));
        }
        if self.head.has_token(Name::Te, "trailers") {
            writer.field(b"te", b"trailers");
        }
        match self.head.framing() {
            Framing::Length(length) => writer.number(b"content-length", length),
            Framing::Chunked => {
                writer.field(b"transfer-encoding", b"chunked");
                let trailers = announced(self.head.values(Name::Trailer));
                if !trailers.is_empty() {
                    writer.field(b"trailer", trailers.as_bytes());
                }
            }
            Framing::None | Framing::UntilClose => {}
        }
        if let Some(upgrade) = &self.upgrade {
            writer.field(b"connection", b"upgrade");
            writer.field(b"upgrade", upgrade.as_bytes());
        }
    }
}

/// Whether Max-Forwards counts for this method (RFC 9110, 7.6.2).
fn is_counted(head: &Head) -> bool {
    matches!(head.method(), "OPTIONS" | "TRACE")
}

/// How many more hops a request may take, if it says so.
pub(crate) fn forwards_left(head: &Head) -> Option<u64> {
    head.value(Name::MaxForwards)?.parse().ok()
}

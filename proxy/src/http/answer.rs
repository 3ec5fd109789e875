//! Answers that the proxy makes itself: `server: waypost` and a short reason in plain text.

use bytes::Bytes;
use waypost_http1::{Version, Writer, reason};

use crate::http::response::write_marks;
use crate::table::CompiledRule;

/// An answer of the proxy.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Further fields.
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

/// How an answer goes to the client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    /// The rule that the request matched: what it says of responses holds for this one too.
    pub(crate) rule: Option<&'a CompiledRule>,
    /// The version that the client speaks.
    pub(crate) version: Version,
    /// Whether its connection is kept.
    pub(crate) keep: bool,
    /// Whether the request was HEAD.
    pub(crate) is_head: bool,
    /// The version that is served, and how old it may be, if responses carry them.
    pub(crate) marks: &'a [(&'static str, String)],
}

impl Answer {
    /// A refusal with its reason.
    pub(crate) fn refusal(status: u16, why: impl Into<String>) -> Box<Self> {
        let mut text: String = why.into();
        text.push('\n');
        Box::new(Self::of(status, "text/plain; charset=utf-8".to_owned(), text.into()))
    }

    /// An answer with a body of any type.
    pub(crate) fn of(status: u16, content_type: String, body: Bytes) -> Self {
        Self { status, fields: Vec::new(), content_type: (!body.is_empty()).then_some(content_type), body }
    }

    /// Writes all of it.
    pub(crate) fn write(&self, out: &mut Vec<u8>, terms: Terms<'_>) {
        let none = crate::table::HeaderChanges::default();
        let changes = terms.rule.map_or(&none, |rule| &rule.response_headers);
        let mut writer = Writer::new(out);
        writer.status_line(Version::Http11, self.status, reason(self.status).as_bytes());
        let mut field = |name: &str, value: &[u8]| {
            if !changes.decides(name.as_bytes()) {
                writer.field(name.as_bytes(), value);
            }
        };
        field("server", b"waypost");
        super::date::with(|date| field("date", date));
        if let Some(content_type) = &self.content_type {
            field("content-type", content_type.as_bytes());
        }
        self.fields.iter().for_each(|(name, value)| field(name, value.as_bytes()));
        let has_body = !matches!(self.status, 100..=199 | 204 | 304);
        if has_body {
            writer.number(b"content-length", self.body.len() as u64);
        }
        if !terms.keep {
            writer.field(b"connection", b"close");
        } else if terms.version == Version::Http10 {
            writer.field(b"connection", b"keep-alive");
        }
        changes.new_fields().for_each(|(name, value)| writer.field(name, value));
        write_marks(&mut writer, terms.marks, changes);
        writer.end();
        if has_body && !terms.is_head {
            out.extend_from_slice(&self.body);
        }
    }
}

//! The forms of a request's target (RFC 9112, 3.2).

use crate::field::Span;
use crate::violation::Violation;

/// A target. Spans are of the same bytes as that of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`
    Origin {
        /// The path, which begins with `/`.
        path: Span,
        /// The query without its `?`.
        query: Option<Span>,
    },
    /// `http://authority/path?query`
    Absolute {
        /// `http` or another scheme.
        scheme: Span,
        /// What the request is for, whatever its Host field says.
        authority: Span,
        /// The path; empty where the target has none, which means `/`.
        path: Span,
        /// The query without its `?`.
        query: Option<Span>,
    },
    /// `host:port`, for CONNECT alone.
    Authority(Span),
    /// `*`, for OPTIONS alone.
    Asterisk,
}

/// Which form the target at `at` in `head` has, for this method.
///
/// # Errors
/// [`Violation::Target`]: none, or one that its method does not have; also one with a fragment, which no client sends.
pub fn target(head: &[u8], method: &[u8], at: Span) -> Result<Target, Violation> {
    let text = at.of(head);
    if text.contains(&b'#') {
        return Err(Violation::Target);
    }
    if method == b"CONNECT" {
        return if text.is_empty() || text.contains(&b'/') { Err(Violation::Target) } else { Ok(Target::Authority(at)) };
    }
    match text {
        b"*" if method == b"OPTIONS" => Ok(Target::Asterisk),
        [b'/', ..] => {
            let (path, query) = path_and_query(head, at.range().start, at.range().end);
            Ok(Target::Origin { path, query })
        }
        _ => absolute(head, at),
    }
}

fn absolute(head: &[u8], at: Span) -> Result<Target, Violation> {
    let text = at.of(head);
    let colon = text.iter().position(|byte| *byte == b':').ok_or(Violation::Target)?;
    let scheme = text.get(..colon).unwrap_or_default();
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic) && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = text.get(colon + 1..).and_then(|rest| rest.strip_prefix(b"//")).filter(|_| is_scheme).ok_or(Violation::Target)?;
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    if length == 0 {
        return Err(Violation::Target);
    }
    let start = at.range().end - rest.len();
    let (path, query) = path_and_query(head, start + length, at.range().end);
    Ok(Target::Absolute { scheme: Span::new(at.range().start, at.range().start + colon), authority: Span::new(start, start + length), path, query })
}

fn path_and_query(head: &[u8], start: usize, end: usize) -> (Span, Option<Span>) {
    let text = head.get(start..end).unwrap_or_default();
    match text.iter().position(|byte| *byte == b'?') {
        Some(mark) => (Span::new(start, start + mark), Some(Span::new(start + mark + 1, end))),
        None => (Span::new(start, end), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, text: &str) -> Result<String, Violation> {
        let head = format!("{method} {text} HTTP/1.1");
        let span = Span::new(method.len() + 1, method.len() + 1 + text.len());
        let show = |span: Span| String::from_utf8(span.of(head.as_bytes()).to_vec()).unwrap();
        Ok(match target(head.as_bytes(), method.as_bytes(), span)? {
            Target::Origin { path, query } => format!("path={} query={:?}", show(path), query.map(show)),
            Target::Absolute { scheme, authority, path, query } => {
                format!("scheme={} authority={} path={} query={:?}", show(scheme), show(authority), show(path), query.map(show))
            }
            Target::Authority(authority) => format!("authority={}", show(authority)),
            Target::Asterisk => "*".to_owned(),
        })
    }

    #[test]
    fn each_form_is_for_its_methods() {
        assert_eq!(read("GET", "/a?b?c").unwrap(), "path=/a query=Some(\"b?c\")");
        assert_eq!(read("GET", "//a").unwrap(), "path=//a query=None");
        assert_eq!(read("GET", "/?").unwrap(), "path=/ query=Some(\"\")");
        assert_eq!(read("OPTIONS", "*").unwrap(), "*");
        assert_eq!(read("CONNECT", "a.example:443").unwrap(), "authority=a.example:443");
        assert_eq!(read("GET", "http://a.example:80/p?q").unwrap(), "scheme=http authority=a.example:80 path=/p query=Some(\"q\")");
        assert_eq!(read("GET", "HTTP://a.example").unwrap(), "scheme=HTTP authority=a.example path= query=None");
        assert_eq!(read("GET", "http://a.example?q").unwrap(), "scheme=http authority=a.example path= query=Some(\"q\")");
        for (method, text) in [
            ("GET", "*"),
            ("GET", "a.example"),
            ("GET", "a.example:80"),
            ("GET", "?q"),
            ("GET", "http:/a"),
            ("GET", "http:///a"),
            ("GET", "1http://a"),
            ("GET", "/a#b"),
            ("GET", "*a"),
            ("CONNECT", "/a"),
            ("CONNECT", "http://a/"),
        ] {
            assert_eq!(read(method, text), Err(Violation::Target), "{method} {text}");
        }
    }
}

//! The two forms of a path. The form *sent on* is what an endpoint receives: the bytes of the request with only dot segments resolved,
//! because signatures cover the rest. The *matched* form is compared with rules: one spelling for all paths that mean the same (RFC 3986,
//! 6.2.2), so that no spelling bypasses a rule. The matched form is derived from the form sent on.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `..` leads above the root.
    #[error("the path leads above its root by \"..\"")]
    AboveRoot,
    /// A dot segment has a parameter; some servers resolve such segments and others do not.
    #[error("the path has a dot segment with a parameter, such as \"..;\"")]
    DotParameter,
    /// An escaped NUL ends a path in some programs and not in others.
    #[error("the path has %00")]
    Null,
    /// The path belongs to different rules depending on whether `%2F`, `%5C` and `\` are read as they are or as `/`.
    #[error("the path has %2F, %5C or a backslash, and means another rule where these are read as \"/\"")]
    Ambiguous,
}

/// The forms of a request's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths<'a> {
    /// The form that the endpoint receives.
    pub sent_on: Cow<'a, str>,
    /// The form that is compared with rules.
    pub matched: Cow<'a, str>,
    /// The matched form with `%2F`, `%5C` and `\` read as `/`, where the path has any of these.
    pub with_slashes: Option<String>,
}

impl<'a> Paths<'a> {
    /// Derives the forms of a request's path.
    ///
    /// # Errors
    /// The path can only be meant to deceive.
    pub fn of(path: &'a str) -> Result<Self, PathError> {
        if is_plain(path) {
            return Ok(Self { sent_on: path.into(), matched: path.into(), with_slashes: None });
        }
        let sent_on = sent_on(path)?;
        let matched = matched(&sent_on);
        let with_slashes = with_slashes(&matched)?;
        Ok(Self { sent_on, matched: matched.into(), with_slashes })
    }

    /// The path as received, in every form: for a listener that switches normalization off.
    pub fn as_received(path: &'a str) -> Self {
        Self { sent_on: path.into(), matched: path.into(), with_slashes: None }
    }
}

/// The matched form of a rule's path.
///
/// # Errors
/// Why no request can have this path.
pub fn of_rule(path: &str) -> Result<String, String> {
    let resolved = sent_on(path).map_err(|error| format!("path {path:?} can never match: {error}, and such requests are refused"))?;
    Ok(matched(&resolved))
}

/// Refuses a path of a rewrite or redirect that servers or clients would read as another path.
///
/// # Errors
/// What to write instead.
pub fn check_target(path: &str) -> Result<(), String> {
    let resolved = sent_on(path).map_err(|error| format!("{path:?} cannot be sent: {error}"))?;
    if resolved != path {
        return Err(format!("{path:?} has dot segments, which others resolve; write {resolved:?}"));
    }
    check_escapes(path)
}

/// Refuses a text in which a `%` begins no escape.
///
/// # Errors
/// What to write instead.
pub fn check_escapes(text: &str) -> Result<(), String> {
    let is_escape = |rest: &str| rest.get(..2).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    if text.split('%').skip(1).all(is_escape) { Ok(()) } else { Err(format!("{text:?} has a '%' that begins no escape; write \"%25\" for it")) }
}

/// Whether a rule's path, in its matched form, could match only requests that are refused as ambiguous.
pub fn is_ambiguous(path: &str) -> bool {
    path.contains("%2F") || path.contains("%5C")
}

/// Why no path in its matched form begins with this text, or is it if it is `whole`; `None` if one can.
pub fn other_spelling(text: &str, whole: bool) -> Option<String> {
    if let Some(c) = text.chars().find(|c| matches!(c, '?' | '#')) {
        return Some(format!("no path has {c:?}; query parameters go under queryParams"));
    }
    // An escape may be cut at the end of a beginning.
    let cut = text.rfind('%').filter(|at| !whole && text.len() - at < 3);
    let text = cut.and_then(|at| text.get(..at)).unwrap_or(text);
    let matched = if whole { of_rule(text).ok()? } else { matched(text) };
    (matched != text).then(|| format!("paths are compared in one spelling; write {matched:?}"))
}

/// The part of a path after its first `count` segments. Empty segments are skipped and not counted.
pub fn after_segments(path: &str, count: usize) -> &str {
    let mut rest = path;
    for _ in 0..count {
        let segment = rest.trim_start_matches('/');
        rest = segment.find('/').and_then(|end| segment.get(end..)).unwrap_or_default();
    }
    rest
}

/// The number of segments of a path that are not empty.
pub fn segments(path: &str) -> usize {
    path.split('/').filter(|segment| !segment.is_empty()).count()
}

/// Whether all forms of a path are the same: no escapes, no dot segments, no empty segments, only characters of paths.
fn is_plain(path: &str) -> bool {
    let mut after_slash = false;
    for byte in path.bytes() {
        if !is_path_byte(byte) || after_slash && matches!(byte, b'.' | b'/') {
            return false;
        }
        after_slash = byte == b'/';
    }
    true
}

/// Bytes of a path that stand for themselves: `pchar` without escapes, and `/` (RFC 3986, 3.3).
const fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'/' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// RFC 3986, 2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// How a segment counts in the resolution of dot segments.
#[derive(PartialEq)]
enum Segment {
    Dot,
    DotDot,
    Other,
}

impl Segment {
    fn of(text: &str) -> Self {
        if text.len() > "%2e%2e".len() || !text.contains(['.', '%']) {
            return Self::Other;
        }
        match text.to_ascii_lowercase().replace("%2e", ".").as_str() {
            "." => Self::Dot,
            ".." => Self::DotDot,
            _ => Self::Other,
        }
    }
}

/// Resolves dot segments, also those with escaped dots, and nothing else (RFC 3986, 5.2.4).
fn sent_on(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path.contains("%00") {
        return Err(PathError::Null);
    }
    let Some(below) = path.strip_prefix('/') else { return Ok(path.into()) };
    if below.contains(';') && below.split('/').filter_map(|segment| segment.split_once(';')).any(|(name, _)| Segment::of(name) != Segment::Other) {
        return Err(PathError::DotParameter);
    }
    if below.split('/').all(|segment| Segment::of(segment) == Segment::Other) {
        return Ok(path.into());
    }
    let mut resolved: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for text in below.split('/') {
        let segment = Segment::of(text);
        ends_in_slash = segment != Segment::Other;
        match segment {
            Segment::Dot => {}
            Segment::DotDot => drop(resolved.pop().ok_or(PathError::AboveRoot)?),
            Segment::Other => resolved.push(text),
        }
    }
    let end = if ends_in_slash && !resolved.is_empty() { "/" } else { "" };
    Ok(format!("/{}{end}", resolved.join("/")).into())
}

/// The matched form: unreserved characters unescaped, other escapes in upper case, characters that are illegal in a path escaped, and each
/// run of slashes as one slash.
fn matched(path: &str) -> String {
    let mut spelled = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let escaped = (byte == b'%').then(|| Some(hex(*bytes.get(at)?)? * 16 + hex(*bytes.get(at + 1)?)?)).flatten();
        match escaped {
            Some(value) => {
                at += 2;
                if is_unreserved(value) { spelled.push(char::from(value)) } else { escape(value, &mut spelled) }
            }
            None if byte == b'/' && spelled.ends_with('/') => {}
            None if is_path_byte(byte) => spelled.push(char::from(byte)),
            None => escape(byte, &mut spelled),
        }
    }
    spelled
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn escape(byte: u8, spelled: &mut String) {
    let digit = |value: u8| char::from(if value < 10 { b'0' + value } else { b'A' + value - 10 });
    spelled.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

/// The matched form as read by programs that treat escaped slashes and backslashes as slashes, if it differs.
fn with_slashes(matched: &str) -> Result<Option<String>, PathError> {
    if !is_ambiguous(matched) {
        return Ok(None);
    }
    let read = matched.replace("%2F", "/").replace("%5C", "/");
    Ok(Some(self::matched(&sent_on(&read)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(path: &str) -> (String, String) {
        let paths = Paths::of(path).unwrap();
        (paths.sent_on.into_owned(), paths.matched.into_owned())
    }

    #[test]
    fn the_path_that_is_sent_on_differs_only_in_dot_segments() {
        for (path, sent_on, matched) in [
            ("/", "/", "/"),
            ("*", "*", "*"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/./b/../c", "/a/c", "/a/c"),
            ("/a/%2e%2E/b", "/b", "/b"),
            ("/a/%2e./b", "/b", "/b"),
            ("/a/b/..", "/a/", "/a/"),
            ("/a/b/.", "/a/b/", "/a/b/"),
            ("/a/..", "/", "/"),
            ("/a//../b", "/a/b", "/a/b"),
            ("//a///b/", "//a///b/", "/a/b/"),
            ("/%61%2d%7e", "/%61%2d%7e", "/a-~"),
            ("/a%3ab", "/a%3ab", "/a%3Ab"),
            ("/caf\u{e9}", "/caf\u{e9}", "/caf%C3%A9"),
            ("/a|b\"{}", "/a|b\"{}", "/a%7Cb%22%7B%7D"),
            ("/a%zz%", "/a%zz%", "/a%25zz%25"),
            ("/%252e%252e/a", "/%252e%252e/a", "/%252e%252e/a"),
            ("/a/...", "/a/...", "/a/..."),
            ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
            ("/a;x=1/...;/b", "/a;x=1/...;/b", "/a;x=1/...;/b"),
        ] {
            assert_eq!(forms(path), (sent_on.to_owned(), matched.to_owned()), "{path}");
        }
    }

    #[test]
    fn deceptive_paths_are_refused() {
        for (path, error) in [
            ("/..", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/%2e%2e/etc", PathError::AboveRoot),
            ("/..%2f", PathError::AboveRoot),
            ("/a/..%5c..%5cb", PathError::AboveRoot),
            ("/a%00b", PathError::Null),
            ("/a/..;/b", PathError::DotParameter),
            ("/a/%2e%2e;x=1/b", PathError::DotParameter),
            ("/a/.;", PathError::DotParameter),
        ] {
            assert_eq!(Paths::of(path), Err(error), "{path}");
        }
    }

    #[test]
    fn escaped_slashes_have_a_second_reading() {
        for (path, read) in
            [("/a%2fb", "/a/b"), ("/a%5Cb", "/a/b"), ("/a\\b", "/a/b"), ("/x/..%2finternal", "/internal"), ("/a%2F%2e%2E%2Fb", "/b"), ("/a%2F%2Fb", "/a/b")]
        {
            assert_eq!(Paths::of(path).unwrap().with_slashes.as_deref(), Some(read), "{path}");
        }
        assert_eq!(Paths::of("/a%252Fb").unwrap().with_slashes, None);
    }

    #[test]
    fn a_rules_path_takes_the_form_of_requests_or_is_refused() {
        for (path, matched) in [("/café//x", "/caf%C3%A9/x"), ("/%7euser", "/~user"), ("/a/../b", "/b"), ("/a%2fb", "/a%2Fb")] {
            assert_eq!(of_rule(path).unwrap(), matched);
        }
        assert!(of_rule("/../b").unwrap_err().contains("can never match"));
        assert!(is_ambiguous("/a%2Fb") && !is_ambiguous("/a/b"));
    }

    #[test]
    fn segments_are_counted_without_empty_ones() {
        for (path, count, rest) in [("/foo/bar", 1, "/bar"), ("/foo", 1, ""), ("/foo/", 1, "/"), ("//foo//bar", 1, "//bar"), ("/a", 0, "/a"), ("/a", 3, "")] {
            assert_eq!(after_segments(path, count), rest, "{path}");
        }
        assert_eq!((segments("/a//b/"), segments("/")), (2, 0));
    }

    proptest::proptest! {
        #[test]
        fn the_matched_form_is_a_fixed_point(path in "(/|\\.|%2e|%2F|%5c|%41|a|\\\\|;|é|%|%zz){0,12}") {
            let path = format!("/{path}");
            if let Ok(paths) = Paths::of(&path) {
                let again = Paths::of(&paths.matched).unwrap();
                proptest::prop_assert_eq!(&again.matched, &paths.matched);
                proptest::prop_assert_eq!(&again.sent_on, &paths.matched);
                let resent = Paths::of(&paths.sent_on).unwrap();
                proptest::prop_assert_eq!(&resent.sent_on, &paths.sent_on);
                proptest::prop_assert_eq!(&resent.matched, &paths.matched);
            }
        }
    }
}

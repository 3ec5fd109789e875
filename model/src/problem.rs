//! Problems of a value: what is wrong, where, and what to write instead.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One reason why a value was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Line of the value, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Path of the field, such as `rules[0].matches[0].path`; empty for the value as a whole.
    pub field: String,
    /// What is wrong and what to write instead, in one sentence.
    pub message: String,
    /// The nearest known name, if the problem is an unknown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl Problem {
    /// A problem of the value as a whole, at its first character.
    pub fn whole(message: impl Into<String>) -> Self {
        Self { line: 1, column: 1, field: String::new(), message: message.into(), suggestion: None }
    }

    /// The same with texts of a bounded length.
    #[must_use]
    pub fn bounded(self) -> Self {
        Self { field: bounded(self.field), message: bounded(self.message), ..self }
    }
}

/// Bytes of a text for people: values may be long, and what is said of them is kept, sent and shown.
pub const MAX_MESSAGE_BYTES: usize = 1_000;

/// A text of at most [`MAX_MESSAGE_BYTES`] bytes, without its middle if it has more: what is wrong stands at its beginning, and the remedy at its end.
pub fn bounded(text: String) -> String {
    if text.len() <= MAX_MESSAGE_BYTES {
        return text;
    }
    let (first, last) = (text.floor_char_boundary(MAX_MESSAGE_BYTES / 2), text.ceil_char_boundary(text.len() - MAX_MESSAGE_BYTES / 3));
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default().to_owned();
    format!("{} […] {}", part(0..first), part(last..text.len()))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(name) => write!(f, "; did you mean {name:?}?"),
            None => Ok(()),
        }
    }
}

/// Bytes of an unknown name that is compared with the known ones.
const MAX_NAME_BYTES: usize = 64;

/// The one of `names` that is nearest to `unknown`, if it is near enough to be a misspelling.
pub fn nearest<'a>(unknown: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // The comparison takes time by the product of the lengths, and no name is that long.
    if unknown.len() > MAX_NAME_BYTES {
        return None;
    }
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&unknown.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len().max(unknown.len()) / 3).max(1))
        .min()
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(bounded("a".repeat(MAX_MESSAGE_BYTES)).len(), MAX_MESSAGE_BYTES);
        let text = bounded(format!("the value {} is wrong; write another", "é".repeat(100_000)));
        assert!(text.len() <= MAX_MESSAGE_BYTES && text.starts_with("the value é") && text.ends_with("é is wrong; write another"), "{text}");
        assert_eq!(nearest(&"a".repeat(100), ["a"]), None);
    }

    #[test]
    fn the_nearest_name_is_offered_only_when_it_is_near() {
        let names = ["hostnames", "rules", "listeners"];
        assert_eq!(nearest("hostname", names), Some("hostnames".to_owned()));
        assert_eq!(nearest("Rules", names), Some("rules".to_owned()));
        assert_eq!(nearest("backend", names), None);
    }
}

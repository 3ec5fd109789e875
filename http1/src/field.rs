//! A field of a head or trailer section, by offsets into the bytes that it was read from.

use std::ops::Range;

use crate::name::Name;

/// A range of bytes of a head. 32 bits each: heads are limited to less than 4 GiB long before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The range from `start` to `end`, without `end`. Offsets beyond 4 GiB are cut to that.
    pub fn new(start: usize, end: usize) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: offset(start), end: offset(end) }
    }

    /// The range as indices.
    pub const fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// These bytes of `bytes`; nothing if the range is not in it.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.range()).unwrap_or_default()
    }

    /// How many bytes it has.
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Which name it has, if that is one that a proxy decides something by.
    pub name: Name,
    /// The name as it was spelled.
    pub name_at: Span,
    /// The value without the blanks around it.
    pub value_at: Span,
    /// Whether the value has line breaks of the obsolete folding, which count as blanks (RFC 9112, 5.2). Only in responses.
    pub is_folded: bool,
}

impl Field {
    /// The value's bytes.
    pub fn value(self, bytes: &[u8]) -> &[u8] {
        self.value_at.of(bytes)
    }
}

/// The values of all fields of a name, in their order.
pub(crate) fn values<'a>(bytes: &'a [u8], fields: &'a [Field], name: Name) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter(move |field| field.name == name).map(move |field| field.value(bytes))
}

//! Optional fields.

use serde::{Deserialize, Deserializer};

/// Reads an optional field that may be absent but not `null`.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

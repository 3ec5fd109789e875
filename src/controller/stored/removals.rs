//! A removal that the guard holds, as it is on disk and on the stream between controllers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use waypost_model::compile::{EntryId, Origin, Written};
use waypost_model::object::{Digest, Object};

use crate::controller::rules::guard::{Judgement, Removal};
use crate::controller::stored::entries::same_store;

/// A held removal in its stored form.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredRemoval {
    object: String,
    /// The number of its store where it was written.
    source: usize,
    /// The URL of its store; earlier releases did not write it.
    #[serde(default)]
    store: String,
    key: String,
    value: String,
    revision: u64,
    date: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instead: Option<Digest>,
    #[serde(flatten)]
    judgement: Judgement,
}

impl StoredRemoval {
    /// The stored form of a removal; `stores` are our stores' URLs.
    pub fn of(removal: &Removal, stores: &[String]) -> Self {
        let source = removal.origin.id.source;
        Self {
            object: removal.object.bytes().to_owned(),
            source,
            store: stores.get(source).cloned().unwrap_or_default(),
            key: removal.origin.id.key.clone(),
            value: STANDARD.encode(&removal.origin.written.value),
            revision: removal.origin.written.revision,
            date: removal.date,
            instead: removal.instead,
            judgement: removal.judgement.clone(),
        }
    }

    /// The removal, if its store is one of `stores`: they may have another order than when it was written.
    ///
    /// # Errors
    /// The text says which part cannot be understood.
    pub fn removal(self, stores: &[String]) -> Result<Option<Removal>, String> {
        let named = |store: &str| stores.iter().position(|url| same_store(url, store));
        let Some(source) = Some(self.store.as_str()).filter(|store| !store.is_empty()).map_or(Some(self.source), named) else { return Ok(None) };
        let written = Written { value: STANDARD.decode(&self.value).map_err(|error| error.to_string())?.into(), revision: self.revision };
        let origin = Origin { id: EntryId { source, key: self.key }, written };
        let object = Object::read(&self.object)?;
        Ok(Some(Removal { object, origin, at: Duration::ZERO, date: self.date, judgement: self.judgement, store_revision: 0, instead: self.instead }))
    }
}

//! `waypost export --to DIR|STORE`

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use waypost_adapter::Key;

use super::client::{ControllerFlag, CredentialFlags, OutputFlag, store_failure};
use super::outcome::{Failure, Outcome};
use super::text::{machine, say};
use crate::api::ExportedStore;
use crate::stores;

#[derive(Debug, Args)]
pub(super) struct ExportFlags {
    /// Directory or URL of a store; a store of the controller gets only its own entries
    #[arg(long, value_name = "DIR|STORE")]
    to: String,
    /// Config of the history (C12) [default: what is served now]
    #[arg(long, value_name = "C", value_parser = super::hold::number)]
    at: Option<u64>,
    /// Only entries whose removal is held, to write them back
    #[arg(long, conflicts_with = "at")]
    held: bool,
    #[command(flatten)]
    controller: ControllerFlag,
    #[command(flatten)]
    credentials: CredentialFlags,
    #[command(flatten)]
    output: OutputFlag,
}

pub(super) async fn run(flags: ExportFlags) -> Outcome {
    let mut query: Vec<(&str, String)> = flags.at.map(|number| ("at", number.to_string())).into_iter().collect();
    query.extend(flags.held.then(|| ("held", "true".to_owned())));
    let stores: Vec<ExportedStore> = flags.controller.get("/v1/export", &query).await?;
    let url = if flags.to.contains("://") { flags.to.clone() } else { format!("file://{}", flags.to) };
    let store = stores::open(&flags.credentials.with(&url)).map_err(Failure::usage)?;
    let entries = chosen(stores, &store.url, flags.held).map_err(Failure::usage)?;
    for (key, value) in &entries {
        let value = STANDARD.decode(value).map_err(Failure::failed)?;
        let key = Key::from(store.full_key(key));
        store.adapter.put(&key, Bytes::from(value)).await.map_err(|error| store_failure(&error))?;
    }
    if !machine(flags.output.output, &json!({ "store": store.url, "entries": entries.len() }))? {
        say!("{} entries are written to {}", entries.len(), store.url);
    }
    Ok(())
}

/// The entries to write to `target`: its own, if it is one of the controller's stores; otherwise all, those of the first store first
/// where two stores have the same key. Held entries are only written back to the stores that they came from.
fn chosen(stores: Vec<ExportedStore>, target: &str, held: bool) -> Result<BTreeMap<String, String>, String> {
    let own = stores.iter().any(|one| one.is_at(target));
    let full: Vec<&str> = stores.iter().filter(|one| !one.entries.is_empty()).map(|one| one.store.as_str()).collect();
    if held && !own && full.len() > 1 && !target.starts_with("file://") {
        return Err(format!(
            "entries of {} are held, and {target} is none of these; write them back one store at a time, or --to a directory",
            full.join(" and ")
        ));
    }
    let mut entries = BTreeMap::new();
    for entry in stores.into_iter().filter(|one| !own || one.is_at(target)).flat_map(|one| one.entries) {
        entries.entry(entry.key).or_insert(entry.value);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ExportedEntry;

    fn stores() -> Vec<ExportedStore> {
        let entry = |key: &str, value: &str| ExportedEntry { key: key.to_owned(), value: value.to_owned() };
        let store = |url: &str, entries| ExportedStore { store: url.to_owned(), entries };
        vec![
            store("etcd://a:2379/waypost", vec![entry("routes/shop", "1"), entry("routes/both", "1")]),
            store("consul://b:8500/waypost", vec![entry("routes/both", "2")]),
            store("file:///etc/waypost", Vec::new()),
        ]
    }

    fn to(target: &str, held: bool) -> Result<Vec<(String, String)>, String> {
        chosen(stores(), target, held).map(|all| all.into_iter().collect())
    }

    fn of(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn to_one_of_the_stores_goes_only_what_is_its_own() {
        for held in [true, false] {
            assert_eq!(to("consul://b:8500/waypost", held), of(&[("routes/both", "2")]));
            assert_eq!(to("etcd://c:2379,a:2379/waypost", held), of(&[("routes/both", "1"), ("routes/shop", "1")]));
            assert_eq!(to("file:///etc/waypost", held), of(&[]), "nothing of it is held");
        }
    }

    #[test]
    fn elsewhere_goes_everything_and_what_is_held_of_several_only_into_a_directory() {
        let all = of(&[("routes/both", "1"), ("routes/shop", "1")]);
        assert_eq!(to("file:///tmp/copy", true), all);
        assert_eq!(to("etcd://new:2379/waypost", false), all);
        let refused = to("etcd://new:2379/waypost", true).unwrap_err();
        assert!(refused.contains("etcd://a:2379/waypost and consul://b:8500/waypost are held"), "{refused}");
    }
}

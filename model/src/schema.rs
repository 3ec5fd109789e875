//! JSON Schema of every kind, generated from the types. Used by `waypost lint`, the docs and error messages.

use serde_json::Value;

use crate::key::Kind;
use crate::resource::{Backend, Certificate, Endpoint, Listener, Route};

/// The schema of the values under keys of this kind (JSON Schema 2020-12).
pub fn of(kind: Kind) -> Value {
    let schema = match kind {
        Kind::Listener => schemars::schema_for!(Listener),
        Kind::Route => schemars::schema_for!(Route),
        Kind::Backend => schemars::schema_for!(Backend),
        Kind::Certificate => schemars::schema_for!(Certificate),
        Kind::Endpoint => schemars::schema_for!(Endpoint),
    };
    let mut value = schema.to_value();
    close(&mut value);
    if kind == Kind::Endpoint { or_bare(value) } else { value }
}

/// Adds the bare address as an alternative to an endpoint's object.
fn or_bare(mut object: Value) -> Value {
    let take = |object: &mut Value, name: &str| object.as_object_mut().and_then(|map| map.remove(name)).unwrap_or_default();
    let (schema, title, description) = (take(&mut object, "$schema"), take(&mut object, "title"), take(&mut object, "description"));
    let defs = take(&mut object, "$defs");
    let bare = serde_json::json!({ "type": "string", "description": "The address alone.", "examples": ["10.0.0.5:8080"] });
    let mut either = serde_json::json!({ "$schema": schema, "title": title, "description": description, "anyOf": [object, bare] });
    if let (Some(map), false) = (either.as_object_mut(), defs.is_null()) {
        map.insert("$defs".to_owned(), defs);
    }
    either
}

/// Forbids further properties in every object, as the parser does.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object) {
                map.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(close);
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// The names of the fields at `path` in a value of this kind, sorted; empty if any field is allowed there.
pub fn known_fields(kind: Kind, path: &[String]) -> Vec<String> {
    let root = of(kind);
    let mut at = resolve(&root, &root);
    for segment in path {
        let next = if segment.parse::<usize>().is_ok() { at.get("items") } else { at.get("properties").and_then(|all| all.get(segment)) };
        let Some(next) = next else { return Vec::new() };
        at = resolve(&root, next);
    }
    let mut names: Vec<String> = at.get("properties").and_then(Value::as_object).map(|all| all.keys().cloned().collect()).unwrap_or_default();
    names.sort();
    names
}

/// Follows `$ref` and the alternatives of an optional value.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#/$defs/")) {
        return root.get("$defs").and_then(|defs| defs.get(name)).map_or(schema, |found| resolve(root, found));
    }
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    match alternatives.and_then(|all| all.iter().find(|one| one.get("type").and_then(Value::as_str) != Some("null"))) {
        Some(one) => resolve(root, one),
        None => schema,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_at_every_depth() {
        let path = |text: &str| text.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(known_fields(Kind::Route, &path("")), ["hostnames", "listeners", "rules"]);
        assert_eq!(known_fields(Kind::Route, &path("rules.0.matches.1.path")), ["type", "value"]);
        assert_eq!(known_fields(Kind::Route, &path("rules.0.filters.0.requestRedirect")), ["hostname", "path", "port", "scheme", "statusCode"]);
        assert_eq!(known_fields(Kind::Endpoint, &path("")), ["address", "drain", "weight", "zone"]);
        assert_eq!(known_fields(Kind::Backend, &path("timeouts")), ["connect", "firstByte", "idle"]);
    }
}

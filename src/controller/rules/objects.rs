//! The properties of an object that the rules use: its store, its backend, whether it takes requests.

use std::sync::Arc;

use waypost_model::key::ResourceKey;
use waypost_model::object::Object;

/// The path of a resource's object.
pub fn object_path(resource: &ResourceKey) -> String {
    format!("{}/{}", resource.kind.singular(), resource.name)
}

/// The number of the store that an object comes from.
pub fn source_of(object: &Object) -> usize {
    object.decode::<serde_json::Value>().map(|body| body.order).unwrap_or_default()
}

/// The backend of an endpoint, or of an object about an endpoint.
pub fn backend(endpoint: &Object) -> &str {
    endpoint.name().split('/').next().unwrap_or_default()
}

/// Whether an endpoint takes requests, as far as its fields say. An object that has neither field is not decoded: there may be many of them.
pub fn takes_requests(endpoint: &Object) -> bool {
    let says = |field: &str| endpoint.bytes().contains(field);
    if !says("\"drain\":true") && !says("\"weight\":0") {
        return true;
    }
    !endpoint.decode::<waypost_model::resource::Endpoint>().is_ok_and(|body| body.spec.drain || body.spec.weight.get() == 0)
}

/// Whether the object at `path` is of membership, of the kinds that the guard holds.
pub fn is_member(path: &str) -> bool {
    path.starts_with("endpoint/")
}

/// The mark in membership that says that the object at `path` is held; nothing for kinds without one.
pub fn mark_of(path: &str) -> Option<Arc<Object>> {
    match path.split_once('/') {
        Some(("endpoint", name)) => Some(Object::suspect(name)),
        Some(("route" | "listener", _)) => Some(Object::held(path)),
        _ => None,
    }
}

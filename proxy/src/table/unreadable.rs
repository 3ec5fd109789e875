//! Routes that this proxy is too old for: their readable part answers with 503. Without them their requests would go to a broader route,
//! which could admit requests that the newer route refuses.

use serde_json::{Value, json};
use waypost_model::object::{Body, Object};
use waypost_model::resource::{Route, RouteMatch};

/// The route with the same hosts and matches, answering all with 503; `None` if its matches cannot be read.
pub(super) fn refusing(object: &Object) -> Option<Body<Route>> {
    let mut body = object.decode::<Value>().ok()?;
    let rules = body.spec.get_mut("rules")?.as_array_mut()?;
    let refused: Vec<Value> = rules.iter().filter_map(refusing_rule).collect();
    if refused.is_empty() {
        return None;
    }
    *rules = refused;
    let spec = serde_json::from_value(body.spec).ok()?;
    Some(Body { kind: body.kind, name: body.name, min_level: body.min_level, order: body.order, spec })
}

fn refusing_rule(rule: &Value) -> Option<Value> {
    let all = rule.get("matches").and_then(Value::as_array).cloned().unwrap_or_default();
    let understood: Vec<&Value> = all.iter().filter(|found| is_understood(found)).collect();
    if understood.is_empty() && !all.is_empty() {
        return None;
    }
    let answer = json!({"type": "FixedResponse", "fixedResponse": {"statusCode": 503, "body": "this proxy is too old for the route; upgrade it\n"}});
    Some(json!({"matches": understood, "filters": [answer]}))
}

/// Whether a match is read completely. Without a part of its conditions it would match more.
fn is_understood(found: &Value) -> bool {
    serde_json::from_value::<RouteMatch>(found.clone()).is_ok_and(|read| serde_json::to_value(read).is_ok_and(|again| again == *found))
}

//! A proxy reads every accepted value as the author meant it: tested for all fields in random combinations.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::{Backend, Certificate, Endpoint, Listener, Resource, Route};
use crate::key::{Kind, ResourceKey};
use crate::limits::Limits;
use crate::object::Object;

/// An object with a random selection of these fields.
fn some(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> = fields.into_iter().map(|(name, values)| prop::option::of(values).prop_map(move |value| Some((name.to_owned(), value?)))).collect();
    fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect())).boxed()
}

/// The same with additional fields that are always present.
fn with(always: Vec<(&'static str, BoxedStrategy<Value>)>, fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let always: Vec<_> = always.into_iter().map(|(name, values)| values.prop_map(move |value| (name.to_owned(), value))).collect();
    (always, some(fields))
        .prop_map(|(always, mut object)| {
            object.as_object_mut().unwrap().extend(always);
            object
        })
        .boxed()
}

fn one_of(values: &[Value]) -> BoxedStrategy<Value> {
    prop::sample::select(values.to_vec()).boxed()
}

fn list(values: BoxedStrategy<Value>, most: usize) -> BoxedStrategy<Value> {
    prop::collection::vec(values, 0..=most).prop_map(Value::Array).boxed()
}

fn number(range: std::ops::Range<u64>) -> BoxedStrategy<Value> {
    range.prop_map(Value::from).boxed()
}

fn duration() -> BoxedStrategy<Value> {
    let part = (0..100_000u64, prop::sample::select(vec!["h", "m", "s", "ms"])).prop_map(|(number, unit)| format!("{number}{unit}"));
    prop_oneof![
        3 => one_of(&["0s", "100ms", "1h30m", "1500ms", "90m", "2s500ms", "1h"].map(Value::from)),
        1 => prop::collection::vec(part, 1..5).prop_map(|parts| Value::from(parts.concat())),
    ]
    .boxed()
}

fn text() -> BoxedStrategy<Value> {
    prop_oneof![one_of(&["", "a", "Ä/ö", "a b", "\u{0}", "\"\\", "\u{7f}", "🦀", "\u{2028}"].map(Value::from)), any::<String>().prop_map(Value::from)].boxed()
}

fn hostname() -> BoxedStrategy<Value> {
    one_of(
        &["shop.example.com", "*.example.com", "SHOP.Example.COM", "a", "xn--bcher-kva.example", "h.", "bücher.example", "10.0.0.1", "[::1]"].map(Value::from),
    )
}

fn path() -> BoxedStrategy<Value> {
    one_of(&["/", "//", "/a/", "/a//b", "/%2f", "/ä", "/a;b=c", "/a b", "x", "/a?b", "/~*'()"].map(Value::from))
}

fn pattern() -> BoxedStrategy<Value> {
    one_of(&["/a+", "(?i)/A", "(?x)/a # b", "a|b", "^/a$", "", "(", "\\p{L}+", "/a{2,3}", "[\\d]", "é"].map(Value::from))
}

fn matched(exact: BoxedStrategy<Value>, named: bool) -> BoxedStrategy<Value> {
    let name = one_of(&["x-tier", "X-Tier", "host", "q", "a b", ""].map(Value::from));
    let always = |value| if named { vec![("name", name.clone()), ("value", value)] } else { vec![("value", value)] };
    prop_oneof![
        with(always(exact), vec![("type", one_of(&["Exact", "PathPrefix", "Prefix"].map(Value::from)))]),
        with([vec![("type", one_of(&[json!("RegularExpression")]))], always(pattern())].concat(), vec![]),
    ]
    .boxed()
}

fn header_changes() -> BoxedStrategy<Value> {
    let name = || one_of(&["x-tier", "Server", "host", "connection", "content-type", "x_y", "ä"].map(Value::from));
    let pair = || with(vec![("name", name()), ("value", text())], vec![]);
    some(vec![("set", list(pair(), 2)), ("add", list(pair(), 2)), ("remove", list(name(), 2))])
}

fn path_change() -> BoxedStrategy<Value> {
    prop_oneof![
        path().prop_map(|path| json!({"type": "ReplaceFullPath", "replaceFullPath": path})),
        path().prop_map(|path| json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path})),
    ]
    .boxed()
}

fn change() -> BoxedStrategy<Value> {
    prop_oneof![
        header_changes().prop_map(|it| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": it})),
        header_changes().prop_map(|it| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": it})),
        some(vec![("hostname", hostname()), ("path", path_change())]).prop_map(|it| json!({"type": "URLRewrite", "urlRewrite": it})),
    ]
    .boxed()
}

fn answer() -> BoxedStrategy<Value> {
    let scheme = one_of(&["http", "https", "HTTPS"].map(Value::from));
    let port = || one_of(&[0, 1, 443, 65_535].map(Value::from));
    let status = one_of(&[301, 302, 303, 307, 308, 304].map(Value::from));
    let redirect = some(vec![("scheme", scheme), ("hostname", hostname()), ("path", path_change()), ("port", port()), ("statusCode", status)]);
    let fixed = with(vec![("statusCode", number(195..605))], vec![("body", text()), ("contentType", one_of(&["text/plain", "a\nb"].map(Value::from)))]);
    prop_oneof![
        redirect.prop_map(|it| json!({"type": "RequestRedirect", "requestRedirect": it})),
        fixed.prop_map(|it| json!({"type": "FixedResponse", "fixedResponse": it})),
    ]
    .boxed()
}

fn name() -> BoxedStrategy<Value> {
    one_of(&["shop", "a.b", "a_b-c", "A", "9"].map(Value::from))
}

fn rule() -> BoxedStrategy<Value> {
    let request = || {
        let method = one_of(&["GET", "get", "PURGE", "M-SEARCH", "A B"].map(Value::from));
        let (headers, params) = (list(matched(text(), true), 2), list(matched(text(), true), 2));
        some(vec![("path", matched(path(), false)), ("method", method), ("headers", headers), ("queryParams", params)])
    };
    let reference = with(vec![("name", name())], vec![("weight", one_of(&[0, 1, 2, 1_000_000, 1_000_001].map(Value::from)))]);
    let timeouts = some(vec![("request", duration()), ("firstByte", duration()), ("idle", duration())]);
    let shared = || vec![("matches", list(request(), 2))];
    let references = prop::collection::vec(reference, 1..3).prop_map(Value::Array).boxed();
    prop_oneof![
        with(vec![("backendRefs", references)], [shared(), vec![("filters", list(change(), 2)), ("timeouts", timeouts)]].concat()),
        with(vec![("filters", answer().prop_map(|answer| json!([answer])).boxed())], shared()),
    ]
    .boxed()
}

fn route() -> BoxedStrategy<Value> {
    with(vec![("rules", list(rule(), 3))], vec![("listeners", list(name(), 2)), ("hostnames", list(hostname(), 3))])
}

fn backend() -> BoxedStrategy<Value> {
    let check = |fields: Vec<(&'static str, BoxedStrategy<Value>)>, kind: &'static str| {
        let times = vec![("interval", duration()), ("timeout", duration()), ("healthyThreshold", number(0..102)), ("unhealthyThreshold", number(0..102))];
        let rest = vec![("port", number(0..65_537)), ("probers", number(0..17)), ("panicThreshold", number(0..102))];
        with(vec![("type", one_of(&[json!(kind)]))], [fields, times, rest].concat())
    };
    let http = vec![("path", path()), ("host", hostname()), ("expectedStatuses", list(number(99..601), 3))];
    let timeouts = some(vec![("connect", duration()), ("firstByte", duration()), ("idle", duration())]);
    let guard = some(vec![("enabled", any::<bool>().prop_map(Value::from).boxed()), ("percent", number(0..102)), ("least", number(0..3))]);
    let balancing = one_of(&["LeastRequest", "WeightedRoundRobin", "Random"].map(Value::from));
    some(vec![
        ("balancing", balancing),
        ("timeouts", timeouts),
        ("healthCheck", prop_oneof![check(http, "HTTP"), check(vec![], "TCP")].boxed()),
        ("guard", guard),
    ])
}

fn endpoint() -> BoxedStrategy<Value> {
    let address = one_of(
        &["10.0.0.1:80", "[::1]:80", "host.example:8080", "[::ffff:10.0.0.1]:1", "HOST:65535", "10.0.0.1:0", "a:b", "[fe80::1%25lo]:1"].map(Value::from),
    );
    let weight = one_of(&[0, 1, 2, 1_000_000].map(Value::from));
    with(vec![("address", address)], vec![("weight", weight), ("zone", text()), ("drain", any::<bool>().prop_map(Value::from).boxed())])
}

fn tls() -> BoxedStrategy<Value> {
    let age = one_of(&[json!({ "maxAge": "1h" }), json!({ "maxAge": "1h", "includeSubdomains": true, "preload": true }), json!({})]);
    let fields = vec![("minVersion", one_of(&["1.2", "1.3", "1.1"].map(Value::from))), ("hsts", age)];
    with(vec![("certificates", list(one_of(&["a", "b", "a/b"].map(Value::from)), 2))], fields)
}

fn certificate() -> BoxedStrategy<Value> {
    let path = || one_of(&["/tls/a.crt", "/a b", "a.crt", "/a/", ""].map(Value::from));
    (path(), path()).prop_map(|(cert, key)| json!({ "files": { "cert": cert, "key": key } })).boxed()
}

fn listener() -> BoxedStrategy<Value> {
    let address = one_of(&["0.0.0.0:80", "[::]:80", "127.0.0.1:0", ":80", "*:80", "host:80"].map(Value::from));
    let network = one_of(&["10.0.0.0/8", "10.1.2.3/8", "fd00::/8", "10.0.0.1", "::ffff:10.0.0.0/104", "x"].map(Value::from));
    let labels = prop::collection::btree_map("[a-z]{1,3}", "[a-zA-Z0-9]{0,3}", 0..3).prop_map(|labels| json!(labels)).boxed();
    let explicit = any::<bool>().prop_map(Value::from).boxed();
    let fields = vec![
        ("protocol", one_of(&[json!("HTTP"), json!("HTTPS")])),
        ("tls", tls()),
        ("proxies", labels),
        ("explicitOnly", explicit),
        ("trustedProxies", list(network, 2)),
    ];
    with(vec![("address", address)], fields)
}

/// Compiles an accepted value, and decodes the object as a proxy does.
fn read_again(resource: &Resource) -> Result<Resource, String> {
    let object = Object::compile("name", 0, resource);
    let object = Object::read(object.bytes())?;
    match resource {
        Resource::Listener(_) => object.decode::<Listener>().map(|body| Resource::Listener(body.spec)),
        Resource::Route(_) => object.decode::<Route>().map(|body| Resource::Route(body.spec)),
        Resource::Backend(_) => object.decode::<Backend>().map(|body| Resource::Backend(body.spec)),
        Resource::Certificate(_) => object.decode::<Certificate>().map(|body| Resource::Certificate(body.spec)),
        Resource::Endpoint(_) => object.decode::<Endpoint>().map(|body| Resource::Endpoint(body.spec)),
    }
}

/// The number of accepted values out of [`CASES`]. Each accepted value must decode to the same resource.
fn accepted(kind: Kind, name: &str, values: &BoxedStrategy<Value>) -> usize {
    let key = ResourceKey::new(kind, name);
    let count = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(values, |value| {
        let written = value.to_string();
        if let Ok(resource) = crate::parse::parse(&key, written.as_bytes(), &Limits::default()) {
            count.set(count.get() + 1);
            let read = read_again(&resource);
            prop_assert_eq!(read, Ok(resource), "{}", written);
        }
        Ok(())
    });
    assert_eq!(outcome, Ok(()));
    count.get()
}

const CASES: u32 = 2_000;

#[test]
fn a_proxy_reads_every_accepted_value_as_it_was_meant() {
    let all = [
        (Kind::Route, "a", route()),
        (Kind::Backend, "a", backend()),
        (Kind::Endpoint, "a/b", endpoint()),
        (Kind::Listener, "a", listener()),
        (Kind::Certificate, "a", certificate()),
    ];
    for (kind, name, values) in all {
        let accepted = accepted(kind, name, &values);
        println!("{kind:?}: {accepted} of {CASES} are accepted");
        assert!(accepted >= 100, "{kind:?}: only {accepted} of {CASES} are accepted, which shows little");
    }
}

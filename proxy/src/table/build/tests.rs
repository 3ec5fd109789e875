use super::*;
use crate::table::{Fields, Request};
use http::{HeaderMap, Method};
use waypost_model::compile::{Compiler, EntryChange, EntryInput, Written};
use waypost_model::limits::{Limits, MAX_LOOKUP_STEPS};
use waypost_model::resource::Work;
use waypost_model::snapshot::Version;

struct World {
    compiler: Compiler,
    builder: Builder,
    table: Table,
}

impl World {
    fn new() -> Self {
        let mut compiler = Compiler::new(1, Limits::default());
        compiler.reset(0, Vec::new());
        let listen = Some("127.0.0.1:1".parse().unwrap());
        Self {
            compiler,
            builder: Builder::new("p1".to_owned(), BTreeMap::from([("tier".to_owned(), "edge".to_owned())]), None, listen),
            table: Table::default(),
        }
    }

    fn put(&mut self, key: &str, value: &str) -> &mut Self {
        let written = Written { value: value.as_bytes().into(), revision: 1 };
        self.change(EntryChange::Put(EntryInput { key: key.to_owned(), written, unreadable: None }))
    }

    fn delete(&mut self, key: &str) -> &mut Self {
        self.change(EntryChange::Delete(key.to_owned()))
    }

    fn change(&mut self, change: EntryChange) -> &mut Self {
        self.compiler.change(0, vec![change]);
        self.compiler.commit();
        self.table = self.builder.build(&self.snapshot());
        self
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            cluster: "c".to_owned(),
            version: Version::default(),
            config: self.compiler.config().clone(),
            membership: self.compiler.membership().clone(),
        }
    }

    fn route(&self, host: &str, path: &str) -> Option<String> {
        self.route_with(host, path, &Method::GET, &HeaderMap::new(), "web", false)
    }

    fn route_with(&self, host: &str, path: &str, method: &Method, headers: &HeaderMap, listener: &str, explicit_only: bool) -> Option<String> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect();
        let (head, mut fields) = (format!("GET / HTTP/1.1\r\n{lines}\r\n"), Vec::new());
        waypost_http1::parse_request(head.as_bytes(), waypost_http1::Limits { bytes: 9_999, fields: 99 }, &mut fields).unwrap();
        let fields = Fields::new(head.as_bytes(), &fields);
        let work = Work::new(MAX_LOOKUP_STEPS);
        self.table
            .find(&Request { listener, explicit_only, host, path, query, method: method.as_str(), fields, work: &work })
            .map(|found| found.rule.route.to_string())
    }
}

fn to(backend: &str, hosts: &str, matches: &str) -> String {
    format!(r#"{{"hostnames":{hosts},"rules":[{{"matches":{matches},"backendRefs":[{{"name":"{backend}"}}]}}]}}"#)
}

#[test]
fn the_most_specific_host_then_the_longest_path_then_the_most_conditions_win() {
    let mut world = World::new();
    world
        .put("routes/any", &to("b", "[]", "[]"))
        .put("routes/wild", &to("b", r#"["*.example.com"]"#, "[]"))
        .put("routes/deep", &to("b", r#"["*.a.example.com"]"#, "[]"))
        .put("routes/host", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"value":"/api"}}]"#))
        .put("routes/long", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"value":"/api/v2"}}]"#))
        .put("routes/exact", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"type":"Exact","value":"/api/v2"}}]"#))
        .put("routes/post", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"value":"/api"},"method":"POST"}]"#))
        .put("routes/regex", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"type":"RegularExpression","value":"/x[0-9]+"}}]"#));
    for (host, path, wanted) in [
        ("other.org", "/", "any"),
        ("b.example.com", "/", "wild"),
        ("b.a.example.com", "/", "deep"),
        ("example.com", "/", "any"),
        ("shop.example.com", "/api/x", "host"),
        ("shop.example.com", "/api/v2/x", "long"),
        ("shop.example.com", "/api/v2", "exact"),
        ("shop.example.com", "/x12", "regex"),
        ("shop.example.com", "/apix", "wild"),
    ] {
        assert_eq!(world.route(host, path).as_deref(), Some(wanted), "{host}{path}");
    }
    assert_eq!(world.route_with("shop.example.com", "/api/x", &Method::POST, &HeaderMap::new(), "web", false).as_deref(), Some("post"));
}

#[test]
fn a_method_decides_before_headers_and_headers_before_query_parameters() {
    let two_headers = r#"{"headers":[{"name":"x","value":"1"},{"name":"y","value":"1"}]}"#;
    let mut world = World::new();
    world
        .put("routes/headers", &to("b", "[]", &format!("[{two_headers}]")))
        .put("routes/method", &to("b", "[]", r#"[{"method":"GET"}]"#))
        .put("routes/queries", &to("b", "[]", r#"[{"queryParams":[{"name":"a","value":"1"},{"name":"b","value":"1"},{"name":"c","value":"1"}]}]"#));
    let mut headers = HeaderMap::new();
    headers.insert("x", "1".parse().unwrap());
    headers.insert("y", "1".parse().unwrap());
    let find = |method: &Method, headers: &HeaderMap| world.route_with("h", "/?a=1&b=1&c=1", method, headers, "web", false);
    assert_eq!(find(&Method::GET, &headers).as_deref(), Some("method"));
    assert_eq!(find(&Method::POST, &headers).as_deref(), Some("headers"));
    assert_eq!(find(&Method::POST, &HeaderMap::new()).as_deref(), Some("queries"));
}

#[test]
fn headers_and_query_parameters_must_all_hold() {
    let mut world = World::new();
    world.put(
        "routes/a",
        &to("b", "[]", r#"[{"headers":[{"name":"X-Tier","value":"gold"}],"queryParams":[{"name":"v","type":"RegularExpression","value":"[0-9]+"}]}]"#),
    );
    let mut headers = HeaderMap::new();
    let find = |world: &World, headers: &HeaderMap, path: &str| world.route_with("h", path, &Method::GET, headers, "web", false);
    assert_eq!(find(&world, &headers, "/?v=1"), None);
    headers.insert("x-tier", "gold".parse().unwrap());
    assert_eq!(find(&world, &headers, "/?v=1").as_deref(), Some("a"));
    assert_eq!(find(&world, &headers, "/?v=x"), None);
    headers.append("x-tier", "silver".parse().unwrap());
    assert_eq!(find(&world, &headers, "/?v=1"), None, "two values are one list");
}

#[test]
fn many_paths_of_one_host_are_found_as_few_are() {
    let mut world = World::new();
    for n in 0..100 {
        world.put(
            &format!("routes/p{n}"),
            &to("b", r#"["h.com"]"#, &format!(r#"[{{"path":{{"value":"/p/{n}"}}}},{{"path":{{"type":"Exact","value":"/e/{n}"}}}}]"#)),
        );
    }
    world.put("routes/root", &to("b", r#"["h.com"]"#, "[]"));
    assert_eq!(world.route("h.com", "/p/42/x").as_deref(), Some("p42"));
    assert_eq!(world.route("h.com", "/e/42").as_deref(), Some("p42"));
    assert_eq!(world.route("h.com", "/e/42/x").as_deref(), Some("root"));
    world.delete("routes/p42");
    assert_eq!(world.route("h.com", "/p/42/x").as_deref(), Some("root"));
}

#[test]
fn listeners_are_chosen_by_labels_and_routes_by_listeners() {
    let mut world = World::new();
    assert!(world.builder.build(&world.snapshot()).listeners.contains_key(DEFAULT_LISTENER));
    world
        .put("listeners/web", r#"{"address":"127.0.0.1:80","proxies":{"tier":"edge"}}"#)
        .put("listeners/admin", r#"{"address":"127.0.0.1:81","explicitOnly":true}"#)
        .put("listeners/far", r#"{"address":"127.0.0.1:82","proxies":{"tier":"core"}}"#)
        .put("routes/open", &to("b", "[]", "[]"))
        .put("routes/inner", r#"{"listeners":["admin"],"rules":[{"matches":[{"path":{"value":"/x"}}],"backendRefs":[{"name":"b"}]}]}"#);
    let mut names: Vec<&str> = world.table.listeners.keys().map(|name| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["admin", "web"]);
    let at = |listener: &str, explicit| world.route_with("h", "/x", &Method::GET, &HeaderMap::new(), listener, explicit);
    assert_eq!(at("web", false).as_deref(), Some("open"));
    assert_eq!(at("admin", true).as_deref(), Some("inner"));
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_form_and_hurts_no_other() {
    let mut world = World::new();
    world.put("routes/a", &to("b", r#"["a.com"]"#, "[]"));
    let put = |bytes: &str| Change::Put(Object::read(bytes).unwrap());
    let mut snapshot = world.snapshot();
    snapshot.config = snapshot.config.with([
        put(r#"{"kind":"route","minLevel":99,"name":"a","spec":{"rules":[]}}"#),
        put(r#"{"kind":"route","minLevel":1,"name":"bad","spec":{"rules":7}}"#),
        put(r#"{"kind":"tap","minLevel":1,"name":"x","spec":{}}"#),
    ]);
    world.table = world.builder.build(&snapshot);
    assert_eq!(world.route("a.com", "/").as_deref(), Some("a"));
    let problems: Vec<(String, String)> = world.builder.problems().into_iter().map(|problem| (problem.name, problem.reason)).collect();
    assert_eq!(problems, [("a".to_owned(), "UnsupportedLevel".to_owned()), ("bad".to_owned(), "Invalid".to_owned())]);
    world.table = world.builder.build(&world.snapshot());
    assert!(world.builder.problems().is_empty());
}

#[test]
fn an_object_of_a_newer_level_than_this_proxy_lets_no_request_through() {
    let mut world = World::new();
    world.put("routes/all", &to("b", "[]", "[]")).put("endpoints/b/1", "10.0.0.1:80").put("endpoints/new/1", "10.0.0.1:80");
    let put = |bytes: &str| Change::Put(Object::read(bytes).unwrap());
    let admin = |spec: &str| put(&format!(r#"{{"kind":"route","minLevel":99,"name":"admin","spec":{spec}}}"#));
    let path = |value: &str, more: &str| format!(r#"{{"path":{{"type":"Exact","value":"{value}"}}{more}}}"#);
    let status = |table: &Table, path: &str| {
        let work = Work::new(MAX_LOOKUP_STEPS);
        let request =
            Request { listener: "web", explicit_only: false, host: "h", path, query: None, method: "GET", fields: Fields::new(&[], &[]), work: &work };
        match &table.find(&request).unwrap().rule.action {
            crate::table::rule::Action::Fixed { status, .. } => status.as_u16(),
            _ => 200,
        }
    };
    let mut snapshot = world.snapshot();
    let base = snapshot.config.clone();
    let auth = r#""filters":[{"type":"Auth","auth":{}}],"backendRefs":[{"name":"b"}]"#;
    let spec = format!(r#"{{"rules":[{{"matches":[{},{}],{auth}}}]}}"#, path("/admin", ""), path("/other", r#","cookies":["x"]"#));
    snapshot.config = base.with([admin(&spec), put(r#"{"kind":"backend","minLevel":99,"name":"new","spec":{"tls":{}}}"#)]);
    let table = world.builder.build(&snapshot);
    assert_eq!(status(&table, "/admin"), 503);
    assert_eq!(status(&table, "/other"), 200, "which requests are meant cannot be told");
    assert_eq!(status(&table, "/"), 200);
    assert!(!table.backends.contains_key("new"), "it may want more than this proxy can do");
    assert_eq!(world.builder.problems().len(), 2);
    // A change of the unreadable route changes which requests are refused; without matches, all requests to its hosts are.
    snapshot.config = base.with([admin(&format!(r#"{{"hostnames":["h"],"rules":[{{{auth}}}]}}"#))]);
    assert_eq!(status(&world.builder.build(&snapshot), "/"), 503);
    snapshot.config = base;
    let table = world.builder.build(&snapshot);
    assert_eq!((status(&table, "/admin"), table.backends.contains_key("new")), (200, true));
}

#[test]
fn the_counters_of_an_endpoint_survive_a_swap() {
    let mut world = World::new();
    world.put("endpoints/b/1", "10.0.0.1:80");
    let guard = world.table.backends["b"].endpoints[0].state.begin();
    world.put("endpoints/b/2", "10.0.0.2:80").put("endpoints/b/1", r#"{"address":"10.0.0.1:80","drain":true}"#);
    let backend = &world.table.backends["b"];
    assert_eq!(backend.endpoints[0].state.in_flight(), 1);
    assert_eq!(&*backend.balancer.pick(&[]).unwrap().id, "2");
    drop(guard);
    world.delete("endpoints/b/1").delete("endpoints/b/2");
    assert!(world.table.backends.is_empty());
}

#[test]
fn a_held_route_takes_only_requests_that_no_written_route_takes() {
    let mut world = World::new();
    world.put("routes/a-held", &to("b", r#"["shop.example.com"]"#, r#"[{"path":{"type":"Exact","value":"/x"}},{"path":{"value":"/only"}}]"#));
    world.put("routes/z-written", &to("b", r#"["*.example.com"]"#, r#"[{"path":{"value":"/x"}}]"#));
    assert_eq!(world.route("shop.example.com", "/x").as_deref(), Some("a-held"), "it is written itself");
    let mut snapshot = world.snapshot();
    let written = snapshot.config.clone();
    snapshot.config = written.with([Change::Put(Object::held("route/a-held"))]);
    world.table = world.builder.build(&snapshot);
    assert_eq!(world.route("shop.example.com", "/x").as_deref(), Some("z-written"));
    assert_eq!(world.route("shop.example.com", "/only").as_deref(), Some("a-held"));
    snapshot.config = written;
    world.table = world.builder.build(&snapshot);
    assert_eq!(world.route("shop.example.com", "/x").as_deref(), Some("a-held"), "it is written again");
}

#[test]
fn a_change_of_one_of_ten_thousand_endpoints_is_built_within_milliseconds() {
    let mut compiler = Compiler::new(1, Limits::default());
    let input = |n: u32, weight: u32| EntryInput {
        key: format!("endpoints/big/{n}"),
        written: Written { value: format!(r#"{{"address":"10.{}.{}.1:80","weight":{weight}}}"#, n / 250, n % 250).into_bytes().into(), revision: 1 },
        unreadable: None,
    };
    let backend = EntryInput {
        key: "backends/big".to_owned(),
        written: Written { value: br#"{"balancing":"WeightedRoundRobin"}"#.as_slice().into(), revision: 1 },
        unreadable: None,
    };
    compiler.reset(0, (0..10_000).map(|n| input(n, n + 1)).chain([backend]).collect());
    compiler.commit();
    let mut builder = Builder::new("p".to_owned(), BTreeMap::new(), None, None);
    let snapshot = |compiler: &Compiler| Snapshot {
        cluster: "c".to_owned(),
        version: Version::default(),
        config: compiler.config().clone(),
        membership: compiler.membership().clone(),
    };
    drop(builder.build(&snapshot(&compiler)));
    compiler.change(0, vec![EntryChange::Put(input(77, 5))]);
    compiler.commit();
    let next = snapshot(&compiler);
    let begun = std::time::Instant::now();
    let table = builder.build(&next);
    let took = begun.elapsed();
    assert_eq!(table.backends["big"].endpoints.len(), 10_000);
    assert!(took < std::time::Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 10 }), "{took:?}");
}

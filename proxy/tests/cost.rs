//! The cost of one accepted entry for a proxy, at every limit and at their products. `make cost` runs it as a release build: at most 50 ms and
//! 32 MB to build, and 50 µs for the slowest lookup. It is alone in its binary, because it measures the process's memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use waypost_http1::{Limits as HeadLimits, parse_request};
use waypost_model::compile::{Compiler, EntryInput, Written};
use waypost_model::limits::{Limits, MAX_LOOKUP_STEPS};
use waypost_model::resource::Work;
use waypost_model::snapshot::{Snapshot, Version};
use waypost_proxy::table::{Builder, Fields, Request, Table};

#[path = "../../model/tests/costly/mod.rs"]
mod costly;

/// What a controller publishes of one value; nothing if it is refused.
fn published(value: String) -> Option<Snapshot> {
    let mut compiler = Compiler::new(1, Limits::default());
    let written = Written { value: value.into_bytes().into(), revision: 1 };
    compiler.reset(0, vec![EntryInput { key: "routes/r".to_owned(), written, unreadable: None }]);
    compiler.commit();
    let accepted = compiler.views().all(|view| view.verdict.accepted());
    let (config, membership) = (compiler.config().clone(), compiler.membership().clone());
    accepted.then(|| Snapshot { cluster: "c".to_owned(), version: Version::default(), config, membership })
}

/// The slowest of requests that come near to many matches: each has all conditions but the last, or a path that many begin with.
fn slowest_lookup(table: &Table) -> Duration {
    let head = |value: &str| {
        let lines: String = (0..16).map(|n| format!("x-{n}: {}\r\n", if n == 0 { "1" } else { value })).collect();
        let (head, mut fields) = (format!("GET / HTTP/1.1\r\n{lines}\r\n"), Vec::new());
        parse_request(head.as_bytes(), HeadLimits { bytes: 9_999, fields: 99 }, &mut fields).unwrap();
        (head, fields)
    };
    let (near, ones) = (head("none"), head("1"));
    let query: String = (0..16).map(|n| format!("q-{n}=1")).collect::<Vec<_>>().join("&");
    let pattern = format!("/{}y", "a".repeat(40));
    let open = format!("/{}", "x".repeat(8_000));
    let random = format!("/{}", (0..8_000_u32).map(|n| if (n.wrapping_mul(2_654_435_761) >> 16) % 2 == 0 { 'a' } else { 'b' }).collect::<String>());
    let repeated = vec!["q=1"; 16_000].join("&");
    let paths = [
        "/p3899".to_owned(),
        format!("/{}x", "a/".repeat(1_999)),
        "/a".repeat(2_000),
        pattern,
        open,
        random,
        "/7".to_owned(),
        "/nothing/that/is/there".to_owned(),
    ];
    let mut worst = Duration::ZERO;
    for (path, query) in paths.iter().flat_map(|path| [(path, &query), (path, &repeated)]) {
        for (bytes, fields) in [&near, &ones] {
            for method in ["GET", "POST"] {
                let request = Request {
                    listener: "l0",
                    explicit_only: false,
                    host: "h0.example.com",
                    path,
                    query: Some(query),
                    method,
                    fields: Fields::new(bytes.as_bytes(), fields),
                    work: &Work::new(0),
                };
                // The least of some is what it costs without what else the machine does.
                let least = (0..20).map(|_| {
                    let begun = Instant::now();
                    let work = Work::new(MAX_LOOKUP_STEPS);
                    std::hint::black_box(table.find(&Request { work: &work, ..request }).is_some());
                    begun.elapsed()
                });
                worst = worst.max(least.min().unwrap());
            }
        }
    }
    worst
}

#[test]
fn any_accepted_value_costs_a_proxy_a_bounded_time_and_memory_also_in_a_lookup() {
    let (build, lookup) =
        if cfg!(debug_assertions) { (Duration::from_secs(3), Duration::from_millis(5)) } else { (Duration::from_millis(50), Duration::from_micros(50)) };
    let mut worst = (Duration::ZERO, 0, Duration::ZERO);
    let mut accepted = 0;
    let values = costly::values().into_iter().map(|(what, value)| (what.to_owned(), value));
    for (number, (what, value)) in values.chain(costly::generated(200)).enumerate() {
        let Some(snapshot) = published(value) else { continue };
        accepted += 1;
        let mut builder = Builder::new("p".to_owned(), BTreeMap::new(), None, None);
        let before = costly::resident();
        let begun = Instant::now();
        let table = builder.build(&snapshot);
        let took = begun.elapsed();
        let grew = costly::resident().saturating_sub(before);
        let slowest = slowest_lookup(&table);
        if number < costly::values().len() {
            println!("{what}: built in {took:?}, {} KiB, slowest lookup {slowest:?}", grew / 1_024);
        }
        assert!(took <= build && slowest <= lookup && grew <= 32 << 20, "{what}: built in {took:?}, {grew} bytes, slowest lookup {slowest:?}");
        worst = (worst.0.max(took), worst.1.max(grew), worst.2.max(slowest));
    }
    println!("worst of {accepted} accepted values: {:?}, {} KiB, slowest lookup {:?}", worst.0, worst.1 / 1_024, worst.2);
    assert!(accepted > 50, "only {accepted} values are accepted");
}

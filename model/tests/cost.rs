//! The cost of one accepted entry for a controller, at every limit and at their products. `make cost` runs it as a release build: at most
//! 50 ms and 32 MB. It is alone in its binary, because it measures the process's memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use waypost_model::compile::{Compiler, EntryChange, EntryInput, Written};
use waypost_model::limits::Limits;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4_096
}

fn list(count: usize, one: impl Fn(usize) -> String) -> String {
    (0..count).map(one).collect::<Vec<_>>().join(",")
}

/// A route with these numbers of hostnames, listeners, rules and matches per rule; `found` makes a match.
fn route(hosts: usize, listeners: usize, rules: usize, matches: usize, found: impl Fn(usize) -> String) -> String {
    let rule = |rule: usize| format!(r#"{{"matches":[{}],"backendRefs":[{{"name":"b{rule}"}}]}}"#, list(matches, |at| found(rule * matches + at)));
    let (hostnames, names) = (list(hosts, |n| format!(r#""h{n}.example.com""#)), list(listeners, |n| format!(r#""l{n}""#)));
    format!(r#"{{"hostnames":[{hostnames}],"listeners":[{names}],"rules":[{}]}}"#, list(rules, rule))
}

/// Values at the limits, each with the name of the limit that it reaches.
fn values() -> Vec<(&'static str, String)> {
    let path = |n: usize| format!(r#"{{"path":{{"value":"/p{n}"}}}}"#);
    let long = |n: usize| format!(r#"{{"path":{{"value":"/{}{n}"}}}}"#, "a/".repeat(1_500));
    let headers = |n: usize| format!(r#"{{"headers":[{}]}}"#, list(8, |at| format!(r#"{{"name":"x-{at}","value":"{}"}}"#, n + at)));
    let pattern = |text: &str| {
        let text = text.to_owned();
        move |n: usize| format!(r#"{{"path":{{"type":"RegularExpression","value":"/{text}{n}"}}}}"#)
    };
    vec![
        ("hostnames × matches", route(128, 1, 2, 39, path)),
        ("matches × listeners", route(1, 128, 2, 39, path)),
        ("hostnames × listeners", route(100, 100, 1, 1, path)),
        ("rules × matches", route(1, 1, 128, 50, path)),
        ("long paths × hostnames", route(125, 1, 2, 40, long)),
        ("headers", route(4, 1, 16, 30, headers)),
        ("many patterns", route(1, 1, 4, 64, pattern("[a-z]{1,20}x"))),
        ("large patterns", route(1, 1, 1, 16, pattern("[a-z0-9]{800}"))),
        ("unicode patterns", route(1, 1, 1, 60, pattern(r"\\w\\w"))),
        (
            "one long value",
            format!(r#"{{"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{}"}}}}]}}]}}"#, "x".repeat(250_000)),
        ),
    ]
}

#[test]
fn any_accepted_value_costs_a_bounded_time_and_memory() {
    let most = if cfg!(debug_assertions) { Duration::from_secs(3) } else { Duration::from_millis(50) };
    let mut worst = (Duration::ZERO, 0);
    for (what, value) in values() {
        let mut compiler = Compiler::new(1, Limits::default());
        compiler.reset(0, Vec::new());
        compiler.commit();
        let bytes = value.len();
        let before = resident();
        let begun = Instant::now();
        let written = Written { value: value.into_bytes().into(), revision: 1 };
        compiler.change(0, vec![EntryChange::Put(EntryInput { key: "routes/r".to_owned(), written, unreadable: None })]);
        compiler.commit();
        let took = begun.elapsed();
        let grew = resident().saturating_sub(before);
        let view = compiler.views().next().unwrap();
        println!("{what}: {bytes} bytes, {took:?}, {} KiB, {}", grew / 1_024, if view.verdict.accepted() { "accepted" } else { "refused" });
        assert!(view.verdict.accepted(), "{what}: {:?}", view.verdict);
        assert!(took <= most, "{what}: {took:?}");
        assert!(grew <= 32 << 20, "{what}: {grew} bytes");
        worst = (worst.0.max(took), worst.1.max(grew));
    }
    println!("worst: {:?}, {} KiB", worst.0, worst.1 / 1_024);
}

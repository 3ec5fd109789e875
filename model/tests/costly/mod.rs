//! Values that cost as much as the limits allow, for the tests that measure what one entry costs a controller and a proxy.
#![allow(dead_code, clippy::indexing_slicing, clippy::unwrap_used, reason = "each test uses its part, and fails by panicking")]

/// The memory of this process, in bytes.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4_096
}

pub(crate) fn list(count: usize, one: impl Fn(usize) -> String) -> String {
    (0..count).map(one).collect::<Vec<_>>().join(",")
}

/// A route with these numbers of hostnames, listeners, rules and matches per rule; `found` makes a match.
pub(crate) fn route(hosts: usize, listeners: usize, rules: usize, matches: usize, found: impl Fn(usize) -> String) -> String {
    let rule = |rule: usize| format!(r#"{{"matches":[{}],"backendRefs":[{{"name":"b{rule}"}}]}}"#, list(matches, |at| found(rule * matches + at)));
    let (hostnames, names) = (list(hosts, |n| format!(r#""h{n}.example.com""#)), list(listeners, |n| format!(r#""l{n}""#)));
    format!(r#"{{"hostnames":[{hostnames}],"listeners":[{names}],"rules":[{}]}}"#, list(rules, rule))
}

/// A number in letters, for names without digits.
fn letters(mut number: usize) -> String {
    let mut text = String::new();
    loop {
        text.push(char::from(b'A' + u8::try_from(number % 26).unwrap()));
        number /= 26;
        if number == 0 {
            return text;
        }
    }
}

/// A route of rules with 64 matches each, which list `count` of these between `before` and `after`: as many rules as fit into a value.
fn filled(one: impl Fn(usize) -> String, count: usize, before: &str, after: &str) -> String {
    let rule = |rule: usize| {
        let matches = list(64, |at| format!(r#"{{"path":{{"value":"/{}"}}}}"#, rule * 64 + at));
        format!(r#"{{"matches":[{matches}],{before}{}{after}}}"#, list(count, &one))
    };
    let rules = ((256 * 1024 - 100) / rule(9_999).len()).min(128);
    format!(r#"{{"rules":[{}]}}"#, list(rules, rule))
}

/// Values at the limits, each with the name of the limit that it reaches.
pub(crate) fn values() -> Vec<(&'static str, String)> {
    let path = |n: usize| format!(r#"{{"path":{{"value":"/p{n}"}}}}"#);
    let long = |n: usize| format!(r#"{{"path":{{"value":"/{}{n}"}}}}"#, "a/".repeat(1_500));
    let headers = |n: usize| format!(r#"{{"headers":[{}]}}"#, list(8, |at| format!(r#"{{"name":"x-{at}","value":"{}"}}"#, n + at)));
    // All share the rarest of their headers.
    let shared = |n: usize| format!(r#"{{"headers":[{{"name":"x-0","value":"1"}},{{"name":"x-1","value":"{n}"}}]}}"#);
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
        ("one shared header", route(1, 1, 78, 46, shared)),
        ("patterns of headers", route(1, 1, 4, 64, |n| format!(r#"{{"headers":[{{"name":"x-0","type":"RegularExpression","value":"[a-z]{{1,20}}x{n}"}}]}}"#))),
        ("large patterns", route(1, 1, 1, 16, pattern("[a-z0-9]{800}"))),
        ("unicode patterns", route(1, 1, 1, 60, pattern(r"\\w\\w"))),
        ("patterns with an open beginning", route(1, 1, 4, 64, pattern(".*x"))),
        ("patterns that nearly explode", route(1, 1, 4, 64, pattern("[ab]*a[ab]{3}c"))),
        ("many listeners", route(1, 2_000, 1, 5, path)),
        ("patterns with groups", route(1, 1, 1, 48, pattern("(abcdefghijklmnopqrstuvwxyz0123456789){3}"))),
        ("methods of one path", route(1, 1, 128, 63, |n| format!(r#"{{"method":"M-{}"}}"#, letters(n)))),
        ("one shared query parameter", route(1, 1, 64, 58, |n| format!(r#"{{"method":"M-{}","queryParams":[{{"name":"q","value":"1"}}]}}"#, letters(n)))),
        ("backends × matches", filled(|n| format!(r#"{{"name":"b{n}"}}"#), 64, r#""backendRefs":["#, "]")),
        (
            "header changes × matches",
            filled(
                |n| format!(r#"{{"name":"x-{n}","value":"{}"}}"#, "v".repeat(40)),
                128,
                r#""backendRefs":[{"name":"b"}],"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"add":["#,
                "]}}]",
            ),
        ),
        (
            "YAML with aliases",
            format!(
                "rules:\n- filters: [{{type: FixedResponse, fixedResponse: {{statusCode: 200, body: &b {}}}}}]\n{}",
                "x".repeat(100_000),
                "- filters: [{type: FixedResponse, fixedResponse: {statusCode: 200, body: *b}}]\n".repeat(8)
            ),
        ),
        (
            "one long value",
            format!(r#"{{"rules":[{{"filters":[{{"type":"FixedResponse","fixedResponse":{{"statusCode":200,"body":"{}"}}}}]}}]}}"#, "x".repeat(250_000)),
        ),
    ]
}

/// Values of random numbers of hostnames, listeners, rules and matches of random kinds, each at most 256 KiB.
pub(crate) fn generated(count: usize) -> Vec<(String, String)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let sizes = [1, 2, 7, 32, 64, 100, 128];
    let mut values = Vec::new();
    while values.len() < count {
        let (hosts, listeners) = (sizes[random(7)], sizes[random(4)]);
        let (rules, matches, kind, many) = (sizes[random(7)], sizes[random(5)], random(6), random(15) + 1);
        let text = |what: &str, n: usize| list(many, |at| format!(r#"{{"name":"{what}-{at}","value":"{}"}}"#, if at + 1 == many { n } else { 1 }));
        let value = route(hosts, listeners, rules, matches, |n| match kind {
            0 => format!(r#"{{"path":{{"value":"/{}{n}"}}}}"#, "a/".repeat(many * 20)),
            1 => format!(r#"{{"path":{{"type":"Exact","value":"/{n}"}},"headers":[{}]}}"#, text("x", n)),
            2 => format!(r#"{{"headers":[{}],"queryParams":[{}]}}"#, text("x", n), text("q", n)),
            3 => format!(r#"{{"path":{{"value":"{}"}},"method":"POST"}}"#, "/a".repeat(n % 1_000 + 1)),
            4 => format!(r#"{{"path":{{"type":"RegularExpression","value":"/[a-z]{{1,{many}}}x{n}"}}}}"#),
            _ => format!(r#"{{"queryParams":[{{"name":"q-0","type":"RegularExpression","value":"[a-c]{{1,{many}}}{n}"}}]}}"#),
        });
        if value.len() <= 256 * 1024 {
            values.push((format!("{hosts} hosts, {listeners} listeners, {rules} × {matches} matches of kind {kind} with {many}"), value));
        }
    }
    values
}

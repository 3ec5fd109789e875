//! Parses the bytes of one value into a resource or a problem.
//!
//! A value that begins with `{` is JSON; any other is YAML with an object at its top. An endpoint may also be the bare or quoted address,
//! or empty below a key that is the address.

mod position;
mod workable;

use serde::de::DeserializeOwned;
use serde_saphyr::budget::BudgetBreach;

use crate::key::{Kind, ResourceKey};
use crate::limits::{Limits, MAX_BRACKET_DEPTH};
use crate::problem::{Problem, nearest};
use crate::resource::{Endpoint, Filter, Listener, Protocol, Resource, Route, Rule};
use crate::schema::known_fields;
use crate::value::Address;

/// Parses the value of the entry at `key`.
///
/// # Errors
/// The first problem of the value, in the order of the text.
pub fn parse(key: &ResourceKey, value: &[u8], limits: &Limits) -> Result<Resource, Problem> {
    parsed(key, value, limits).map_err(Problem::bounded)
}

fn parsed(key: &ResourceKey, value: &[u8], limits: &Limits) -> Result<Resource, Problem> {
    if value.len() > limits.value_bytes {
        return Err(Problem::whole(format!("the value has {} bytes; at most {} are accepted (setting valueBytes)", value.len(), limits.value_bytes)));
    }
    let text = std::str::from_utf8(value).map_err(|error| {
        let (line, column) = position::of_offset(value, error.valid_up_to());
        Problem { line, column, ..Problem::whole("the value is not UTF-8 text") }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match key.kind {
        Kind::Listener => typed::<Listener>(text, key.kind, limits).and_then(|listener| listener_within(listener, limits)).map(Resource::Listener),
        Kind::Route => typed::<Route>(text, key.kind, limits).and_then(|route| within(route, limits)).map(Resource::Route),
        Kind::Backend => typed(text, key.kind, limits).and_then(workable::check_backend).map(Resource::Backend),
        Kind::Certificate => typed(text, key.kind, limits).map(Resource::Certificate),
        Kind::Endpoint => endpoint(key, text, limits).and_then(workable::check_endpoint).map(Resource::Endpoint),
    }
}

fn endpoint(key: &ResourceKey, text: &str, limits: &Limits) -> Result<Endpoint, Problem> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        let id = key.endpoint_parts().map_or("", |(_, id)| id);
        return bare(id).map_err(|message| Problem::whole(format!("the value is empty and the id is no address: {message}")));
    }
    if let Some(quoted) = trimmed.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return bare(quoted).map_err(Problem::whole);
    }
    let one_word = !trimmed.contains(char::is_whitespace) && !trimmed.starts_with(['{', '[']);
    if one_word {
        return bare(trimmed).map_err(Problem::whole);
    }
    typed(text, Kind::Endpoint, limits)
}

fn bare(address: &str) -> Result<Endpoint, String> {
    Address::try_from(address.to_owned()).map(Endpoint::at)
}

/// Refuses a list that is longer than a limit.
fn at_most(limit: usize, setting: &str, what: impl FnOnce() -> String, found: usize) -> Result<(), Problem> {
    if found <= limit {
        return Ok(());
    }
    Err(Problem::whole(format!("{} has {found} entries; at most {limit} are accepted (setting {setting})", what())))
}

fn listener_within(listener: Listener, limits: &Limits) -> Result<Listener, Problem> {
    let count = listener.trusted_proxies.len();
    at_most(limits.trusted_proxies_per_listener, "trustedProxiesPerListener", || "trustedProxies".to_owned(), count)?;
    let wrong = |message: &str| Err(Problem { field: "tls".to_owned(), ..Problem::whole(message) });
    match (&listener.tls, listener.protocol) {
        (None, Protocol::Http) => {}
        (None, Protocol::Https) => return wrong("a listener with the protocol HTTPS needs certificates; write \"tls\":{\"certificates\":[\"NAME\"]}"),
        (Some(_), Protocol::Http) => return wrong("a listener with the protocol HTTP has no tls; write \"protocol\":\"HTTPS\", or take tls out"),
        (Some(tls), Protocol::Https) if tls.certificates.is_empty() => return wrong("the list of certificates is empty; write the name of one"),
        (Some(tls), Protocol::Https) => {
            let count = tls.certificates.len();
            at_most(limits.certificates_per_listener, "certificatesPerListener", || "tls.certificates".to_owned(), count)?;
        }
    }
    Ok(listener)
}

fn within(route: Route, limits: &Limits) -> Result<Route, Problem> {
    at_most(limits.rules_per_route, "rulesPerRoute", || "rules".to_owned(), route.rules.len())?;
    at_most(limits.hostnames_per_route, "hostnamesPerRoute", || "hostnames".to_owned(), route.hostnames.len())?;
    for (at, rule) in route.rules.iter().enumerate() {
        rule_within(rule, limits, &format!("rules[{at}]"))?;
    }
    within_product(&route, limits)?;
    workable::check(&route)?;
    within_patterns(&route, limits)?;
    Ok(route)
}

fn rule_within(rule: &Rule, limits: &Limits, name: &str) -> Result<(), Problem> {
    at_most(limits.matches_per_rule, "matchesPerRule", || format!("{name}.matches"), rule.matches.len())?;
    at_most(limits.backend_refs_per_rule, "backendRefsPerRule", || format!("{name}.backendRefs"), rule.backend_refs.len())?;
    at_most(limits.upgrades_per_rule, "upgradesPerRule", || format!("{name}.upgrades"), rule.upgrades.len())?;
    let changes = rule.filters.iter().map(Filter::header_changes).sum();
    at_most(limits.header_changes_per_rule, "headerChangesPerRule", || format!("set, add and remove under {name}.filters together"), changes)?;
    for (at, found) in rule.matches.iter().enumerate() {
        let what = || format!("headers and queryParams of {name}.matches[{at}] together");
        at_most(limits.conditions_per_match, "conditionsPerMatch", what, found.headers.len() + found.query_params.len())?;
    }
    Ok(())
}

/// Checks the product of hostnames, matches and listeners.
fn within_product(route: &Route, limits: &Limits) -> Result<(), Problem> {
    let (hostnames, listeners) = (route.hostnames.len().max(1), route.listeners.len().max(1));
    let matches: usize = route.rules.iter().map(|rule| rule.matches.len().max(1)).sum();
    let product = hostnames.saturating_mul(matches).saturating_mul(listeners);
    let limit = limits.matches_per_route;
    if product <= limit {
        return Ok(());
    }
    Err(Problem::whole(format!(
        "{hostnames} hostnames × {matches} matches × {listeners} listeners are {product}; at most {limit} are accepted (setting matchesPerRoute); \
         write several routes"
    )))
}

/// Compiles one expression after the other, and stops at the first that exceeds a limit.
fn within_patterns(route: &Route, limits: &Limits) -> Result<(), Problem> {
    let mut total = 0usize;
    let mut count = 0usize;
    for (at, rule) in route.rules.iter().enumerate() {
        let refused = |message: String| Err(Problem { field: format!("rules[{at}].matches"), ..Problem::whole(message) });
        for pattern in crate::order::patterns(rule) {
            count += 1;
            if count > limits.patterns_per_host {
                return refused(format!(
                    "the route has more than {} regular expressions, the most that a hostname may have (setting patternsPerHost)",
                    limits.patterns_per_host
                ));
            }
            match pattern.compiled_bytes(limits.regex_bytes) {
                Ok(bytes) => total = total.saturating_add(bytes),
                Err(error) => return refused(format!("{error} (setting regexBytes)")),
            }
            if total > limits.route_regex_bytes {
                return refused(format!(
                    "the regular expressions of the route compile to more than {} bytes (setting routeRegexBytes); write several routes",
                    limits.route_regex_bytes
                ));
            }
        }
    }
    Ok(())
}

/// Parses an object and refuses every unknown field.
fn typed<T: DeserializeOwned>(text: &str, kind: Kind, limits: &Limits) -> Result<T, Problem> {
    if text.trim().is_empty() {
        return Err(Problem::whole(format!("the value is empty; write {}", example(kind))));
    }
    if text.trim_start().starts_with(['{', '[']) { json(text, kind) } else { yaml(text, kind, limits) }
}

fn example(kind: Kind) -> &'static str {
    match kind {
        Kind::Listener => r#"{"address":"0.0.0.0:80","protocol":"HTTP"}"#,
        Kind::Route => r#"{"hostnames":["shop.example.com"],"rules":[{"backendRefs":[{"name":"shop"}]}]}"#,
        Kind::Backend => r#"{"balancing":"LeastRequest"}"#,
        Kind::Certificate => r#"{"files":{"cert":"/etc/waypost/tls/shop.crt","key":"/etc/waypost/tls/shop.key"}}"#,
        Kind::Endpoint => r#""10.0.0.5:8080""#,
    }
}

fn json<T: DeserializeOwned>(text: &str, kind: Kind) -> Result<T, Problem> {
    if let Some(offset) = position::too_deep(text, MAX_BRACKET_DEPTH) {
        let (line, column) = position::of_offset(text.as_bytes(), offset);
        return Err(Problem { line, column, ..Problem::whole(format!("brackets are nested more than {MAX_BRACKET_DEPTH} deep; write the value flatter")) });
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let mut ignored = Vec::new();
    let result = read(&mut reader, &mut ignored);
    let syntax = |error: &serde_json::Error| Problem { line: error.line(), column: error.column().max(1), ..Problem::whole(reason(error)) };
    match result {
        Err(error) if !error.inner().is_data() => Err(syntax(error.inner())),
        result => {
            reader.end().map_err(|error| syntax(&error)).or_else(|error| if result.is_ok() { Err(error) } else { Ok(()) })?;
            verdict(result, &ignored, kind, |path, key| position::in_json(text, path, key))
        }
    }
}

fn yaml<T: DeserializeOwned>(text: &str, kind: Kind, limits: &Limits) -> Result<T, Problem> {
    // What aliases repeat is counted again each time, before it is built.
    let most = limits.object_bytes.saturating_add(limits.value_bytes);
    let options = serde_saphyr::options! { budget: serde_saphyr::budget! { max_total_scalar_bytes: most } };
    let value: serde_json::Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map_or((1, 1), |at| (at.line() as usize, at.column() as usize));
        let message = match breach(&error) {
            Some(BudgetBreach::ScalarBytes { .. }) => {
                format!("with what its aliases repeat the value has more than {} bytes (setting objectBytes)", limits.object_bytes)
            }
            Some(_) => "the YAML has too many aliases, or is nested too deeply; write it out, or as JSON".to_owned(),
            None => {
                let text = error.to_string();
                let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("not valid YAML").trim_start_matches("error: ");
                format!("not valid YAML: {first}")
            }
        };
        Problem { line: at.0, column: at.1, ..Problem::whole(message) }
    })?;
    if !value.is_object() {
        return Err(Problem::whole(format!("expected an object, found {}; write {}", describe(&value), example(kind))));
    }
    let mut ignored = Vec::new();
    let result = read(value, &mut ignored);
    verdict(result, &ignored, kind, |path, key| position::in_yaml(text, path, key))
}

/// The limit of the YAML reader that a value exceeds, if it is that.
fn breach(error: &serde_saphyr::Error) -> Option<&BudgetBreach> {
    use serde_saphyr::Error;
    match error {
        Error::AliasError { error, .. } | Error::WithSnippet { error, .. } => breach(error),
        Error::Budget { breach, .. } => Some(breach),
        _ => None,
    }
}

fn describe(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "null".to_owned(),
        serde_json::Value::Array(_) => "a list".to_owned(),
        serde_json::Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        other => format!("`{other}`"),
    }
}

fn read<'de, D, T>(reader: D, ignored: &mut Vec<Vec<String>>) -> Result<T, serde_path_to_error::Error<D::Error>>
where
    D: serde::Deserializer<'de>,
    T: DeserializeOwned,
{
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(reader, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| ignored.push(ignored_path(&path)));
    result.map_err(|error| serde_path_to_error::Error::new(track.path(), error))
}

/// The keys and indices of a path, outermost first.
fn ignored_path(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => [ignored_path(parent), vec![index.to_string()]].concat(),
        Path::Map { parent, key } => [ignored_path(parent), vec![key.clone()]].concat(),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => ignored_path(parent),
    }
}

fn error_path(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// The path of a field as text, such as `rules[0].matches`.
fn dotted(path: &[String]) -> String {
    path.iter().fold(String::new(), |text, segment| match segment.parse::<usize>() {
        Ok(index) => format!("{text}[{index}]"),
        Err(_) if text.is_empty() => segment.clone(),
        Err(_) => format!("{text}.{segment}"),
    })
}

/// A parser's message without its position, which is that of the end of a token, and in words that say what to write instead.
fn reason(error: &impl ToString) -> String {
    let text = error.to_string();
    let text = text.rfind(" at line ").and_then(|at| text.get(..at)).unwrap_or(&text);
    if let Some(what) = text.strip_prefix("EOF while parsing ") {
        return format!("the value ends in the middle of {what}; add what closes it");
    }
    if let Some((found, expected)) = text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        return format!("expected {}, found {}", in_json_words(expected), in_json_words(found));
    }
    match text {
        "trailing characters" => "something follows the end of the value; take it away".to_owned(),
        "expected value" => "here is no JSON value; put text into double quotes".to_owned(),
        other => other.to_owned(),
    }
}

/// Replaces serde's names of types with those of JSON.
fn in_json_words(text: &str) -> &str {
    match text {
        "a sequence" => "a list, such as [...]",
        "sequence" => "a list",
        "a map" => "an object, such as {...}",
        "map" => "an object",
        other => other,
    }
}

/// Decides which finding is reported: an unknown field explains a missing one, so it comes first.
fn verdict<T, E: ToString>(
    result: Result<T, serde_path_to_error::Error<E>>,
    ignored: &[Vec<String>],
    kind: Kind,
    find: impl Fn(&[String], bool) -> (usize, usize),
) -> Result<T, Problem> {
    if let Some(path) = ignored.first() {
        let (line, column) = find(path, true);
        let (name, parent) = path.split_last().map_or(("", [].as_slice()), |(name, parent)| (name.as_str(), parent));
        let fields = known_fields(kind, parent);
        let place = if parent.is_empty() { String::new() } else { format!(" in {}", dotted(parent)) };
        let suggestion = nearest(name, fields.iter().map(String::as_str));
        let hint = if suggestion.is_some() || fields.is_empty() { String::new() } else { format!("; known are {}", fields.join(", ")) };
        let message = format!("unknown field {name:?}{place}{hint}");
        return Err(Problem { line, column, field: String::new(), message, suggestion });
    }
    result.map_err(|error| {
        let path = error_path(error.path());
        let text = error.inner().to_string();
        if let Some(name) = text.strip_prefix("duplicate field `").and_then(|rest| rest.split('`').next()) {
            let (line, column) = find(&[path.as_slice(), &[name.to_owned()]].concat(), true);
            return Problem { line, column, field: dotted(&path), message: format!("the field {name:?} is there twice; keep one"), suggestion: None };
        }
        let (line, column) = find(&path, false);
        Problem { line, column, field: dotted(&path), message: reason(error.inner()), suggestion: None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: Kind, value: &str) -> String {
        let name = if kind == Kind::Endpoint { "shop/a" } else { "shop" };
        parse(&ResourceKey::new(kind, name), value.as_bytes(), &Limits::default()).map_or_else(|problem| problem.to_string(), |ok| format!("accepted: {ok:?}"))
    }

    #[test]
    fn an_unknown_field_is_answered_with_its_place_and_the_nearest_name() {
        for (value, message) in [
            (r#"{"hostname":["a"],"rules":[]}"#, r#"1:2 unknown field "hostname"; did you mean "hostnames"?"#),
            ("{\n  \"rules\": [{\"backendRefs\": [{\"nam\": \"shop\"}]}]}", r#"2:31 unknown field "nam" in rules[0].backendRefs[0]; did you mean "name"?"#),
            (r#"{"rules":[{"matches":[{"path":{"vlaue":"/"}}]}]}"#, r#"1:32 unknown field "vlaue" in rules[0].matches[0].path; did you mean "value"?"#),
            (r#"{"rules":[],"zzz":1}"#, r#"1:13 unknown field "zzz"; known are hostnames, listeners, rules"#),
            ("rules: []\nhostname: [a]", r#"2:1 unknown field "hostname"; did you mean "hostnames"?"#),
            (
                "rules:\n- backendRefs:\n  - name: a\n- backendRefs:\n  - name: b\n    wieght: 2",
                r#"6:5 unknown field "wieght" in rules[1].backendRefs[0]; did you mean "weight"?"#,
            ),
        ] {
            assert_eq!(problem(Kind::Route, value), message, "{value}");
        }
    }

    #[test]
    fn every_broken_value_is_reported_with_its_place_and_the_reason() {
        for (kind, value, message) in [
            (Kind::Route, "{\"rules\":[", "1:10 the value ends in the middle of a list; add what closes it"),
            (Kind::Route, "", "1:1 the value is empty; write {\"hostnames\":[\"shop.example.com\"],\"rules\":[{\"backendRefs\":[{\"name\":\"shop\"}]}]}"),
            (
                Kind::Route,
                "null",
                "1:1 expected an object, found null; write {\"hostnames\":[\"shop.example.com\"],\"rules\":[{\"backendRefs\":[{\"name\":\"shop\"}]}]}",
            ),
            (Kind::Route, r#"{"hostnames":null,"rules":[]}"#, "1:14 hostnames: expected a list, such as [...], found null"),
            (
                Kind::Route,
                r#"{"hostnames":["a/b"],"rules":[]}"#,
                "1:15 hostnames[0]: hostname \"a/b\" has a path; write \"a\" here and the path under rules[].matches[].path",
            ),
            (Kind::Route, r#"{"rules":5}"#, "1:10 rules: expected a list, such as [...], found integer `5`"),
            (Kind::Route, r#"{"rules":[],"rules":[]}"#, "1:13 the field \"rules\" is there twice; keep one"),
            (Kind::Route, r#"{"rules":[]} x"#, "1:14 something follows the end of the value; take it away"),
            (Kind::Route, r#"{"rules":[{}]}"#, "1:11 rules[0]: the rule goes nowhere; write backendRefs, or a filter of type RequestRedirect or FixedResponse"),
            (Kind::Listener, r#"{"address":"0.0.0.0:0"}"#, "1:12 address: address \"0.0.0.0:0\" has the port 0; ports are 1 to 65535"),
            (Kind::Listener, r#"{"address":"0.0.0.0:80","protocol":"HTTQ"}"#, "1:36 protocol: unknown variant `HTTQ`, expected `HTTP` or `HTTPS`"),
            (Kind::Endpoint, "http://10.0.0.5:80", "1:1 address \"http://10.0.0.5:80\" has the scheme \"http\"; write \"10.0.0.5:80\""),
            (Kind::Endpoint, r#"{"address":"10.0.0.5:80","weight":-1}"#, "1:35 weight: invalid value: integer `-1`, expected u64"),
            (Kind::Endpoint, "", "1:1 the value is empty and the id is no address: address \"a\" has no port; write \"a:PORT\""),
        ] {
            assert_eq!(problem(kind, value), message, "{value}");
        }
    }

    #[test]
    fn five_thousand_brackets_are_refused_before_they_are_parsed() {
        let value = format!("{{\"rules\":{}", "[".repeat(5_000));
        assert_eq!(problem(Kind::Route, &value), "1:73 brackets are nested more than 64 deep; write the value flatter");
        let yaml = format!("rules: {}", "[".repeat(5_000));
        assert!(problem(Kind::Route, &yaml).contains("not valid YAML"), "{}", problem(Kind::Route, &yaml));
    }

    #[test]
    fn an_invalid_regular_expression_is_refused() {
        let value = r#"{"rules":[{"matches":[{"path":{"type":"RegularExpression","value":"/a("}}]}]}"#;
        assert!(
            problem(Kind::Route, value)
                .contains("the regular expression \"/a(\" is not valid: unclosed group; the syntax is that of RE2, without look-around and back-references"),
            "{}",
            problem(Kind::Route, value)
        );
        let closing = r#"{"rules":[{"matches":[{"path":{"type":"RegularExpression","value":"/a)|(?:/b"}}],"backendRefs":[{"name":"b"}]}]}"#;
        assert!(problem(Kind::Route, closing).contains("is not valid: unopened group"), "{}", problem(Kind::Route, closing));
    }

    #[test]
    fn a_value_over_the_limit_is_refused_at_the_limit_and_not_before() {
        let limits = Limits { value_bytes: 30, ..Limits::default() };
        let key = ResourceKey::new(Kind::Endpoint, "shop/a");
        for (bytes, ok) in [(30, true), (31, false), (300, false)] {
            let value = format!("{:<bytes$}", "10.0.0.5:80");
            assert_eq!(parse(&key, value.as_bytes(), &limits).is_ok(), ok, "{bytes}");
        }
    }

    /// At the limit, one above, and ten times above, for each part of a route that has a limit.
    #[test]
    fn a_route_may_have_so_many_parts_and_not_one_more() {
        let limits = Limits { rules_per_route: 4, matches_per_rule: 4, hostnames_per_route: 4, ..Limits::default() };
        let key = ResourceKey::new(Kind::Route, "a");
        let list = |one: &dyn Fn(usize) -> String, count: usize| (0..count).map(one).collect::<Vec<_>>().join(",");
        let rule = |_| r#"{"backendRefs":[{"name":"b"}]}"#.to_owned();
        for (count, ok) in [(4, true), (5, false), (40, false)] {
            let hosts = list(&|number| format!("\"h{number}\""), count);
            let matches = list(&|number| format!(r#"{{"path":{{"value":"/{number}"}}}}"#), count);
            for (value, setting) in [
                (format!(r#"{{"rules":[{}]}}"#, list(&rule, count)), "rulesPerRoute"),
                (format!(r#"{{"hostnames":[{hosts}],"rules":[]}}"#), "hostnamesPerRoute"),
                (format!(r#"{{"rules":[{{"matches":[{matches}],"backendRefs":[{{"name":"b"}}]}}]}}"#), "matchesPerRule"),
            ] {
                match parse(&key, value.as_bytes(), &limits) {
                    Ok(_) => assert!(ok, "{count} of {setting}"),
                    Err(problem) => assert!(!ok && problem.message.contains(setting), "{count} of {setting}: {problem}"),
                }
            }
        }
    }

    #[test]
    fn a_rule_and_a_listener_may_have_so_many_parts_and_not_one_more() {
        let limits =
            Limits { conditions_per_match: 4, header_changes_per_rule: 4, backend_refs_per_rule: 4, trusted_proxies_per_listener: 4, ..Limits::default() };
        let list = |one: &dyn Fn(usize) -> String, count: usize| (0..count).map(one).collect::<Vec<_>>().join(",");
        for (count, ok) in [(4, true), (5, false), (400, false)] {
            let backends = list(&|number| format!(r#"{{"name":"b{number}"}}"#), count);
            let (queries, added) = (
                list(&|number| format!(r#"{{"name":"q{number}","value":"1"}}"#), count - 1),
                list(&|number| format!(r#"{{"name":"x{number}","value":"1"}}"#), count - 1),
            );
            let networks = list(&|number| format!("\"10.0.{}.{}\"", number / 256, number % 256), count);
            for (kind, value, setting) in [
                (Kind::Route, format!(r#"{{"rules":[{{"backendRefs":[{backends}]}}]}}"#), "backendRefsPerRule"),
                (
                    Kind::Route,
                    format!(
                        r#"{{"rules":[{{"matches":[{{"headers":[{{"name":"h","value":"1"}}],"queryParams":[{queries}]}}],"backendRefs":[{{"name":"b"}}]}}]}}"#
                    ),
                    "conditionsPerMatch",
                ),
                (
                    Kind::Route,
                    format!(
                        r#"{{"rules":[{{"filters":[{{"type":"RequestHeaderModifier","requestHeaderModifier":{{"remove":["y"],"add":[{added}]}}}}],"backendRefs":[{{"name":"b"}}]}}]}}"#
                    ),
                    "headerChangesPerRule",
                ),
                (Kind::Listener, format!(r#"{{"address":"0.0.0.0:80","trustedProxies":[{networks}]}}"#), "trustedProxiesPerListener"),
            ] {
                match parse(&ResourceKey::new(kind, "a"), value.as_bytes(), &limits) {
                    Ok(_) => assert!(ok, "{count} of {setting}"),
                    Err(problem) => assert!(!ok && problem.message.contains(setting), "{count} of {setting}: {problem}"),
                }
            }
        }
    }

    #[test]
    fn what_yaml_aliases_repeat_is_refused_before_it_is_built() {
        let body = "x".repeat(200_000);
        let filter = |value: &str| format!("  - filters: [{{type: FixedResponse, fixedResponse: {{statusCode: 200, body: {value}}}}}]\n");
        let value = format!("rules:\n{}{}", filter(&format!("&body {body}")), filter("*body").repeat(50));
        let begun = std::time::Instant::now();
        let message = problem(Kind::Route, &value);
        assert!(message.contains("setting objectBytes"), "{message}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
        let few = format!("rules:\n{}{}", filter("&body hello"), filter("*body").repeat(50));
        assert!(problem(Kind::Route, &few).starts_with("accepted"), "{}", problem(Kind::Route, &few));
    }

    #[test]
    fn a_regular_expression_may_be_so_large_compiled_and_no_larger() {
        let key = ResourceKey::new(Kind::Route, "a");
        let within = |repeat: usize, regex_bytes: usize| {
            let value = format!(
                r#"{{"rules":[{{"matches":[{{"path":{{"type":"RegularExpression","value":"/[a-z]{{{repeat}}}"}}}}],"backendRefs":[{{"name":"b"}}]}}]}}"#
            );
            parse(&key, value.as_bytes(), &Limits { regex_bytes, ..Limits::default() }).map(drop)
        };
        let parse = |repeat| within(repeat, 64 * 1024);
        let most = (1..5_000).take_while(|repeat| parse(*repeat).is_ok()).last().unwrap();
        assert_eq!(within(most + 1, 128 * 1024), Ok(()), "it is a setting");
        for repeat in [most + 1, most * 10] {
            let problem = parse(repeat).unwrap_err();
            assert!(problem.message.contains("regexBytes") || problem.message.contains("too large") || problem.message.contains("size limit"), "{problem}");
        }
    }

    #[test]
    fn endpoints_are_written_bare_quoted_empty_or_in_full() {
        let limits = Limits::default();
        for (name, value) in [
            ("shop/a", "10.0.0.5:80\n"),
            ("shop/a", "\"10.0.0.5:80\""),
            ("shop/10.0.0.5:80", ""),
            ("shop/a", "{\"address\":\"10.0.0.5:80\"}"),
            ("shop/a", "address: 10.0.0.5:80"),
        ] {
            let found = parse(&ResourceKey::new(Kind::Endpoint, name), value.as_bytes(), &limits);
            let Ok(Resource::Endpoint(endpoint)) = found else { panic!("{value}: {found:?}") };
            assert_eq!(endpoint.address.as_str(), "10.0.0.5:80", "{value}");
        }
    }
}

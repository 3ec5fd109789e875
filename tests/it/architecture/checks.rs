//! The rules of ARCHITECTURE.md, each as a function from the sources to what breaks it: file, line and why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::house::House;
use super::source::{PathAt, Token};

/// Lines of a file that are neither comments nor tests.
const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

/// What breaks a rule.
pub(super) type Broken = Vec<String>;

/// All rules.
pub(super) fn all(house: &House) -> Broken {
    [
        package_arrows(house),
        folder_arrows(house),
        controller_arrows(house),
        cycles(house),
        purity(house),
        store_names(house),
        default_methods(house),
        one_writer(house),
        swaps(house),
        queues(house),
        kinds(house),
        error_texts(house),
        lengths(house),
        dead_files(house),
    ]
    .concat()
}

fn at(path: &Path, line: usize, why: impl std::fmt::Display) -> String {
    format!("{}:{line}: {why}", path.display())
}

/// Which packages of ours a package may use.
const PACKAGE_ARROWS: [(&str, &[&str]); 13] = [
    ("http1", &[]),
    ("model", &[]),
    ("settings", &["waypost-model"]),
    ("disk", &[]),
    ("trust", &[]),
    ("wire", &["waypost-model"]),
    ("proxy", &["waypost-http1", "waypost-model", "waypost-settings", "waypost-wire", "waypost-disk", "waypost-trust"]),
    ("adapters/api", &[]),
    ("adapters/testkit", &["waypost-adapter"]),
    ("adapters/file", &["waypost-adapter"]),
    ("adapters/etcd", &["waypost-adapter"]),
    ("adapters/consul", &["waypost-adapter"]),
    ("adapters/zookeeper", &["waypost-adapter"]),
];

pub(super) fn package_arrows(house: &House) -> Broken {
    let mut broken = Vec::new();
    for (package, allowed) in PACKAGE_ARROWS {
        let mut in_dependencies = false;
        for (line, text) in house.manifest(package).lines().enumerate() {
            if text.starts_with('[') {
                in_dependencies = text == "[dependencies]";
            }
            let name = text.split(['.', ' ', '=']).next().unwrap_or_default();
            if in_dependencies && name.starts_with("waypost-") && !allowed.contains(&name) {
                broken.push(at(&Path::new(package).join("Cargo.toml"), line + 1, format!("{package} may not use {name}")));
            }
        }
    }
    broken
}

/// What a folder of the controller's package may not use: modules of its own, packages, and why. A file that is excepted is named.
const FOLDER_ARROWS: [(&str, &[&str], &[&str], &str); 5] = [
    (
        "src/controller",
        &["src/api", "src/api.rs", "src/cli", "src/cli.rs", "src/stores.rs", "src/trust", "src/trust.rs"],
        &["waypost_proxy", "axum"],
        "the controller knows neither the API nor the command line nor a store",
    ),
    ("src/api", &["src/cli", "src/cli.rs", "src/stores.rs"], &["waypost_proxy"], "the API knows neither the command line nor a store"),
    (
        "src/api",
        &[
            "src/controller/owner.rs",
            "src/controller/state",
            "src/controller/state.rs",
            "src/controller/stores",
            "src/controller/disk",
            "src/controller/peers",
            "src/controller/operator.rs",
            "src/controller/start.rs",
        ],
        &[],
        "the API meets the controller in its handle, its messages and its shapes",
    ),
    (
        "src/trust",
        &["src/api", "src/api.rs", "src/cli", "src/cli.rs", "src/controller", "src/controller.rs"],
        &["axum"],
        "who is admitted is decided without the controller",
    ),
    ("src/cli", &["src/controller", "src/controller.rs"], &[], "a verb asks the API; only src/cli/serve.rs starts a controller"),
];

pub(super) fn folder_arrows(house: &House) -> Broken {
    let mut broken = Vec::new();
    for (folder, modules, packages, why) in FOLDER_ARROWS {
        for source in house.below(folder).filter(|source| source.path != Path::new("src/cli/serve.rs")) {
            for path in &source.parsed.paths {
                let target = house.target(source.path, path);
                let inside = target.is_some_and(|target| modules.iter().any(|module| target.starts_with(module)));
                let outside = path.segments.first().is_some_and(|first| packages.contains(&first.as_str()) || first.starts_with("waypost_adapter_"));
                if inside || outside {
                    broken.push(at(source.path, path.line, format!("{}: {why}", path.segments.join("::"))));
                }
            }
        }
    }
    broken
}

/// Which rooms of the controller a room may use: a folder, or a file that stands alone.
const CONTROLLER_ROOMS: [(&str, &[&str]); 18] = [
    ("clock", &[]),
    ("jitter", &[]),
    ("freshness", &[]),
    ("rules", &[]),
    ("settings", &["rules"]),
    ("stored", &["rules"]),
    ("answers/shapes", &["rules"]),
    ("metrics", &["answers/shapes"]),
    ("message", &["answers/shapes", "rules", "stored"]),
    ("waiters", &["message"]),
    ("state", &["answers/shapes", "message", "rules", "stored"]),
    ("stores", &["jitter", "message", "rules", "settings", "stored"]),
    ("answers", &["answers/shapes", "message", "metrics", "rules", "settings", "state", "stores"]),
    ("disk", &["message", "metrics", "rules", "stored"]),
    ("operator", &["clock", "disk", "message", "rules", "stored"]),
    ("handle", &["answers/shapes", "clock", "disk", "freshness", "message", "operator", "peers", "rules", "settings", "stored", "waiters"]),
    ("peers", &["answers/shapes", "clock", "handle", "jitter", "message", "operator", "rules", "stored"]),
    (
        "owner",
        &[
            "answers",
            "answers/shapes",
            "clock",
            "disk",
            "freshness",
            "message",
            "metrics",
            "operator",
            "rules",
            "settings",
            "state",
            "stored",
            "stores",
            "waiters",
        ],
    ),
];

/// The room of a file; `None` for what starts and ties everything together.
fn room(file: &Path) -> Option<&'static str> {
    let below = file.strip_prefix("src/controller").ok()?.with_extension("");
    CONTROLLER_ROOMS.iter().map(|(name, _)| *name).filter(|name| below.starts_with(name)).max_by_key(|name| name.len())
}

pub(super) fn controller_arrows(house: &House) -> Broken {
    let mut broken = Vec::new();
    for (file, needs) in house.needs("src/controller") {
        let Some(from) = room(&file) else { continue };
        let allowed = CONTROLLER_ROOMS.iter().find(|(name, _)| *name == from).map(|(_, allowed)| *allowed).unwrap_or_default();
        for (target, line) in needs {
            if let Some(to) = room(&target).filter(|to| *to != from && !allowed.contains(to)) {
                broken.push(at(&file, line, format!("{from} may not use {to} (src/controller)")));
            }
        }
    }
    broken
}

/// Folders in which no file may need itself through others.
const WITHOUT_CYCLES: [&str; 12] = [
    "http1/src",
    "src",
    "model/src",
    "settings/src",
    "wire/src",
    "disk/src",
    "trust/src",
    "adapters/api/src",
    "adapters/file/src",
    "adapters/etcd/src",
    "adapters/consul/src",
    "adapters/zookeeper/src",
];

pub(super) fn cycles(house: &House) -> Broken {
    WITHOUT_CYCLES.into_iter().flat_map(|folder| cycles_of(&house.needs(folder))).collect()
}

/// For each file that needs itself, the shortest way back to it; each cycle once.
fn cycles_of(needs: &BTreeMap<PathBuf, BTreeMap<PathBuf, usize>>) -> Broken {
    let (mut broken, mut reported) = (Vec::new(), BTreeSet::new());
    for start in needs.keys() {
        let mut before: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
        let mut next = std::collections::VecDeque::from([start]);
        while let Some(file) = next.pop_front() {
            for target in needs.get(file).into_iter().flat_map(BTreeMap::keys) {
                if target == start {
                    let mut way = vec![file];
                    while let Some(earlier) = before.get(way[way.len() - 1]) {
                        way.push(earlier);
                    }
                    let files: BTreeSet<&PathBuf> = way.iter().copied().collect();
                    if reported.insert(files) {
                        way.reverse();
                        let names: Vec<String> = way.iter().chain([&start]).map(|file| file.display().to_string()).collect();
                        let line = needs[start][way.get(1).copied().unwrap_or(start)];
                        broken.push(at(start, line, format!("a cycle: {}", names.join(" -> "))));
                    }
                    next.clear();
                    break;
                }
                if target != start && !before.contains_key(target) && needs.contains_key(target) {
                    before.insert(target, file);
                    next.push_back(target);
                }
            }
        }
    }
    broken
}

/// Folders whose code is a function of its inputs.
const PURE: [&str; 6] = ["http1/src", "model/src", "src/controller/rules", "src/controller/state", "src/controller/state.rs", "src/controller/stored"];

pub(super) fn purity(house: &House) -> Broken {
    let mut broken = Vec::new();
    for source in PURE.into_iter().flat_map(|folder| house.below(folder)) {
        for path in source.parsed.paths.iter().filter(|path| is_impure(path)) {
            broken.push(at(source.path, path.line, format!("{}: time, randomness and I/O are inputs here", path.segments.join("::"))));
        }
    }
    broken
}

fn is_impure(path: &PathAt) -> bool {
    let names: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let io =
        matches!(names[..], ["std", "fs" | "thread" | "process" | "env", ..] | ["std", "net", "TcpListener" | "TcpStream" | "UdpSocket" | "ToSocketAddrs", ..]);
    io || names.iter().any(|name| matches!(*name, "Instant" | "SystemTime")) || matches!(names[0], "tokio" | "reqwest" | "hyper" | "axum" | "fastrand" | "rand")
}

/// Names of stores, in lower case.
const STORES: [&str; 3] = ["etcd", "consul", "zookeeper"];

pub(super) fn store_names(house: &House) -> Broken {
    let mut broken = Vec::new();
    for folder in
        ["model/src", "wire/src", "disk/src", "trust/src", "proxy/src", "src/controller", "src/controller.rs", "src/api", "src/api.rs", "adapters/api/src"]
    {
        for source in house.below(folder) {
            for (token, line) in &source.parsed.tokens {
                let (Token::Ident(text) | Token::Literal(text)) = token else { continue };
                let lower = text.to_lowercase();
                if let Some(store) = STORES.into_iter().find(|store| lower.contains(store)) {
                    broken.push(at(source.path, *line, format!("{store}: stores are named in adapters/, src/stores.rs and src/cli alone")));
                }
            }
        }
    }
    broken
}

pub(super) fn default_methods(house: &House) -> Broken {
    let methods = house.below("adapters/api/src").flat_map(|source| {
        let one = |method: &super::source::DefaultMethod| {
            at(source.path, method.line, format!("{} has a body: a wrapper that forgets a method with a default is a silent bug", method.name))
        };
        source.parsed.default_methods.iter().map(one).collect::<Vec<_>>()
    });
    methods.collect()
}

/// What is desired is derived in one file, and nothing else writes it.
pub(super) fn one_writer(house: &House) -> Broken {
    let mut broken = Vec::new();
    for source in house.below("src/controller/state").filter(|source| source.path != Path::new("src/controller/state/desired.rs")) {
        let tokens: Vec<&Token> = source.parsed.tokens.iter().map(|(token, _)| token).collect();
        for (position, window) in tokens.windows(6).enumerate() {
            let is_lanes = window[0].is_ident("self") && *window[1] == Token::Punct('.') && window[2].is_ident("lanes");
            // Either the pair or one of the two: `self.lanes =`, `self.lanes.0 =`; `==` compares.
            let assigned = |at: usize| *window[at] == Token::Punct('=') && window.get(at + 1).is_none_or(|next| **next != Token::Punct('='));
            let one_of_two = *window[3] == Token::Punct('.') && matches!(tokens.get(position + 5), Some(Token::Punct('=')));
            let one_of_two = one_of_two && !matches!(tokens.get(position + 6), Some(Token::Punct('=')));
            if is_lanes && (assigned(3) || one_of_two) {
                broken.push(at(source.path, source.parsed.tokens[position].1, "what is desired is written in state/desired.rs alone"));
            }
        }
    }
    broken
}

pub(super) fn swaps(house: &House) -> Broken {
    let mut broken = Vec::new();
    let mut stores = Vec::new();
    for source in house.below("proxy/src").chain(house.below("src")) {
        let tokens = &source.parsed.tokens;
        let home = source.path == Path::new("proxy/src/active.rs");
        for (position, (token, line)) in tokens.iter().enumerate() {
            if !home && ["ArcSwap", "ArcSwapAny", "ArcSwapOption", "arc_swap"].iter().any(|name| token.is_ident(name)) {
                broken.push(at(source.path, *line, "the routing table is the one thing that is swapped, in proxy/src/active.rs"));
            }
            let called = tokens.get(position + 2).is_some_and(|(next, _)| next.is_ident("store") || next.is_ident("swap"));
            if home && token.is_ident("table") && called {
                stores.push(at(source.path, *line, "the routing table is replaced in one place"));
            }
        }
    }
    if stores.len() != 1 {
        broken.extend(stores);
    }
    broken
}

pub(super) fn queues(house: &House) -> Broken {
    let mut broken = Vec::new();
    for source in ["src", "proxy/src", "adapters/api/src", "adapters/file/src", "adapters/etcd/src", "adapters/consul/src", "adapters/zookeeper/src"]
        .into_iter()
        .flat_map(|folder| house.below(folder))
    {
        let tokens = &source.parsed.tokens;
        for (position, (token, line)) in tokens.iter().enumerate() {
            let empty = matches!((tokens.get(position + 1), tokens.get(position + 2)), (Some((Token::Open('('), _)), Some((Token::Close(')'), _))));
            let of = |name: &str| position >= 3 && tokens[position - 3].0.is_ident(name);
            let unbounded = ["unbounded_channel", "UnboundedSender"].iter().any(|name| token.is_ident(name));
            let unbounded = unbounded || token.is_ident("unbounded") && ["async_channel", "flume", "channel", "mpsc"].into_iter().any(of);
            // A channel for one value has room for one.
            if unbounded || token.is_ident("channel") && empty && !of("oneshot") {
                broken.push(at(source.path, *line, "every queue has a bound"));
            }
        }
    }
    broken
}

/// The file with the table of kinds.
const KIND_TABLE: &str = "model/src/object/kind.rs";

pub(super) fn kinds(house: &House) -> Broken {
    let table: BTreeSet<String> =
        house.text(KIND_TABLE).lines().filter_map(|line| Some(line.split_once("= line(\"")?.1.split('"').next()?.to_owned())).collect();
    let mut broken = Vec::new();
    for source in house.below("model/src/key.rs") {
        for (_, variant, line) in source.parsed.variants.iter().filter(|(name, ..)| name == "Kind") {
            if !table.contains(&variant.to_lowercase()) {
                broken.push(at(source.path, *line, format!("the kind {variant} has no line in {KIND_TABLE}")));
            }
        }
    }
    for source in ["model/src", "wire/src", "proxy/src", "src"].into_iter().flat_map(|folder| house.below(folder)) {
        for (name, line) in named_kinds(&source.parsed.tokens) {
            if !table.contains(&name) {
                broken.push(at(source.path, line, format!("the kind {name:?} has no line in {KIND_TABLE}")));
            }
        }
    }
    broken
}

/// The kinds that code names as text: `of_kind("x")`, `kind() == "x"`.
fn named_kinds(tokens: &[(Token, usize)]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (position, (token, _)) in tokens.iter().enumerate() {
        let literal = |offset: usize| match tokens.get(position + offset) {
            Some((Token::Literal(text), line)) => Some((text.trim_matches('"').to_owned(), *line)),
            _ => None,
        };
        let compared =
            || matches!(tokens.get(position + 3), Some((Token::Punct('=' | '!'), _))) && matches!(tokens.get(position + 4), Some((Token::Punct('='), _)));
        if token.is_ident("of_kind") {
            found.extend(literal(2));
        } else if token.is_ident("kind") && compared() {
            found.extend(literal(5));
        }
    }
    found
}

/// Names that errors have in this code.
const ERRORS: [&str; 4] = ["error", "err", "failure", "why"];
/// What turns an error into its text.
const TO_TEXT: [&str; 5] = ["to_string", "as_str", "message", "as_ref", "to_lowercase"];
/// Questions to a text.
const QUESTIONS: [&str; 4] = ["contains", "starts_with", "ends_with", "eq"];

pub(super) fn error_texts(house: &House) -> Broken {
    let mut broken = Vec::new();
    for source in ["http1/src", "model/src", "wire/src", "disk/src", "trust/src", "proxy/src", "src"].into_iter().flat_map(|folder| house.below(folder)) {
        let tokens = &source.parsed.tokens;
        let texts = texts_of_errors(tokens);
        for position in 0..tokens.len() {
            if is_decision_on_text(tokens, position, &texts) {
                broken.push(at(source.path, tokens[position].1, "a decision on an error's text: make the error a type"));
            }
        }
    }
    broken
}

/// The names that the text of an error is bound to, as in `let message = error.to_string()`, and where.
fn texts_of_errors(tokens: &[(Token, usize)]) -> Vec<(&str, usize)> {
    let is = |at: usize, name: &str| tokens.get(at).is_some_and(|(token, _)| token.is_ident(name));
    let punct = |at: usize, wanted: char| matches!(tokens.get(at), Some((Token::Punct(found), _)) if *found == wanted);
    let bound = |at: usize| {
        let (Token::Ident(name), _) = tokens.get(at + 1)? else { return None };
        let of_error = ERRORS.iter().any(|error| is(at + 3, error)) && punct(at + 4, '.') && TO_TEXT.iter().any(|text| is(at + 5, text));
        (is(at, "let") && punct(at + 2, '=') && of_error).then_some((name.as_str(), at))
    };
    (0..tokens.len()).filter_map(bound).collect()
}

/// A text of an error is taken for that within so many tokens behind its binding.
const NEAR: usize = 100;

/// Whether an error, or one of the `texts` of errors, stands at `position` and its text is compared or searched.
fn is_decision_on_text(tokens: &[(Token, usize)], position: usize, texts: &[(&str, usize)]) -> bool {
    let token = |at: usize| tokens.get(at).map(|(token, _)| token);
    let is_text = texts.iter().any(|(name, bound)| tokens[position].0.is_ident(name) && (bound + 2..bound + NEAR).contains(&position));
    if !is_text && !ERRORS.iter().any(|name| tokens[position].0.is_ident(name)) {
        return false;
    }
    let matched = position > 0 && token(position - 1).is_some_and(|before| before.is_ident("match"));
    let (is_bound, mut at, mut is_text) = (is_text, position + 1, is_text);
    while matches!(token(at), Some(Token::Punct('.'))) {
        let name = |names: &[&str]| names.iter().any(|name| token(at + 1).is_some_and(|token| token.is_ident(name)));
        if name(&QUESTIONS) {
            return true;
        }
        if !name(&TO_TEXT) {
            return false;
        }
        is_text = true;
        at += if matches!(token(at + 2), Some(Token::Open('('))) { 4 } else { 2 };
    }
    let compared = matches!((token(at), token(at + 1)), (Some(Token::Punct('=' | '!')), Some(Token::Punct('='))));
    let with_text = match token(at + 2) {
        Some(Token::Literal(_)) => true,
        Some(Token::Ident(name)) => name.chars().all(|c| c.is_uppercase() || c == '_'),
        _ => false,
    };
    // A text that has a name may be compared with another one, such as the last that was logged.
    compared && (is_text && !is_bound || with_text) || matched && is_text
}

pub(super) fn lengths(house: &House) -> Broken {
    let mut broken = Vec::new();
    for source in ["http1/src", "model/src", "wire/src", "disk/src", "trust/src", "proxy/src", "src", "adapters", "benches/src"]
        .into_iter()
        .flat_map(|folder| house.below(folder))
    {
        if source.parsed.lines > LONGEST_FILE {
            broken.push(at(source.path, 1, format!("{} lines; a file holds one idea, in at most {LONGEST_FILE}", source.parsed.lines)));
        }
        for (name, line, lines) in source.parsed.functions.iter().filter(|(.., lines)| *lines > LONGEST_FUNCTION) {
            broken.push(at(source.path, *line, format!("{name} has {lines} lines; a function is one step, in at most {LONGEST_FUNCTION}")));
        }
    }
    broken
}

pub(super) fn dead_files(house: &House) -> Broken {
    house.dead().into_iter().map(|path| at(path, 1, "no module declares this file")).collect()
}

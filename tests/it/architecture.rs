//! The import arrows inside the packages, and other things that are absent on purpose (ARCHITECTURE.md).

use std::path::{Path, PathBuf};

use crate::harness::checkout;

/// Every Rust file below a folder that is not a test.
fn sources(folder: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        for item in std::fs::read_dir(path).unwrap().flatten() {
            let path = item.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") && path.file_stem().is_none_or(|stem| stem != "tests") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&checkout().join(folder), &mut found);
    found
}

/// Lines that are code, up to the tests at the end of a file.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let before_tests = text.split("#[cfg(test)]").next().unwrap().to_owned();
    before_tests.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(at, line)| (at + 1, line.to_owned())).collect()
}

/// Every place where one of `words` stands in the code below `folder`.
fn places(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(folder) {
        for (line, text) in code(&path) {
            for word in words.iter().filter(|word| text.contains(**word)) {
                found.push(format!("{}:{line}: {word}", path.strip_prefix(checkout()).unwrap().display()));
            }
        }
    }
    found
}

fn forbid(why: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

#[test]
fn arrows_between_packages_are_those_of_the_architecture() {
    let allowed: [(&str, &[&str]); 10] = [
        ("model", &[]),
        ("disk", &[]),
        ("trust", &[]),
        ("wire", &["waypost-model"]),
        ("proxy", &["waypost-model", "waypost-wire", "waypost-disk", "waypost-trust"]),
        ("adapters/api", &[]),
        ("adapters/testkit", &["waypost-adapter"]),
        ("adapters/file", &["waypost-adapter"]),
        ("adapters/etcd", &["waypost-adapter"]),
        ("adapters/consul", &["waypost-adapter"]),
    ];
    for (package, allowed) in allowed.into_iter().chain([("adapters/zookeeper", &["waypost-adapter"][..])]) {
        let manifest = std::fs::read_to_string(checkout().join(package).join("Cargo.toml")).unwrap();
        let own = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for (line, dependency) in own.lines().enumerate().filter_map(|(line, text)| Some((line, text.split(['.', ' ']).next()?))) {
            assert!(
                !dependency.starts_with("waypost-") || allowed.contains(&dependency),
                "{package}/Cargo.toml, [dependencies] line {line}: {dependency} is a forbidden arrow"
            );
        }
    }
}

#[test]
fn arrows_inside_the_controllers_package_are_those_of_the_architecture() {
    forbid(
        "the controller knows neither the API nor the command line nor a store",
        places("src/controller", &["crate::api", "crate::cli", "crate::stores", "waypost_proxy", "axum"]),
    );
    forbid("the API knows neither the command line nor a store", places("src/api", &["crate::cli", "crate::stores", "waypost_proxy", "waypost_adapter_"]));
    forbid("who is believed is decided without the controller", places("src/trust", &["crate::api", "crate::cli", "crate::controller", "axum"]));
    let asking: Vec<String> = places("src/cli", &["crate::controller"]).into_iter().filter(|place| !place.starts_with("src/cli/serve.rs")).collect();
    forbid("a verb asks the API; only the programs that stay start a controller", asking);
    forbid("the API meets the controller in its handle only", places("src/api", &["controller::run", "controller::feed", "controller::proxies"]));
}

#[test]
fn stores_are_named_in_one_file_only() {
    let names = ["etcd", "consul", "zookeeper", "Etcd", "Consul", "ZooKeeper"];
    for folder in ["model/src", "wire/src", "disk/src", "proxy/src", "src/controller", "src/api", "adapters/api/src"] {
        forbid("no store's name outside adapters/ and the wiring", places(folder, &names));
    }
}

#[test]
fn pure_parts_have_no_clock_and_no_io() {
    let impure = ["Instant::now", "SystemTime", "std::fs", "std::net::Tcp", "tokio::", "std::thread"];
    forbid("model is pure", places("model/src", &impure));
    for file in ["step.rs", "window.rs", "view.rs"] {
        let found = places("src/controller", &impure).into_iter().filter(|place| place.contains(&format!("/{file}:"))).collect();
        forbid("time is an input of the step", found);
    }
}

#[test]
fn the_proxy_has_one_swap() {
    let swaps = places("proxy/src", &["ArcSwap::", "ArcSwap<"]);
    assert!(swaps.iter().all(|place| place.contains("active.rs")), "exactly one ArcSwap:\n{}", swaps.join("\n"));
    let stores = places("proxy/src", &[".table.swap(", ".table.store("]);
    assert_eq!(stores.len(), 1, "exactly one store():\n{}", stores.join("\n"));
}

#[test]
fn every_queue_has_a_bound() {
    for folder in ["proxy/src", "src", "adapters"] {
        forbid("nothing is unbounded", places(folder, &["unbounded_channel", "mpsc::channel()"]));
    }
}

#[test]
fn files_and_functions_are_short_enough_to_see() {
    let mut long = Vec::new();
    for folder in ["model/src", "wire/src", "disk/src", "proxy/src", "src", "adapters"] {
        for path in sources(folder) {
            let lines = code(&path).len();
            if lines > 500 {
                long.push(format!("{}: {lines} lines", path.display()));
            }
            long.extend(
                functions(&path)
                    .into_iter()
                    .filter(|(_, _, lines)| *lines > 70)
                    .map(|(at, name, lines)| format!("{}:{at}: {name} has {lines} lines", path.display())),
            );
        }
    }
    forbid("a file holds one idea, in at most 500 lines, a function one step, in at most 70", long);
}

/// Every function of a file: its line, its name, and how many lines it has, by the indentation of its closing brace.
fn functions(path: &Path) -> Vec<(usize, String, usize)> {
    let lines = code(path);
    let mut found = Vec::new();
    for (position, (at, text)) in lines.iter().enumerate() {
        let indent = text.len() - text.trim_start().len();
        let Some(rest) = text.trim_start().split_once("fn ").filter(|(before, _)| before.split(' ').all(|word| word.is_empty() || MODIFIERS.contains(&word)))
        else {
            continue;
        };
        let end = lines[position..].iter().find(|(_, text)| text.trim_end() == format!("{}}}", " ".repeat(indent)));
        if let Some((end, _)) = end {
            let name = rest.1.split(['(', '<']).next().unwrap_or_default();
            found.push((*at, name.to_owned(), end - at + 1));
        }
    }
    found
}

/// What may stand before `fn`.
const MODIFIERS: [&str; 5] = ["pub", "pub(crate)", "pub(super)", "async", "const"];

#[test]
fn the_length_of_a_function_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.rs");
    std::fs::write(&path, "impl X {\n    pub(crate) async fn long<T>(\n        x: T,\n    ) {\n        y();\n    }\n}\nfn one() {\n}\n").unwrap();
    assert_eq!(functions(&path), [(2, "long".to_owned(), 5), (8, "one".to_owned(), 2)]);
}

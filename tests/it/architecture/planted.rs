//! Each rule fails on a violation that is planted in a copy of the sources, and names the file.

use super::checks;
use super::house::House;
use crate::harness::checkout;

/// A violation: what it is, the file in which it is planted, how, and what is to be said of it.
type Planted = (&'static str, &'static str, fn(&str) -> String, &'static str);

/// Puts code at the end of a file, below its test module if it has one.
fn below(text: &str, code: &str) -> String {
    format!("{text}\n{code}\n")
}

const PLANTED: [Planted; 15] = [
    (
        "a cycle between files",
        "src/controller/rules/objects.rs",
        |text| below(text, "use crate::controller::rules::health::Health;"),
        "a cycle: src/controller/rules/health.rs -> src/controller/rules/objects.rs",
    ),
    (
        "a default method in an adapter trait",
        "adapters/api/src/lib.rs",
        |text| text.replacen("    fn source(&self", "    fn is_fast(&self) -> bool {\n        true\n    }\n\n    fn source(&self", 1),
        "is_fast has a body",
    ),
    (
        "a clock in a rule",
        "src/controller/rules/window.rs",
        |text| below(text, "pub fn now() -> std::time::Instant {\n    std::time::Instant::now()\n}"),
        "time, randomness and I/O are inputs",
    ),
    ("a store's name", "src/controller/owner.rs", |text| below(text, "const FIRST: &str = \"etcd://127.0.0.1:2379\";"), "etcd: stores are named"),
    (
        "a second swap",
        "proxy/src/balance.rs",
        |text| below(text, "pub struct Swapped(arc_swap::ArcSwap<u64>);"),
        "the routing table is the one thing that is swapped",
    ),
    (
        "an unbounded queue",
        "src/api/wait.rs",
        |text| below(text, "fn queue() {\n    let (_to, _from) = tokio::sync::mpsc::unbounded_channel::<u8>();\n}"),
        "every queue has a bound",
    ),
    (
        "a queue of the standard library, which has no bound",
        "src/cli/wait.rs",
        |text| below(text, "fn queue() {\n    let (_to, _from): (std::sync::mpsc::Sender<u8>, _) = std::sync::mpsc::channel();\n}"),
        "every queue has a bound",
    ),
    (
        "a forbidden arrow below a test module",
        "src/controller/rules/pins.rs",
        |text| below(text, "pub fn asks_the_api() -> Option<crate::api::StatusInfo> {\n    None\n}"),
        "the controller knows neither the API",
    ),
    (
        "a forbidden arrow inside a macro",
        "src/controller/disk/saver.rs",
        |text| below(text, "fn tell() {\n    tracing::info!(\"{:?}\", crate::cli::main);\n}"),
        "the controller knows neither the API nor the command line",
    ),
    (
        "an arrow between rooms of the controller",
        "src/controller/rules/guard.rs",
        |text| below(text, "use crate::controller::message::Input;"),
        "rules may not use message",
    ),
    (
        "a second writer of what is desired",
        "src/controller/state/lead.rs",
        |text| text.replacen("self.derive(Basis::Stores);", "self.lanes.0 = self.snapshot.config.clone();", 1),
        "what is desired is written",
    ),
    (
        "a kind without its line",
        "model/src/key.rs",
        |text| text.replacen("    Endpoint,\n", "    Endpoint,\n    /// A policy.\n    Policy,\n", 1),
        "the kind Policy has no line",
    ),
    (
        "a decision on an error's text",
        "src/controller/handle/operate.rs",
        |text| below(text, "fn is_busy(error: &std::io::Error) -> bool {\n    error.to_string().contains(\"busy\")\n}"),
        "a decision on an error's text",
    ),
    (
        "a decision on the text of an error that has a name",
        "src/controller/handle/operate.rs",
        |text| below(text, "fn is_busy(error: &std::io::Error) -> bool {\n    let told = error.to_string();\n    told.contains(\"busy\")\n}"),
        "a decision on an error's text",
    ),
    ("a file that is too long", "wire/src/report.rs", |text| below(text, &"const _: () = ();\n".repeat(500)), "a file holds one idea"),
];

#[test]
fn every_rule_fails_on_what_is_planted_against_it_and_names_the_file() {
    let house = House::read(checkout());
    for (what, file, plant, said) in PLANTED {
        let broken = checks::all(&house.with(file, plant));
        let named = broken.iter().find(|line| line.contains(file) && line.contains(said));
        assert!(named.is_some(), "{what} in {file} was not found; said was:\n{}", broken.join("\n"));
    }
}

//! The cost of one accepted entry for a controller, at every limit and at their products. `make cost` runs it as a release build: at most
//! 50 ms and 32 MB. It is alone in its binary, because it measures the process's memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use waypost_model::compile::{Compiler, EntryChange, EntryInput, Written};
use waypost_model::limits::Limits;

mod costly;

#[test]
fn any_value_costs_a_bounded_time_and_memory() {
    let most = if cfg!(debug_assertions) { Duration::from_secs(3) } else { Duration::from_millis(50) };
    let (mut worst, mut accepted) = ((Duration::ZERO, 0), 0);
    let values = costly::values().into_iter().map(|(what, value)| (what.to_owned(), value, true));
    for (what, value, is_accepted) in values.chain(costly::generated(200).into_iter().map(|(what, value)| (what, value, false))) {
        let mut compiler = Compiler::new(1, Limits::default());
        compiler.reset(0, Vec::new());
        compiler.commit();
        let bytes = value.len();
        let before = costly::resident();
        let begun = Instant::now();
        let written = Written { value: value.into_bytes().into(), revision: 1 };
        compiler.change(0, vec![EntryChange::Put(EntryInput { key: "routes/r".to_owned(), written, unreadable: None })]);
        compiler.commit();
        let took = begun.elapsed();
        let grew = costly::resident().saturating_sub(before);
        let view = compiler.views().next().unwrap();
        if is_accepted {
            println!("{what}: {bytes} bytes, {took:?}, {} KiB", grew / 1_024);
            assert!(view.verdict.accepted(), "{what}: {:?}", view.verdict);
        }
        accepted += usize::from(view.verdict.accepted());
        assert!(took <= most, "{what}: {took:?}");
        assert!(grew <= 32 << 20, "{what}: {grew} bytes");
        worst = (worst.0.max(took), worst.1.max(grew));
    }
    println!("worst of {accepted} accepted values and those that are refused: {:?}, {} KiB", worst.0, worst.1 / 1_024);
    assert!(accepted > 50, "only {accepted} of the generated values are accepted");
}

//! The architecture as a test: the arrows between packages and rooms, and what is absent on purpose (ARCHITECTURE.md).

mod checks;
mod house;
mod planted;
mod source;

use house::House;

use crate::harness::checkout;

#[test]
fn the_sources_keep_the_rules_of_the_architecture() {
    let broken = checks::all(&House::read(checkout()));
    assert!(broken.is_empty(), "{} places break ARCHITECTURE.md:\n{}", broken.len(), broken.join("\n"));
}

//! What must hold wherever the store is. The module's name says where.

#[path = "checks.rs"]
mod checks;
#[path = "snapshots.rs"]
mod snapshots;

use crate::fixture::Fixture;

/// A project and a store of its own.
fn fixture() -> Fixture {
    if module_path!().ends_with("in_a_bucket") {
        Fixture::in_a_bucket()
    } else {
        Fixture::new()
    }
}

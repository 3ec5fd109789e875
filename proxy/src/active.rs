//! The one place where the serving threads get their table from: exactly one `ArcSwap`, one store.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::table::Table;

/// The table that is served.
#[derive(Debug)]
pub struct Active {
    table: ArcSwap<Table>,
}

impl Active {
    /// Serves `table` from now on.
    pub fn new(table: Table) -> Arc<Self> {
        Arc::new(Self { table: ArcSwap::from_pointee(table) })
    }

    /// The table for one request: it keeps it to its end.
    pub fn load(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Replaces the table for all requests that begin from now on. Returns the one before, so that the caller drops
    /// it, not a serving thread.
    pub(crate) fn store(&self, table: Arc<Table>) -> Arc<Table> {
        self.table.swap(table)
    }
}

//! The routing table that the serving threads use: exactly one `ArcSwap`, with one `store()`.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::table::Table;

/// The table in use.
#[derive(Debug)]
pub struct Active {
    table: ArcSwap<Table>,
}

/// A thread's reference to a table. Requests count their use of it here, so that cores do not share a counter.
#[derive(Debug)]
pub struct Pinned(Arc<Table>);

impl Deref for Pinned {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

thread_local! {
    static PINNED: RefCell<Option<Arc<Pinned>>> = const { RefCell::new(None) };
}

impl Active {
    /// Starts with `table`.
    pub fn new(table: Table) -> Arc<Self> {
        Arc::new(Self { table: ArcSwap::from_pointee(table) })
    }

    /// The table in use.
    pub fn load(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// The table for one request on this thread; the request uses it until its end.
    pub fn pin(&self) -> Arc<Pinned> {
        let current = self.table.load();
        PINNED.with_borrow_mut(|pinned| match pinned {
            Some(pinned) if Arc::ptr_eq(&pinned.0, &current) => pinned.clone(),
            stale => stale.insert(Arc::new(Pinned(Arc::clone(&current)))).clone(),
        })
    }

    /// Replaces the table for all requests that begin from now on. Returns the previous one, so that the caller drops it instead of a
    /// serving thread.
    pub(crate) fn store(&self, table: Arc<Table>) -> Arc<Table> {
        self.table.swap(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_the_table_it_began_with_and_the_next_one_gets_the_new() {
        let active = Active::new(Table::default());
        let (first, before) = (active.pin(), active.load());
        assert!(Arc::ptr_eq(&first, &active.pin()), "one hold per thread");
        let old = active.store(Arc::new(Table::default()));
        assert!(Arc::ptr_eq(&first.0, &before) && Arc::ptr_eq(&old, &before));
        assert!(!Arc::ptr_eq(&active.pin().0, &before));
        drop(before);
        drop(first);
        assert_eq!(Arc::strong_count(&old), 1, "nobody but the one who replaced it has the old table");
    }
}

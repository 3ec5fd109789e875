//! Buffers of this thread that nobody uses now. A connection has one only while bytes wait in it, so that ten thousand idle connections have none.

use std::cell::RefCell;

/// Bytes of a buffer, and so the most that waits in one direction of an exchange.
pub(super) const SIZE: usize = 64 * 1024;
/// So many buffers stay with a thread.
const KEPT: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(super) fn take() -> Vec<u8> {
    FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(SIZE))
}

/// Gives a buffer back. One that has grown is not kept.
pub(super) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == SIZE {
        buffer.clear();
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}

//! Buffers of the thread: a connection that waits holds none.

use std::cell::Cell;

/// A larger one is not kept.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// The most that is read at once.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    static WRITTEN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static READ: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer to write to.
pub(crate) fn take() -> Vec<u8> {
    WRITTEN.take()
}

/// Gives one back.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() <= KEPT_BYTES_MAX {
        buffer.clear();
        WRITTEN.set(buffer);
    }
}

/// Calls with a buffer to read into, of [`SCRATCH_BYTES`].
pub(crate) fn with_scratch<T>(call: impl FnOnce(&mut [u8]) -> T) -> T {
    // Taken, not borrowed: whatever the call does, it can call this again.
    let mut scratch = READ.take();
    scratch.resize(SCRATCH_BYTES, 0);
    let result = call(&mut scratch);
    READ.set(scratch);
    result
}

//! A buffer of the thread for what is written at once: a new one for each message would have to
//! grow again and again. Whoever waits after all keeps it, and the next one gets another.

use crate::limits;
use std::cell::Cell;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// An empty buffer; the thread's if nobody has it.
pub(crate) fn take() -> Vec<u8> {
    let mut buffer = BUFFER.take();
    buffer.reserve(limits::HTTP1_HEAD_BYTES);
    buffer
}

/// Gives one back to whatever thread this is.
pub(crate) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() <= limits::HTTP1_READ_BYTES_MAX {
        buffer.clear();
        BUFFER.set(buffer);
    }
}

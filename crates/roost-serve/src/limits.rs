//! Bounds of the file server.

use std::time::Duration;

/// Most connections at once; more wait in the kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 1_024;
/// Longest wait for a request head; it ends idle connections too.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest wait for requests under way after a stop signal.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after a failed accept, so that a lack of file descriptors is no busy loop.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes read from a file at a time.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// Largest request head.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most entity tags that are remembered.
pub(crate) const ETAGS_MAX: usize = 10_000;
/// Most threads that read files.
pub(crate) const BLOCKING_THREADS_MAX: usize = 8;

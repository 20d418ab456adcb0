//! Bounds of calls between nodes.

use std::time::Duration;

/// Largest message, both ways. The largest are a config with its files and
/// secrets, and the output of `exec` (1 MiB per stream).
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most machines or events in one answer.
pub const ITEMS_MAX: usize = 10_000;
/// Most bytes of all items of one answer together.
pub const ITEMS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest text of an error.
pub const ERROR_TEXT_BYTES_MAX: usize = 2 * 1024;
/// Largest status details; they travel as a header.
pub const ERROR_BYTES_MAX: usize = 3 * ERROR_TEXT_BYTES_MAX;
/// Largest header list of a call, which has the details of a refusal in it.
pub const HEADERS_BYTES_MAX: u32 = 32 * 1024;
/// Different error codes that are taken from other nodes.
pub const CODES_MAX: usize = 256;

/// Longest time for an answer, where the call does not say more.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Above the time that a call itself asks for (`wait`, `exec`).
pub const CALL_MARGIN: Duration = Duration::from_secs(10);
/// Longest time that any call may ask for.
pub const CALL_TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);
/// Longest time for a connection and its handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two pings of a connection that is used.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for the answer to a ping; then the connection is given up.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection is closed, politely, when it is this old: whoever comes back
/// shows an identity that is still good.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(3600);

/// Most connections to a worker, those in the handshake with them.
pub const CONNECTIONS_MAX: usize = 64;
/// Most calls at a time on one connection.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1_024;
/// Rest after a connection could not be accepted, mostly for want of descriptors.
pub const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for calls under way when the server ends.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Time between two looks at whether the identity is to be renewed.
pub const RENEWAL_CHECK_INTERVAL: Duration = Duration::from_secs(60);

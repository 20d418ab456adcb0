//! Every bound of the edge, in one place. Defaults follow common practice of
//! public proxies; those that an operator may change are in
//! [`crate::config::EdgeConfig`].

use std::time::Duration;

/// Header lines of one request.
pub const HEADER_LINES_MAX: usize = 100;
/// Bytes of the header block of one request.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the request target.
pub const URI_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a host name (RFC 1035 2.3.4), with room for a final dot.
pub const HOST_BYTES_MAX: usize = 254;
/// Read and write buffer of one HTTP/1 connection.
pub const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Streams of one HTTP/2 client connection.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Streams that a client has reset and that still wait to be accepted.
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;
/// Streams that were reset because of the client's errors.
pub const HTTP2_ERROR_RESETS_MAX: usize = 256;
/// Flow-control window of one HTTP/2 stream.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Flow-control window of one HTTP/2 connection.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that wait to be sent on one HTTP/2 stream.
pub const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are read to tell HTTP/2 from HTTP/1: the preface of RFC 9113 3.4.
pub const PREFACE_BYTES: usize = 24;
/// Client connections at once.
pub const CONNECTIONS_MAX: usize = 8192;
/// Idle connections that are kept to one endpoint.
pub const POOL_IDLE_MAX: usize = 256;
/// How long a kept connection may have been idle for a request that must not be
/// sent twice: apps close idle connections after two seconds or more.
pub const KEPT_FOR_ONCE_MAX: Duration = Duration::from_secs(1);
/// Longest time that a 408 may take to be written.
pub const LATE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests that wait for an endpoint to become healthy.
pub const WAITERS_MAX: usize = 1000;
/// Times one request is sent towards an endpoint.
pub const ATTEMPTS_MAX: usize = 4;
/// Passes through roost edges before a request is refused as a loop.
pub const VIA_HOPS_MAX: usize = 8;
/// Certificates that are kept in memory.
pub const CERTIFICATES_MAX: usize = 1024;
/// Buffer of one direction of an upgraded connection.
pub const TUNNEL_BUFFER_BYTES: usize = 16 * 1024;
/// Connections that wait for the kernel to hand them over.
pub const ACCEPT_BACKLOG: i32 = 1024;

/// Pause after an `accept` that failed, so that a lack of descriptors is not a busy loop.
pub const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Pause before the same endpoints are tried once more.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often idle back-end connections are looked at.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection that was asked to close may take.
pub const CLOSE_GRACE: Duration = Duration::from_secs(30);

/// Retries that may be saved up.
pub const RETRY_BUDGET_MAX: i64 = 100;
/// Retries that each second adds.
pub const RETRY_BUDGET_PER_SECOND: i64 = 10;
/// Requests that add one retry.
pub const RETRY_BUDGET_REQUESTS: i64 = 5;

//! What either side bears of the other.

use std::time::Duration;

/// Most bytes of one message; a boot request carries the machine's files.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes of data in one part of output, input or a file.
pub const PART_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of one message that the node takes from a guest.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Most bytes of payload in one frame of the session layer.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes that a session holds in each direction between the stream and HTTP/2.
pub const SESSION_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes waiting to be written to the stream above which no more are taken from the session.
pub const OUTGOING_BYTES_MAX: usize = 64 * 1024;
/// Bytes before the answer to a preamble above which the host gives up: far more
/// than the pipes and windows of an older session hold.
pub const DISCARDED_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Sessions that wait in the guest to be accepted.
pub const PENDING_SESSIONS_MAX: usize = 4;
/// Time between two preambles.
pub const PREAMBLE_PERIOD: Duration = Duration::from_millis(100);
/// Time after which a session ends whose user does not read.
pub const SESSION_STALL_MAX: Duration = Duration::from_secs(30);
/// Time for the last bytes of a session to leave.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause before a device without a peer is tried again.
pub const DEVICE_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 window of one stream, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// HTTP/2 streams at a time on one connection.
pub const STREAMS_MAX: u32 = 64;
/// HTTP/2 window of all streams of a connection, in bytes: streams that nobody
/// reads do not hold up the others.
pub const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
/// Most bytes of the headers of a request or reply.
pub const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Connections at a time to the socket that passes requests through.
pub const PASSTHROUGH_CONNECTIONS_MAX: usize = 16;
/// Requests at a time through that socket, fewer than the guest takes: room is
/// left for the owner of the connection.
pub const PASSTHROUGH_REQUESTS_MAX: usize = 48;
/// Pause after a connection to that socket could not be accepted.
pub const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

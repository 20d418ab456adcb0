//! Every bound of the edge, in one place. Defaults follow common practice of
//! public proxies; those that an operator may change are in
//! [`crate::config::EdgeConfig`].

use std::time::Duration;

/// Header lines of one request. It is hyper's own default, and not set there: a
/// number that is set costs an array on the heap, or its filling, for each message.
pub const HEADER_LINES_MAX: usize = 100;
/// Bytes of the header block of one request.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the request target.
pub const URI_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a host name (RFC 1035 2.3.4), with room for a final dot.
pub const HOST_BYTES_MAX: usize = 254;
/// Read and write buffer of one HTTP/1 connection.
pub const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The same of a connection to a machine: a header and 64 KiB after it come in one read.
pub const BACKEND_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// Room for the header of an answer, and what comes with it.
pub const HTTP1_READ_BYTES_MIN: usize = 8 * 1024;
/// The most of a body that is read at once.
pub const HTTP1_READ_BYTES_MAX: usize = 64 * 1024;
/// Room for the header of most responses and a small body.
pub const HTTP1_HEAD_BYTES: usize = 2 * 1024;
/// A longer piece of a body is written from where it is.
pub const HTTP1_COPY_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the trailers of an answer.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Lines of the trailers of an answer.
pub const TRAILER_LINES_MAX: usize = 20;
/// Bytes behind the size of a chunk.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 1024;
/// Streams of one HTTP/2 client connection.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Streams that a client has opened and reset at once, beyond those that came to their end.
pub const HTTP2_QUICK_RESETS_MAX: u32 = 20;
/// Streams that a client has reset before their answers began, beyond those that came to their end.
pub const HTTP2_CANCELS_MAX: u32 = 200;
/// After this long it may reset one more of them.
pub const HTTP2_CANCEL_PAUSE: Duration = Duration::from_millis(50);
/// Streams that were reset because of the client's errors.
pub const HTTP2_ERROR_RESETS_MAX: u32 = 256;
/// Header lines of one HTTP/2 request: cookies may come in many (RFC 9113 8.2.3).
pub const HTTP2_HEADER_LINES_MAX: usize = 1024;
/// Flow-control window of one HTTP/2 stream.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Flow-control window of one HTTP/2 connection.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes that wait to be sent on one HTTP/2 stream.
pub const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// Bounds of an HTTP/2 connection to a machine. Requests at once are the machine's to limit.
pub const HTTP2_MACHINE: roost_http2::client::Limits = roost_http2::client::Limits {
    streams_max: 16 * 1024,
    stream_window: HTTP2_STREAM_WINDOW_BYTES,
    connection_window: HTTP2_CONNECTION_WINDOW_BYTES,
    header_bytes_max: 64 * 1024,
    header_lines_max: HEADER_LINES_MAX,
};
/// Client connections at once.
pub const CONNECTIONS_MAX: usize = 8192;
/// Clients that are remembered; more than can have connections.
pub const CLIENTS_MAX: usize = 65_536;
/// By how much a rate may be exceeded for a moment: what so many microseconds allow.
pub const RATE_BURST_US: u64 = 2_000_000;
/// Idle connections that are kept to one endpoint.
pub const POOL_IDLE_MAX: usize = 256;
/// How long a kept connection may have been idle for a request that must not be
/// sent twice: apps close idle connections after two seconds or more.
pub const KEPT_FOR_ONCE_MAX: Duration = Duration::from_secs(1);
/// Longest time that a 408 may take to be written.
pub const LATE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// With fewer machines than these nobody looks for those that are gone.
pub const PRUNE_MACHINES_MIN: usize = 1024;
/// Requests to one service of an app that wait for a machine.
pub const QUEUE_MAX: usize = 1000;
/// Regions that one request may ask for.
pub const WANTED_REGIONS_MAX: usize = 16;
/// Requests of all apps that wait for a machine.
pub const WAITERS_MAX: usize = 10_000;
/// How long a machine that begins to take traffic counts as partly full.
pub const SLOW_START: Duration = Duration::from_secs(10);
/// Seconds over which a machine's failures and successes are counted.
pub const EJECTION_WINDOW_SECONDS: usize = 10;
/// Requests below which their share of failures says nothing.
pub const EJECTION_SAMPLES_MIN: u32 = 20;
/// Failures in a row that eject a machine.
pub const EJECTION_FAILURES_IN_A_ROW: u32 = 5;
/// How long a machine is ejected at first.
pub const EJECTION_FIRST: Duration = Duration::from_secs(1);
/// How long a machine is ejected at most.
pub const EJECTION_LONGEST: Duration = Duration::from_secs(60);
/// Between two requests that find out whether a machine is well again.
pub const EJECTION_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Times one request is sent towards an endpoint.
pub const ATTEMPTS_MAX: usize = 4;
/// Passes through roost edges before a request is refused as a loop.
pub const VIA_HOPS_MAX: usize = 8;
/// Certificates that are kept in memory.
pub const CERTIFICATES_MAX: usize = 1024;
/// Bytes of a request body that are kept so that it can be sent again.
pub const KEPT_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of a request body that are kept.
pub const KEPT_BODY_PIECES_MAX: usize = 4096;
/// A piece of a body below this is copied to be kept; a larger one shares the buffer it came in.
pub const KEPT_SLICE_BYTES_MIN: usize = 4096;
/// What a kept piece costs beyond its bytes, in bytes, generously.
pub const KEPT_PIECE_COST_BYTES: usize = 128;
/// Bytes that all request bodies that are kept may cost.
pub const KEPT_BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Files of machines that are being opened at once; more wait.
pub const FILE_OPENINGS_MAX: usize = 64;
/// How long a file of a machine may take to open.
pub const FILE_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a file that are read at once.
pub const FILE_PIECE_BYTES: usize = 64 * 1024;
/// Times one request is replayed.
pub const REPLAYS_MAX: usize = 10;
/// How long a replay may be asked to try.
pub const REPLAY_TIMEOUT_MAX: Duration = Duration::from_secs(300);
/// Bytes of a replay instruction, in a header or a body.
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// The most of a tunnel that goes in one piece over HTTP/2.
pub const TUNNEL_PIECE_BYTES: usize = 8 * 1024;
/// Buffer of one direction of an upgraded connection.
pub const TUNNEL_BUFFER_BYTES: usize = 16 * 1024;
/// Bytes that a raw connection may say before it has a machine; more waits in the kernel.
pub const EARLY_BYTES_MAX: usize = 16 * 1024;
/// The longest PROXY header that is read: addresses, and extensions that are not used.
pub const PROXY_HEADER_BYTES_MAX: usize = 1024;
/// Flows of datagrams at once, of all clients and apps.
pub const FLOWS_MAX: usize = 8192;
/// Room for any datagram that UDP can carry.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the longest datagram over IPv4, without the headers.
pub const DATAGRAM_PAYLOAD_BYTES_MAX: usize = 65_507;
/// Datagrams that are taken from one socket before others have their turn.
pub const DATAGRAMS_IN_A_ROW: usize = 32;
/// Datagrams of one flow that wait for a machine.
pub const EARLY_DATAGRAMS_MAX: usize = 16;
/// Bytes of datagrams of all flows that wait for a machine.
pub const EARLY_DATAGRAM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of datagrams of one flow that wait to be sent to another edge: what is sent to a machine
/// has as much room in the kernel.
pub const FLOW_OUT_BYTES_MAX: usize = 256 * 1024;
/// What of it a flow has whatever others have waiting, so that a slow way takes no other's.
pub const FLOW_OUT_OWN_BYTES: usize = 4 * 1024;
/// The same of all flows, beyond what is their own.
pub const FLOWS_OUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Times that a PostgreSQL client may ask for an encryption that is not TLS, and then for TLS.
pub const PG_REQUESTS_MAX: usize = 3;
/// Settings of TLS that services have of their own and that are kept.
pub const TLS_CONFIGS_MAX: usize = 256;
/// Connections that wait for the kernel to hand them over.
pub const ACCEPT_BACKLOG: i32 = 1024;

/// How late the tasks of an edge may run before it takes nothing new.
pub const LATE_MAX: Duration = Duration::from_secs(1);
/// How often the edge looks whether it is late.
pub const OVERLOAD_TICK: Duration = Duration::from_millis(100);
/// Looks in a row that have to be late: one alone may be a pause of the whole machine.
pub const OVERLOAD_LATE_TICKS: u32 = 3;
/// How often it looks at its memory.
pub const OVERLOAD_MEMORY_TICK: Duration = Duration::from_secs(1);
/// How long memory that does not grow counts.
pub const OVERLOAD_MEMORY_LONGEST: Duration = Duration::from_secs(30);
/// The share of its memory, in percent, from which on the edge takes nothing new.
pub const OVERLOAD_MEMORY_PERCENT: u64 = 90;

/// Pause after an `accept` that failed, so that a lack of descriptors is not a busy loop.
pub const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Pause before the same endpoints are tried once more.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// From then on a wake that has not come to its end holds back no other.
pub const WAKE_LONGEST: Duration = Duration::from_secs(60);
/// Longest wait for the worker to take the wish to wake a machine.
pub const WAKE_ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// From then on a wish that has changed nothing is repeated.
pub const WAKE_REPEAT: Duration = Duration::from_secs(2);
/// How long a machine that could not be woken is left alone.
pub const WAKE_PAUSE: Duration = Duration::from_secs(2);
/// How long until a port that could not be opened is tried again.
pub const PORT_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Silence on a raw connection after which the kernel asks whether the client is still there.
pub const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often idle back-end connections are looked at.
pub const REAP_INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection that was asked to close may take.
pub const CLOSE_GRACE: Duration = Duration::from_secs(30);

/// Replays of one app that are kept.
pub const REPLAYS_KEPT_MAX: usize = 10_000;
/// Bytes of a cookie or header that stands for a session.
pub const REPLAY_SESSION_BYTES_MAX: usize = 512;

/// Retries that may be saved up.
pub const RETRY_BUDGET_MAX: i64 = 100;
/// Retries that each second adds.
pub const RETRY_BUDGET_PER_SECOND: i64 = 10;
/// Requests that add one retry.
pub const RETRY_BUDGET_REQUESTS: i64 = 5;

/// Attempts of one request that its record has; of more, the first and the last ones.
pub const ATTEMPTS_NOTED_MAX: usize = 16;
/// Machines that did not get a request that the record of an attempt names.
pub const SKIPPED_MAX: usize = 16;
/// Bytes of what a check has said that a record has.
pub const RECORD_REASON_BYTES_MAX: usize = 128;
/// Bytes of a method that a record has.
pub const RECORD_METHOD_BYTES_MAX: usize = 32;
/// Bytes of a path that a record has.
pub const RECORD_PATH_BYTES_MAX: usize = 1024;
/// Requests of a second whose records are kept whatever becomes of them.
pub const FOLLOWED_PER_SECOND: u32 = 50;
/// Of those beyond, one in this many.
pub const FOLLOWED_ONE_IN: u32 = 1000;
/// From here on the wait for a response header is slow, and the request kept as a failure is.
pub const SLOW: Duration = Duration::from_secs(1);
/// Records of failures and slow requests that are kept.
pub const RECENT_FAILURES_MAX: usize = 4096;
/// Records of other requests that are kept.
pub const RECENT_MAX: usize = 4096;
/// How long records are kept.
pub const RECENT_AGE_MAX: Duration = Duration::from_secs(3600);
/// The status in records of clients that left before an answer; it is sent to nobody.
pub const STATUS_CLIENT_GONE: u16 = 499;

/// Edges that a request passes at most, the one that its client has come to among them.
pub const RELAY_EDGES_MAX: u8 = 3;
/// Streams of one connection between two edges.
pub const RELAY_STREAMS_MAX: u32 = 256;
/// Connections to the edge of one node.
pub const RELAY_LINES_MAX: usize = 16;
/// Flows of datagrams at once that are handed over to other edges: anybody may begin flows in the
/// name of others, and half of the streams to a node are left for requests.
pub const RELAY_FLOWS_MAX: usize = RELAY_LINES_MAX * RELAY_STREAMS_MAX as usize / 2;
/// Connections of other edges at once.
pub const RELAY_CONNECTIONS_MAX: usize = 1024;
/// Connections from one address that are at the handshake of edges at once: an edge begins one
/// at a time.
pub const RELAY_HANDSHAKES_MAX: usize = 16;
/// Between two lines in the log of who was refused as an edge.
pub const RELAY_COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);
/// Flow-control window of one stream between two edges.
pub const RELAY_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// Flow-control window of a connection between two edges: that of all its streams, so that
/// readers who stand still hold up nobody else.
pub const RELAY_CONNECTION_WINDOW_BYTES: u32 = RELAY_STREAMS_MAX * RELAY_STREAM_WINDOW_BYTES;
/// Bytes of a header block between two edges: those of a client or of an app, and theirs.
pub const RELAY_HEADER_BYTES_MAX: u32 = 192 * 1024;
/// Silence on a connection between two edges after which one asks whether the other is there.
pub const RELAY_PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may take to say so.
pub const RELAY_PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to open a connection to another edge, with its TLS and a first answer.
pub const RELAY_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From this age on a connection between two edges gets no more requests.
pub const RELAY_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long a connection between two edges is kept without a request.
pub const RELAY_IDLE_MAX: Duration = Duration::from_secs(60);
/// How long an edge that could not be reached is left alone.
pub const RELAY_REDIAL_PAUSE: Duration = Duration::from_millis(500);
/// How long a request may wait at the machine's node before it is told to look elsewhere again.
pub const RELAY_WAIT_MAX: Duration = Duration::from_secs(1);
/// By how much an edge waits longer than the one that it waits for.
pub const RELAY_MARGIN: Duration = Duration::from_secs(2);
/// Times that one request may be told to go elsewhere.
pub const RELAY_ELSEWHERE_MAX: usize = 90;
/// Bytes of what the edge of one node tells of its machines: some hundred thousand.
pub const RELAY_TABLE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// How long until an edge that tells nothing of its machines is asked again.
pub const RELAY_TABLE_RETRY: Duration = Duration::from_secs(1);
/// Between two times that an edge tells of its machines.
pub const RELAY_TABLE_PAUSE: Duration = Duration::from_millis(50);
/// Between two times that an edge tells of the loads of its machines, and of releases that are
/// tried out.
pub const RELAY_LOADS_PAUSE: Duration = Duration::from_secs(1);
/// After this time it tells them again, whether they have changed or not.
pub const RELAY_LOADS_REPEAT: Duration = Duration::from_secs(5);
/// Loads that the edge of one node tells of: of more, the highest.
pub const RELAY_LOADS_MAX: usize = 8192;
/// Bytes in which it tells of them.
pub const RELAY_LOADS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Tallies of releases that an edge tells of, and takes of another one; of more, nobody hears.
pub const RELAY_TALLIES_MAX: usize = 512;
/// A line of them.
pub const RELAY_TALLIES_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most that one service is believed to serve.
pub const RELAY_LOAD_MAX: u32 = 1 << 24;
/// Between two round trips to another edge that are measured.
pub const RELAY_ROUND_TRIP_INTERVAL: Duration = Duration::from_secs(5);
/// The same of the first ones.
pub const RELAY_ROUND_TRIP_FIRST: Duration = Duration::from_millis(100);
/// Round trips of which the shortest counts.
pub const RELAY_ROUND_TRIPS: usize = 8;
/// With fewer nothing is known.
pub const RELAY_ROUND_TRIPS_MIN: usize = 3;
/// Round-trip times at which nodes begin to be farther; below the first they are as near as the
/// edge's own.
pub const RELAY_DISTANCES: [Duration; 6] = [
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

/// Answers that are compressed at once, each of which holds some 300 KiB; others go as they are.
pub const COMPRESSIONS_MAX: usize = 1024;
/// Answers that are smaller would hardly become smaller still.
pub const COMPRESS_BYTES_MIN: u64 = 1024;
/// Bytes that are compressed in one go, and from which on the outcome is sent.
pub const COMPRESS_PIECE_BYTES: usize = 16 * 1024;
/// Pieces that are compressed without an outcome before others have their turn.
pub const COMPRESS_STEPS: usize = 32;
/// Quality of brotli: beyond this one each answer holds 1 MiB and more. It is smaller than gzip's
/// fastest and takes twice the time.
pub const BROTLI_QUALITY: u32 = 1;
/// The most that it looks at at once; it is given pieces of [`COMPRESS_PIECE_BYTES`].
pub const BROTLI_WINDOW_LOG: u32 = 17;
/// What it hands on at a time.
pub const BROTLI_BUFFER_BYTES: usize = 4096;
/// Level of zstd: its fastest.
pub const ZSTD_LEVEL: i32 = 1;
/// Its window of 128 KiB: that of its own choice would take 1 MiB for each answer.
pub const ZSTD_WINDOW_LOG: u32 = 17;

//! Bounds of what is written and read.

use std::time::Duration;

/// Bounds of the logs of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// A segment that has reached this size gets no more lines.
    pub segment_bytes: u64,
    /// How many segments are kept, the newest ones; at least 1.
    pub segments_max: usize,
    /// Longer lines are cut here.
    pub line_bytes_max: usize,
    /// What a machine may write for ever, records as they are on disk. Lines beyond are dropped.
    pub bytes_per_second: u64,
    /// What it may write at once, before that.
    pub burst_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        // 32 MiB a machine: some 200,000 lines, and small beside any image.
        Self {
            segment_bytes: 4 * 1024 * 1024,
            segments_max: 8,
            line_bytes_max: 64 * 1024,
            // An access log of some 3,000 requests a second, or all that is
            // kept once every half minute; the burst is a start with much to say.
            bytes_per_second: 1024 * 1024,
            burst_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Deepest nesting of a JSON line that becomes fields; a deeper one stays text.
pub const FIELDS_DEPTH_MAX: usize = 8;
/// Most members (at all depths) of a JSON line that become fields.
pub const FIELDS_MEMBERS_MAX: usize = 256;
/// Longest level name of a JSON line.
pub const LEVEL_BYTES_MAX: usize = 16;
/// Most records that one query returns.
pub const QUERY_RECORDS_MAX: usize = 10_000;
/// Largest segment that is read: beyond any that a writer makes.
pub const SEGMENT_READ_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most bytes that a follower takes from one segment in one pass.
pub const FOLLOW_BYTES_PER_PASS_MAX: u64 = 1024 * 1024;
/// Most machines that one query or follower looks at.
pub const MACHINES_MAX: usize = 4_096;
/// How often a follower looks for new lines.
pub const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// A segment of the access log that has reached this size gets no more lines.
pub const ACCESS_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Segments of the access log that are kept, the newest ones.
pub const ACCESS_SEGMENTS_MAX: usize = 8;
/// Records that wait to be written to the access log.
pub const ACCESS_QUEUE_MAX: usize = 16_384;
/// Records that are written to it at once.
pub const ACCESS_BATCH_MAX: usize = 512;
/// How long it is left alone after fewer than that: who logs a request should wake nobody.
pub const ACCESS_PAUSE: Duration = Duration::from_millis(50);

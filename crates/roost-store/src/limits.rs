//! Bounds of the control database.

use std::time::Duration;

/// Most connections open at once; SQLite has one writer whatever this is.
pub const CONNECTIONS_MAX: u32 = 8;
/// How long a statement waits for another one's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a free connection.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Most idempotency keys kept; the oldest go first.
pub const IDEMPOTENCY_KEYS_MAX: i64 = 10_000;
/// Longest answer kept for an idempotency key; of a longer one only the request is known.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most requests with an idempotency key under way at once.
pub const REQUESTS_UNDER_WAY_MAX: usize = 1_000;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_KEEP: Duration = Duration::from_secs(24 * 3600);
/// Most rows in an answer that lists releases or deployments. Older ones are forgotten, but
/// for the release that serves.
pub const LIST_MAX: i64 = 200;
/// Most apps.
pub const APPS_MAX: i64 = 10_000;
/// Most custom host names.
pub const HOST_NAMES_MAX: i64 = 10_000;
/// Most dedicated addresses of one app.
pub const ADDRESSES_PER_APP_MAX: i64 = 16;
/// Most attempts kept of one host name.
pub const CERTIFICATE_ATTEMPTS_MAX: i64 = 10;
/// Most secrets of one app.
pub const SECRETS_MAX: i64 = 1_000;
/// Most steps kept of one deployment.
pub const STEPS_MAX: i64 = 5_000;

//! Bounds that more than one crate must agree on.

use crate::size::ByteSize;
use std::time::Duration;

/// Longest app name: one DNS label, short enough for prefixes in front of it.
pub const APP_NAME_BYTES_MAX: usize = 50;
/// Longest machine name.
pub const MACHINE_NAME_BYTES_MAX: usize = 63;
/// Longest secret or environment variable name.
pub const ENV_NAME_BYTES_MAX: usize = 255;
/// Largest secret value.
pub const SECRET_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Most environment variables in one machine config.
pub const ENV_VARS_MAX: usize = 1_000;
/// Largest app configuration file.
pub const APP_CONFIG_BYTES_MAX: usize = 256 * 1024;
/// Most services in one machine config.
pub const SERVICES_MAX: usize = 16;
/// Most static folders of one machine.
pub const STATICS_MAX: usize = 10;
/// Most bytes of a static folder's path, and of its prefix.
pub const STATIC_PATH_BYTES_MAX: usize = 1_024;
/// Most entries in `ports` of a service, each a port or a range.
pub const SERVICE_PORTS_MAX: usize = 16;
/// Most external ports of one machine, those in ranges included.
pub const EXTERNAL_PORTS_MAX: usize = 256;
/// Most machines that a service may keep running without traffic.
pub const MIN_MACHINES_RUNNING_MAX: u32 = 1_000;
/// Shortest time that an exchange of a service may be allowed to stand still.
pub const SERVICE_IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest time that an exchange of a service may be allowed to stand still.
pub const SERVICE_IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// Most sessions for which the edge keeps replays, as rules of one port.
pub const REPLAY_CACHE_RULES_MAX: usize = 16;
/// Most bytes of a host and path below which a replay is kept.
pub const REPLAY_CACHE_PREFIX_BYTES_MAX: usize = 256;
/// Most bytes of the name of a cookie or header that stands for a session.
pub const REPLAY_CACHE_NAME_BYTES_MAX: usize = 64;
/// Shortest time for which a replay may be kept.
pub const REPLAY_CACHE_TTL_MIN: Duration = Duration::from_secs(10);
/// Longest time for which a replay may be kept.
pub const REPLAY_CACHE_TTL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Most response headers that a port may set or take away.
pub const RESPONSE_HEADERS_MAX: usize = 32;
/// Most bytes of them, names and values.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 8 * 1024;
/// Most protocols that a port may offer in TLS.
pub const ALPN_MAX: usize = 8;
/// Longest name of such a protocol (RFC 7301 3.1).
pub const ALPN_BYTES_MAX: usize = 255;
/// Most health checks of one machine, those of its services included.
pub const CHECKS_MAX: usize = 32;
/// Shortest interval that users may give a check of a machine (Fly.io: 2 s).
pub const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(2);
/// Shortest interval that users may give a check of a service (Fly.io: 1 s).
pub const CHECK_INTERVAL_MIN_OF_SERVICES: Duration = Duration::from_secs(1);
/// Longest interval and longest time of grace of a check.
pub const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Longest time that one check may take (Fly.io: 60 s).
pub const CHECK_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Most results in a row that a check may need to turn.
pub const CHECK_THRESHOLD_MAX: u32 = 100;
/// Longest name of a check.
pub const CHECK_NAME_BYTES_MAX: usize = 64;
/// Longest path, service, command, or headers together of a check.
pub const CHECK_TEXT_BYTES_MAX: usize = 8 * 1024;
/// Most headers of a check.
pub const CHECK_HEADERS_MAX: usize = 32;
/// Most words in the command of a check.
pub const CHECK_COMMAND_WORDS_MAX: usize = 64;
/// Most statuses and ranges of statuses that a check may expect.
pub const CHECK_STATUSES_MAX: usize = 16;
/// Longest schedule of a machine.
pub const SCHEDULE_BYTES_MAX: usize = 256;
/// Most programs that one machine runs.
pub const PROCESSES_MAX: usize = 16;
/// Most machines that one stands by for.
pub const STANDBYS_MAX: usize = 16;
/// Largest JSON body of the REST API.
pub const API_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest grace time between the stop signal and the kill (Fly.io: 300 s).
pub const STOP_TIMEOUT_MAX_SECONDS: u64 = 300;
/// Most CPUs of one machine.
pub const CPUS_MAX: u32 = 16;
/// Smallest machine memory.
pub const MEMORY_MIB_MIN: u64 = 16;
/// What a machine may write to its root file system unless it says otherwise (Fly.io: 8 GB).
pub const ROOT_DISK_GIB_DEFAULT: u64 = 8;
/// The most that it may say.
pub const ROOT_DISK_GIB_MAX: u64 = 1_024;
/// The most swap that a machine may have.
pub const SWAP_MIB_MAX: u64 = 64 * 1_024;
/// A node whose disk has less free than this gets no new machines.
pub const NODE_DISK_FREE_MIN: ByteSize = ByteSize::mib(256);
/// Largest output of one `exec` that is kept, per stream.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Largest `/etc/passwd` or `/etc/group` that is read from an image.
pub const ACCOUNT_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most supplementary groups of a user (Linux: `NGROUPS_MAX` is 65,536).
pub const ACCOUNT_GROUPS_MAX: usize = 1_024;

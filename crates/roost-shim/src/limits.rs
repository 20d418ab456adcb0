//! Bounds of the shim.

use std::time::Duration;

/// Longest line of output kept in memory before it is written as a record of its own.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes read from an output pipe at once (the size of a pipe).
pub(crate) const OUTPUT_READ_BYTES: usize = 64 * 1024;
/// Pause before more is read from a machine that writes more than is kept: reading
/// only to drop would keep a core busy, so it has to wait a little at each pipe full.
pub(crate) const FLOOD_PAUSE: Duration = Duration::from_millis(20);
/// Silence of a machine after which dropped lines are mentioned in its log.
pub(crate) const DROPPED_REPORT_DELAY: Duration = Duration::from_secs(1);
/// Time to read the rest of the output once the machine has ended.
pub(crate) const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections served at once on the control socket.
pub(crate) const CONTROL_CONNECTIONS_MAX: usize = 64;
/// Longest command line on the control socket.
pub(crate) const CONTROL_LINE_BYTES_MAX: usize = 1024;
/// Longest output of an outside runtime that is quoted in an error.
pub(crate) const RUNTIME_OUTPUT_BYTES_MAX: usize = 2_000;
/// Time for the kernel to end the processes of a cgroup after they were killed.
pub(crate) const CGROUP_EMPTY_TIMEOUT: Duration = Duration::from_secs(10);

//! Bounds of talking to shims.

use std::time::Duration;

/// Time for a shim to answer on its control socket.
pub(crate) const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a shim to end once its machine has been killed.
pub(super) const SHIM_END_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for the processes of a killed machine to end.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(15);
/// Time between two looks at whether a shim has ended.
pub(super) const SHIM_END_POLL: Duration = Duration::from_millis(5);
/// Time for a shim to leave its cgroup after its lock, as its process ends: files are closed first.
pub(super) const SHIM_LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest message of a shim.
pub(super) const EVENT_BYTES_MAX: u64 = 64 * 1024;
/// How much of a shim's own log is quoted in an error.
pub(super) const SHIM_LOG_BYTES_MAX: usize = 2_000;
/// Time between two looks at a shim whose machine is between two states.
pub(super) const SETTLE_POLL: Duration = Duration::from_millis(50);

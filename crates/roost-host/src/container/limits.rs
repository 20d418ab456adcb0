//! Bounds of the container driver.

use std::time::Duration;

/// Most processes and threads of one machine.
pub(super) const PIDS_MAX: u64 = 4_096;
/// Most open files of one process, where the host allows as many.
pub(super) const OPEN_FILES_MAX: u64 = 65_536;
/// Weight of one whole core (cgroup v1 `cpu.shares`; the runtimes convert it for v2).
pub(super) const CPU_SHARES_PER_CORE: u64 = 1_024;
/// Time for a machine to be created and started; a slow disk takes seconds.
pub(super) const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of a command given on standard input.
pub(super) const EXEC_ARGS_MAX: usize = 1_000;
/// Time beyond a command's own for its helper to report.
pub(super) const EXEC_REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to read the rest of a command's output when something it left behind holds the pipe.
pub(super) const EXEC_DRAIN_TIMEOUT: Duration = Duration::from_millis(250);
/// Most name servers that resolvers look at (`MAXNS`).
pub(super) const NAMESERVERS_MAX: usize = 3;
/// Most processes of a machine whose descriptors are searched for a socket's owner.
pub(super) const SOCKET_OWNERS_MAX: usize = 256;
/// Most descriptors of all of them that are looked at.
pub(super) const DESCRIPTORS_MAX: usize = 16_384;
/// How much is read of a table of sockets, which a machine can make long.
pub(super) const SOCKET_TABLE_BYTES_MAX: u64 = 1024 * 1024;
/// Most processes that are listed.
pub(super) const PROCESSES_MAX: usize = 1_024;
/// Most that is read of a process's arguments.
pub(super) const COMMAND_BYTES_MAX: u64 = 4_096;
/// Most that is read of a process's state, which the kernel writes.
pub(super) const STATUS_BYTES_MAX: u64 = 16 * 1024;

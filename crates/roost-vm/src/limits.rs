//! Bounds of one VM's process.

use std::time::Duration;

/// Pause before a guest that refuses to work is asked again.
pub(crate) const AGENT_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Time for one request to the agent that needs no work of the guest. An
/// emulated guest on a busy host needs seconds for what takes microseconds.
pub(crate) const AGENT_CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Time without a word from the agent after which its session is given up, and
/// the same again for another session, after which the guest is taken for dead.
pub(crate) const AGENT_LOST_TIMEOUT: Duration = Duration::from_secs(90);
/// Time to take what a guest said before it ended.
pub(crate) const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Most open connections on the control socket.
pub(crate) const CONTROL_CONNECTIONS_MAX: usize = 32;
/// Longest command on the control socket, in bytes.
pub(crate) const CONTROL_LINE_BYTES_MAX: u64 = 4 * 1024;
/// Commands that wait for their turn.
pub(crate) const COMMANDS_MAX: usize = 16;
/// Longest line of output; longer ones are cut into several records, in bytes.
pub(crate) const LOG_LINE_BYTES_MAX: usize = 64 * 1024;
/// Pause while a machine writes more than is kept.
pub(crate) const FLOOD_PAUSE: Duration = Duration::from_millis(20);
/// Silence of a machine after which dropped lines are mentioned in its log.
pub(crate) const DROPPED_REPORT_DELAY: Duration = Duration::from_secs(1);
/// Time for the processes of a machine's cgroup to end.
pub(crate) const CGROUP_EMPTY_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that go into the guest's random number generator.
pub(crate) const RANDOM_SEED_BYTES: usize = 64;
/// Memory that a hypervisor may use beyond that of its guest. QEMU's own is
/// 60 to 90 MiB under emulation, of which translated code is the most.
pub(crate) const OVERHEAD_BYTES: u64 = 256 * 1024 * 1024;
/// What may be read of the root image at once, in seconds of its rate: a start
/// is not to wait for the limit, which is there for those who read all the time.
pub(crate) const ROOT_IMAGE_BURST_SECONDS: u32 = 60;
/// What may be moved to and from the disk for what it writes at once, likewise.
pub(crate) const SCRATCH_BURST_SECONDS: u32 = 1;
/// Most threads of a hypervisor: one per processor of the guest, and workers.
pub(crate) const HYPERVISOR_THREADS_MAX: u64 = 256;

//! Bounds of the Firecracker driver.

use roost_model::size::ByteSize;
use std::time::Duration;

/// Time for a program to say its version.
pub(super) const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Most that is read of what it says then.
pub(super) const VERSION_BYTES_MAX: u64 = 16 * 1024;
/// Time for a new process to answer for the first time; some 20 ms on an idle
/// machine, most of them for the copy that the jailer makes of the program.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time between two looks whether it answers: short first.
pub(super) const START_POLL_MIN: Duration = Duration::from_millis(2);
/// The longest time between two looks.
pub(super) const START_POLL_MAX: Duration = Duration::from_millis(50);
/// Time to answer a request. The start of a VM takes longest, 1.4 s where KVM
/// itself is emulated.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the guest to take a stream, or not to.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a killed process to be gone.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to be gone for a process that closed its sockets, before that counts as
/// something else.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for its last words to come through the pipes when it is gone.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Most bytes of an answer. The longest that is asked for has 200 bytes.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of a refusal that go into an error.
pub(super) const REASON_BYTES_MAX: usize = 512;
/// Longest line before a stream to the guest: `OK 4294967295`.
pub(super) const CONNECT_LINE_BYTES_MAX: usize = 32;
/// Most bytes of what a process says that are kept: the last ones.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * 1024;
/// Longest report of its metrics; version 1.17 writes 12 KB.
pub(super) const METRICS_BYTES_MAX: usize = 256 * 1024;
/// Most drives of a VM: `vda` to `vdp`.
pub(super) const DRIVES_MAX: usize = 16;
/// Most processors of a VM, by Firecracker's specification.
pub(super) const CPUS_MAX: u32 = 32;
/// Longest id, by the jailer's rules.
pub(super) const ID_BYTES_MAX: usize = 64;
/// Smallest mapping of the process that counts as memory of the guest: what it
/// has of its own, stacks and heap, is smaller.
pub(super) const GUEST_MAPPING_MIN: ByteSize = ByteSize::mib(16);
/// Most open files of the process.
pub(super) const OPEN_FILES_MAX: u64 = 1_024;
/// Largest file that it may write beside drives and snapshots, in bytes.
pub(super) const FILE_BYTES_MARGIN: u64 = 64 * 1024 * 1024;

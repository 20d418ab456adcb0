//! Bounds of the QEMU driver.

use std::time::Duration;

/// Time for the program to say its version.
pub(super) const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a new process to answer for the first time; 0.1 s on an idle
/// machine, a hundred times that where twenty start at once on two cores.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to answer a command; it waits for one device's work at most.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks at a snapshot that is being written or read: short first.
pub(super) const MIGRATE_POLL_MIN: Duration = Duration::from_millis(2);
/// The longest time between two looks.
pub(super) const MIGRATE_POLL_MAX: Duration = Duration::from_millis(50);
/// Time for a process to end that has closed its control channel.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest line of the control channel; the longest answer that is asked for has 1 KB.
pub(super) const QMP_LINE_BYTES_MAX: u64 = 64 * 1024;
/// Answers that wait to be fetched; one command is under way at a time.
pub(super) const QMP_REPLIES_MAX: usize = 4;
/// Most drives of a VM: `vda` to `vdp`.
pub(super) const DRIVES_MAX: usize = 16;
/// Largest file that a process may write beside its drives, in bytes.
pub(super) const FILE_BYTES_MARGIN: u64 = 64 * 1024 * 1024;
/// Translated code that is kept under emulation, in MiB; by itself it would
/// take up to 1 GiB. A boot of Debian's kernel makes 46 of it. All is
/// translated again when it is full.
pub(super) const TRANSLATION_CACHE_MIB: u64 = 64;

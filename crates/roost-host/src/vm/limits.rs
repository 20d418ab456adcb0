//! Bounds of the VM driver.

use std::time::Duration;

/// Time for a snapshot to be written: the guest is frozen, its memory goes to
/// disk at 50 MB/s on a slow one.
pub(super) const SUSPEND_TIMEOUT: Duration = Duration::from_secs(300);
/// Time for an agent to answer what needs no work of it.
pub(super) const AGENT_TIMEOUT: Duration = Duration::from_secs(20);
/// Time beyond a command's own for the agent to report its end.
pub(super) const EXEC_REPORT_TIMEOUT: Duration = Duration::from_secs(20);
/// Most words of a command.
pub(super) const EXEC_ARGS_MAX: usize = 1_000;
/// Most bytes of standard input in one message.
pub(super) const STDIN_PART_BYTES: usize = 32 * 1024;
/// Messages of standard input that wait for the guest.
pub(super) const STDIN_PARTS_MAX: usize = 4;
/// Most listening sockets that are reported.
pub(super) const SOCKETS_MAX: usize = 256;
/// Longest name of a guest's process that is reported, in characters.
pub(super) const PROCESS_NAME_CHARS_MAX: usize = 64;
/// Longest message of an agent that is quoted, in characters.
pub(super) const MESSAGE_CHARS_MAX: usize = 1_000;

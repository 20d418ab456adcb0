//! Bounds of what is the same under every hypervisor.

use std::time::Duration;

/// How much of a console's end is kept, in bytes.
pub(super) const CONSOLE_TAIL_BYTES: usize = 16 * 1024;
/// How much of it is quoted in an error, in bytes.
pub(super) const CONSOLE_QUOTE_BYTES: usize = 1_500;
/// Pause between two attempts to reach the agent of a guest that boots.
pub(super) const AGENT_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Time for an agent to greet. An emulated guest on a busy host needs seconds
/// for what takes microseconds.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(20);
/// Most characters of what a guest says in an error.
pub(super) const MESSAGE_CHARS_MAX: usize = 1_000;

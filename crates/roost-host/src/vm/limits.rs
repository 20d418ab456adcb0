//! Bounds of the VM driver.

use crate::vmm::snapshot::suspend_timeout;
use roost_model::size::ByteSize;
use std::time::Duration;

/// Most memory of a machine, by `roost_model`.
const MEMORY_MAX: ByteSize = ByteSize::gib(128);
/// Time for a suspend of any machine. Whoever knows its size may give up
/// sooner; `roost-vm` does.
pub(super) const SUSPEND_TIMEOUT: Duration = suspend_timeout(MEMORY_MAX);
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
/// Most processes of a guest that are reported.
pub(super) const PROCESSES_MAX: usize = 1_024;
/// Longest command or directory of one, in characters.
pub(super) const PROCESS_TEXT_CHARS_MAX: usize = 4_096;
/// Longest name of a guest's process that is reported, in characters.
pub(super) const PROCESS_NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::MEMORY_MAX;
    use roost_model::limits::CPUS_MAX;
    use roost_model::machine::{CpuKind, Guest};

    #[test]
    fn no_machine_has_more_memory_than_a_suspend_has_time_for() {
        for cpu_kind in [CpuKind::Shared, CpuKind::Performance] {
            let guest = Guest {
                cpu_kind,
                n_cpus: CPUS_MAX,
                ..Guest::DEFAULT
            };
            assert!(guest.memory_max() <= MEMORY_MAX);
        }
    }
}

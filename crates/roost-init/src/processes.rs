//! The processes of the guest, but for init and those of the kernel.

use crate::failure::Failure;
use crate::limits::{
    PROCESS_COMMAND_BYTES_MAX, PROCESS_COST_BYTES, PROCESS_STATUS_BYTES_MAX, PROCESSES_BYTES_MAX,
    PROCESSES_SEARCHED_MAX,
};
use crate::stats::{read_proc, read_start};
use roost_agent::proto::RunningProcess;
use roost_model::procfs::{self, ProcessStat, ProcessStatus};
use std::time::Duration;

/// Lists them, as many as an answer holds, the lowest ids first; blocks.
pub(crate) fn list() -> Result<Vec<RunningProcess>, Failure> {
    let uptime = procfs::uptime(&read_proc("/proc/uptime")?)
        .ok_or_else(|| Failure::guest("/proc/uptime does not have the known form"))?;
    let mut pids: Vec<u32> = pids().take(PROCESSES_SEARCHED_MAX).collect();
    pids.sort_unstable();
    let mut bytes_left = PROCESSES_BYTES_MAX;
    let own = std::process::id();
    // One that ended under our eyes is left out.
    let processes = pids.into_iter().filter(|pid| *pid != own);
    let processes = processes.filter_map(|pid| read(pid, uptime));
    let processes = processes.take_while(|process| {
        let n_bytes = process.command.len() + process.directory.len() + PROCESS_COST_BYTES;
        let left = bytes_left.checked_sub(n_bytes);
        bytes_left = left.unwrap_or_default();
        left.is_some()
    });
    Ok(processes.collect())
}

/// The ids of all processes, in no order.
pub(crate) fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn read(pid: u32, uptime: Duration) -> Option<RunningProcess> {
    let file = |name: &str, max| read_start(&format!("/proc/{pid}/{name}"), max).ok();
    let stat = ProcessStat::parse(&file("stat", PROCESS_STATUS_BYTES_MAX)?)?;
    if stat.is_kernel_thread {
        return None;
    }
    let status = ProcessStatus::parse(&file("status", PROCESS_STATUS_BYTES_MAX)?)?;
    let arguments = file("cmdline", PROCESS_COMMAND_BYTES_MAX)?;
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let age = uptime.saturating_sub(stat.started_after);
    Some(RunningProcess {
        pid,
        command: procfs::command(&arguments, &stat.name),
        directory: procfs::one_line(&directory.to_string_lossy()),
        age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        cpu_us: u64::try_from(stat.cpu_time.as_micros()).unwrap_or(u64::MAX),
        memory_bytes: status.resident,
    })
}

#[cfg(test)]
mod tests {
    use super::{list, pids};

    #[test]
    fn a_child_is_listed_with_its_command_and_this_process_is_not() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .current_dir("/")
            .spawn()
            .unwrap();
        let processes = list();
        child.kill().unwrap();
        child.wait().unwrap();
        let processes = processes.unwrap();
        let listed = |pid: u32| processes.iter().find(|process| process.pid == pid);
        let found = listed(child.id()).unwrap();
        assert_eq!(
            (found.command.as_str(), found.directory.as_str()),
            ("sleep 600", "/")
        );
        assert!(found.memory_bytes > 0);
        assert!(pids().any(|pid| pid == std::process::id()));
        assert!(listed(std::process::id()).is_none());
    }
}

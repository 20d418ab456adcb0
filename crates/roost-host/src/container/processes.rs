//! The processes of a machine, read from the host's `/proc`.
//!
//! What a process says of itself there (its arguments, its working directory)
//! is its own to choose: it is cut, and on one line.

use super::limits::{COMMAND_BYTES_MAX, PROCESSES_MAX, STATUS_BYTES_MAX};
use super::sockets;
use roost_model::procfs::{self, ProcessStat, ProcessStatus};
use roost_proto::worker::Process;
use std::io::Read as _;
use std::time::Duration;

/// Lists those of `pids` that still run, which are in the network namespace of `first`. Blocks.
pub(super) fn list(first: u32, pids: &[u32]) -> std::io::Result<Vec<Process>> {
    let pids = &pids[..pids.len().min(PROCESSES_MAX)];
    let sockets = sockets::list(first, pids)?;
    let uptime = uptime()?;
    let mut processes: Vec<Process> = pids
        .iter()
        // One that ended under our eyes is left out.
        .filter_map(|pid| {
            let mut process = read(*pid, uptime)?;
            let own = sockets.iter().filter(|(owner, _)| *owner == Some(*pid));
            process.listening = own.map(|(_, socket)| socket.clone()).collect();
            Some(process)
        })
        .collect();
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

fn read(pid: u32, uptime: Duration) -> Option<Process> {
    let file = |name: &str, max| read_start(&format!("/proc/{pid}/{name}"), max);
    let stat = ProcessStat::parse(&file("stat", STATUS_BYTES_MAX)?)?;
    let status = ProcessStatus::parse(&file("status", STATUS_BYTES_MAX)?)?;
    let arguments = file("cmdline", COMMAND_BYTES_MAX)?;
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    Some(Process {
        pid: status.pid_inside,
        command: procfs::command(&arguments, &stat.name),
        directory: directory.map(|path| procfs::one_line(&path.to_string_lossy())),
        age: uptime.saturating_sub(stat.started_after),
        cpu_time: stat.cpu_time,
        memory: status.resident,
        listening: vec![],
    })
}

/// The beginning of a file of `/proc`; none when the process is gone.
fn read_start(path: &str, max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(max).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// For how long the host has run, which processes' starts are counted from.
fn uptime() -> std::io::Result<Duration> {
    procfs::uptime(&std::fs::read_to_string("/proc/uptime")?)
        .ok_or_else(|| std::io::Error::other("/proc/uptime does not have the known form"))
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn this_process_is_found_with_its_socket_and_one_that_is_gone_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = std::process::id();
        let found = list(own, &[own, u32::MAX]).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].memory > 0);
        let directory = std::env::current_dir().unwrap();
        assert_eq!(found[0].directory.as_deref(), directory.to_str());
        let mut sockets = found[0].listening.iter();
        assert!(sockets.any(|socket| socket.address == address));
    }
}

//! The processes of a machine, read from the host's `/proc`.
//!
//! What a process says of itself there (its arguments, its working directory)
//! is its own to choose: it is cut, and its control characters are replaced.

use super::limits::{COMMAND_BYTES_MAX, PROCESSES_MAX, STATUS_BYTES_MAX};
use super::sockets;
use crate::vmm::stats::TICKS_PER_SECOND;
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
    let stat = Stat::parse(&file("stat", STATUS_BYTES_MAX)?)?;
    let status = Status::parse(&file("status", STATUS_BYTES_MAX)?)?;
    let arguments = file("cmdline", COMMAND_BYTES_MAX)?;
    let command = match shown(arguments.trim_end_matches('\0')) {
        // A thread of the kernel, or a process that is ending.
        empty if empty.is_empty() => format!("[{}]", shown(&stat.name)),
        command => command,
    };
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).ok();
    Some(Process {
        pid: status.pid_inside,
        command,
        directory: directory.map(|path| shown(&path.to_string_lossy())),
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

/// Text for one line of a table; arguments are separated by zeros (proc(5)).
fn shown(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\0' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// For how long the host has run, which processes' starts are counted from.
fn uptime() -> std::io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let seconds = text.split_whitespace().next().unwrap_or_default().parse();
    seconds
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| std::io::Error::other("/proc/uptime does not have the known form"))
}

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    cpu_time: Duration,
    /// After the host.
    started_after: Duration,
}

impl Stat {
    /// Reads `7 (a name) S …`; the name may have brackets and spaces in it (proc(5)).
    fn parse(text: &str) -> Option<Self> {
        let (start, rest) = text.rsplit_once(')')?;
        let (_, name) = start.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is field 3 of the manual.
        let ticks = |field: usize| Some(of_ticks(fields.get(field - 3)?.parse().ok()?));
        Some(Self {
            name: name.to_owned(),
            cpu_time: ticks(14)?.checked_add(ticks(15)?)?,
            started_after: ticks(22)?,
        })
    }
}

fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_PER_SECOND))
}

/// What is needed of `/proc/PID/status`.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    /// As the innermost of its namespaces has it.
    pid_inside: u32,
    /// Bytes.
    resident: u64,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        // A process that is ending has no memory.
        let resident = field("VmRSS").and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = resident.unwrap_or("0").parse().ok()?;
        Some(Self {
            pid_inside: field("NSpid")?.split_whitespace().last()?.parse().ok()?,
            resident: kib.checked_mul(1024)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Stat, Status, list, shown};
    use std::time::Duration;

    #[test]
    fn a_name_cannot_pass_for_other_fields() {
        let text = "7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 900 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.name, "a) R 1 (b");
        assert_eq!(stat.cpu_time, Duration::from_secs(2));
        assert_eq!(stat.started_after, Duration::from_secs(9));
        assert_eq!(Stat::parse("7 no name"), None);
        assert_eq!(Stat::parse("7 (short) S 1 2"), None);
    }

    #[test]
    fn the_innermost_process_id_is_told_and_a_zombie_has_no_memory() {
        let running = "Name:\tsh\nNSpid:\t4711\t23\t1\nVmRSS:\t     12 kB\n";
        let zombie = "Name:\tsh\nNSpid:\t4711\t23\t7\n";
        let inside = |text| Status::parse(text).map(|status| (status.pid_inside, status.resident));
        assert_eq!(inside(running), Some((1, 12 * 1024)));
        assert_eq!(inside(zombie), Some((7, 0)));
        assert_eq!(inside("Name:\tsh\n"), None);
    }

    #[test]
    fn what_a_process_calls_itself_stays_on_one_line() {
        assert_eq!(
            shown("sh\0-c\0echo\n\u{1b}[31m"),
            "sh -c echo\u{fffd}\u{fffd}[31m"
        );
    }

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

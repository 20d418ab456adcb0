//! What processes use, by the kernel's records (proc(5)).

use std::fs;
use std::time::Duration;

/// `USER_HZ`: the kernel's unit of processor times.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of a process, and of its children that have ended.
pub(crate) fn cpu(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // utime, stime, cutime, cstime; the first field here is the third of all.
    let fields = after_name.split(' ').skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// Processor time of a process as the scheduler counts it, to the nanosecond.
pub(crate) fn scheduled(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let nanoseconds = tasks.map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = schedstat.split(' ').next().unwrap_or_default();
        first.parse::<u64>().unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}

/// The parent of a process; none of one that has ended.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Resident memory of a process in KiB; of a page that several processes
/// share each has its part.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Memory {
    /// Memory of a guest.
    pub(crate) guest_kib: u64,
    /// All other.
    pub(crate) own_kib: u64,
}

/// Reads it; mappings of exactly this size are a guest's.
pub(crate) fn memory(pid: i32, guest_size_kib: u64) -> Memory {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut memory = Memory::default();
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let kib: u64 = value.parse().unwrap_or(0);
        match name {
            // The first line about a mapping.
            "Size:" => is_guest = kib == guest_size_kib,
            "Pss:" if is_guest => memory.guest_kib += kib,
            "Pss:" => memory.own_kib += kib,
            _ => {}
        }
    }
    memory
}

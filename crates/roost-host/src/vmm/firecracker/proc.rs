//! What the kernel says of a Firecracker process (proc(5)).

use super::limits::PROC_BYTES_MAX;
use crate::vmm::VmStats;
use roost_model::size::ByteSize;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

/// `Seccomp:` of a thread that has a filter.
const FILTERED: &str = "2";
/// How Firecracker's own threads are called, beside the first one; others are the kernel's.
const THREAD_PREFIX: &str = "fc_";
/// Smallest mapping that counts as memory of the guest: what Firecracker has of
/// its own, stacks and heap, is smaller.
const GUEST_MAPPING_KB_MIN: u64 = 16 * 1024;

/// `USER_HZ`, the same for all programs of x86-64 and AArch64.
const TICKS_PER_SECOND: u64 = 100;

/// Which threads have a filter of system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filtered {
    /// All of Firecracker's own.
    All,
    /// Some of them, as before the start of the guest.
    Some,
    /// None.
    None,
}

/// Looks at all threads of a process. Blocks.
pub(super) fn filtered(pid: u32) -> io::Result<Filtered> {
    let (mut n_filtered, mut n_open) = (0, 0);
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let dir = entry?.path();
        let text = match read(&dir.join("status").to_string_lossy()) {
            Ok(text) => text,
            // It has ended since the directory was read.
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let is_first = dir.ends_with(pid.to_string());
        let is_own = field(&text, "Name:").is_some_and(|name| name.starts_with(THREAD_PREFIX));
        match field(&text, "Seccomp:") {
            Some(FILTERED) => n_filtered += 1,
            _ if is_first || is_own => n_open += 1,
            _ => {}
        }
    }
    Ok(match (n_filtered, n_open) {
        (0, _) => Filtered::None,
        (_, 0) => Filtered::All,
        _ => Filtered::Some,
    })
}

/// What the process costs. Blocks.
pub(super) fn stats(pid: u32) -> io::Result<VmStats> {
    let memory = read(&format!("/proc/{pid}/smaps"))?;
    let (resident, guest_resident) = resident(&memory);
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let ticks = cpu_ticks(&stat).ok_or_else(|| io::Error::other("unexpected form of stat"))?;
    Ok(VmStats {
        resident,
        guest_resident,
        cpu: Duration::from_millis(ticks.saturating_mul(1_000) / TICKS_PER_SECOND),
    })
}

/// Memory of all mappings, and of those that are the guest's.
fn resident(smaps: &str) -> (ByteSize, ByteSize) {
    let (mut all, mut guest, mut is_guest) = (0, 0, false);
    for line in smaps.lines() {
        if let Some(kb) = kilobytes(line, "Size:") {
            is_guest = kb >= GUEST_MAPPING_KB_MIN;
        } else if let Some(kb) = kilobytes(line, "Rss:") {
            all += kb;
            guest += if is_guest { kb } else { 0 };
        }
    }
    (ByteSize::kib(all), ByteSize::kib(guest))
}

fn kilobytes(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// `utime` and `stime`: fields 14 and 15; the second one is a name in
/// parentheses, which may have blanks in it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| Some(line.strip_prefix(name)?.trim()))
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(PROC_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::{Filtered, cpu_ticks, filtered, resident, stats};
    use roost_model::size::ByteSize;

    #[test]
    fn memory_of_the_guest_is_told_from_the_rest() {
        let smaps = "7f00-7f01 rw-p 0 00:00 0\nSize: 131072 kB\nRss: 40000 kB\nPss: 1 kB\n\
            5500-5600 r-xp 0 08:01 9 /firecracker\nSize: 2048 kB\nRss: 1500 kB\n";
        assert_eq!(
            resident(smaps),
            (ByteSize::kib(41_500), ByteSize::kib(40_000))
        );
    }

    #[test]
    fn processor_time_is_read_past_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4 1 0 0 0 120 30 0 0 20 0 3 0 5";
        assert_eq!(cpu_ticks(stat), Some(150));
        assert_eq!(cpu_ticks("7 (x) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_no_filter() {
        let pid = std::process::id();
        assert!(stats(pid).unwrap().resident > ByteSize::kib(100));
        // Of a test that runs under a filter nothing can be said.
        if let Ok(Filtered::Some) = filtered(pid) {
            panic!("threads of one process differ");
        }
    }
}

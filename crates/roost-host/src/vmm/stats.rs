//! What a hypervisor process costs, by the kernel's records (proc(5)).

use super::{VmStats, VmmError};
use roost_model::procfs::ProcessStat;
use roost_model::size::ByteSize;
use std::fs::File;
use std::io::{self, Read as _};

/// How much is read of a record of a process.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// Reads what a process uses; of its mappings those of certain sizes are the guest's.
pub(super) async fn read(
    pid: u32,
    is_guest: impl Fn(ByteSize) -> bool + Send + 'static,
) -> Result<VmStats, VmmError> {
    // The kernel walks the page tables for this.
    let read = tokio::task::spawn_blocking(move || read_stats(pid, is_guest)).await;
    read.map_err(io::Error::other)
        .and_then(|result| result)
        .map_err(|source| VmmError::Io {
            operation: format!("read what process {pid} uses"),
            source,
        })
}

/// Reads a file of a process's directory, up to a limit.
pub(super) fn read_record(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(RECORD_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn read_stats(pid: u32, is_guest: impl Fn(ByteSize) -> bool) -> io::Result<VmStats> {
    let smaps = read_record(&format!("/proc/{pid}/smaps"))?;
    let (resident, guest_resident) = resident(&smaps, is_guest);
    let stat = read_record(&format!("/proc/{pid}/stat"))?;
    let stat = ProcessStat::parse(&stat).ok_or_else(|| io::Error::other("no processor times"))?;
    Ok(VmStats {
        resident,
        guest_resident,
        cpu: stat.cpu_time,
    })
}

/// Bytes in use of all mappings, and of the guest's (proc_pid_smaps(5)).
fn resident(smaps: &str, is_guest: impl Fn(ByteSize) -> bool) -> (ByteSize, ByteSize) {
    let (mut all_kib, mut guest_kib) = (0, 0);
    let mut is_guests = false;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap_or(0);
            all_kib += kib;
            guest_kib += if is_guests { kib } else { 0 };
        } else if let Some(size) = mapping_size(line) {
            is_guests = is_guest(size);
        }
    }
    (ByteSize::kib(all_kib), ByteSize::kib(guest_kib))
}

/// The size of a mapping, if the line is the first one of one: `FROM-TO rw-p …`.
fn mapping_size(line: &str) -> Option<ByteSize> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    number(to)?.checked_sub(number(from)?).map(ByteSize)
}

#[cfg(test)]
mod tests {
    use super::resident;
    use roost_model::size::ByteSize;

    #[test]
    fn guest_memory_is_told_from_the_process_s_own() {
        let smaps = "55d0c8a00000-55d0c8e00000 r--p 00000000 08:01 1 /usr/bin/qemu-system-x86_64\n\
            Size:               4096 kB\nRss:                 100 kB\n\
            7f0000000000-7f0010000000 rw-p 00000000 00:00 0 \n\
            Rss:                2048 kB\nAnonymous:          2048 kB\n\
            7ffd0-7ffe0 rw-p 00000000 00:00 0 [stack]\nRss:                  10 kB\n";
        let expected = (ByteSize::kib(2_158), ByteSize::kib(2_048));
        assert_eq!(resident(smaps, |size| size == ByteSize::mib(256)), expected);
    }
}

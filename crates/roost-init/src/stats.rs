//! How much the guest uses, from the kernel's own accounts.

use crate::failure::{Attempt as _, Failure};
use crate::limits::PROC_FILE_BYTES_MAX;
use roost_agent::proto::{DiskStats, StatsReply};
use std::fs::File;
use std::io::Read as _;

/// The kernel counts sectors of this size, whatever those of the disk are.
const SECTOR_BYTES: u64 = 512;
/// The kernel counts CPU time in ticks: 100 a second, on all that roost runs on.
const TICK_US: u64 = 10_000;
const KIB: u64 = 1024;

/// A place where something is mounted, and the devices behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// The place.
    pub(crate) path: String,
    /// Names of devices; the root has two.
    pub(crate) devices: Vec<String>,
}

/// Everything at once.
pub(crate) fn collect(disks: &[Disk]) -> Result<StatsReply, Failure> {
    let mut stats = StatsReply::default();
    add_memory(&mut stats, &read_proc("/proc/meminfo")?);
    add_cpu(&mut stats, &read_proc("/proc/stat")?);
    add_load(&mut stats, &read_proc("/proc/loadavg")?);
    add_network(&mut stats, &read_proc("/proc/net/dev")?);
    let counters = read_proc("/proc/diskstats")?;
    stats.disks = disks
        .iter()
        .map(|disk| disk_stats(disk, &counters))
        .collect();
    Ok(stats)
}

/// Reads a file of the kernel.
pub(crate) fn read_proc(path: &str) -> Result<String, Failure> {
    read_start(path, PROC_FILE_BYTES_MAX)
}

/// Reads the beginning of a file of the kernel.
pub(crate) fn read_start(path: &str, bytes_max: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut bytes))
        .attempt(format_args!("read {path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines of `Name:  number kB`.
fn add_memory(stats: &mut StatsReply, meminfo: &str) {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        number(line.unwrap_or_default().split_ascii_whitespace().next()) * KIB
    };
    stats.memory_total_bytes = bytes("MemTotal:");
    stats.memory_available_bytes = bytes("MemAvailable:");
}

/// The first line: `cpu user nice system idle iowait irq softirq steal …`.
fn add_cpu(stats: &mut StatsReply, stat: &str) {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> = line
        .unwrap_or_default()
        .split_ascii_whitespace()
        .take(8)
        .map(|word| number(Some(word)))
        .collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    stats.cpu_idle_us = idle.saturating_mul(TICK_US);
    stats.cpu_busy_us = (ticks.iter().sum::<u64>() - idle).saturating_mul(TICK_US);
}

/// `0.20 0.18 0.12 1/80 11206`: load, then running and all threads.
fn add_load(stats: &mut StatsReply, loadavg: &str) {
    let mut words = loadavg.split_ascii_whitespace();
    let mut hundredths = || {
        let digits = words.next().unwrap_or_default().replace('.', "");
        digits.parse().unwrap_or_default()
    };
    stats.load_1_hundredths = hundredths();
    stats.load_5_hundredths = hundredths();
    stats.load_15_hundredths = hundredths();
    let n_threads = words.next().and_then(|word| word.split('/').nth(1));
    stats.n_processes = u32::try_from(number(n_threads)).unwrap_or(u32::MAX);
}

/// Lines of `link: bytes packets … ` with eight numbers for each direction.
fn add_network(stats: &mut StatsReply, dev: &str) {
    for (link, counters) in dev.lines().filter_map(|line| line.split_once(':')) {
        if link.trim() == "lo" {
            continue;
        }
        let words: Vec<&str> = counters.split_ascii_whitespace().collect();
        stats.received_bytes += number(words.first().copied());
        stats.sent_bytes += number(words.get(8).copied());
    }
}

fn disk_stats(disk: &Disk, diskstats: &str) -> DiskStats {
    let (read_bytes, written_bytes) = transferred(&disk.devices, diskstats);
    let mut stats = DiskStats {
        path: disk.path.clone(),
        read_bytes,
        written_bytes,
        ..DiskStats::default()
    };
    // The app may have unmounted it.
    if let Ok(space) = rustix::fs::statvfs(disk.path.as_str()) {
        stats.total_bytes = space.f_blocks.saturating_mul(space.f_frsize);
        stats.available_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    }
    stats
}

/// Lines of `major minor name reads merged sectors ms writes merged sectors …`.
fn transferred(devices: &[String], diskstats: &str) -> (u64, u64) {
    let mut sectors = (0, 0);
    for line in diskstats.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words
            .get(2)
            .is_some_and(|name| devices.iter().any(|device| device == name))
        {
            sectors.0 += number(words.get(5).copied());
            sectors.1 += number(words.get(9).copied());
        }
    }
    (sectors.0 * SECTOR_BYTES, sectors.1 * SECTOR_BYTES)
}

/// What is not a number counts as nothing, and none is so large that a sum overflows.
fn number(word: Option<&str>) -> u64 {
    let number: u64 = word.and_then(|word| word.parse().ok()).unwrap_or_default();
    number.min(1 << 48)
}

#[cfg(test)]
mod tests {
    use super::{Disk, add_cpu, add_load, add_memory, add_network, collect, transferred};
    use roost_agent::proto::StatsReply;

    #[test]
    fn figures_of_the_kernel_are_understood() {
        let mut stats = StatsReply::default();
        add_memory(
            &mut stats,
            "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   600 kB\n",
        );
        add_cpu(&mut stats, "cpu  10 1 9 70 10 0 0 0 5 5\ncpu0 1 1 1 1\n");
        add_load(&mut stats, "0.25 1.07 12.50 1/83 99\n");
        let dev = "Inter-| Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  \
                   eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n";
        add_network(&mut stats, dev);
        assert_eq!(
            (stats.memory_total_bytes, stats.memory_available_bytes),
            (1_024_000, 614_400)
        );
        assert_eq!((stats.cpu_busy_us, stats.cpu_idle_us), (200_000, 800_000));
        let load = (
            stats.load_1_hundredths,
            stats.load_5_hundredths,
            stats.load_15_hundredths,
        );
        assert_eq!(load, (25, 107, 1250));
        assert_eq!(
            (stats.n_processes, stats.received_bytes, stats.sent_bytes),
            (83, 100, 200)
        );
    }

    #[test]
    fn a_disk_is_what_its_devices_are_together() {
        let diskstats = " 254 0 vda 10 0 8 1 0 0 0 0 0 0 0\n 254 16 vdb 1 0 2 1 3 0 4 0 0 0 0\n \
                         254 32 vdc 9 9 9 9 9 9 9 9\n broken\n";
        let devices = ["vda".to_owned(), "vdb".to_owned()];
        assert_eq!(transferred(&devices, diskstats), (10 * 512, 4 * 512));
    }

    #[test]
    fn a_kernel_that_runs_has_figures() {
        let root = Disk {
            path: "/".to_owned(),
            devices: Vec::new(),
        };
        let stats = collect(&[root]).unwrap();
        assert!(stats.memory_total_bytes > stats.memory_available_bytes);
        assert!(stats.cpu_busy_us > 0 && stats.n_processes > 0);
        assert!(stats.disks[0].total_bytes > 0);
    }
}

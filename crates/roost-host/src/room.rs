//! How much room a host has: cores, memory, disk.

use roost_model::size::ByteSize;
use std::io;
use std::path::{Path, PathBuf};

/// Cores that this process may use.
pub fn n_cores() -> io::Result<u32> {
    let n = std::thread::available_parallelism()?.get();
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Memory of the host, used or not.
pub fn memory_total() -> io::Result<ByteSize> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        kib.parse::<u64>().ok()
    });
    total
        .map(ByteSize::kib)
        .ok_or_else(|| io::Error::other("/proc/meminfo does not say MemTotal"))
}

/// Memory that this process may have: the least of what its cgroups allow, and of the host's.
pub fn memory_of_process() -> io::Result<ByteSize> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = cgroups.lines().flat_map(memory_limit_files);
    let limits = limits.filter_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        // `max` is no limit.
        text.trim().parse().ok().map(ByteSize)
    });
    Ok(limits.fold(memory_total()?, ByteSize::min))
}

/// The files with the limits of a cgroup and of those that it is in, by a line of
/// `/proc/self/cgroup`.
fn memory_limit_files(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
        return vec![];
    };
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        _ => return vec![],
    };
    let groups = Path::new(path.trim_start_matches('/')).ancestors();
    groups
        .map(|group| Path::new(root).join(group).join(file))
        .collect()
}

/// What is free on the disk of this path.
pub fn disk_free(path: &Path) -> io::Result<ByteSize> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::{disk_free, memory_limit_files, memory_of_process, memory_total, n_cores};
    use roost_model::size::ByteSize;
    use std::path::Path;

    #[test]
    fn a_host_has_some_of_everything() {
        assert!(n_cores().unwrap() >= 1);
        assert!(memory_total().unwrap() > ByteSize::mib(64));
        assert!(disk_free(Path::new("/")).is_ok());
        assert!(disk_free(Path::new("/no/such/place")).is_err());
        let own = memory_of_process().unwrap();
        assert!(own <= memory_total().unwrap() && own > ByteSize::mib(16));
    }

    #[test]
    fn limits_of_memory_are_looked_for_in_all_groups_above() {
        let files = |line| {
            let files = memory_limit_files(line);
            files
                .iter()
                .map(|file| file.display().to_string())
                .collect::<Vec<_>>()
        };
        let unified = [
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files("0::/a/b"), unified);
        let v1 = [
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(files("4:memory:/a"), v1);
        assert_eq!(files("3:cpu,cpuacct:/a"), Vec::<String>::new());
        assert_eq!(files("nothing"), Vec::<String>::new());
    }
}

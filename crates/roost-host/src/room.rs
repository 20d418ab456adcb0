//! How much room a host has: cores, memory, disk.

use roost_model::size::ByteSize;
use std::io;
use std::path::Path;

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

/// What is free on the disk of this path.
pub fn disk_free(path: &Path) -> io::Result<ByteSize> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(ByteSize(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::{disk_free, memory_total, n_cores};
    use roost_model::size::ByteSize;
    use std::path::Path;

    #[test]
    fn a_host_has_some_of_everything() {
        assert!(n_cores().unwrap() >= 1);
        assert!(memory_total().unwrap() > ByteSize::mib(64));
        assert!(disk_free(Path::new("/")).is_ok());
        assert!(disk_free(Path::new("/no/such/place")).is_err());
    }
}

//! How fast a machine of a size may use its disks and its link.

use crate::machine::{CpuKind, Guest};
use crate::size::ByteSize;

/// What the link of a shared CPU carries each way: 500 Mbit/s. Roost's own choice.
const LINK_PER_SHARED_CPU: u64 = 500_000_000 / 8;
/// What the link of a whole core carries each way: 2 Gbit/s. Roost's own choice.
const LINK_PER_CORE: u64 = 2_000_000_000 / 8;
/// What the fastest link carries each way: 10 Gbit/s. Roost's own choice.
const LINK_MAX: u64 = 10_000_000_000 / 8;

/// What a machine may move to and from each of its disks in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRate {
    /// Read and written together.
    pub bytes: ByteSize,
    /// Reads and writes together.
    pub operations: u64,
}

impl Guest {
    /// The disk rate of this size; between two sizes that of the smaller.
    ///
    /// The numbers are those of volumes on Fly.io.
    pub fn disk_rate(self) -> DiskRate {
        let (operations, mib) = match (self.cpu_kind, self.n_cpus) {
            (CpuKind::Shared, ..4) => (4_000, 16),
            (CpuKind::Shared, 4..) => (8_000, 32),
            (CpuKind::Performance, ..2) => (12_000, 48),
            (CpuKind::Performance, 2..8) => (16_000, 64),
            (CpuKind::Performance, 8..) => (32_000, 128),
        };
        DiskRate {
            bytes: ByteSize::mib(mib),
            operations,
        }
    }

    /// What its link carries in a second, each way.
    pub fn link_rate(self) -> ByteSize {
        let per_cpu = match self.cpu_kind {
            CpuKind::Shared => LINK_PER_SHARED_CPU,
            CpuKind::Performance => LINK_PER_CORE,
        };
        // A link of no rate at all would be one of any rate.
        let n_cpus = u64::from(self.n_cpus.max(1));
        ByteSize(LINK_MAX.min(per_cpu * n_cpus))
    }
}

#[cfg(test)]
mod tests {
    use crate::machine::Guest;
    use crate::size::ByteSize;

    fn rates(preset: &str) -> (u64, u64, u64) {
        let guest = Guest::preset(preset).unwrap();
        let disk = guest.disk_rate();
        let link_mbit = guest.link_rate().bytes() * 8 / 1_000_000;
        (disk.operations, disk.bytes.as_mib(), link_mbit)
    }

    #[test]
    fn a_larger_machine_is_faster() {
        assert_eq!(rates("shared-cpu-1x"), (4_000, 16, 500));
        assert_eq!(rates("shared-cpu-2x"), (4_000, 16, 1_000));
        assert_eq!(rates("shared-cpu-4x"), (8_000, 32, 2_000));
        assert_eq!(rates("shared-cpu-8x"), (8_000, 32, 4_000));
        assert_eq!(rates("performance-1x"), (12_000, 48, 2_000));
        assert_eq!(rates("performance-4x"), (16_000, 64, 8_000));
        assert_eq!(rates("performance-16x"), (32_000, 128, 10_000));
    }

    #[test]
    fn a_size_between_two_has_the_rate_of_the_smaller() {
        let guest = |n_cpus| Guest {
            n_cpus,
            ..Guest::DEFAULT
        };
        assert_eq!(guest(3).disk_rate(), guest(2).disk_rate());
        assert_eq!(rates("performance-6x").0, rates("performance-4x").0);
        assert_ne!(guest(0).link_rate(), ByteSize(0));
    }
}

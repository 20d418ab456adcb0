//! What a node has, what is taken of it, and whether one machine more fits.
//!
//! The placement and the worker ask the same question here, so that they agree.
//! All of it is exact: a sum of machines takes what its parts take.

use crate::machine::{CpuKind, Guest};
use crate::size::ByteSize;
use std::fmt;

/// What a node has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Cores.
    pub n_cores: u32,
    /// Memory for machines.
    pub memory: ByteSize,
    /// Machines: each needs an address and a range of user ids.
    pub n_machines: u32,
    /// How much more is promised to shared machines than there is.
    pub overcommit: Overcommit,
}

/// How much more is promised to machines with shared CPUs than there is, in
/// percent. What machines with whole cores have is never promised twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overcommit {
    cpu_percent: u32,
    memory_percent: u32,
}

impl Overcommit {
    /// Every promise can be kept at once.
    pub const NONE: Self = Self {
        cpu_percent: 100,
        memory_percent: 100,
    };

    /// Eight times the CPUs and four times the memory: small apps are idle most
    /// of the time, and few use the memory that they are allowed. A core then
    /// takes 128 shared CPUs, and 1 GiB takes 16 machines of 256 MiB.
    pub const DEFAULT: Self = Self {
        cpu_percent: 800,
        memory_percent: 400,
    };

    /// The most that may be promised of anything.
    pub const PERCENT_MAX: u32 = 100_000;

    /// Both in percent, 100 for no over-commit. None when one is less than
    /// that, or more than `PERCENT_MAX`.
    pub fn new(cpu_percent: u32, memory_percent: u32) -> Option<Self> {
        let allowed = 100..=Self::PERCENT_MAX;
        let is_allowed = allowed.contains(&cpu_percent) && allowed.contains(&memory_percent);
        is_allowed.then_some(Self {
            cpu_percent,
            memory_percent,
        })
    }

    /// Shared CPUs for each there is, in percent.
    pub fn cpu_percent(self) -> u32 {
        self.cpu_percent
    }

    /// Memory of shared machines for each byte there is, in percent.
    pub fn memory_percent(self) -> u32 {
        self.memory_percent
    }
}

/// What machines take, summed up by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Machines.
    pub n_machines: u32,
    /// Shared CPUs.
    pub shared_cpus: u64,
    /// Whole cores.
    pub dedicated_cores: u64,
    /// Memory of machines with shared CPUs.
    pub shared_memory: ByteSize,
    /// Memory of machines with whole cores.
    pub dedicated_memory: ByteSize,
}

impl Usage {
    /// What one machine of this size takes.
    pub fn of(guest: Guest) -> Self {
        let (cpus, memory) = (u64::from(guest.n_cpus), guest.memory);
        match guest.cpu_kind {
            CpuKind::Shared => Self {
                n_machines: 1,
                shared_cpus: cpus,
                shared_memory: memory,
                ..Self::default()
            },
            CpuKind::Performance => Self {
                n_machines: 1,
                dedicated_cores: cpus,
                dedicated_memory: memory,
                ..Self::default()
            },
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let memory = |a: ByteSize, b: ByteSize| ByteSize(a.bytes().saturating_add(b.bytes()));
        Self {
            n_machines: self.n_machines.saturating_add(other.n_machines),
            shared_cpus: self.shared_cpus.saturating_add(other.shared_cpus),
            dedicated_cores: self.dedicated_cores.saturating_add(other.dedicated_cores),
            shared_memory: memory(self.shared_memory, other.shared_memory),
            dedicated_memory: memory(self.dedicated_memory, other.dedicated_memory),
        }
    }

    /// What is left of it without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        let memory = |a: ByteSize, b: ByteSize| ByteSize(a.bytes().saturating_sub(b.bytes()));
        Self {
            n_machines: self.n_machines.saturating_sub(other.n_machines),
            shared_cpus: self.shared_cpus.saturating_sub(other.shared_cpus),
            dedicated_cores: self.dedicated_cores.saturating_sub(other.dedicated_cores),
            shared_memory: memory(self.shared_memory, other.shared_memory),
            dedicated_memory: memory(self.dedicated_memory, other.dedicated_memory),
        }
    }
}

/// Why a machine does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Too few CPUs.
    Cpus {
        /// Of this class.
        kind: CpuKind,
        /// So many are wanted.
        wanted: u32,
        /// So many are free.
        free: u64,
    },
    /// Too little memory.
    Memory {
        /// For machines of this class.
        kind: CpuKind,
        /// So much is wanted.
        wanted: ByteSize,
        /// So much is free.
        free: ByteSize,
    },
    /// As many machines as there may be.
    Machines {
        /// So many.
        max: u32,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpus { kind, wanted, free } => {
                let unit = match kind {
                    CpuKind::Shared => "shared CPUs",
                    CpuKind::Performance => "whole cores",
                };
                write!(f, "{unit}: {wanted} wanted, {free} free")
            }
            Self::Memory { kind, wanted, free } => write!(
                f,
                "memory for {} machines: {wanted} wanted, {free} free",
                kind.as_str()
            ),
            Self::Machines { max } => write!(f, "it has {max} machines already, its most"),
        }
    }
}

impl Capacity {
    /// What keeps a machine of this size from fitting beside what is taken.
    pub fn shortage(&self, taken: Usage, guest: Guest) -> Option<Shortage> {
        if taken.n_machines >= self.n_machines {
            let max = self.n_machines;
            return Some(Shortage::Machines { max });
        }
        let kind = guest.cpu_kind;
        let free = self.free_cpus(taken, kind);
        if u64::from(guest.n_cpus) > free {
            let wanted = guest.n_cpus;
            return Some(Shortage::Cpus { kind, wanted, free });
        }
        let free = self.free_memory(taken, kind);
        if guest.memory > free {
            let wanted = guest.memory;
            return Some(Shortage::Memory { kind, wanted, free });
        }
        None
    }

    /// CPUs that machines of this class can still have.
    pub fn free_cpus(&self, taken: Usage, kind: CpuKind) -> u64 {
        // In hundredths of a promised shared CPU, which are integers.
        let per_core =
            u128::from(Guest::SHARED_CPUS_PER_CORE) * u128::from(self.overcommit.cpu_percent);
        let all = u128::from(self.n_cores) * per_core;
        let used =
            u128::from(taken.dedicated_cores) * per_core + u128::from(taken.shared_cpus) * 100;
        let one = match kind {
            CpuKind::Shared => 100,
            CpuKind::Performance => per_core,
        };
        u64::try_from(all.saturating_sub(used) / one.max(1)).unwrap_or(u64::MAX)
    }

    /// Memory that machines of this class can still have.
    pub fn free_memory(&self, taken: Usage, kind: CpuKind) -> ByteSize {
        let percent = u128::from(self.overcommit.memory_percent);
        let all = u128::from(self.memory.bytes()) * percent;
        let used = u128::from(taken.dedicated_memory.bytes()) * percent
            + u128::from(taken.shared_memory.bytes()) * 100;
        let one = match kind {
            CpuKind::Shared => 100,
            CpuKind::Performance => percent,
        };
        ByteSize(u64::try_from(all.saturating_sub(used) / one.max(1)).unwrap_or(u64::MAX))
    }

    /// How much of the node is free, 0 to 2,000: CPUs and memory in thousandths.
    pub(super) fn free_permille(&self, taken: Usage) -> u64 {
        let kind = CpuKind::Shared;
        let permille = |free: u64, all: u64| {
            let part = u128::from(free) * 1_000 / u128::from(all.max(1));
            u64::try_from(part).unwrap_or(1_000).min(1_000)
        };
        let none = Usage::default();
        let cpus = permille(self.free_cpus(taken, kind), self.free_cpus(none, kind));
        let memory = permille(
            self.free_memory(taken, kind).bytes(),
            self.free_memory(none, kind).bytes(),
        );
        cpus + memory
    }
}

#[cfg(test)]
mod tests {
    use super::{Capacity, Overcommit, Shortage, Usage};
    use crate::machine::{CpuKind, Guest};
    use crate::size::ByteSize;

    fn node(overcommit: Overcommit) -> Capacity {
        Capacity {
            n_cores: 2,
            memory: ByteSize::gib(4),
            n_machines: 1_000,
            overcommit,
        }
    }

    fn fill(capacity: &Capacity, size: &str) -> (u32, Shortage) {
        let guest = Guest::preset(size).unwrap();
        let mut taken = Usage::default();
        loop {
            match capacity.shortage(taken, guest) {
                None => taken = taken.plus(Usage::of(guest)),
                Some(shortage) => return (taken.n_machines, shortage),
            }
        }
    }

    #[test]
    fn shared_machines_are_promised_more_than_there_is_by_the_stated_factor() {
        let memory = |free| Shortage::Memory {
            kind: CpuKind::Shared,
            wanted: ByteSize::mib(256),
            free,
        };
        let without = fill(&node(Overcommit::NONE), "shared-cpu-1x");
        assert_eq!(without, (16, memory(ByteSize(0))));
        let with = fill(&node(Overcommit::DEFAULT), "shared-cpu-1x");
        assert_eq!(with, (64, memory(ByteSize(0))));
        assert_eq!(Overcommit::new(99, 100), None);
    }

    #[test]
    fn whole_cores_are_promised_once_and_leave_the_rest_to_shared_ones() {
        let capacity = node(Overcommit::DEFAULT);
        let (n, shortage) = fill(&capacity, "performance-1x");
        assert_eq!(n, 2);
        assert_eq!(shortage.to_string(), "whole cores: 1 wanted, 0 free");
        let one = Usage::of(Guest::preset("performance-1x").unwrap());
        assert_eq!(capacity.free_cpus(one, CpuKind::Shared), 128);
        assert_eq!(capacity.free_memory(one, CpuKind::Shared), ByteSize::gib(8));
        assert_eq!(one.minus(one), Usage::default());
    }
}

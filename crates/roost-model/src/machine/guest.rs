//! Sizes of machines: processors and memory, by preset or in numbers.
//!
//! Names, defaults and most memory are those of Fly.io. Memory is in steps of
//! one MiB and may be as little as `limits::MEMORY_MIB_MIN`, which containers
//! run well with.

use crate::limits;
use crate::nearest::nearest;
use crate::size::ByteSize;

/// The processor class of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CpuKind {
    /// A share of a core: 1/16 per CPU guaranteed, more while the host is idle.
    Shared,
    /// A whole core per CPU.
    Performance,
}

impl CpuKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Shared, Self::Performance];

    /// The word in configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Performance => "performance",
        }
    }

    /// The class with this word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Memory of a preset, for each CPU.
    fn memory_per_cpu(self) -> ByteSize {
        match self {
            Self::Shared => ByteSize::mib(256),
            Self::Performance => ByteSize::gib(2),
        }
    }

    /// The most memory that a machine may have for each CPU.
    fn memory_max_per_cpu(self) -> ByteSize {
        match self {
            Self::Shared => ByteSize::gib(2),
            Self::Performance => ByteSize::gib(8),
        }
    }
}

/// The size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The processor class.
    pub cpu_kind: CpuKind,
    /// Number of CPUs.
    pub n_cpus: u32,
    /// Memory.
    pub memory: ByteSize,
}

/// Processor time of a machine, over all its CPUs together, in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    /// The period, in microseconds.
    pub period_us: u64,
    /// What it has even while all others take theirs.
    pub guaranteed_us: u64,
    /// The most that it gets, however idle the host is.
    pub quota_us: u64,
    /// What it may take above that in one period, of what it left in those before.
    pub burst_us: u64,
}

/// A name that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a size{}; known: {}", did_you_mean(.nearest), Guest::PRESETS.join(", "))]
pub struct UnknownSize {
    /// The name.
    pub name: String,
    /// The size that was probably meant.
    pub nearest: Option<&'static str>,
}

fn did_you_mean(nearest: &Option<&str>) -> String {
    nearest.map_or(String::new(), |name| format!(", did you mean `{name}`?"))
}

/// Numbers that are no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A number of CPUs that no machine has.
    #[error("{0} CPUs are not possible; 1 to {max} are", max = limits::CPUS_MAX)]
    Cpus(u32),
    /// Too little memory.
    #[error("{0} of memory are too little; {min} MiB is the least", min = limits::MEMORY_MIB_MIN)]
    TooLittleMemory(ByteSize),
    /// Too much memory for that many CPUs.
    #[error("{memory} of memory are too much; {max} is the most with {n_cpus} {kind} CPUs", kind = kind.as_str())]
    TooMuchMemory {
        /// What was asked for.
        memory: ByteSize,
        /// What is possible.
        max: ByteSize,
        /// With so many CPUs.
        n_cpus: u32,
        /// Of this class.
        kind: CpuKind,
    },
}

impl Guest {
    /// `shared-cpu-1x`: one shared CPU, 256 MiB.
    pub const DEFAULT: Self = Self {
        cpu_kind: CpuKind::Shared,
        n_cpus: 1,
        memory: ByteSize::mib(256),
    };

    /// The names of the presets, smallest first.
    pub const PRESETS: [&'static str; 14] = [
        "shared-cpu-1x",
        "shared-cpu-2x",
        "shared-cpu-4x",
        "shared-cpu-6x",
        "shared-cpu-8x",
        "performance-1x",
        "performance-2x",
        "performance-4x",
        "performance-6x",
        "performance-8x",
        "performance-10x",
        "performance-12x",
        "performance-14x",
        "performance-16x",
    ];

    /// Shared CPUs whose guaranteed time is that of one core.
    pub const SHARED_CPUS_PER_CORE: u32 = 16;

    /// The size that a preset name stands for.
    ///
    /// Shared presets have 256 MiB per CPU, performance presets 2 GiB.
    pub fn preset(name: &str) -> Result<Self, UnknownSize> {
        let unknown = || UnknownSize {
            name: name.chars().take(64).collect(),
            nearest: nearest(name, Self::PRESETS),
        };
        let known = Self::PRESETS.into_iter().find(|known| *known == name);
        let (kind, n_cpus) = known.and_then(Self::split).ok_or_else(unknown)?;
        Ok(Self {
            cpu_kind: kind,
            n_cpus,
            memory: ByteSize(kind.memory_per_cpu().bytes() * u64::from(n_cpus)),
        })
    }

    fn split(name: &str) -> Option<(CpuKind, u32)> {
        let (kind, rest) = match name.strip_prefix("shared-cpu-") {
            Some(rest) => (CpuKind::Shared, rest),
            None => (CpuKind::Performance, name.strip_prefix("performance-")?),
        };
        Some((kind, rest.strip_suffix('x')?.parse().ok()?))
    }

    /// The most memory that a machine with these CPUs may have.
    pub fn memory_max(self) -> ByteSize {
        let per_cpu = self.cpu_kind.memory_max_per_cpu().bytes();
        ByteSize(per_cpu * u64::from(self.n_cpus))
    }

    /// Whether there are machines of this size.
    pub fn check(self) -> Result<(), SizeError> {
        if !(1..=limits::CPUS_MAX).contains(&self.n_cpus) {
            return Err(SizeError::Cpus(self.n_cpus));
        }
        if self.memory < ByteSize::mib(limits::MEMORY_MIB_MIN) {
            return Err(SizeError::TooLittleMemory(self.memory));
        }
        if self.memory > self.memory_max() {
            return Err(SizeError::TooMuchMemory {
                memory: self.memory,
                max: self.memory_max(),
                n_cpus: self.n_cpus,
                kind: self.cpu_kind,
            });
        }
        Ok(())
    }

    /// Whether a machine of size `other` has room where one of this size had.
    pub fn covers(self, other: Self) -> bool {
        self.cpu_kind == other.cpu_kind
            && other.n_cpus <= self.n_cpus
            && other.memory <= self.memory
    }

    /// Processor time of this size.
    ///
    /// The period and what is guaranteed are those of Fly.io: 80 ms, of which
    /// 5 ms per shared CPU. A shared CPU is held to that only while others want
    /// the rest: idle time of the host is of no use to anybody else, and an
    /// emulated VM could not boot with a sixteenth of a core. The burst is
    /// the most that the kernel allows, one quota.
    pub fn cpu_time(self) -> CpuTime {
        const PERIOD_US: u64 = 80_000;
        let quota_us = PERIOD_US * u64::from(self.n_cpus);
        CpuTime {
            period_us: PERIOD_US,
            guaranteed_us: match self.cpu_kind {
                CpuKind::Performance => quota_us,
                CpuKind::Shared => quota_us / u64::from(Self::SHARED_CPUS_PER_CORE),
            },
            quota_us,
            burst_us: quota_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CpuKind, Guest, SizeError};
    use crate::size::ByteSize;

    #[test]
    fn every_preset_is_a_size_with_the_memory_of_its_class() {
        for name in Guest::PRESETS {
            let guest = Guest::preset(name).unwrap();
            assert_eq!(guest.check(), Ok(()), "{name}");
            let mib_per_cpu = guest.memory.as_mib() / u64::from(guest.n_cpus);
            let max_per_cpu = guest.memory_max().as_mib() / u64::from(guest.n_cpus);
            match guest.cpu_kind {
                CpuKind::Shared => assert_eq!((mib_per_cpu, max_per_cpu), (256, 2_048)),
                CpuKind::Performance => assert_eq!((mib_per_cpu, max_per_cpu), (2_048, 8_192)),
            }
        }
        let guest = Guest::preset("performance-4x").unwrap();
        assert_eq!((guest.n_cpus, guest.memory), (4, ByteSize::gib(8)));
    }

    #[test]
    fn an_unknown_size_is_told_with_the_nearest() {
        let error = Guest::preset("shared-cpu-3x").unwrap_err();
        assert!(error.nearest.is_some());
        let text = Guest::preset("performance4x").unwrap_err().to_string();
        assert!(text.contains("did you mean `performance-4x`?"), "{text}");
        let text = Guest::preset("huge").unwrap_err().to_string();
        assert!(text.starts_with("`huge` is not a size; known: shared-cpu-1x, "));
        assert!(Guest::preset(&"x".repeat(10_000)).unwrap_err().name.len() <= 64);
    }

    #[test]
    fn numbers_beyond_a_class_are_refused_with_what_is_possible() {
        let guest = |n_cpus, mib| Guest {
            n_cpus,
            memory: ByteSize::mib(mib),
            ..Guest::DEFAULT
        };
        assert_eq!(guest(1, 16).check(), Ok(()));
        assert_eq!(guest(1, 2_048).check(), Ok(()));
        assert_eq!(guest(0, 256).check(), Err(SizeError::Cpus(0)));
        let little = SizeError::TooLittleMemory(ByteSize::mib(15));
        assert_eq!(guest(1, 15).check(), Err(little));
        let text = guest(2, 4_097).check().unwrap_err().to_string();
        assert!(
            text.ends_with("4 GiB is the most with 2 shared CPUs"),
            "{text}"
        );
    }

    #[test]
    fn a_shared_cpu_is_guaranteed_a_sixteenth_of_a_core() {
        let shared = Guest::preset("shared-cpu-4x").unwrap().cpu_time();
        let whole = Guest::preset("performance-4x").unwrap().cpu_time();
        assert_eq!((shared.period_us, shared.guaranteed_us), (80_000, 20_000));
        assert_eq!(whole.guaranteed_us, 16 * shared.guaranteed_us);
        assert!(
            shared.burst_us <= shared.quota_us,
            "the kernel refuses more"
        );
    }
}

//! A cgroup that roost makes itself, with limits.
//!
//! Those of containers are made by their runtime; a VM has none.

use super::Cgroup;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The controllers that are used. A v1 hierarchy with none of them is left
/// alone: one of `cpuset` takes no process before it is set up.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];
/// Lowest `cpu.shares` of v1.
const SHARES_MIN: u64 = 2;
/// Highest `cpu.shares` of v1.
const SHARES_MAX: u64 = 262_144;

/// Where the burst of a cgroup is, on v1 and v2.
const BURST_FILES: [&str; 2] = ["cpu.cfs_burst_us", "cpu.max.burst"];

/// What the processes of a cgroup may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory, in bytes; none of it is swapped out.
    pub memory_bytes: u64,
    /// Weight against other cgroups; 1024 for a core.
    pub cpu_shares: u64,
    /// Processor time in each period, in microseconds.
    pub cpu_quota_us: u64,
    /// The period, in microseconds.
    pub cpu_period_us: u64,
    /// What may be taken above the quota in one period, of what was left in
    /// those before; at most the quota. Kernels before 5.14 give none.
    pub cpu_burst_us: u64,
    /// Processes and threads.
    pub pids_max: u64,
}

impl Cgroup {
    /// Makes the cgroup at this path in the hierarchies that can limit it, or
    /// takes over the one that is there.
    ///
    /// Fails where memory cannot be limited: a guest decides how much the host
    /// would have to give otherwise.
    pub fn create_with_limits(path: &str, limits: &Limits) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut is_memory_limited = false;
        for hierarchy in hierarchies(&mounts) {
            if !hierarchy.is_of_use() {
                continue;
            }
            let dir = hierarchy.make(path)?;
            is_memory_limited |= dir.join(hierarchy.memory_file()).exists();
            for (file, value) in hierarchy.settings(limits) {
                // Files of controllers that are elsewhere are not here.
                if dir.join(file).exists() {
                    write(&dir.join(file), &value)?;
                }
            }
        }
        if !is_memory_limited {
            return Err(io::Error::other(
                "no cgroup hierarchy of this host limits memory",
            ));
        }
        let cgroup = Self::at(path)?;
        cgroup.set_cpu_burst(limits.cpu_burst_us)?;
        Ok(cgroup)
    }

    /// Lets it save up processor time, where the kernel knows of that (5.14):
    /// at most as much as its quota.
    pub fn set_cpu_burst(&self, burst_us: u64) -> io::Result<()> {
        let files = self
            .paths
            .iter()
            .flat_map(|dir| BURST_FILES.map(|name| dir.join(name)));
        for file in files.filter(|file| file.exists()) {
            write(&file, &burst_us.to_string())?;
        }
        Ok(())
    }
}

/// A mounted hierarchy.
struct Hierarchy<'a> {
    root: PathBuf,
    version: Version<'a>,
}

enum Version<'a> {
    /// With the options of its mount, which name its controllers.
    V1(&'a str),
    V2,
}

fn hierarchies(mounts: &str) -> impl Iterator<Item = Hierarchy<'_>> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (root, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let version = match kind {
            "cgroup" => Version::V1(options),
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let root = PathBuf::from(root);
        Some(Hierarchy { root, version })
    })
}

impl Hierarchy<'_> {
    fn is_of_use(&self) -> bool {
        let has = |list: &str, separator: char| {
            list.split(separator)
                .any(|name| CONTROLLERS.contains(&name.trim()))
        };
        match self.version {
            Version::V1(options) => has(options, ','),
            Version::V2 => fs::read_to_string(self.root.join("cgroup.controllers"))
                .is_ok_and(|list| has(&list, ' ')),
        }
    }

    fn make(&self, path: &str) -> io::Result<PathBuf> {
        let path = Path::new(path.trim_start_matches('/'));
        let mut dir = self.root.clone();
        for part in path {
            if matches!(self.version, Version::V2) {
                for name in CONTROLLERS {
                    // What is not offered here shows below: its files are missing.
                    let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
                }
            }
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(named(&error, &dir));
                }
                _ => {}
            }
        }
        Ok(dir)
    }

    fn memory_file(&self) -> &'static str {
        match self.version {
            Version::V1(_) => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }

    fn settings(&self, limits: &Limits) -> Vec<(&'static str, String)> {
        let shares = limits.cpu_shares.clamp(SHARES_MIN, SHARES_MAX);
        let memory = (self.memory_file(), limits.memory_bytes.to_string());
        let pids = ("pids.max", limits.pids_max.to_string());
        let (quota, period) = (limits.cpu_quota_us, limits.cpu_period_us);
        match self.version {
            Version::V1(_) => vec![
                // Memory and swap together: never less than memory alone, so
                // that it has to be out of the way first.
                ("memory.memsw.limit_in_bytes", "-1".to_owned()),
                memory.clone(),
                ("memory.memsw.limit_in_bytes", memory.1),
                pids,
                ("cpu.shares", shares.to_string()),
                // Never more than the quota, so that it has to be out of the way first.
                ("cpu.cfs_burst_us", "0".to_owned()),
                ("cpu.cfs_period_us", period.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            Version::V2 => vec![
                memory,
                ("memory.swap.max", "0".to_owned()),
                pids,
                ("cpu.weight", weight_of(shares).to_string()),
                ("cpu.max.burst", "0".to_owned()),
                ("cpu.max", format!("{quota} {period}")),
            ],
        }
    }
}

/// From the weights of v1, 2 to 262144, to those of v2, 1 to 10000, as the
/// container runtimes do.
fn weight_of(shares: u64) -> u64 {
    1 + (shares - SHARES_MIN) * 9_999 / (SHARES_MAX - SHARES_MIN)
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::write(file, value).map_err(|error| named(&error, file))
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{BURST_FILES, Hierarchy, Limits, Version, weight_of};
    use crate::cgroup::Cgroup;
    use std::path::PathBuf;
    use std::time::Duration;

    const LIMITS: Limits = Limits {
        memory_bytes: 64 * 1024 * 1024,
        cpu_shares: 512,
        cpu_quota_us: 50_000,
        cpu_period_us: 100_000,
        cpu_burst_us: 50_000,
        pids_max: 100,
    };

    #[test]
    fn both_versions_are_told_the_same() {
        let settings = |version| {
            let root = PathBuf::new();
            Hierarchy { root, version }.settings(&LIMITS)
        };
        let v1 = settings(Version::V1("rw,memory"));
        assert!(v1.contains(&("cpu.cfs_quota_us", "50000".into())));
        assert!(v1.contains(&("memory.limit_in_bytes", "67108864".into())));
        let v2 = settings(Version::V2);
        assert!(v2.contains(&("cpu.max", "50000 100000".into())));
        assert!(v2.contains(&("memory.max", "67108864".into())));
        assert_eq!((weight_of(2), weight_of(262_144)), (1, 10_000));
    }

    #[test]
    fn a_cgroup_is_made_with_its_limits_and_taken_over_when_it_is_there() {
        let path = format!("/roost-test-limits-{}", std::process::id());
        let first = Cgroup::create_with_limits(&path, &LIMITS);
        let cgroup = match first {
            Ok(cgroup) => cgroup,
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        let again = Cgroup::create_with_limits(&path, &LIMITS);
        let read = |names: [&str; 2]| {
            let mut files = cgroup
                .paths
                .iter()
                .flat_map(|dir| names.map(|name| dir.join(name)));
            files.find_map(|file| std::fs::read_to_string(file).ok())
        };
        let memory = read(["memory.limit_in_bytes", "memory.max"]);
        let burst = read(BURST_FILES);
        cgroup.remove(Duration::from_secs(10)).unwrap();
        again.unwrap();
        assert_eq!(memory.unwrap().trim(), LIMITS.memory_bytes.to_string());
        // Kernels before 5.14 have none.
        if let Some(burst) = burst {
            assert_eq!(burst.trim(), LIMITS.cpu_burst_us.to_string());
        }
        assert!(!cgroup.exists());
    }
}

//! The cgroup of a machine, the same on v1, v2 and hybrid layouts.
//!
//! A machine has one path, `/roost-<tag>/<machine id>`, below the root of every
//! hierarchy in which its runtime put it: one on v2, about ten on v1. Whatever
//! is found in any of them belongs to the machine, and nothing else does, so
//! that a machine whose shim was killed can still be ended as a whole.

use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod limits;

pub use limits::Limits;

/// Time between two looks at a cgroup that is emptying: short first.
const EMPTY_POLL_MIN: Duration = Duration::from_millis(1);
/// The longest time between two looks.
const EMPTY_POLL_MAX: Duration = Duration::from_millis(50);
/// Most levels of cgroups below a machine's own that are removed.
const DEPTH_MAX: usize = 8;

/// A cgroup in all hierarchies of this host.
#[derive(Debug, Clone)]
pub struct Cgroup {
    paths: Vec<PathBuf>,
}

/// What the processes of a cgroup use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Memory with page cache, in bytes.
    pub memory_bytes: u64,
    /// Processor time since it was made, in microseconds.
    pub cpu_us: u64,
}

impl Cgroup {
    /// The cgroup at this path below the root of every mounted hierarchy.
    ///
    /// Whether it exists anywhere does not matter.
    pub fn at(path: &str) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let path = path.trim_start_matches('/');
        Ok(Self {
            paths: hierarchies(&mounts).map(|root| root.join(path)).collect(),
        })
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.paths.iter().any(|path| path.exists())
    }

    /// Names of the cgroups directly below it, in any hierarchy.
    pub fn children(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .paths
            .iter()
            .filter_map(|path| std::fs::read_dir(path).ok())
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The processes in it and below it.
    pub fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        for path in &self.paths {
            collect_pids(path, DEPTH_MAX, &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// How many of its processes the kernel has ended for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let files = self.paths.iter().flat_map(|path| {
            // v2, then v1.
            [path.join("memory.events"), path.join("memory.oom_control")]
        });
        files
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .filter_map(|text| counter(&text, "oom_kill"))
            .max()
            .unwrap_or(0)
    }

    /// What its processes use; `None` when no hierarchy counts it.
    pub fn usage(&self) -> Option<Usage> {
        let read = |name: &str| {
            self.paths
                .iter()
                .find_map(|path| std::fs::read_to_string(path.join(name)).ok())
        };
        let number = |text: String| text.trim().parse::<u64>().ok();
        // v2, then v1, which counts in nanoseconds.
        let memory = read("memory.current").or_else(|| read("memory.usage_in_bytes"));
        let cpu_us = match read("cpu.stat").and_then(|text| counter(&text, "usage_usec")) {
            Some(cpu_us) => Some(cpu_us),
            None => read("cpuacct.usage").and_then(number).map(|ns| ns / 1_000),
        };
        Some(Usage {
            memory_bytes: memory.and_then(number)?,
            cpu_us: cpu_us?,
        })
    }

    /// Moves the calling process into it, wherever it exists.
    pub fn enter(&self) -> io::Result<()> {
        for path in self.paths.iter().filter(|path| path.exists()) {
            std::fs::write(path.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Makes it and moves a process into it.
    ///
    /// Not in hierarchies whose new cgroups take no process before they are set
    /// up, as `cpuset` of v1 does.
    pub fn adopt(&self, pid: u32) -> io::Result<()> {
        for path in &self.paths {
            let enter = || {
                std::fs::create_dir_all(path)?;
                std::fs::write(path.join("cgroup.procs"), pid.to_string())
            };
            let entered = match enter() {
                // Somebody removed it in between, since it was empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound => enter(),
                entered => entered,
            };
            match entered {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // It would be empty for ever.
                    let _ = std::fs::remove_dir(path);
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// The files through which a process that writes `0` enters it, wherever it exists.
    ///
    /// For a process that has just been forked and must not open files by path.
    pub fn entrances(&self) -> io::Result<Vec<std::fs::File>> {
        let procs = self.paths.iter().filter(|path| path.exists());
        procs
            .map(|path| {
                std::fs::File::options()
                    .write(true)
                    .open(path.join("cgroup.procs"))
            })
            .collect()
    }

    /// Kills whatever runs in it and waits until nothing does.
    ///
    /// Blocks for at most `limit`; a process that the kernel cannot end by then
    /// (one in uninterruptible sleep) is an error.
    pub fn kill_all(&self, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        let mut pause = EMPTY_POLL_MIN;
        loop {
            let pids = self.pids();
            if pids.is_empty() {
                return Ok(());
            }
            for pid in &pids {
                kill(*pid);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} processes do not end: {pids:?}", pids.len()),
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(EMPTY_POLL_MAX);
        }
    }

    /// Kills whatever runs in it and removes it; a missing one is fine.
    pub fn remove(&self, limit: Duration) -> io::Result<()> {
        self.kill_all(limit)?;
        let deadline = Instant::now() + limit;
        for path in &self.paths {
            let mut pause = EMPTY_POLL_MIN;
            // A process that has just ended may keep its cgroup busy for a moment.
            while let Err(error) = remove_tree(path, DEPTH_MAX) {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(EMPTY_POLL_MAX);
            }
        }
        Ok(())
    }

    /// Removes it where nothing is left below it, without ending anything.
    pub fn remove_if_empty(&self) {
        for path in &self.paths {
            // A busy or missing one is what this function is for.
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// Whether a process is in a cgroup, by the process's own record.
pub fn is_member(pid: u32, path: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|own| {
            own == path
                || own
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
}

fn hierarchies(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
    })
}

fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

fn collect_pids(path: &Path, depth: usize, pids: &mut Vec<u32>) {
    if let Ok(text) = std::fs::read_to_string(path.join("cgroup.procs")) {
        pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<u32>().ok())
                .filter(|pid| *pid != 0),
        );
    }
    if depth == 0 {
        return;
    }
    for child in subdirectories(path) {
        collect_pids(&child, depth - 1, pids);
    }
}

fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    if depth > 0 {
        for child in subdirectories(path) {
            remove_tree(&child, depth - 1)?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // It may have ended since the list was read.
    let _ = kill_process(pid, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::{Cgroup, counter, hierarchies};
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn all_hierarchies_of_a_hybrid_layout_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<PathBuf> = hierarchies(mounts).collect();
        assert_eq!(
            found,
            [
                PathBuf::from("/sys/fs/cgroup/memory"),
                PathBuf::from("/sys/fs/cgroup/unified")
            ]
        );
    }

    #[test]
    fn the_counter_of_kills_is_read_from_both_layouts() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(
            counter("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"),
            Some(1)
        );
    }

    #[test]
    fn an_adopted_process_is_a_member_until_it_is_killed_with_the_cgroup() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: cgroups are root's");
            return;
        }
        let name = format!("roost-test-{}", std::process::id());
        let cgroup = Cgroup::at(&name).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        cgroup.adopt(child.id()).unwrap();
        assert_eq!(cgroup.pids(), [child.id()]);
        assert!(super::is_member(child.id(), &format!("/{name}")));
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        cgroup.remove(Duration::from_secs(10)).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(!cgroup.exists());
    }

    #[test]
    fn a_missing_cgroup_is_empty_and_removing_it_is_fine() {
        let cgroup = Cgroup::at("/roost-none-such/at-all").unwrap();
        assert!(!cgroup.exists());
        assert!(cgroup.pids().is_empty());
        cgroup.remove(Duration::from_secs(1)).unwrap();
    }
}

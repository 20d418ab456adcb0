//! Removes every trace that an instance has left on its host.
//!
//! Works from what is found on the host alone, so it also cleans up after a
//! `roostd` that was killed. Data stays: only what would outlive a stop and
//! disturb the host goes. Repeating it is fine.

use crate::cgroup::Cgroup;
use crate::instance::InstanceTag;
use crate::net::{PlumbError, linux};
use roost_runtime::fs::{FileError, ensure_no_dir};
use rustix::process::{Pid, Signal, kill_process};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long killed processes have to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long a shim has to write down its machine's end before it is killed as well.
const SHIM_LIMIT: Duration = Duration::from_secs(3);
const SHIM_POLL: Duration = Duration::from_millis(20);
const SHIM_PROGRAMS: [&str; 2] = ["roost-shim", "roost-vm"];

/// Whose traces are removed.
#[derive(Debug, Clone)]
pub struct Remains {
    /// The instance.
    pub tag: InstanceTag,
    /// The run directories of its machines, which are removed.
    pub run_dir: PathBuf,
    /// Where its data is: mounts below it go, files stay.
    pub data_dir: PathBuf,
    /// Where changed kernel settings are recorded.
    pub sysctl_record: PathBuf,
}

/// What was found and removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TeardownReport {
    /// Process ids that were in machines' cgroups, and of builds.
    pub processes: Vec<u32>,
    /// Shims that did not end with their machines.
    pub shims: Vec<u32>,
    /// Mount points.
    pub mounts: Vec<PathBuf>,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Machines' cgroups.
    pub cgroups: Vec<String>,
}

impl TeardownReport {
    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Something could not be removed; what was removed before it stays removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeardownError {
    /// Processes or cgroups.
    #[error("remove cgroup {path}")]
    Cgroup {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount.
    #[error("unmount {}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Links, firewall, kernel settings.
    #[error("remove the node's network")]
    Network(#[source] PlumbError),
    /// The run directory.
    #[error("remove the run directory")]
    RunDir(#[source] FileError),
}

/// Removes what an instance has left: processes, then mounts, then its
/// network, then cgroups and run directories.
///
/// `roostd` itself must have ended, or it would start machines anew.
pub async fn teardown(remains: Remains) -> Result<TeardownReport, TeardownError> {
    let Remains {
        tag, sysctl_record, ..
    } = remains.clone();
    let mut report = blocking(move || end_processes_and_mounts(&remains)).await?;
    report.interfaces = linux::remove_instance(tag, &sysctl_record)
        .await
        .map_err(TeardownError::Network)?;
    Ok(report)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TeardownError> + Send + 'static,
) -> Result<T, TeardownError> {
    let result = tokio::task::spawn_blocking(work).await;
    let stopped = |error| TeardownError::Cgroup {
        path: String::new(),
        source: io::Error::other(error),
    };
    result.map_err(stopped)?
}

fn end_processes_and_mounts(remains: &Remains) -> Result<TeardownReport, TeardownError> {
    let root = format!("/{}", remains.tag.cgroup_name());
    let fail = |source| TeardownError::Cgroup {
        path: root.clone(),
        source,
    };
    let cgroup = Cgroup::at(&root).map_err(fail)?;
    let mut report = TeardownReport {
        processes: cgroup.pids(),
        cgroups: cgroup.children(),
        ..TeardownReport::default()
    };
    cgroup.kill_all(KILL_LIMIT).map_err(fail)?;
    report
        .processes
        .extend(crate::buildah::end_leftovers(&remains.data_dir));
    report.shims = end_shims(&remains.run_dir);
    for base in [&remains.run_dir, &remains.data_dir] {
        report.mounts.extend(unmount_below(base)?);
    }
    cgroup.remove(KILL_LIMIT).map_err(fail)?;
    let of_shims = Cgroup::at(&remains.tag.shim_cgroup_name()).map_err(fail)?;
    of_shims.remove(KILL_LIMIT).map_err(fail)?;
    ensure_no_dir(&remains.run_dir).map_err(TeardownError::RunDir)?;
    Ok(report)
}

/// A shim ends by itself once its machine has; one that does not is killed.
fn end_shims(run_dir: &Path) -> Vec<u32> {
    let run_dir = std::fs::canonicalize(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let start = Instant::now();
    let mut killed = Vec::new();
    loop {
        let shims = shims_of(&run_dir);
        if shims.is_empty() || start.elapsed() > SHIM_LIMIT + KILL_LIMIT {
            return killed;
        }
        if start.elapsed() > SHIM_LIMIT {
            for pid in shims {
                if !killed.contains(&pid) {
                    killed.push(pid);
                }
                let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
                // One that has ended meanwhile is what is wanted.
                raw.map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        std::thread::sleep(SHIM_POLL);
    }
}

/// Shims that have a file of the run directory open: their lock.
fn shims_of(run_dir: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_shim_of(*pid, run_dir)).collect()
}

fn is_shim_of(pid: u32, run_dir: &Path) -> bool {
    let Ok(program) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    // After an upgrade the kernel adds " (deleted)".
    let is_shim = program
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| SHIM_PROGRAMS.iter().any(|shim| name.starts_with(shim)));
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    is_shim
        && files
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|path| path.starts_with(run_dir))
}

/// Takes the mounts below a directory away, the latest first.
fn unmount_below(base: &Path) -> Result<Vec<PathBuf>, TeardownError> {
    let Ok(base) = std::fs::canonicalize(base) else {
        return Ok(Vec::new());
    };
    let fail = |path: &Path, source| TeardownError::Unmount {
        path: path.to_owned(),
        source,
    };
    // Of this thread, so that a thread with mounts of its own cleans those.
    let table = "/proc/thread-self/mountinfo";
    let text = std::fs::read_to_string(table).map_err(|source| fail(Path::new(table), source))?;
    let mut removed = Vec::new();
    for point in mount_points_below(&text, &base) {
        match rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            // Gone with one above it.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(fail(&point, error.into())),
        }
        removed.push(point);
    }
    Ok(removed)
}

/// Mount points strictly below `base`, in the reverse order of mounting.
fn mount_points_below(mountinfo: &str, base: &Path) -> Vec<PathBuf> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    let mut below: Vec<PathBuf> = points
        .filter(|point| point.starts_with(base) && point.as_path() != base)
        .collect();
    below.reverse();
    below
}

/// The kernel writes space, tab, line feed and backslash as octal numbers.
fn unescape(field: &str) -> PathBuf {
    let text = field
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::{Remains, mount_points_below, teardown};
    use crate::cgroup::Cgroup;
    use crate::instance::InstanceTag;
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    #[test]
    fn only_mounts_below_the_directory_are_taken_and_the_latest_first() {
        let table = "1 2 0:1 / /data rw - x x x\n1 2 0:1 / /data/a rw - x x x\n\
                     1 2 0:1 / /data/a/b\\040c rw - x x x\n1 2 0:1 / /database rw - x x x\n";
        let found = mount_points_below(table, Path::new("/data"));
        assert_eq!(
            found,
            [PathBuf::from("/data/a/b c"), PathBuf::from("/data/a")]
        );
    }

    /// Makes what an instance leaves, in namespaces of its own where it can.
    #[test]
    fn what_an_instance_left_is_removed_and_a_second_time_there_is_nothing() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                use nix::sched::CloneFlags;
                nix::sched::unshare(
                    CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS,
                )
                .unwrap();
                let status = Command::new("mount")
                    .args(["--make-rprivate", "/"])
                    .status()
                    .unwrap();
                assert!(status.success());
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(leave_and_remove());
            });
            thread.join().unwrap();
        });
    }

    async fn leave_and_remove() {
        let dir = tempfile::tempdir().unwrap();
        let tag = InstanceTag::of_data_dir(dir.path());
        let remains = Remains {
            tag,
            run_dir: dir.path().join("run"),
            data_dir: dir.path().join("data"),
            sysctl_record: dir.path().join("sysctl.json"),
        };
        let mount_point = remains.data_dir.join("machine");
        std::fs::create_dir_all(&mount_point).unwrap();
        std::fs::create_dir_all(&remains.run_dir).unwrap();
        let script = format!(
            "mount -t tmpfs none {}; ip link add {}00000001 type veth peer name x; nft add table inet {}",
            mount_point.display(),
            tag.interface_prefix(),
            tag.nft_table(),
        );
        assert!(
            Command::new("sh")
                .args(["-ec", &script])
                .status()
                .unwrap()
                .success()
        );
        let path = format!("{}/00000000000001", tag.cgroup_name());
        let pids_root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .into_iter()
            .map(Path::new)
            .find(|path| path.join("cgroup.procs").exists())
            .unwrap();
        std::fs::create_dir_all(pids_root.join(&path)).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(
            pids_root.join(&path).join("cgroup.procs"),
            child.id().to_string(),
        )
        .unwrap();
        // Reaped here as a shim would.
        let pid = child.id();
        let reaper = std::thread::spawn(move || child.wait().unwrap().signal());

        let report = teardown(remains.clone()).await.unwrap();
        assert_eq!(reaper.join().unwrap(), Some(libc::SIGKILL));
        assert_eq!(report.processes, [pid]);
        assert_eq!(report.cgroups, ["00000000000001"]);
        assert_eq!(
            report.interfaces,
            [format!("{}00000001", tag.interface_prefix())]
        );
        assert_eq!(
            report.mounts,
            [std::fs::canonicalize(&mount_point).unwrap()]
        );
        assert!(
            !Cgroup::at(&format!("/{}", tag.cgroup_name()))
                .unwrap()
                .exists()
        );
        assert!(!remains.run_dir.exists());
        assert!(teardown(remains).await.unwrap().is_empty());
    }
}

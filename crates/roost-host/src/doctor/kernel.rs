//! Parts of the kernel that machines are made of, each tried in a child process.

use super::child::{self, Failure, Outcome};
use super::sys::{self, Fork};
use super::{ATTEMPT_TIMEOUT, CheckResult};
use crate::tree::remove_tree;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
    move_mount, open_tree,
};
use rustix::process::{Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::UnshareFlags;
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The owner that files get in the trial: some range that machines may have.
const ID_BASE: u32 = 1_000_000;
const N_IDS: u32 = 65_536;
/// The memory limit in the trial: a number of pages of any size.
const MEMORY_BYTES: &str = "67108864";

/// Distinguishes the trials of one process.
static TRIAL_COUNTER: AtomicU32 = AtomicU32::new(0);

fn trial_name() -> String {
    let number = TRIAL_COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("roost-check-{}-{number}", std::process::id())
}

/// Sets a filter and makes the call that it refuses.
pub(super) fn check_seccomp() -> CheckResult {
    match explain(child::run(ATTEMPT_TIMEOUT, sys::try_seccomp)) {
        Ok(()) => CheckResult::pass("seccomp", "a filter was set and obeyed"),
        Err(reason) => {
            CheckResult::fail("seccomp", reason, "use a kernel with CONFIG_SECCOMP_FILTER")
        }
    }
}

/// Mounts an overlay on a layer with shifted owners, where the data will be.
pub(super) fn check_overlay(data_dir: &Path) -> CheckResult {
    let Some(existing) = data_dir.ancestors().find(|path| path.exists()) else {
        return CheckResult::warn("overlayfs", "no data directory", "choose another one");
    };
    let place = existing.join(format!(".{}", trial_name()));
    let result = try_overlay_below(&place);
    let removed = remove_tree(&place);
    match result.and_then(|()| removed.map_err(|error| format!("clean up: {error}"))) {
        Ok(()) => CheckResult::pass(
            "overlayfs",
            format!("mounted with mapped owners in {}", existing.display()),
        ),
        Err(reason) => CheckResult::fail(
            "overlayfs",
            format!("{}: {reason}", existing.display()),
            "run as root on Linux 5.19 or newer, with the data on ext4, xfs or btrfs (modprobe overlay)",
        ),
    }
}

fn explain(result: io::Result<Outcome>) -> Result<(), String> {
    match result {
        Ok(Outcome::Done) => Ok(()),
        Ok(Outcome::Failed { step, error }) => Err(format!("{step}: {error}")),
        Ok(Outcome::Ended(how)) => Err(format!("the process that tried it {how}")),
        Ok(Outcome::TimedOut) => Err(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        Err(error) => Err(format!("start a process: {error}")),
    }
}

/// What the child needs, prepared so that it need not allocate.
struct Paths {
    lower: CString,
    mapped: CString,
    root: CString,
    file: CString,
    options: CString,
}

impl Paths {
    fn below(place: &Path) -> Result<Self, NulError> {
        let path = |name: &str| CString::new(place.join(name).as_os_str().as_bytes());
        // Separators of the option list cannot be in it: relative paths are used.
        Ok(Self {
            lower: path("lower")?,
            mapped: path("mapped")?,
            root: path("root")?,
            file: path("root/file")?,
            options: c"lowerdir=mapped,upperdir=upper,workdir=work".to_owned(),
        })
    }
}

fn try_overlay_below(place: &Path) -> Result<(), String> {
    let prepare = || {
        for name in ["lower", "mapped", "upper", "work", "root"] {
            std::fs::create_dir_all(place.join(name))?;
        }
        std::fs::write(place.join("lower/file"), "")
    };
    prepare().map_err(|error| format!("write there: {error}"))?;
    let user_namespace =
        make_user_namespace().map_err(|error| format!("make a user namespace: {error}"))?;
    let place_text = CString::new(place.as_os_str().as_bytes());
    let (Ok(paths), Ok(place)) = (Paths::below(place), place_text) else {
        return Err("its path has a zero byte".to_owned());
    };
    let attempt = || {
        rustix::process::chdir(place.as_c_str())
            .map_err(|errno| Failure::new("enter the directory", errno))?;
        try_overlay(&paths, user_namespace.as_fd())
    };
    explain(child::run(ATTEMPT_TIMEOUT, attempt))
}

/// In a child, whose mounts go with it.
fn try_overlay(paths: &Paths, user_namespace: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = |step: &'static str| move |errno: Errno| Failure::new(step, errno);
    sys::unshare(UnshareFlags::NEWNS).map_err(step("make a mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).map_err(step("make mounts private"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let layer = open_tree(CWD, paths.lower.as_c_str(), flags).map_err(step("copy a mount"))?;
    sys::map_mount_ids(layer.as_fd(), user_namespace).map_err(step("map a mount's owners"))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&layer, c"", CWD, paths.mapped.as_c_str(), flags).map_err(step("mount a layer"))?;
    let options = paths.options.as_c_str();
    mount(
        c"overlay",
        paths.root.as_c_str(),
        c"overlay",
        MountFlags::empty(),
        options,
    )
    .map_err(step("mount an overlay"))?;
    let stat = rustix::fs::stat(paths.file.as_c_str()).map_err(step("look at a file"))?;
    if stat.st_uid == ID_BASE {
        Ok(())
    } else {
        Err(Failure::new(
            "see a file with its owner mapped",
            Errno::PROTO,
        ))
    }
}

/// A user namespace whose id 0 is `ID_BASE`; no process stays in it.
fn make_user_namespace() -> io::Result<OwnedFd> {
    let (mut ready, tell_ready) = io::pipe()?;
    let child = match sys::fork()? {
        Fork::Child => {
            let made = sys::unshare(UnshareFlags::NEWUSER).is_ok();
            sys::write_raw(tell_ready.as_raw_fd(), &[u8::from(made)]);
            // Until it is killed, a moment later, or on a busy host some more.
            let pause = rustix::thread::Timespec {
                tv_sec: 30,
                tv_nsec: 0,
            };
            let _ = rustix::thread::nanosleep(&pause);
            sys::exit_now(0);
        }
        Fork::Parent(pid) => pid,
    };
    drop(tell_ready);
    let mut open = || {
        let mut answer = [0];
        ready.read_exact(&mut answer)?;
        if answer != [1] {
            return Err(io::Error::other("the kernel refused"));
        }
        let pid = child.as_raw_nonzero();
        for file in ["uid_map", "gid_map"] {
            std::fs::write(
                format!("/proc/{pid}/{file}"),
                format!("0 {ID_BASE} {N_IDS}"),
            )?;
        }
        Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
    };
    let result = open();
    let _ = kill_process(child, Signal::KILL);
    let _ = waitpid(Some(child), WaitOptions::empty());
    result
}

/// Makes a group in each hierarchy that machines need, with a memory limit, and removes it.
pub(super) fn check_cgroups(root: &Path) -> CheckResult {
    let is_unified = root.join("cgroup.controllers").exists();
    let layout = match (is_unified, root.join("unified").exists()) {
        (true, _) => "v2",
        (false, true) => "hybrid",
        (false, false) => "v1",
    };
    let tried = if is_unified {
        try_cgroups_v2(root)
    } else {
        try_cgroups_v1(root)
    };
    match tried {
        Ok(()) => CheckResult::pass(
            "cgroups",
            format!("{layout}; made a group and limited its memory"),
        ),
        Err(reason) => CheckResult::fail(
            "cgroups",
            format!("{layout}: {reason}"),
            "run as root, with the controllers memory, cpu and pids (boot with systemd.unified_cgroup_hierarchy=1)",
        ),
    }
}

/// A group that is removed when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new(parent: &Path, name: &str) -> Result<Self, String> {
        let path = parent.join(name);
        std::fs::create_dir(&path).map_err(|error| format!("make {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    fn set(&self, file: &str, value: &str) -> Result<(), String> {
        let path = self.0.join(file);
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(|error| format!("write {value} to {}: {error}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty.
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn try_cgroups_v1(root: &Path) -> Result<(), String> {
    let name = trial_name();
    for controller in ["memory", "cpu", "pids"] {
        let parent = root.join(controller);
        if !parent.join("cgroup.procs").exists() {
            return Err(format!("controller {controller} is missing"));
        }
        let group = Group::new(&parent, &name)?;
        match controller {
            "memory" => group.set("memory.limit_in_bytes", MEMORY_BYTES)?,
            "cpu" => group.set("cpu.shares", "64")?,
            _ => group.set("pids.max", "64")?,
        }
    }
    Ok(())
}

fn try_cgroups_v2(root: &Path) -> Result<(), String> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let (there, passed_on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in ["memory", "cpu", "pids"] {
        let is_in = |list: &str| list.split_whitespace().any(|word| word == controller);
        if !is_in(&there) {
            return Err(format!("controller {controller} is missing"));
        }
        if !is_in(&passed_on) {
            // As the first machine would.
            let path = root.join("cgroup.subtree_control");
            std::fs::write(&path, format!("+{controller}"))
                .map_err(|error| format!("write +{controller} to {}: {error}", path.display()))?;
        }
    }
    let group = Group::new(root, &trial_name())?;
    group.set("memory.max", MEMORY_BYTES)?;
    group.set("cpu.weight", "64")?;
    group.set("pids.max", "64")
}

#[cfg(test)]
mod tests {
    use super::{check_cgroups, check_overlay, check_seccomp};
    use crate::doctor::CheckStatus;
    use std::path::Path;

    fn is_root() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            eprintln!("skipped: needs root");
        }
        is_root
    }

    #[test]
    fn a_filter_is_set_in_a_child_and_not_here() {
        let result = check_seccomp();
        assert_eq!(result.status, CheckStatus::Pass, "{result:?}");
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(!status.contains("Seccomp_filters:\t1"), "{status}");
        assert!(rustix::process::getppid().is_some());
    }

    #[test]
    fn an_overlay_is_tried_where_the_data_will_be_and_leaves_nothing() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        // The separators of overlay's options are in the path.
        let odd = dir.path().join("a:b,c");
        std::fs::create_dir(&odd).unwrap();
        let result = check_overlay(&odd.join("not/yet"));
        assert_eq!(result.status, CheckStatus::Pass, "{result:?}");
        assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 0);
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("roost-check"), "{mounts}");
        // A file system that cannot be the upper side of an overlay.
        let result = check_overlay(Path::new("/proc/none-such"));
        assert_eq!(result.status, CheckStatus::Fail, "{result:?}");
        assert!(
            result.detail.starts_with("/proc: write there: "),
            "{result:?}"
        );
    }

    #[test]
    fn a_group_is_made_and_removed_and_a_missing_controller_is_named() {
        if !is_root() {
            return;
        }
        let root = Path::new("/sys/fs/cgroup");
        let result = check_cgroups(root);
        assert_eq!(result.status, CheckStatus::Pass, "{result:?}");
        let name = format!("roost-check-{}-", std::process::id());
        for dir in [root.to_owned(), root.join("memory"), root.join("pids")] {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            for entry in entries {
                let found = entry.file_name().to_string_lossy().into_owned();
                assert!(!found.starts_with(&name), "{found} is left");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let result = check_cgroups(dir.path());
        assert_eq!(result.status, CheckStatus::Fail);
        assert_eq!(result.detail, "v1: controller memory is missing");
    }
}

//! The control group of everything that is not init: the app and commands beside it.

use crate::early::mount_at;
use crate::failure::{Attempt as _, Failure};
use crate::limits::{CGROUP_POLL_INTERVAL, CGROUP_TIMEOUT};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::time::Instant;

/// Where the guest sees its control groups.
const CGROUP_DIR: &str = "/sys/fs/cgroup";
/// Longest control file that is read, bytes.
const CONTROL_FILE_BYTES_MAX: u64 = 4096;

/// A control group, by its directory: it stays reachable whatever the app mounts.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dir: OwnedFd,
}

impl Cgroup {
    /// Mounts the control groups and makes that of the app.
    pub(crate) fn create() -> Result<Self, Failure> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_at(CGROUP_DIR, "cgroup2", flags, "nsdelegate")?;
        let parent = Path::new(CGROUP_DIR);
        for controller in ["+memory", "+pids", "+cpu"] {
            // Whichever the kernel has: they shield init and count, the app runs without.
            let _ = std::fs::write(parent.join("cgroup.subtree_control"), controller);
        }
        let path = parent.join("app");
        std::fs::create_dir(&path).attempt(format_args!("make {}", path.display()))?;
        let cgroup = Self::open(&path).attempt(format_args!("open {}", path.display()))?;
        cgroup.leave_room_for_init();
        Ok(cgroup)
    }

    /// The control group of this directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir })
    }

    /// A handle through which a process enters by writing `0`.
    pub(crate) fn entrance(&self) -> io::Result<OwnedFd> {
        Ok(self.open_file("cgroup.procs", OFlags::WRONLY)?.into())
    }

    /// How many of its processes were killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.read("memory.events")
            .ok()
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or_default()
    }

    /// Kills all its processes.
    pub(crate) fn kill_all(&self) -> Result<(), Failure> {
        self.write("cgroup.kill", "1").attempt("kill the app")
    }

    /// Stops its processes where they are, and waits until all have stopped.
    pub(crate) async fn freeze(&self) -> Result<(), Failure> {
        self.write("cgroup.freeze", "1").attempt("freeze the app")?;
        let deadline = Instant::now() + CGROUP_TIMEOUT;
        loop {
            let events = self.read("cgroup.events").attempt("look at the app")?;
            if field(&events, "frozen") == Some(1) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::guest("the app does not freeze"));
            }
            tokio::time::sleep(CGROUP_POLL_INTERVAL).await;
        }
    }

    /// Lets its processes run on.
    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        self.write("cgroup.freeze", "0").attempt("thaw the app")
    }

    /// A guest full of processes still answers: some of what the kernel has is init's.
    fn leave_room_for_init(&self) {
        // Threads are bounded by memory, and by the numbers that they can have.
        let limits = ["threads-max", "pid_max"].map(|name| {
            std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
        });
        if let Some(share) = share_of_app(limits) {
            let _ = self.write("pids.max", &share.to_string());
        }
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open_file(name, OFlags::RDONLY)?
            .take(CONTROL_FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        self.open_file(name, OFlags::WRONLY)?
            .write_all(value.as_bytes())
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let file = rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }
}

/// How much of the tightest limit the app may use; none where no limit is known.
fn share_of_app(limits: [Option<u64>; 2]) -> Option<u64> {
    let limit = limits.into_iter().flatten().min()?;
    Some(limit / 10 * 9)
}

/// The number behind a name in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::{field, share_of_app};

    #[test]
    fn the_app_gets_nine_tenths_of_the_tightest_limit() {
        assert_eq!(share_of_app([Some(127_000), Some(32_768)]), Some(29_484));
        assert_eq!(share_of_app([Some(1_900), Some(32_768)]), Some(1_710));
        assert_eq!(share_of_app([None, Some(1_000)]), Some(900));
        assert_eq!(share_of_app([None, None]), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "oom_ki"), None);
        assert_eq!(field("frozen x\n", "frozen"), None);
    }
}

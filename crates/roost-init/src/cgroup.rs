//! The control groups of everything that is not init: of the app, and of commands
//! beside it. Each has its share of the processor, so an app of a thousand busy
//! processes leaves a command half of it.

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
/// The group of the app, below that of the machine.
pub(crate) const APP: &str = "app";
/// The group of commands, beside it.
pub(crate) const COMMANDS: &str = "commands";
/// Longest control file that is read, bytes.
const CONTROL_FILE_BYTES_MAX: u64 = 4096;

/// The control groups below one that has no processes of its own.
#[derive(Debug)]
pub(crate) struct Cgroups {
    all: Cgroup,
    app: Cgroup,
    commands: Cgroup,
}

/// Which of the two a process belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Member {
    /// The app: what the machine runs.
    App,
    /// A command beside the app.
    Command,
}

impl Cgroups {
    /// Mounts the control groups and makes those of the app and of commands.
    pub(crate) fn create() -> Result<Self, Failure> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_at(CGROUP_DIR, "cgroup2", flags, "nsdelegate")?;
        let parent = Path::new(CGROUP_DIR);
        let path = parent.join("machine");
        for (group, controlled_by) in [
            (path.clone(), parent),
            (path.join(APP), &path),
            (path.join(COMMANDS), &path),
        ] {
            for controller in ["+memory", "+pids", "+cpu"] {
                // Whichever the kernel has: they shield init and count, the app runs without.
                let _ = std::fs::write(controlled_by.join("cgroup.subtree_control"), controller);
            }
            std::fs::create_dir(&group).attempt(format_args!("make {}", group.display()))?;
        }
        let cgroups = Self::open(&path).attempt(format_args!("open {}", path.display()))?;
        // A tenth is init's whatever runs, and another one the commands' whatever the app does.
        cgroups.all.limit_processes(9);
        cgroups.app.limit_processes(8);
        Ok(cgroups)
    }

    /// The control groups below this directory.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            all: Cgroup::open(path)?,
            app: Cgroup::open(&path.join(APP))?,
            commands: Cgroup::open(&path.join(COMMANDS))?,
        })
    }

    /// A handle through which a process enters by writing `0`.
    pub(crate) fn entrance(&self, member: Member) -> io::Result<OwnedFd> {
        let cgroup = match member {
            Member::App => &self.app,
            Member::Command => &self.commands,
        };
        Ok(cgroup.open_file("cgroup.procs", OFlags::WRONLY)?.into())
    }

    /// How many processes were killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.all
            .read("memory.events")
            .ok()
            .and_then(|text| field(&text, "oom_kill"))
            .unwrap_or_default()
    }

    /// Kills all processes.
    pub(crate) fn kill_all(&self) -> Result<(), Failure> {
        self.all.write("cgroup.kill", "1").attempt("kill the app")
    }

    /// Stops all processes where they are, and waits until they have stopped.
    pub(crate) async fn freeze(&self) -> Result<(), Failure> {
        let all = &self.all;
        all.write("cgroup.freeze", "1").attempt("freeze the app")?;
        let deadline = Instant::now() + CGROUP_TIMEOUT;
        loop {
            let events = all.read("cgroup.events").attempt("look at the app")?;
            if field(&events, "frozen") == Some(1) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Failure::guest("the app does not freeze"));
            }
            tokio::time::sleep(CGROUP_POLL_INTERVAL).await;
        }
    }

    /// Lets all processes run on.
    pub(crate) fn thaw(&self) -> Result<(), Failure> {
        self.all.write("cgroup.freeze", "0").attempt("thaw the app")
    }
}

/// A control group, by its directory: it stays reachable whatever the app mounts.
#[derive(Debug)]
struct Cgroup {
    dir: OwnedFd,
}

impl Cgroup {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir })
    }

    /// Lets it have so many tenths of the processes and threads that the guest can.
    fn limit_processes(&self, tenths: u64) {
        // Threads are bounded by memory, and by the numbers that they can have.
        let limits = ["threads-max", "pid_max"].map(|name| {
            std::fs::read_to_string(format!("/proc/sys/kernel/{name}"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
        });
        if let Some(share) = share_of_tightest(limits, tenths) {
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

/// So many tenths of the tightest limit; none where no limit is known.
fn share_of_tightest(limits: [Option<u64>; 2], tenths: u64) -> Option<u64> {
    let limit = limits.into_iter().flatten().min()?;
    Some(limit / 10 * tenths)
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
    use super::{field, share_of_tightest};

    #[test]
    fn a_share_is_of_the_tightest_limit_that_is_known() {
        let share = share_of_tightest;
        assert_eq!(share([Some(127_000), Some(32_768)], 9), Some(29_484));
        assert_eq!(share([Some(1_900), Some(32_768)], 8), Some(1_520));
        assert_eq!(share([None, Some(1_000)], 9), Some(900));
        assert_eq!(share([None, None], 9), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "oom_ki"), None);
        assert_eq!(field("frozen x\n", "frozen"), None);
    }
}

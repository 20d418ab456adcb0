//! What the jailer's process does between fork and exec.
//!
//! It is a copy of one thread of a process with many: another one may have held
//! the allocator's lock. So the steps make system calls only, on values that were
//! made before; nothing allocates, not even an error.

use super::chroot::Bind;
use crate::vmm::DriveAccess;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// What the steps need.
#[derive(Debug)]
pub(super) struct Steps {
    /// The calling process.
    pub(super) parent: OwnedFd,
    /// The `cgroup.procs` of each hierarchy.
    pub(super) cgroup: Vec<OwnedFd>,
    /// Mounts that the jailer finds.
    pub(super) binds: Vec<Bind>,
    /// Gets the status that the jailed program ended with, as `waitpid` gives it.
    pub(super) report: OwnedFd,
}

/// Has the next processes of the calling thread be in a process namespace of their own.
///
/// The thread cannot start threads from then on.
pub(super) fn new_process_namespace() -> io::Result<()> {
    // SAFETY: the file descriptor table, the unsound case, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.map_err(io::Error::from)
}

/// Has the process of this command take the steps, and then watch over a second
/// process that becomes the program.
pub(super) fn before_exec(command: &mut Command, steps: Steps) {
    // SAFETY: the closure makes system calls only, see above; `from_raw_os_error`
    // does not allocate.
    unsafe {
        command.pre_exec(move || {
            take(&steps).map_err(|(step, errno)| {
                // To the parent, which reads it from the pipe that is standard error.
                let _ = rustix::io::write(rustix::stdio::stderr(), step.as_bytes());
                io::Error::from_raw_os_error(errno.raw_os_error())
            })
        });
    }
}

type Failure = (&'static str, Errno);

fn take(steps: &Steps) -> Result<(), Failure> {
    let at = |step: &'static str| move |errno| (step, errno);
    for procs in &steps.cgroup {
        rustix::io::write(procs, b"0").map_err(at("enter the cgroup"))?;
    }
    rustix::process::setsid().map_err(at("begin a session"))?;
    if !steps.binds.is_empty() {
        mount(&steps.binds)?;
    }
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(at("follow the parent"))?;
    let mut parent = [rustix::event::PollFd::new(
        &steps.parent,
        rustix::event::PollFlags::IN,
    )];
    // The parent may have died before that.
    if rustix::event::poll(&mut parent, Some(&rustix::event::Timespec::default())) != Ok(0) {
        return Err(("follow the parent", Errno::SRCH));
    }
    // SAFETY: no memory is shared, and neither side returns into code that
    // knows of the other: one becomes a program, the other never returns.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match child {
        ..0 => Err(("make a process", last_errno())),
        0 => Ok(()),
        child => watch(child, steps.report.as_raw_fd()),
    }
}

fn mount(binds: &[Bind]) -> Result<(), Failure> {
    let at = |step: &'static str| move |errno| (step, errno);
    // SAFETY: the file descriptor table, the unsound case, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .map_err(at("make a namespace"))?;
    rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(at("part from the host's mounts"))?;
    for bind in binds {
        rustix::mount::mount_bind(&*bind.source, &*bind.target).map_err(at("mount a file"))?;
        if bind.access == DriveAccess::ReadOnly {
            let flags = MountFlags::BIND | MountFlags::RDONLY;
            rustix::mount::mount_remount(&*bind.target, flags, c"")
                .map_err(at("make a mount read-only"))?;
        }
    }
    Ok(())
}

/// Waits for the program, as the first process of its namespace.
///
/// It stays what it is, root's: so it keeps the wish to die with the parent,
/// which the program loses when the jailer changes its user. With it the kernel
/// ends all others of the namespace.
fn watch(program: libc::c_long, report: RawFd) -> ! {
    let mut status: libc::c_int = 0;
    // SAFETY: numbers, and pointers to a local variable of the size that is
    // given. The process ends here, so nobody misses what is closed.
    unsafe {
        // Whoever waits for the ends of pipes must not wait for this process.
        libc::dup2(report, 0);
        libc::close_range(1, u32::MAX, 0);
        loop {
            let ended = libc::waitpid(-1, &raw mut status, 0);
            if libc::c_long::from(ended) == program {
                libc::write(0, (&raw const status).cast(), size_of_val(&status));
                libc::_exit(0);
            }
            if ended < 0 && last_errno() != Errno::INTR {
                libc::_exit(1);
            }
        }
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

//! What a jailed process does between fork and exec.
//!
//! It is a copy of one thread of a process with many: another one may have held
//! the allocator's lock. So the steps make system calls only, on values that were
//! made before; nothing allocates, not even an error.

use super::root::Root;
use crate::vmm::VmOwner;
use rustix::fs::{FileType, Mode};
use rustix::io::{Errno, FdFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Above the highest capability that Linux can have: the sets have 64 bits.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// What the steps need.
pub(super) struct Steps {
    /// The calling process.
    pub(super) parent: OwnedFd,
    /// The `cgroup.procs` of each hierarchy.
    pub(super) cgroup: Vec<OwnedFd>,
    pub(super) root: Root,
    pub(super) owner: VmOwner,
    /// What stays open.
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) open_files_max: u64,
    pub(super) file_size_max: u64,
    pub(super) uses_huge_pages: bool,
}

/// Has the next processes of the calling thread be in a process namespace of their own.
///
/// The thread cannot start threads from then on.
pub(super) fn new_process_namespace() -> io::Result<()> {
    // SAFETY: the file descriptor table, the unsound case, stays shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.map_err(io::Error::from)
}

/// Has the process of this command take the steps before it becomes the program.
pub(super) fn before_exec(command: &mut Command, steps: Steps) {
    // SAFETY: the closure makes system calls only, see above; `from_raw_os_error`
    // does not allocate; what is written is a live string of the length given.
    unsafe {
        command.pre_exec(move || {
            take(&steps).map_err(|(step, errno)| {
                // To the parent, which reads it from the pipe that is standard error.
                libc::write(libc::STDERR_FILENO, step.as_ptr().cast(), step.len());
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
    enter_root(&steps.root, steps.owner)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, steps.open_files_max)?;
    limit(Resource::Fsize, steps.file_size_max)?;
    if !steps.uses_huge_pages {
        rustix::thread::disable_transparent_huge_pages(true)
            .map_err(at("do without huge pages"))?;
    }
    drop_privileges(steps.owner)?;
    // After the change of user, which takes it back.
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
    keep_only(&steps.descriptors)
}

fn enter_root(root: &Root, owner: VmOwner) -> Result<(), Failure> {
    let at = |step: &'static str| move |errno| (step, errno);
    let new =
        UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    // SAFETY: the file descriptor table, the unsound case, stays shared.
    unsafe { rustix::thread::unshare_unsafe(new) }.map_err(at("make namespaces"))?;
    rustix::mount::mount_change(
        c"/",
        MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
    )
    .map_err(at("part from the host's mounts"))?;
    let read_only = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
    // A root has to be a mount.
    rustix::mount::mount_bind(&*root.path, &*root.path).map_err(at("mount the root"))?;
    for bind in &root.binds {
        rustix::mount::mount_bind(&*bind.source, &*bind.target).map_err(at("mount a file"))?;
        rustix::mount::mount_remount(&*bind.target, read_only | MountFlags::NODEV, c"")
            .map_err(at("make a mount read-only"))?;
    }
    if !root.nodes.is_empty() {
        // Not on the host's file system, which may know no devices.
        rustix::mount::mount(
            c"tmpfs",
            &*root.dev,
            c"tmpfs",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"mode=755,nr_inodes=16,size=64k",
        )
        .map_err(at("mount /dev"))?;
        for node in &root.nodes {
            make_node(node, owner).map_err(at("make a device"))?;
        }
    }
    rustix::mount::mount_remount(&*root.path, read_only | MountFlags::NODEV, c"")
        .map_err(at("make the root read-only"))?;
    rustix::process::chdir(&*root.path).map_err(at("enter the root"))?;
    // The old root is put over the new one, and taken off (pivot_root(2)).
    rustix::process::pivot_root(c".", c".").map_err(at("change the root"))?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(at("leave the old root"))?;
    rustix::process::chdir(c"/").map_err(at("enter the root"))
}

fn make_node(node: &super::root::Node, owner: VmOwner) -> Result<(), Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &*node.path,
        FileType::CharacterDevice,
        mode,
        node.device,
    )?;
    let (uid, gid) = ids(owner);
    rustix::fs::chownat(
        rustix::fs::CWD,
        &*node.path,
        Some(uid),
        Some(gid),
        rustix::fs::AtFlags::empty(),
    )
}

fn limit(resource: Resource, maximum: u64) -> Result<(), Failure> {
    // Raising it may be forbidden; a lower limit is as good.
    let current = rustix::process::getrlimit(resource).maximum;
    let value = Some(current.map_or(maximum, |current| current.min(maximum)));
    let limit = Rlimit {
        current: value,
        maximum: value,
    };
    rustix::process::setrlimit(resource, limit).map_err(|errno| ("set a resource limit", errno))
}

fn drop_privileges(owner: VmOwner) -> Result<(), Failure> {
    let at = |step: &'static str| move |errno| (step, errno);
    for capability in 0..CAPABILITIES_MAX {
        // SAFETY: a number is passed, no pointer. It fails from the first
        // number on that the kernel does not know.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
    let (uid, gid) = ids(owner);
    rustix::thread::set_thread_groups(&[]).map_err(at("leave all groups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at("change the group"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at("change the user"))?;
    rustix::thread::set_no_new_privs(true).map_err(at("give up new privileges"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).map_err(at("drop capabilities"))
}

fn keep_only(descriptors: &[OwnedFd]) -> Result<(), Failure> {
    // SAFETY: no descriptor is closed now; the flag takes effect when this
    // program, and whatever owns them in it, is gone.
    let result = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if result != 0 {
        let errno = Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL);
        return Err(("close descriptors", errno));
    }
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty())
            .map_err(|errno| ("keep a descriptor", errno))?;
    }
    Ok(())
}

fn ids(owner: VmOwner) -> (rustix::fs::Uid, rustix::fs::Gid) {
    (
        rustix::fs::Uid::from_raw(owner.uid),
        rustix::fs::Gid::from_raw(owner.gid),
    )
}

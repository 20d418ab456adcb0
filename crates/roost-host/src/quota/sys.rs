//! System calls of project quotas.

use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// `PRJQUOTA` of `linux/quota.h`.
const PROJECT_QUOTA: u32 = 2;
/// `Q_GETQUOTA` and `Q_SETQUOTA` of `linux/quota.h`.
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
/// `Q_XGETQSTAT` of `linux/dqblk_xfs.h`; every file system with quotas answers it.
const GET_STATE: u32 = 0x5805;
/// `FS_QUOTA_PDQ_ENFD`: limits of projects are enforced.
const PROJECTS_ENFORCED: u16 = 1 << 5;
/// `QIF_LIMITS`: limits of bytes and of files are set.
const VALID_LIMITS: u32 = 5;
/// `QIF_DQBLKSIZE`: the unit of limits of bytes.
const BLOCK_BYTES: u64 = 1024;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of `linux/fs.h`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory is of its project.
const INHERIT_PROJECT: u32 = 0x200;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    n_extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_quota_stat` of `linux/dqblk_xfs.h`: 80 bytes, and the flags are the second field.
#[repr(C, align(8))]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 10],
}

/// Whether limits of projects are enforced on the file system of this directory.
pub(super) fn is_enforced(dir: &OwnedFd) -> Result<bool, Errno> {
    let mut state = State {
        version: 1,
        ..State::default()
    };
    // SAFETY: `State` is at least as long as what the kernel writes.
    unsafe { quotactl(dir, GET_STATE, 0, &raw mut state) }?;
    Ok(state.flags & PROJECTS_ENFORCED != 0)
}

/// Whether a project has limits or files.
pub(super) fn is_in_use(dir: &OwnedFd, project: u32) -> Result<bool, Errno> {
    let mut quota = no_quota();
    // SAFETY: `dqblk` is what the kernel writes for this command.
    match unsafe { quotactl(dir, GET_QUOTA, project, &raw mut quota) } {
        // What xfs says of a project that has neither; ext4 says zeros.
        Err(Errno::NOENT) => return Ok(false),
        result => result?,
    }
    Ok([
        quota.dqb_bhardlimit,
        quota.dqb_bsoftlimit,
        quota.dqb_curspace,
        quota.dqb_ihardlimit,
        quota.dqb_isoftlimit,
        quota.dqb_curinodes,
    ] != [0; 6])
}

/// Limits a project; 0 is no limit.
pub(super) fn set_limits(
    dir: &OwnedFd,
    project: u32,
    bytes: u64,
    n_files: u64,
) -> Result<(), Errno> {
    let mut quota = libc::dqblk {
        dqb_bhardlimit: bytes.div_ceil(BLOCK_BYTES),
        dqb_ihardlimit: n_files,
        dqb_valid: VALID_LIMITS,
        ..no_quota()
    };
    // SAFETY: `dqblk` is what the kernel reads for this command.
    unsafe { quotactl(dir, SET_QUOTA, project, &raw mut quota) }
}

/// The project of a directory; 0 is none.
pub(super) fn project(dir: &OwnedFd) -> Result<u32, Errno> {
    Ok(attributes(dir)?.project)
}

/// Puts a directory, and what is made in it from now on, into a project.
pub(super) fn set_project(dir: &OwnedFd, project: u32) -> Result<(), Errno> {
    let mut attributes = attributes(dir)?;
    attributes.project = project;
    attributes.flags |= INHERIT_PROJECT;
    // SAFETY: the command reads one `struct fsxattr`, which this is.
    match unsafe { libc::ioctl(dir.as_raw_fd(), SET_ATTRIBUTES, &raw const attributes) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn attributes(dir: &OwnedFd) -> Result<Attributes, Errno> {
    let mut attributes = Attributes::default();
    // SAFETY: the command writes one `struct fsxattr`, which this is.
    match unsafe { libc::ioctl(dir.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) } {
        0 => Ok(attributes),
        _ => Err(last_errno()),
    }
}

fn no_quota() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

/// `quotactl_fd(2)`, since Linux 5.14, for projects.
///
/// # Safety
///
/// `argument` must be valid for what the kernel reads or writes for this command.
unsafe fn quotactl<T>(
    dir: &OwnedFd,
    command: u32,
    project: u32,
    argument: *mut T,
) -> Result<(), Errno> {
    let command = (command << 8) | PROJECT_QUOTA;
    // SAFETY: the descriptor is open; the argument is valid by the contract above.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            dir.as_raw_fd(),
            command,
            project,
            argument,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

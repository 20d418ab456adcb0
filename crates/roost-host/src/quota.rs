//! Limits of what one machine may write to the disk, as project quotas.
//!
//! A project is a number that a directory and all that is made below it carry;
//! ext4 and xfs count what each project uses and can limit it
//! (`Documentation/filesystems/quota.rst`, `quotactl(2)`). Each machine's data
//! directory is a project of its own. Whether that works is found out by
//! asking: it takes a feature of the file system and a mount option. A machine
//! at its limit is told that its quota is exceeded on ext4 (`EDQUOT`), and that
//! no space is left on xfs (`ENOSPC`).

#[expect(
    unsafe_code,
    reason = "quotas have no safe wrapper; all calls of this module are there"
)]
mod sys;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Marks projects of machines, so that none is taken for one of the host's administrator.
const PROJECT_MARK: u32 = 1 << 31;
/// How many projects are tried when others are found in use.
const PROJECT_TRIES_MAX: u32 = 64;
/// Room for one file per this many bytes, as `mke2fs` gives a file system.
const BYTES_PER_FILE: u64 = 16 * 1024;
const UNAVAILABLE: &str = "the file system has no project quotas \
     (ext4: feature `quota,project` and mount option `prjquota`; xfs: mount option `prjquota`)";

/// Checks that directories in `dir` can be limited; the error says why not.
pub(crate) fn check(dir: &Path) -> Result<(), String> {
    let dir = open(dir).map_err(|error| error.to_string())?;
    match sys::is_enforced(&dir) {
        Ok(true) => {}
        Ok(false) => return Err("the file system does not enforce project quotas".to_owned()),
        Err(Errno::PERM) => return Err("this process may not set quotas".to_owned()),
        Err(_) => return Err(UNAVAILABLE.to_owned()),
    }
    match sys::project(&dir) {
        Ok(0) => Ok(()),
        Ok(project) => Err(format!("the directory is in project {project} already")),
        Err(_) => Err(UNAVAILABLE.to_owned()),
    }
}

/// Makes an empty directory a project of its own that holds at most this many bytes.
pub(crate) fn limit(dir: &Path, bytes: u64) -> io::Result<()> {
    let dir = open(dir)?;
    let project = match sys::project(&dir)? {
        own if own & PROJECT_MARK != 0 => own,
        _ => {
            let project = free_project(&dir)?;
            // In this order, so that a project that has limits has a directory
            // as well, by which it is found and freed.
            sys::set_project(&dir, project)?;
            project
        }
    };
    let n_files = bytes.div_ceil(BYTES_PER_FILE);
    Ok(sys::set_limits(&dir, project, bytes, n_files)?)
}

/// Takes the limits of a directory away before it is removed; none is fine.
///
/// The file system forgets a project that has no limits and no files.
pub(crate) fn release(dir: &Path) -> io::Result<()> {
    let dir = match open(dir) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match sys::project(&dir) {
        Ok(project) if project & PROJECT_MARK != 0 => match sys::set_limits(&dir, project, 0, 0) {
            // Mounted without quotas since.
            Ok(()) | Err(Errno::SRCH | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        },
        // Never limited, or on a file system that has no projects.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A project that nobody uses.
///
/// Inode numbers are unique in a file system for as long as the directory is
/// there, also among several instances of roost.
fn free_project(dir: &OwnedFd) -> io::Result<u32> {
    let inode = rustix::fs::fstat(dir)?.st_ino;
    let low_bits = u32::try_from(inode & u64::from(PROJECT_MARK - 1)).map_err(io::Error::other)?;
    for idx in 0..PROJECT_TRIES_MAX {
        let project = low_bits.wrapping_add(idx) | PROJECT_MARK;
        if !sys::is_in_use(dir, project)? {
            return Ok(project);
        }
    }
    Err(io::Error::other("no project is free"))
}

fn open(dir: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
}

#[cfg(test)]
mod tests;

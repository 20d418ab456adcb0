//! What has to be mounted before anything else can be found.

use crate::failure::{Attempt as _, Failure};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::path::Path;

/// Mounts `/dev`, `/proc` and `/sys` in the initramfs.
pub(crate) fn mount_kernel_files() -> Result<(), Failure> {
    let (nosuid, noexec, nodev) = (MountFlags::NOSUID, MountFlags::NOEXEC, MountFlags::NODEV);
    mount_at("/dev", "devtmpfs", nosuid, "mode=0755")?;
    mount_at("/proc", "proc", nosuid | noexec | nodev, "")?;
    mount_at("/sys", "sysfs", nosuid | noexec | nodev, "")
}

/// Mounts a kernel file system at a directory, which is made if it is missing.
pub(crate) fn mount_at(
    place: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Failure> {
    make_dir(Path::new(place))?;
    let options = std::ffi::CString::new(options).attempt("write mount options")?;
    match mount(kind, place, kind, flags, options.as_c_str()) {
        // The kernel may have mounted it.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).attempt(format_args!("mount {kind} on {place}")),
    }
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).attempt(format_args!("make directory {}", path.display()))
}

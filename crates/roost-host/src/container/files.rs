//! Files of a machine, opened from the host.
//!
//! The kernel resolves the path in the machine's root (openat2(2)): no `..`, no link and no
//! other mount leads out of its root file system, and nothing but a regular file is opened.

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fstat, fstatfs,
    open, openat2, statx,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// The type of an overlay (`linux/magic.h`), which the root of each machine is.
const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;

/// The root directory of a process.
pub(super) fn root(pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(format!("/proc/{pid}/root"), flags, Mode::empty())?)
}

/// Whether this is the root file system that a machine was given. Its process may have changed
/// its root directory (chroot(2)) to what the host's kernel shows in it, such as `/sys`, where
/// the host may read more than the machine may.
pub(super) fn is_of_machine(root: BorrowedFd<'_>) -> io::Result<bool> {
    if fstatfs(root)?.f_type != OVERLAYFS_SUPER_MAGIC {
        return Ok(false);
    }
    let found = statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Opens a regular file by its path below `root`; none if there is none.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<File>> {
    // Only as a name: to open a device may already do something.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let found = loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(found) => break found,
            Err(Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    };
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    // Without NONBLOCK whoever has a lease on the file in the machine (fcntl(2)) would hold up
    // the thread.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let same = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let file = open(same, flags, Mode::empty())?;
    Ok(Some(File::from(file)))
}

#[cfg(test)]
mod tests {
    use super::{is_of_machine, open_below, root};
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::mpsc;

    fn read(root: &Path, path: &str) -> Option<String> {
        let root = std::fs::File::open(root).unwrap();
        let mut text = String::new();
        let mut file = open_below(root.as_fd(), path).unwrap()?;
        file.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn regular_files_are_opened_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("in")).unwrap();
        std::fs::write(at("in/a"), "text").unwrap();
        symlink("a", at("in/link")).unwrap();
        symlink("in", at("alias")).unwrap();
        symlink(outside.path(), at("out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("in/pipe"), 0o600.into()).unwrap();
        assert_eq!(read(dir.path(), "/in/a").as_deref(), Some("text"));
        for path in [
            "/in/none",
            "/in",
            "/in/a/b",
            "/in/link",
            "/alias/a",
            "/out/secret",
            "/in/pipe",
            &format!("/../{}/secret", outside.path().display()),
            &format!("/{}", "a".repeat(300)),
        ] {
            assert_eq!(read(dir.path(), path), None, "{path}");
        }
    }

    #[test]
    fn what_is_mounted_is_not_of_the_root() {
        let own = root(std::process::id()).unwrap();
        assert!(
            open_below(own.as_fd(), "/proc/self/status")
                .unwrap()
                .is_none()
        );
        assert!(root(u32::MAX).is_err());
    }

    #[test]
    fn where_a_process_changed_its_root_to_is_not_of_its_machine() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for place in [Path::new("/sys"), Path::new("/proc"), dir.path()] {
            let (place, name) = (place.to_owned(), place.display());
            let (tell, told) = mpsc::channel();
            let (let_end, may_end) = mpsc::channel::<()>();
            // A thread with a root of its own, which /proc shows as it does a process.
            let thread = std::thread::spawn(move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
                rustix::process::chroot(&place).unwrap();
                tell.send(rustix::thread::gettid()).unwrap();
                let _ = may_end.recv();
            });
            let pid = told.recv().unwrap().as_raw_nonzero().get();
            let changed = root(u32::try_from(pid).unwrap()).unwrap();
            assert!(!is_of_machine(changed.as_fd()).unwrap(), "{name}");
            drop(let_end);
            thread.join().unwrap();
        }
    }
}

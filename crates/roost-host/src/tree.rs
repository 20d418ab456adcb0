//! Removing directories whose content somebody else has made.
//!
//! A machine can nest directories by the ten thousands, far deeper than any
//! path is long. Whoever walks down such a tree needs an open descriptor and a
//! piece of stack for each level, and has not enough of either. So nothing is
//! walked here: whatever lies deeper than one level is first moved up.

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// Removes a directory and all that is in it, however deep; none is fine.
///
/// Links are removed and not followed. Nobody else may change the tree meanwhile.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(rustix::fs::CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut n_moved = 0_u64;
    loop {
        let directories = empty(top.as_fd(), None, &mut n_moved)?;
        if directories.is_empty() {
            break;
        }
        for name in directories {
            let inner: OwnedFd = openat(&top, name.as_c_str(), flags, Mode::empty())?;
            empty(inner.as_fd(), Some(top.as_fd()), &mut n_moved)?;
            unlinkat(&top, name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    std::fs::remove_dir(path)
}

/// Removes the files and the empty directories in `dir`. Other directories are
/// moved to `refuge`; without one, they are returned.
fn empty(
    dir: BorrowedFd<'_>,
    refuge: Option<BorrowedFd<'_>>,
    n_moved: &mut u64,
) -> io::Result<Vec<CString>> {
    let mut kept = Vec::new();
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind != FileType::Directory {
            match unlinkat(dir, name.as_c_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // File systems need not say the type of an entry.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match unlinkat(dir, name.as_c_str(), AtFlags::REMOVEDIR) {
            Ok(()) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        match refuge {
            None => kept.push(name),
            Some(refuge) => move_up(dir, &name, refuge, n_moved)?,
        }
    }
    Ok(kept)
}

/// Moves a directory under a name that is free.
fn move_up(
    from: BorrowedFd<'_>,
    name: &CStr,
    refuge: BorrowedFd<'_>,
    n_moved: &mut u64,
) -> io::Result<()> {
    loop {
        *n_moved += 1;
        match renameat(from, name, refuge, format!("moved-{n_moved}")) {
            // The machine has used the name. (An empty directory is replaced.)
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::remove_tree;
    use rustix::fs::{Mode, OFlags, mkdirat, openat};

    /// Beyond any path, and more than most processes may have open. (With 30,000
    /// it works as well, and takes half a minute on a busy disk.)
    const DEPTH: usize = 3_000;

    #[test]
    fn directories_that_are_nested_beyond_all_limits_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::write(top.join("moved-1"), "in the way").unwrap();
        std::fs::create_dir_all(top.join("moved-2/inner/x")).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = openat(rustix::fs::CWD, &top, flags, Mode::empty()).unwrap();
        for depth in 0..DEPTH {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            if depth % 1_000 == 0 {
                mkdirat(&at, "e", Mode::RWXU).unwrap();
                mkdirat(&at, "e/f", Mode::RWXU).unwrap();
            }
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn links_are_removed_and_what_they_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        std::fs::create_dir_all(top.join("a")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("precious"), "x").unwrap();
        std::os::unix::fs::symlink(&other, top.join("a/link")).unwrap();
        std::os::unix::fs::symlink(&other, top.join("link")).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert!(other.join("precious").exists());
        std::os::unix::fs::symlink(&other, &top).unwrap();
        remove_tree(&top).unwrap_err();
        assert!(other.join("precious").exists());
    }
}

//! Opening what a user put into a folder: never outside of it, however its links lead.
//!
//! The kernel resolves the path (`openat2` with `RESOLVE_BENEATH`, see openat2(2)),
//! so a link through a link counts for what it is, not for what its text says.

use crate::limits::OPEN_BENEATH_TRIES;
use roost_runtime::fs::{FileError, IoContext as _};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Something in a folder was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenBeneathError {
    /// A link on the way leads out of the folder.
    #[error("leads out of the folder")]
    Outside,
    /// There is nothing, perhaps because a link leads nowhere.
    #[error("is not there")]
    NotFound,
    /// More links on the way than the kernel follows; other programs may follow them.
    #[error("leads through too many links")]
    TooManyLinks,
    /// It is a folder, a pipe or a device.
    #[error("is no regular file")]
    NotFile,
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A folder that somebody else filled.
#[derive(Debug)]
pub(crate) struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

impl Folder {
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(io::Error::from)
            .on("open", path)?;
        let path = path.to_owned();
        Ok(Self { root, path })
    }

    /// Opens a regular file to read it.
    pub(crate) fn open_file(&self, inside: &Path) -> Result<File, OpenBeneathError> {
        // Without NONBLOCK a pipe that nobody writes to would hold up the thread.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.resolve(inside, flags)?);
        let full = self.path.join(inside);
        if file.metadata().on("look at", &full)?.is_file() {
            Ok(file)
        } else {
            Err(OpenBeneathError::NotFile)
        }
    }

    /// Follows all links of the path; nothing is read of what is at its end.
    pub(crate) fn check(&self, inside: &Path) -> Result<(), OpenBeneathError> {
        self.resolve(inside, OFlags::PATH).map(drop)
    }

    fn resolve(&self, inside: &Path, flags: OFlags) -> Result<OwnedFd, OpenBeneathError> {
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut error = Errno::AGAIN;
        // The kernel gives up on `..` when anything was renamed or mounted meanwhile.
        for _ in 0..OPEN_BENEATH_TRIES {
            match rustix::fs::openat2(&self.root, inside, flags, Mode::empty(), resolve) {
                Ok(found) => return Ok(found),
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                Err(other) => {
                    error = other;
                    break;
                }
            }
        }
        match error {
            Errno::XDEV => Err(OpenBeneathError::Outside),
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Err(OpenBeneathError::NotFound),
            Errno::LOOP => Err(OpenBeneathError::TooManyLinks),
            // A socket.
            Errno::NXIO => Err(OpenBeneathError::NotFile),
            other => Err(io::Error::from(other)).on("open", self.path.join(inside))?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Folder, OpenBeneathError};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[test]
    fn only_regular_files_beneath_the_folder_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b/c")).unwrap();
        std::fs::write(dir.path().join("beside"), "x").unwrap();
        std::fs::write(root.join("file"), "content").unwrap();
        symlink("../../..", root.join("a/b/c/up")).unwrap();
        symlink("a/b/c/up/file", root.join("inside")).unwrap();
        symlink("a/b/c/up/../beside", root.join("out")).unwrap();
        symlink("a/b/c/up/../root/file", root.join("out-and-back")).unwrap();
        symlink("/dev/zero", root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("nothing", root.join("dangling")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let folder = Folder::open(&root).unwrap();
        let open = |path: &str| folder.open_file(Path::new(path));
        let text = std::io::read_to_string(open("inside").unwrap()).unwrap();
        assert_eq!(text, "content");
        for path in ["out", "out-and-back", "absolute", "../beside"] {
            let error = open(path).unwrap_err();
            assert!(
                matches!(error, OpenBeneathError::Outside),
                "{path}: {error}"
            );
            let error = folder.check(Path::new(path)).unwrap_err();
            assert!(
                matches!(error, OpenBeneathError::Outside),
                "{path}: {error}"
            );
        }
        folder.check(Path::new("inside")).unwrap();
        assert!(matches!(open("loop"), Err(OpenBeneathError::TooManyLinks)));
        assert!(matches!(open("dangling"), Err(OpenBeneathError::NotFound)));
        assert!(matches!(open("file/x"), Err(OpenBeneathError::NotFound)));
        for path in ["pipe", "a"] {
            assert!(
                matches!(open(path), Err(OpenBeneathError::NotFile)),
                "{path}"
            );
        }
    }
}

//! The directory tree of one layer, reached only beneath its root.

use super::header::{Entry, EntryKind};
use super::{UnpackError, printable};
use crate::limits::{
    DIRECTORY_PATHS_BYTES_MAX, ENTRIES_MAX, ID_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX,
};
use roost_runtime::fs::IoContext as _;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// `y` on a directory that hides those of its name in lower layers.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";

/// A layer's root, and what is put off to the end.
pub(super) struct Tree {
    root: OwnedFd,
    /// The directory of the entry before, by its path: the next one is often beside it.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Writing into a directory changes its time, so times of directories come last.
    directory_times: Vec<(Vec<u8>, i64)>,
    /// What no entry says is 0: the same layer gives the same tree, whenever it is unpacked.
    root_mtime: i64,
    pub(super) room: Room,
    n_dropped: u64,
}

/// How much more a layer may have of what its number of entries does not bound.
#[derive(Debug)]
pub(super) struct Room {
    /// Directories that no entry lists: one entry can bring as many as its path is deep.
    pub(super) parents: u64,
    /// Bytes in `directory_times`.
    pub(super) path_bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            parents: ENTRIES_MAX,
            path_bytes: DIRECTORY_PATHS_BYTES_MAX,
        }
    }
}

impl Room {
    fn take_parent(&mut self) -> Result<(), UnpackError> {
        let too_much = UnpackError::TooMuch {
            what: "directories that it does not list",
            limit: ENTRIES_MAX,
        };
        self.parents = self.parents.checked_sub(1).ok_or(too_much)?;
        Ok(())
    }

    fn take_path(&mut self, n_bytes: usize) -> Result<(), UnpackError> {
        let too_much = UnpackError::TooMuch {
            what: "bytes in the paths of its directories",
            limit: DIRECTORY_PATHS_BYTES_MAX,
        };
        self.path_bytes = self
            .path_bytes
            .checked_sub(n_bytes as u64)
            .ok_or(too_much)?;
        Ok(())
    }
}

/// A path inside the layer: no `.`, no `..`, no empty component, no NUL.
struct Place {
    /// Components of the directory, joined by slashes; empty for the root.
    parent: Vec<u8>,
    /// The last component; empty for the root itself.
    name: Vec<u8>,
}

impl Place {
    fn parse(path: &[u8]) -> Result<Self, UnpackError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(UnpackError::entry(path, "has a path that is too long"));
        }
        if path.contains(&0) {
            return Err(UnpackError::entry(path, "has a zero byte in its path"));
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(UnpackError::entry(path, "has `..` in its path")),
                _ => components.push(component),
            }
        }
        if components.len() > PATH_DEPTH_MAX {
            return Err(UnpackError::entry(path, "is nested too deeply"));
        }
        let name = components.pop().unwrap_or_default().to_vec();
        Ok(Self {
            parent: components.join(&b'/'),
            name,
        })
    }

    fn full(&self) -> Vec<u8> {
        if self.parent.is_empty() {
            self.name.clone()
        } else {
            [&self.parent[..], b"/", &self.name[..]].concat()
        }
    }
}

/// What is at a place already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Present {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self, UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .on("open", root)?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755))
            .map_err(std::io::Error::from)
            .on("set mode of", root)?;
        Ok(Self {
            root: fd,
            parent: None,
            directory_times: Vec::new(),
            root_mtime: 0,
            room: Room::default(),
            n_dropped: 0,
        })
    }

    /// Makes what the entry says; returns the file whose content follows.
    pub(super) fn place(&mut self, entry: &Entry) -> Result<Option<File>, UnpackError> {
        if entry.uid > ID_MAX || entry.gid > ID_MAX {
            let problem = "belongs to a user or group above 65535";
            return Err(UnpackError::entry(&entry.path, problem));
        }
        let place = Place::parse(&entry.path)?;
        if place.name.is_empty() {
            return self.place_root(entry).map(|()| None);
        }
        if place.name.starts_with(WHITEOUT_PREFIX) {
            return self.place_whiteout(entry, &place).map(|()| None);
        }
        if entry.kind == EntryKind::Device {
            self.n_dropped += 1;
            tracing::debug!(
                path = printable(&entry.path),
                "device left out of the layer"
            );
            return Ok(None);
        }
        self.enter(&place, entry)?;
        let present = self.make_room(&place, entry)?;
        match entry.kind {
            EntryKind::File => self.create_file(&place, entry).map(Some),
            EntryKind::Directory => self.place_directory(&place, entry, present).map(|()| None),
            EntryKind::HardLink => self.place_hard_link(&place, entry).map(|()| None),
            EntryKind::Symlink => self.place_symlink(&place, entry).map(|()| None),
            EntryKind::Fifo => self.place_fifo(&place, entry).map(|()| None),
            EntryKind::Device => Ok(None),
        }
    }

    /// Sets owner, mode, attributes and time, after the content was written.
    pub(super) fn finish_file(&mut self, entry: &Entry, file: &File) -> Result<(), UnpackError> {
        self.set_owner_mode_xattrs(entry, file.as_fd())?;
        rustix::fs::futimens(file, &times(entry.mtime))
            .map_err(|error| UnpackError::write(&entry.path, error))
    }

    /// Sets the times of directories; returns how much was left out.
    pub(super) fn finish(mut self) -> Result<u64, UnpackError> {
        self.parent = None;
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            // One that was replaced or reached through a later link is no directory any more.
            if let Ok(dir) = open_beneath(self.root.as_fd(), &path) {
                rustix::fs::futimens(&dir, &times(mtime))
                    .map_err(|error| UnpackError::write(&path, error))?;
            }
        }
        rustix::fs::futimens(&self.root, &times(self.root_mtime))
            .map_err(|error| UnpackError::write(b"", error))?;
        Ok(self.n_dropped)
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.parent
            .as_ref()
            .map_or_else(|| self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens the entry's directory, and makes it when the layer does not say it.
    fn enter(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        if place.parent.is_empty() {
            self.parent = None;
            return Ok(());
        }
        if self
            .parent
            .as_ref()
            .is_some_and(|(path, _)| path == &place.parent)
        {
            return Ok(());
        }
        let dir = match open_beneath(self.root.as_fd(), &place.parent) {
            Err(Errno::NOENT) => self.make_parents(&place.parent, entry)?,
            result => result.map_err(|error| refuse_link(&entry.path, error))?,
        };
        self.parent = Some((place.parent.clone(), dir));
        Ok(())
    }

    fn make_parents(&mut self, path: &[u8], entry: &Entry) -> Result<OwnedFd, UnpackError> {
        let mut dir =
            rustix::io::dup(&self.root).map_err(|error| UnpackError::write(&entry.path, error))?;
        let mut n_path_bytes = 0;
        for component in path.split(|byte| *byte == b'/') {
            n_path_bytes += component.len();
            let made = &path[..n_path_bytes];
            n_path_bytes += 1;
            let mode = Mode::from_raw_mode(0o755);
            let is_new = match rustix::fs::mkdirat(&dir, component, mode) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(UnpackError::write(&entry.path, error)),
            };
            dir = open_beneath(dir.as_fd(), component)
                .map_err(|error| refuse_link(&entry.path, error))?;
            if is_new {
                self.room.take_parent()?;
                self.room.take_path(made.len())?;
                self.directory_times.push((made.to_vec(), 0));
                // The process's umask may have taken bits away.
                rustix::fs::fchmod(&dir, mode)
                    .map_err(|error| UnpackError::write(&entry.path, error))?;
            }
        }
        Ok(dir)
    }

    fn present(&self, name: &[u8], entry: &Entry) -> Result<Present, UnpackError> {
        let stat = match rustix::fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Present::Nothing),
            Err(error) => return Err(UnpackError::write(&entry.path, error)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Present::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Present::Whiteout,
            _ => Present::Other,
        })
    }

    /// Removes what an earlier entry of the layer put here; says what was there.
    fn make_room(&mut self, place: &Place, entry: &Entry) -> Result<Present, UnpackError> {
        let present = self.present(&place.name, entry)?;
        match (present, entry.kind) {
            (Present::Nothing, _) | (Present::Directory, EntryKind::Directory) => {}
            (Present::Directory, _) => {
                let problem = "is also a directory in the same layer";
                return Err(UnpackError::entry(&entry.path, problem));
            }
            (Present::Whiteout | Present::Other, _) => {
                rustix::fs::unlinkat(self.parent(), &place.name[..], AtFlags::empty())
                    .map_err(|error| UnpackError::write(&entry.path, error))?;
            }
        }
        Ok(present)
    }

    fn create_file(&self, place: &Place, entry: &Entry) -> Result<File, UnpackError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::openat(self.parent(), &place.name[..], flags, mode)
            .map(File::from)
            .map_err(|error| UnpackError::write(&entry.path, error))
    }

    fn place_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != EntryKind::Directory {
            return Err(UnpackError::entry(
                &entry.path,
                "is the root and no directory",
            ));
        }
        self.root_mtime = entry.mtime;
        let root =
            rustix::io::dup(&self.root).map_err(|error| UnpackError::write(&entry.path, error))?;
        self.set_owner_mode_xattrs(entry, root.as_fd())
    }

    fn place_directory(
        &mut self,
        place: &Place,
        entry: &Entry,
        present: Present,
    ) -> Result<(), UnpackError> {
        if present != Present::Directory {
            rustix::fs::mkdirat(self.parent(), &place.name[..], Mode::from_raw_mode(0o700))
                .map_err(|error| UnpackError::write(&entry.path, error))?;
        }
        let dir = open_beneath(self.parent(), &place.name)
            .map_err(|error| refuse_link(&entry.path, error))?;
        // The whiteout hid the lower directory; so must the directory in its place.
        if present == Present::Whiteout {
            set_opaque(&dir, entry)?;
        }
        self.set_owner_mode_xattrs(entry, dir.as_fd())?;
        let path = place.full();
        self.room.take_path(path.len())?;
        self.directory_times.push((path, entry.mtime));
        Ok(())
    }

    fn place_hard_link(&self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let target = Place::parse(&entry.link)?;
        let dir;
        let target_dir = if target.parent.is_empty() {
            self.root.as_fd()
        } else {
            dir = open_beneath(self.root.as_fd(), &target.parent)
                .map_err(|error| refuse_target(entry, error))?;
            dir.as_fd()
        };
        // Without a flag a link at the end is linked itself, not followed.
        rustix::fs::linkat(
            target_dir,
            &target.name[..],
            self.parent(),
            &place.name[..],
            AtFlags::empty(),
        )
        .map_err(|error| refuse_target(entry, error))
    }

    fn place_symlink(&self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let error = |error: Errno| UnpackError::write(&entry.path, error);
        if entry.link.is_empty() || entry.link.len() > PATH_BYTES_MAX || entry.link.contains(&0) {
            return Err(UnpackError::entry(&entry.path, "has no usable link target"));
        }
        let name = &place.name[..];
        rustix::fs::symlinkat(&entry.link[..], self.parent(), name).map_err(error)?;
        self.finish_unopened(name, entry).map_err(error)
    }

    fn place_fifo(&self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let error = |error: Errno| UnpackError::write(&entry.path, error);
        let name = &place.name[..];
        // The umask does not count: the mode is set again below.
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::mknodat(self.parent(), name, FileType::Fifo, mode, 0).map_err(error)?;
        self.finish_unopened(name, entry).map_err(error)?;
        rustix::fs::chmodat(self.parent(), name, mode, AtFlags::empty()).map_err(error)
    }

    /// Owner and time of what cannot be opened for that.
    fn finish_unopened(&self, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let (uid, gid) = owner(entry);
        rustix::fs::chownat(self.parent(), name, Some(uid), Some(gid), nofollow)?;
        rustix::fs::utimensat(self.parent(), name, &times(entry.mtime), nofollow)
    }

    fn place_whiteout(&mut self, entry: &Entry, place: &Place) -> Result<(), UnpackError> {
        self.enter(place, entry)?;
        if place.name == WHITEOUT_OPAQUE {
            return set_opaque(&self.parent(), entry);
        }
        if place.name.starts_with(WHITEOUT_META_PREFIX) {
            self.n_dropped += 1;
            return Ok(());
        }
        let hidden = &place.name[WHITEOUT_PREFIX.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::entry(
                &entry.path,
                "hides nothing that has a name",
            ));
        }
        match self.present(hidden, entry)? {
            Present::Nothing => rustix::fs::mknodat(
                self.parent(),
                hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .map_err(|error| UnpackError::write(&entry.path, error)),
            // A whiteout is about lower layers; this layer's own directory stays.
            Present::Directory => {
                let dir = open_beneath(self.parent(), hidden)
                    .map_err(|error| refuse_link(&entry.path, error))?;
                set_opaque(&dir, entry)
            }
            Present::Whiteout | Present::Other => Ok(()),
        }
    }

    fn set_owner_mode_xattrs(
        &mut self,
        entry: &Entry,
        fd: BorrowedFd<'_>,
    ) -> Result<(), UnpackError> {
        let error = |error: Errno| UnpackError::write(&entry.path, error);
        let (uid, gid) = owner(entry);
        // The owner first: a change of it takes set-id bits and capabilities away.
        rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(error)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(error)?;
        for (name, value) in &entry.xattrs {
            if !is_kept_xattr(name) {
                self.n_dropped += 1;
                continue;
            }
            match rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP) => self.n_dropped += 1,
                Err(errno) => return Err(error(errno)),
            }
        }
        Ok(())
    }
}

/// `trusted.*` and `user.overlay.*` steer overlayfs, others belong to the host's security modules.
pub(crate) fn is_kept_xattr(name: &[u8]) -> bool {
    let is_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    (is_user || name == b"security.capability") && !name.contains(&0)
}

fn set_opaque(dir: &impl std::os::fd::AsFd, entry: &Entry) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(dir, OPAQUE_XATTR, b"y", XattrFlags::empty())
        .map_err(|error| UnpackError::write(&entry.path, error))
}

/// Opens a directory beneath `root` without following any link.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn refuse_link(path: &[u8], error: Errno) -> UnpackError {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => UnpackError::entry(
            path,
            "is inside something that is no directory of the layer",
        ),
        other => UnpackError::write(path, other),
    }
}

fn refuse_target(entry: &Entry, error: Errno) -> UnpackError {
    match error {
        Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::PERM => {
            UnpackError::entry(&entry.path, "is a hard link to no file of the layer")
        }
        other => UnpackError::write(&entry.path, other),
    }
}

fn owner(entry: &Entry) -> (Uid, Gid) {
    // `place` refused what does not fit.
    let id = |id: u64| u32::try_from(id.min(ID_MAX)).unwrap_or_default();
    (Uid::from_raw(id(entry.uid)), Gid::from_raw(id(entry.gid)))
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

//! Reading unpacked layers: only beneath their roots, and never through a symbolic link.

use super::WriteErofsError;
use super::tree::Node;
use crate::limits::LAYERS_MAX;
use crate::unpack::{OPAQUE_XATTR, is_kept_xattr};
use roost_runtime::fs::IoContext as _;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Bytes for the names or the value of attributes at the first try.
const XATTR_BUFFER_BYTES: usize = 256;

/// Attributes, each a name and a value.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The unpacked layers of an image, lowest first.
#[derive(Debug)]
pub(super) struct Layers {
    roots: Vec<OwnedFd>,
}

/// One directory of one layer.
#[derive(Debug)]
pub(super) struct LayerDir {
    pub layer: u8,
    fd: OwnedFd,
}

/// What a layer has under a name.
#[derive(Debug)]
pub(super) enum Found {
    /// Whatever lower layers have under the name is gone.
    Whiteout,
    Directory(Node),
    /// A file, a link, a device and so on; `inode` tells hard links.
    Other {
        node: Node,
        inode: u64,
        has_links: bool,
    },
}

impl Layers {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, WriteErofsError> {
        if paths.len() > LAYERS_MAX {
            return Err(WriteErofsError::TooMuch {
                what: "layers",
                limit: LAYERS_MAX as u64,
            });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &PathBuf| {
            let root = rustix::fs::open(path, flags, Mode::empty());
            root.map_err(io::Error::from).on("open", path)
        };
        let roots = paths.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// The numbers of all layers, highest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u8> {
        (0..self.roots.len())
            .rev()
            .filter_map(|number| u8::try_from(number).ok())
    }

    /// Opens a directory; the empty path is the root.
    pub(super) fn open_dir(&self, layer: u8, path: &[u8]) -> Result<LayerDir, WriteErofsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = self.open_at(layer, path, flags)?;
        Ok(LayerDir { layer, fd })
    }

    /// Opens a regular file of `size` bytes to read it.
    pub(super) fn open_file(
        &self,
        layer: u8,
        path: &[u8],
        size: u64,
    ) -> Result<File, WriteErofsError> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.open_at(layer, path, flags)?);
        let data = file
            .metadata()
            .map_err(|error| WriteErofsError::read(path, error))?;
        if !data.is_file() || data.len() != size {
            return Err(WriteErofsError::changed(path));
        }
        Ok(file)
    }

    /// Where a symbolic link leads, as it says.
    pub(super) fn read_link(&self, layer: u8, path: &[u8]) -> Result<Vec<u8>, WriteErofsError> {
        let link = self.open_at(layer, path, OFlags::PATH)?;
        let target = rustix::fs::readlinkat(&link, c"", Vec::new())
            .map_err(|error| WriteErofsError::read(path, error))?;
        Ok(target.into_bytes())
    }

    fn open_at(&self, layer: u8, path: &[u8], flags: OFlags) -> Result<OwnedFd, WriteErofsError> {
        let root = self
            .roots
            .get(usize::from(layer))
            .ok_or_else(|| WriteErofsError::changed(path))?;
        let inside: &[u8] = if path.is_empty() { b"." } else { path };
        open_beneath(root.as_fd(), inside, flags).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR | Errno::NOENT => WriteErofsError::changed(path),
            other => WriteErofsError::read(path, other),
        })
    }
}

impl LayerDir {
    /// The names in it, in any order, without `.` and `..`.
    pub(super) fn names(&self) -> Result<impl Iterator<Item = io::Result<Vec<u8>>> + use<>, Errno> {
        let names = Dir::read_from(&self.fd)?.map(|entry| {
            let entry = entry.map_err(io::Error::from)?;
            Ok(entry.file_name().to_bytes().to_vec())
        });
        Ok(names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b".."))))
    }

    /// The directory itself.
    pub(super) fn node(&self) -> Result<Node, Errno> {
        let stat = rustix::fs::fstat(&self.fd)?;
        Ok(Node::from_stat(&stat, self.layer))
    }

    pub(super) fn find(&self, name: &[u8]) -> Result<Found, Errno> {
        let stat: Stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let node = Node::from_stat(&stat, self.layer);
        Ok(match node.kind() {
            FileType::Directory => Found::Directory(node),
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::Other {
                node,
                inode: stat.st_ino,
                has_links: stat.st_nlink > 1,
            },
        })
    }

    /// Whether the directory of this name hides that of lower layers.
    pub(super) fn is_opaque(&self, name: &[u8]) -> Result<bool, Errno> {
        let dir = open_beneath(self.fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut value = [0; 1];
        match rustix::fs::fgetxattr(&dir, OPAQUE_XATTR, &mut value[..]) {
            Ok(n_bytes) => Ok(&value[..n_bytes] == b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The attributes that images may bring, by name. Only files and
    /// directories have such; the empty name is the directory itself.
    pub(super) fn xattrs(&self, name: &[u8]) -> Result<Xattrs, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let inside: &[u8] = if name.is_empty() { b"." } else { name };
        let file = open_beneath(self.fd.as_fd(), inside, flags)?;
        let list = match read_sized(|buffer| rustix::fs::flistxattr(&file, buffer)) {
            Ok(list) => list,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names: Vec<&[u8]> = list
            .split(|byte| *byte == 0)
            .filter(|name| is_kept_xattr(name))
            .collect();
        names.sort_unstable();
        let value = |name: &[u8]| read_sized(|buffer| rustix::fs::fgetxattr(&file, name, buffer));
        let pairs = names
            .into_iter()
            .map(|name| Ok((name.to_vec(), value(name)?)));
        pairs.collect()
    }
}

/// Asks with a growing buffer until the answer fits.
fn read_sized(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; XATTR_BUFFER_BYTES];
    loop {
        match read(&mut buffer) {
            Ok(n_bytes) => {
                buffer.truncate(n_bytes);
                return Ok(buffer);
            }
            // The kernel gives at most 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 16 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

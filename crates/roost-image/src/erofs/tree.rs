//! The merged tree in memory: what an inode and a directory will say, without content.

use super::WriteErofsError;
use super::format::{self, Dirent, NAME_BYTES_MAX};
use crate::limits::{
    ROOT_IMAGE_INODES_MAX, ROOT_IMAGE_NAMES_BYTES_MAX, ROOT_IMAGE_NAMES_MAX,
    ROOT_IMAGE_XATTRS_BYTES_MAX,
};
use rustix::fs::{FileType, Stat};
use std::ops::Range;

/// Position of the root among the nodes.
pub(super) const ROOT_IDX: usize = 0;

/// One inode of the image.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Kind and permission bits, as `st_mode`.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    pub mtime_nsec: u32,
    /// Names that it has; of a directory, with `.` and the `..` of others.
    pub n_links: u32,
    /// Bytes of content of a file or symbolic link.
    pub size: u64,
    /// Which device it is, as inodes have it.
    pub device: u32,
    /// The layer that its content comes from; `None` for what no layer has.
    pub layer: Option<u8>,
    /// The directory of its first name.
    parent_idx: usize,
    /// Its first name among all names; the root has none.
    name_idx: usize,
    /// Its attributes, encoded.
    xattrs: Range<usize>,
    /// The names in a directory.
    names: Range<usize>,
}

impl Node {
    /// What a layer has.
    pub(super) fn from_stat(stat: &Stat, layer: u8) -> Self {
        let mode = u16::try_from(stat.st_mode & 0xffff).unwrap_or_default();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let has_content = matches!(kind, FileType::RegularFile | FileType::Symlink);
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        Self {
            mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            size: if has_content { size } else { 0 },
            device: if is_device {
                format::device(major, minor)
            } else {
                0
            },
            layer: Some(layer),
            ..Self::directory(0)
        }
    }

    /// An empty directory that no layer has, of root.
    pub(super) fn directory(permissions: u16) -> Self {
        let kind = u16::try_from(FileType::Directory.as_raw_mode()).unwrap_or_default();
        Self {
            mode: kind | permissions,
            uid: 0,
            gid: 0,
            mtime: 0,
            mtime_nsec: 0,
            n_links: 0,
            size: 0,
            device: 0,
            layer: None,
            parent_idx: ROOT_IDX,
            name_idx: 0,
            xattrs: 0..0,
            names: 0..0,
        }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }
}

#[derive(Debug)]
struct Name {
    start: usize,
    n_bytes: u8,
    node_idx: usize,
}

/// All inodes, in the order of a walk by breadth, and all names.
///
/// Its memory is bounded: see the limits named `ROOT_IMAGE_…`.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    names: Vec<Name>,
    name_bytes: Vec<u8>,
    xattr_bytes: Vec<u8>,
}

impl Tree {
    pub(super) fn new(mut root: Node) -> Self {
        // `.` and `..`.
        root.n_links = 2;
        Self {
            nodes: vec![root],
            names: Vec::new(),
            name_bytes: Vec::new(),
            xattr_bytes: Vec::new(),
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its attributes as they lie behind the inode.
    pub(super) fn xattrs(&self, node: &Node) -> &[u8] {
        &self.xattr_bytes[node.xattrs.clone()]
    }

    /// The path of a node by its first name, without a slash at the begin; empty for the root.
    pub(super) fn path(&self, node_idx: usize) -> Vec<u8> {
        let mut components = Vec::new();
        let mut idx = node_idx;
        while idx != ROOT_IDX {
            let node = &self.nodes[idx];
            components.push(self.name(&self.names[node.name_idx]));
            idx = node.parent_idx;
        }
        components.reverse();
        components.join(&b'/')
    }

    fn name(&self, name: &Name) -> &[u8] {
        &self.name_bytes[name.start..][..name.n_bytes.into()]
    }

    /// What a directory lists, with `.` and `..`, in the order of bytes.
    pub(super) fn dirents(&self, node_idx: usize) -> Vec<Dirent<'_>> {
        let node = &self.nodes[node_idx];
        let names = self.names[node.names.clone()].iter();
        let mut dirents: Vec<Dirent<'_>> = names
            .map(|name| Dirent {
                name: self.name(name),
                node_idx: name.node_idx,
            })
            .collect();
        let own = [(&b"."[..], node_idx), (b"..", node.parent_idx)];
        dirents.extend(own.map(|(name, node_idx)| Dirent { name, node_idx }));
        // Lookups search by halves, and names such as `#` come before the dots.
        dirents.sort_unstable_by_key(|dirent| dirent.name);
        dirents
    }

    /// Begins the names of a directory: those of the others are complete.
    pub(super) fn begin_directory(&mut self, node_idx: usize) {
        self.nodes[node_idx].names = self.names.len()..self.names.len();
    }

    /// Adds a name in the directory that was begun, for a new node.
    pub(super) fn add_node(
        &mut self,
        parent_idx: usize,
        name: &[u8],
        mut node: Node,
    ) -> Result<usize, WriteErofsError> {
        let node_idx = self.nodes.len();
        if node_idx >= ROOT_IMAGE_INODES_MAX {
            return Err(too_many_inodes());
        }
        (node.parent_idx, node.name_idx) = (parent_idx, self.names.len());
        if node.is_directory() {
            node.n_links = 1;
            self.nodes[parent_idx].n_links += 1;
        }
        self.nodes.push(node);
        self.add_name(parent_idx, name, node_idx)?;
        Ok(node_idx)
    }

    /// Adds a name in the directory that was begun, for a node that is there.
    pub(super) fn add_name(
        &mut self,
        parent_idx: usize,
        name: &[u8],
        node_idx: usize,
    ) -> Result<(), WriteErofsError> {
        let room = ROOT_IMAGE_NAMES_BYTES_MAX.saturating_sub(self.name_bytes.len());
        if name.len() > room {
            return Err(WriteErofsError::TooMuch {
                what: "bytes in the names of its files",
                limit: ROOT_IMAGE_NAMES_BYTES_MAX as u64,
            });
        }
        // Hard links have names without an inode of their own.
        if self.names.len() >= ROOT_IMAGE_NAMES_MAX {
            return Err(WriteErofsError::TooMuch {
                what: "names of files",
                limit: ROOT_IMAGE_NAMES_MAX as u64,
            });
        }
        let n_bytes = u8::try_from(name.len()).map_err(|_| WriteErofsError::TooMuch {
            what: "bytes in the name of a file",
            limit: NAME_BYTES_MAX as u64,
        })?;
        self.nodes[node_idx].n_links += 1;
        self.names.push(Name {
            start: self.name_bytes.len(),
            n_bytes,
            node_idx,
        });
        self.name_bytes.extend_from_slice(name);
        self.nodes[parent_idx].names.end = self.names.len();
        Ok(())
    }

    /// Gives a node its attributes, each a name and a value.
    pub(super) fn set_xattrs(
        &mut self,
        node_idx: usize,
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), WriteErofsError> {
        let start = self.xattr_bytes.len();
        for (name, value) in xattrs {
            let is_put = format::put_xattr(&mut self.xattr_bytes, start, name, value);
            if !is_put || self.xattr_bytes.len() > ROOT_IMAGE_XATTRS_BYTES_MAX {
                return Err(WriteErofsError::TooMuch {
                    what: "bytes in the attributes of its files",
                    limit: ROOT_IMAGE_XATTRS_BYTES_MAX as u64,
                });
            }
        }
        self.nodes[node_idx].xattrs = start..self.xattr_bytes.len();
        Ok(())
    }
}

pub(super) fn too_many_inodes() -> WriteErofsError {
    WriteErofsError::TooMuch {
        what: "files and directories",
        limit: ROOT_IMAGE_INODES_MAX as u64,
    }
}

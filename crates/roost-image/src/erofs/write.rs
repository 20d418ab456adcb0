//! Writing a laid-out tree: inodes and contents, each in one pass from front to back.

use super::WriteErofsError;
use super::format::{BLOCK_BYTES, BLOCK_LENGTH, Inode, Tail, dirent_block, dirent_blocks};
use super::layers::Layers;
use super::layout::{Layout, Place};
use super::tree::{Node, Tree};
use rustix::fs::FileType;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

/// Bytes read or written at once.
const BUFFER_BYTES: usize = 128 * 1024;
static ZEROS: [u8; BUFFER_BYTES] = [0; BUFFER_BYTES];

pub(super) fn write(
    layers: &Layers,
    tree: &Tree,
    layout: &Layout,
    uuid: [u8; 16],
    target: &File,
) -> Result<(), WriteErofsError> {
    let mut output = Output {
        layers,
        tree,
        layout,
        inodes: Section::new(target),
        contents: Section::new(target),
        buffer: vec![0; BUFFER_BYTES],
    };
    let write = WriteErofsError::Write;
    let superblock = layout.superblock(uuid).to_block();
    output.inodes.write(&superblock).map_err(write)?;
    for (node_idx, node) in tree.nodes().iter().enumerate() {
        output.node(node_idx, node)?;
    }
    output.inodes.flush().map_err(write)?;
    output.contents.flush().map_err(write)?;
    target.set_len(layout.n_bytes()).map_err(write)
}

struct Output<'t> {
    layers: &'t Layers,
    tree: &'t Tree,
    layout: &'t Layout,
    inodes: Section<'t>,
    contents: Section<'t>,
    buffer: Vec<u8>,
}

impl<'t> Output<'t> {
    fn node(&mut self, node_idx: usize, node: &Node) -> Result<(), WriteErofsError> {
        let place = self.layout.place(node_idx);
        self.inode(node_idx, node, place)
            .map_err(WriteErofsError::Write)?;
        match (node.kind(), node.layer) {
            (FileType::Directory, _) => self
                .directory(node_idx, place)
                .map_err(WriteErofsError::Write),
            (FileType::RegularFile, Some(layer)) if place.size > 0 => {
                self.file(node_idx, layer, place)
            }
            (FileType::Symlink, Some(layer)) => {
                let path = self.tree.path(node_idx);
                let target = self.layers.read_link(layer, &path)?;
                if target.len() as u64 != place.size {
                    return Err(WriteErofsError::changed(&path));
                }
                self.content(place)
                    .and_then(|mut content| content.write(&target))
                    .map_err(WriteErofsError::Write)
            }
            _ => Ok(()),
        }
    }

    fn inode(&mut self, node_idx: usize, node: &Node, place: Place) -> io::Result<()> {
        let has_blocks = place.size >= BLOCK_BYTES || place.size > 0 && place.tail == Tail::Block;
        let inode = Inode {
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: node.mtime,
            mtime_nsec: node.mtime_nsec,
            n_links: node.n_links,
            size: place.size,
            tail: place.tail,
            block_or_device: if has_blocks {
                self.layout.block(place)
            } else {
                node.device
            },
            xattr_bytes: self.tree.xattrs(node).len() as u64,
            small_number: u32::try_from(node_idx + 1).unwrap_or(u32::MAX),
        };
        self.inodes.skip_to(place.offset)?;
        self.inodes.write(&inode.to_bytes())?;
        self.inodes.write(self.tree.xattrs(node))
    }

    fn directory(&mut self, node_idx: usize, place: Place) -> io::Result<()> {
        let (tree, layout) = (self.tree, self.layout);
        let dirents = tree.dirents(node_idx);
        let mut content = self.content(place)?;
        let mut left = place.size;
        for block in dirent_blocks(&dirents) {
            let number_and_mode = |idx: usize| (layout.number(idx), tree.nodes()[idx].mode);
            let mut bytes = dirent_block(block, number_and_mode);
            if left >= BLOCK_BYTES {
                bytes.resize(BLOCK_LENGTH, 0);
            }
            left -= bytes.len() as u64;
            content.write(&bytes)?;
        }
        Ok(())
    }

    fn file(&mut self, node_idx: usize, layer: u8, place: Place) -> Result<(), WriteErofsError> {
        let path = self.tree.path(node_idx);
        let mut file = self.layers.open_file(layer, &path, place.size)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut content = self.content(place).map_err(WriteErofsError::Write)?;
        let mut left = place.size;
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let n_read = match file.read(&mut buffer[..wanted]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(WriteErofsError::read(&path, error)),
                Ok(0) => return Err(WriteErofsError::changed(&path)),
                Ok(n_read) => n_read,
            };
            content
                .write(&buffer[..n_read])
                .map_err(WriteErofsError::Write)?;
            left -= n_read as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn content(&mut self, place: Place) -> io::Result<Content<'_, 't>> {
        let start = u64::from(self.layout.block(place)) * BLOCK_BYTES;
        self.contents.skip_to(start)?;
        Ok(Content {
            left_in_blocks: match place.tail {
                Tail::Block => place.size,
                Tail::Inline => place.size - place.size % BLOCK_BYTES,
            },
            blocks: &mut self.contents,
            inline: &mut self.inodes,
        })
    }
}

/// Takes the content of one inode, and puts the last block where it goes.
struct Content<'c, 't> {
    left_in_blocks: u64,
    blocks: &'c mut Section<'t>,
    /// Stands behind the attributes of the inode.
    inline: &'c mut Section<'t>,
}

impl Content<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let n_in_blocks = usize::try_from(self.left_in_blocks)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let (in_blocks, inline) = bytes.split_at(n_in_blocks);
        self.left_in_blocks -= n_in_blocks as u64;
        self.blocks.write(in_blocks)?;
        self.inline.write(inline)
    }
}

/// A part of the file that is written from front to back. What is not written,
/// or all zeros over a whole buffer, takes no room on the disk.
struct Section<'t> {
    target: &'t File,
    /// Where the buffer's begin goes.
    start: u64,
    buffer: Vec<u8>,
}

impl<'t> Section<'t> {
    fn new(target: &'t File) -> Self {
        Self {
            target,
            start: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        }
    }

    /// Goes on at `offset`, which is not before what was written.
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        let in_buffer = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        // Only behind what is written: before it may lie the other section.
        if !self.buffer.is_empty() && in_buffer <= BUFFER_BYTES {
            self.buffer.resize(in_buffer, 0);
        } else {
            self.flush()?;
            self.start = offset;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.buffer.len() == BUFFER_BYTES {
                self.flush()?;
            }
            let room = BUFFER_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer != ZEROS[..self.buffer.len()] {
            self.target.write_all_at(&self.buffer, self.start)?;
        }
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

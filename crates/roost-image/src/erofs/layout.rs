//! Where each inode and each content lies.

use super::WriteErofsError;
use super::format::{BLOCK_BYTES, INODE_BYTES, SLOT_BYTES, Superblock, Tail, directory_bytes};
use super::tree::{ROOT_IDX, Tree};
use crate::limits::ROOT_IMAGE_BYTES_MAX;

/// A last block larger than this begins no new block of inodes: where little of
/// the block before was used, it would take more room there than by itself.
const INLINE_BYTES_MAX: u64 = BLOCK_BYTES / 2;

/// Where one inode and its content lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the inode, in bytes from the begin of the file.
    pub offset: u64,
    /// Bytes of content.
    pub size: u64,
    pub tail: Tail,
    /// The first block of the content, counted from the first block of contents.
    block: u64,
}

/// The places of all inodes, in the order of the tree.
#[derive(Debug)]
pub(super) struct Layout {
    places: Vec<Place>,
    /// Where the blocks of contents begin.
    data_block: u64,
    n_blocks: u32,
}

impl Layout {
    pub(super) fn of(tree: &Tree) -> Result<Self, WriteErofsError> {
        let too_large = || WriteErofsError::TooMuch {
            what: "bytes",
            limit: ROOT_IMAGE_BYTES_MAX,
        };
        // The superblock has the first block: inode number 0 would not do, programs
        // take it for none.
        let (mut end, mut data_blocks) = (BLOCK_BYTES, 0_u64);
        let mut places = Vec::with_capacity(tree.nodes().len());
        for (node_idx, node) in tree.nodes().iter().enumerate() {
            let size = if node.is_directory() {
                directory_bytes(&tree.dirents(node_idx))
            } else {
                node.size
            };
            if size > ROOT_IMAGE_BYTES_MAX {
                return Err(too_large());
            }
            let head = INODE_BYTES + tree.xattrs(node).len() as u64;
            let (offset, tail) = place(end, head, size % BLOCK_BYTES);
            let (inline_bytes, n_blocks) = match tail {
                Tail::Inline => (size % BLOCK_BYTES, size / BLOCK_BYTES),
                Tail::Block => (0, size.div_ceil(BLOCK_BYTES)),
            };
            places.push(Place {
                offset,
                size,
                tail,
                block: data_blocks,
            });
            end = offset + head + inline_bytes;
            data_blocks += n_blocks;
            if end + data_blocks * BLOCK_BYTES > ROOT_IMAGE_BYTES_MAX {
                return Err(too_large());
            }
        }
        let data_block = end.div_ceil(BLOCK_BYTES);
        let n_blocks = u32::try_from(data_block + data_blocks).map_err(|_| too_large())?;
        Ok(Self {
            places,
            data_block,
            n_blocks,
        })
    }

    pub(super) fn superblock(&self, uuid: [u8; 16]) -> Superblock {
        let root = self.number(ROOT_IDX);
        Superblock {
            root_number: u16::try_from(root).expect("the root is the first inode"),
            n_inodes: self.places.len() as u64,
            n_blocks: self.n_blocks,
            uuid,
        }
    }

    pub(super) fn place(&self, node_idx: usize) -> Place {
        self.places[node_idx]
    }

    /// The number of an inode, by which directories name it.
    pub(super) fn number(&self, node_idx: usize) -> u64 {
        self.place(node_idx).offset / SLOT_BYTES
    }

    /// The block in which the content of this place begins.
    pub(super) fn block(&self, place: Place) -> u32 {
        u32::try_from(self.data_block + place.block)
            .expect("no more blocks than all, which was checked")
    }

    /// Bytes of the whole file system.
    pub(super) fn n_bytes(&self) -> u64 {
        u64::from(self.n_blocks) * BLOCK_BYTES
    }
}

/// Where an inode goes that with its attributes takes `head` bytes, and its last
/// block, of `last` bytes.
///
/// The kernel wants an inline last block whole in one block. The inode and its
/// attributes may cross into the next, but only do so if they must.
fn place(end: u64, head: u64, last: u64) -> (u64, Tail) {
    let here = end.next_multiple_of(SLOT_BYTES);
    let next = here.next_multiple_of(BLOCK_BYTES);
    let fits_here = |n_bytes| here == next || n_bytes <= next - here;
    let fits_block = head + last <= BLOCK_BYTES;
    if last > 0 && fits_block && fits_here(head + last) {
        (here, Tail::Inline)
    } else if last > 0 && fits_block && last <= INLINE_BYTES_MAX {
        (next, Tail::Inline)
    } else if head > BLOCK_BYTES || fits_here(head) {
        (here, Tail::Block)
    } else {
        (next, Tail::Block)
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, SLOT_BYTES, Tail, place};
    use proptest::prelude::*;

    #[test]
    fn a_small_file_lies_behind_its_inode_and_a_large_rest_by_itself() {
        assert_eq!(place(4_096, 64, 100), (4_096, Tail::Inline));
        assert_eq!(place(4_097, 64, 100), (4_128, Tail::Inline));
        assert_eq!(place(8_064, 64, 100), (8_192, Tail::Inline));
        assert_eq!(place(8_000, 64, 3_000), (8_000, Tail::Block));
        assert_eq!(place(8_170, 64, 3_000), (8_192, Tail::Inline));
        assert_eq!(place(8_150, 64, 0), (8_192, Tail::Block));
        assert_eq!(place(8_000, 5_000, 1), (8_000, Tail::Block));
    }

    proptest! {
        #[test]
        fn an_inline_block_never_crosses_a_block(
            end in 4_096_u64..100_000,
            head in (16_u64..2_000).prop_map(|words| words * 4),
            last in 0_u64..BLOCK_BYTES,
        ) {
            let (offset, tail) = place(end, head, last);
            prop_assert!(offset >= end && offset % SLOT_BYTES == 0);
            prop_assert!(offset < end.next_multiple_of(SLOT_BYTES) + BLOCK_BYTES);
            let start = offset % BLOCK_BYTES;
            match tail {
                Tail::Inline => prop_assert!(last > 0 && start + head + last <= BLOCK_BYTES),
                Tail::Block => prop_assert!(head > BLOCK_BYTES || start + head <= BLOCK_BYTES),
            }
        }
    }
}

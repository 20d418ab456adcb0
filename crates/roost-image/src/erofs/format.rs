//! The parts of an EROFS file system as they lie on disk, all little-endian.
//!
//! From `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h` of
//! Linux. Inodes are always the extended ones: only those hold a time of
//! their own, and ids and sizes of any width.

use rustix::fs::FileType;

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = BLOCK_LENGTH as u64;
/// The same, as lengths in memory are counted.
pub(super) const BLOCK_LENGTH: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u8 = 12;
/// Inodes lie at multiples of this; their number is the multiple.
pub(super) const SLOT_BYTES: u64 = 32;
/// Bytes of an inode, without attributes and content.
pub(super) const INODE_BYTES: u64 = INODE_LENGTH as u64;
const INODE_LENGTH: usize = 64;
/// Longest name in a directory.
pub(super) const NAME_BYTES_MAX: usize = 255;

const SUPERBLOCK_OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
const COMPAT_CHECKSUM: u32 = 1;
/// Times of inodes are those of their last modification.
const COMPAT_MTIME: u32 = 2;
const INODE_EXTENDED: u16 = 1;
const DIRENT_BYTES: usize = 12;
const XATTR_HEADER_BYTES: usize = 12;
const XATTR_ALIGN: usize = 4;

/// What the superblock says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superblock {
    pub root_number: u16,
    pub n_inodes: u64,
    pub n_blocks: u32,
    pub uuid: [u8; 16],
}

impl Superblock {
    /// The first block of the file system.
    pub(super) fn to_block(self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(128);
        put(&mut fields, &MAGIC.to_le_bytes());
        put(&mut fields, &[0; 4]); // Checksum, see below.
        put(&mut fields, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        put(&mut fields, &[BLOCK_BITS, 0]); // No further superblock slots.
        put(&mut fields, &self.root_number.to_le_bytes());
        put(&mut fields, &self.n_inodes.to_le_bytes());
        put(&mut fields, &[0; 12]); // Build time: none.
        put(&mut fields, &self.n_blocks.to_le_bytes());
        // Inodes are counted from the begin of the file, and no attributes are shared.
        put(&mut fields, &[0; 8]);
        put(&mut fields, &self.uuid);
        // No volume name, no incompatible feature, no further device, no compression.
        let mut block = vec![0; SUPERBLOCK_OFFSET];
        put(&mut block, &fields);
        block.resize(BLOCK_LENGTH, 0);
        let checksum = crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8]
            .copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// Where the last, unfilled block of a file's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// Among the other blocks, filled up with zeros.
    Block,
    /// Behind the inode and its attributes, in the same block as its begin.
    Inline,
}

/// What an inode says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inode {
    /// Kind and permission bits, as `st_mode`.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    pub mtime_nsec: u32,
    pub n_links: u32,
    /// Bytes of content.
    pub size: u64,
    pub tail: Tail,
    /// The first block of the content; of a device, which one.
    pub block_or_device: u32,
    /// Bytes of the attributes that follow.
    pub xattr_bytes: u64,
    /// For programs that know only 32 bits.
    pub small_number: u32,
}

impl Inode {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let layout: u16 = match self.tail {
            Tail::Block => 0,
            Tail::Inline => 2,
        };
        let mut bytes = Vec::with_capacity(INODE_LENGTH);
        put(&mut bytes, &(INODE_EXTENDED | layout << 1).to_le_bytes());
        put(&mut bytes, &xattr_count(self.xattr_bytes).to_le_bytes());
        put(&mut bytes, &self.mode.to_le_bytes());
        put(&mut bytes, &[0; 2]);
        put(&mut bytes, &self.size.to_le_bytes());
        put(&mut bytes, &self.block_or_device.to_le_bytes());
        put(&mut bytes, &self.small_number.to_le_bytes());
        put(&mut bytes, &self.uid.to_le_bytes());
        put(&mut bytes, &self.gid.to_le_bytes());
        put(&mut bytes, &self.mtime.to_le_bytes());
        put(&mut bytes, &self.mtime_nsec.to_le_bytes());
        put(&mut bytes, &self.n_links.to_le_bytes());
        bytes.resize(INODE_LENGTH, 0);
        bytes
    }
}

/// The attributes behind an inode, in words of four bytes after a header of twelve.
fn xattr_count(n_bytes: u64) -> u16 {
    let words = n_bytes.saturating_sub(XATTR_HEADER_BYTES as u64) / XATTR_ALIGN as u64;
    match n_bytes {
        0 => 0,
        // `put_xattr` refuses what is more than fits here.
        _ => u16::try_from(words + 1).unwrap_or(u16::MAX),
    }
}

/// Appends one attribute to those of an inode, which begin at `start`; `false`, and
/// nothing changed, for a kind of attribute that is not known or one too many.
pub(super) fn put_xattr(bytes: &mut Vec<u8>, start: usize, name: &[u8], value: &[u8]) -> bool {
    let prefixes: [(&[u8], u8); 2] = [(b"user.", 1), (b"security.", 6)];
    let known = prefixes
        .iter()
        .find_map(|(prefix, number)| Some((name.strip_prefix(*prefix)?, *number)));
    let Some((name, prefix)) = known else {
        return false;
    };
    let (Ok(name_bytes), Ok(value_bytes)) = (u8::try_from(name.len()), u16::try_from(value.len()))
    else {
        return false;
    };
    let entry_bytes = (4 + name.len() + value.len()).next_multiple_of(XATTR_ALIGN);
    let words_max = usize::from(u16::MAX) - 1;
    if bytes.len() - start + entry_bytes > words_max * XATTR_ALIGN {
        return false;
    }
    if bytes.len() == start {
        bytes.resize(start + XATTR_HEADER_BYTES, 0);
    }
    put(bytes, &[name_bytes, prefix]);
    put(bytes, &value_bytes.to_le_bytes());
    put(bytes, name);
    put(bytes, value);
    let end = (bytes.len() - start).next_multiple_of(XATTR_ALIGN);
    bytes.resize(start + end, 0);
    true
}

/// A device as inodes have it: the kernel's `new_encode_dev`.
pub(super) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirent<'n> {
    pub name: &'n [u8],
    /// Position in the tree of what it names.
    pub node_idx: usize,
}

impl Dirent<'_> {
    fn n_bytes(&self) -> u64 {
        (DIRENT_BYTES + self.name.len()) as u64
    }
}

/// The names of a directory, by the blocks that they fill.
pub(super) fn dirent_blocks<'d, 'n>(
    mut dirents: &'d [Dirent<'n>],
) -> impl Iterator<Item = &'d [Dirent<'n>]> {
    std::iter::from_fn(move || {
        let mut n_bytes = 0;
        let n_fitting = dirents
            .iter()
            .take_while(|dirent| {
                n_bytes += dirent.n_bytes();
                n_bytes <= BLOCK_BYTES
            })
            .count();
        let (block, rest) = dirents.split_at(n_fitting);
        dirents = rest;
        (!block.is_empty()).then_some(block)
    })
}

/// Bytes of a directory: whole blocks, but for the last.
pub(super) fn directory_bytes(dirents: &[Dirent<'_>]) -> u64 {
    let (mut n_bytes, mut last) = (0, 0);
    for block in dirent_blocks(dirents) {
        n_bytes += BLOCK_BYTES;
        last = block.iter().map(Dirent::n_bytes).sum();
    }
    n_bytes - BLOCK_BYTES + last
}

/// One block of a directory, without what would fill it up. `inode` gives
/// number and mode by the position in the tree.
pub(super) fn dirent_block(dirents: &[Dirent<'_>], inode: impl Fn(usize) -> (u64, u16)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK_LENGTH);
    let mut name_offset = DIRENT_BYTES * dirents.len();
    for dirent in dirents {
        let (number, mode) = inode(dirent.node_idx);
        put(&mut bytes, &number.to_le_bytes());
        let offset = u16::try_from(name_offset).expect("a block has 4096 bytes");
        put(&mut bytes, &offset.to_le_bytes());
        put(&mut bytes, &[kind_byte(mode), 0]);
        name_offset += dirent.name.len();
    }
    for dirent in dirents {
        put(&mut bytes, dirent.name);
    }
    bytes
}

fn kind_byte(mode: u16) -> u8 {
    match FileType::from_raw_mode(mode.into()) {
        FileType::RegularFile => 1,
        FileType::Directory => 2,
        FileType::CharacterDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Unknown => 0,
    }
}

/// CRC-32C (Castagnoli) as the kernel computes it: not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}

fn put(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.extend_from_slice(more);
}

#[cfg(test)]
mod tests {
    use super::{
        BLOCK_BYTES, Dirent, crc32c, device, directory_bytes, dirent_blocks, put_xattr, xattr_count,
    };

    #[test]
    fn the_checksum_is_that_of_rfc_3720_without_the_last_inversion() {
        // RFC 3720 appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), !0x8A91_36AA);
    }

    #[test]
    fn large_device_numbers_are_kept() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(259, 0x12345), 0x1231_0345);
    }

    #[test]
    fn names_fill_blocks_without_crossing_their_ends() {
        let name = [b'n'; 255];
        let dirents = vec![
            Dirent {
                name: &name,
                node_idx: 0
            };
            16
        ];
        let blocks: Vec<usize> = dirent_blocks(&dirents).map(<[_]>::len).collect();
        assert_eq!(blocks, [15, 1], "267 bytes each");
        assert_eq!(directory_bytes(&dirents), BLOCK_BYTES + 267);
        assert_eq!(directory_bytes(&dirents[..15]), 15 * 267);
    }

    #[test]
    fn attributes_are_aligned_and_those_of_other_kinds_are_refused() {
        let mut bytes = vec![9; 8];
        assert!(put_xattr(&mut bytes, 8, b"user.a", b"xy"));
        assert!(!put_xattr(&mut bytes, 8, b"trusted.overlay.opaque", b"y"));
        assert!(put_xattr(&mut bytes, 8, b"security.capability", b""));
        assert!(!put_xattr(&mut bytes, 8, b"user.large", &vec![0; 1 << 16]));
        assert_eq!(bytes[8..20], [0; 12], "header");
        assert_eq!(bytes[20..28], *b"\x01\x01\x02\0axy\0");
        assert_eq!(bytes[28..], *b"\x0a\x06\0\0capability\0\0");
        assert_eq!(xattr_count((bytes.len() - 8) as u64), 1 + 2 + 4);
        assert_eq!(xattr_count(0), 0);
        let large = vec![0; usize::from(u16::MAX)];
        let mut n_put = 0;
        while put_xattr(&mut bytes, 8, b"user.b", &large) {
            n_put += 1;
        }
        assert_eq!(n_put, 3, "the count has 16 bits");
    }
}

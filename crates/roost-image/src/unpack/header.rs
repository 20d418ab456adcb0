//! Reading tar headers: POSIX, PAX and GNU long names.
//!
//! Every length is checked before anything of that length is read or kept.
//! [`next_entry`] takes bytes from strangers.

use super::UnpackError;
use crate::limits::{EXTENDED_HEADER_BYTES_MAX, XATTRS_MAX};
use std::io::Read;

const BLOCK: usize = 512;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
/// Prefix of extended attributes in PAX records.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with content.
    File,
    /// Another name of a file of the same layer.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device,
}

/// One entry, before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As written.
    pub path: Vec<u8>,
    /// Target of a link, as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Bytes of content that follow.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What extension headers say about the entry after them.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the next entry; `None` at the end of the archive.
///
/// The caller reads the entry's content and padding before it asks again.
pub fn next_entry(reader: &mut impl Read) -> Result<Option<Entry>, UnpackError> {
    let mut extension = Extension::default();
    loop {
        let Some(header) = read_header(reader)? else {
            return Ok(None);
        };
        let size = field(&header, SIZE, tar::Header::entry_size)?;
        match header.entry_type().as_byte() {
            b'x' => {
                let content = read_extended(reader, size)?;
                read_pax(&content, &mut extension)?;
            }
            // Global records: image tools write only comments there.
            b'g' => drop(read_extended(reader, size)?),
            b'L' => extension.path = Some(without_nul(read_extended(reader, size)?)),
            b'K' => extension.link = Some(without_nul(read_extended(reader, size)?)),
            _ => return entry(&header, size, extension).map(Some),
        }
    }
}

fn read_header(reader: &mut impl Read) -> Result<Option<tar::Header>, UnpackError> {
    let mut header = tar::Header::new_old();
    let block = header.as_mut_bytes();
    let mut filled = 0;
    while filled < BLOCK {
        match reader
            .read(&mut block[filled..])
            .map_err(UnpackError::read)?
        {
            0 if filled == 0 => return Ok(None),
            0 => return Err(UnpackError::header("is cut off")),
            n => filled += n,
        }
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let is_checksum = |idx: usize| CHECKSUM.contains(&idx);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(idx, byte)| {
            if is_checksum(idx) {
                u32::from(b' ')
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    match header.cksum() {
        Ok(said) if said == sum => Ok(Some(header)),
        _ => Err(UnpackError::header("has a wrong checksum")),
    }
}

/// Bytes between the end of content of this size and the next header.
pub(crate) fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn read_extended(reader: &mut impl Read, size: u64) -> Result<Vec<u8>, UnpackError> {
    if size > EXTENDED_HEADER_BYTES_MAX {
        return Err(UnpackError::TooMuch {
            what: "bytes in an extended header",
            limit: EXTENDED_HEADER_BYTES_MAX,
        });
    }
    let mut content = Vec::new();
    let with_padding = size + padding(size);
    reader
        .take(with_padding)
        .read_to_end(&mut content)
        .map_err(UnpackError::read)?;
    if content.len() as u64 != with_padding {
        return Err(UnpackError::header("has an extension that is cut off"));
    }
    content.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    Ok(content)
}

fn without_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// Reads `LENGTH KEY=VALUE\n` records; values may hold any byte.
fn read_pax(mut content: &[u8], extension: &mut Extension) -> Result<(), UnpackError> {
    let bad = || UnpackError::header("has a bad PAX record");
    while !content.is_empty() {
        let space = content
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length = number::<usize>(&content[..space]).ok_or_else(bad)?;
        if length <= space + 1 || length > content.len() || content[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &content[space + 1..length - 1];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        content = &content[length..];
        match key {
            b"path" => extension.path = Some(value.to_vec()),
            b"linkpath" => extension.link = Some(value.to_vec()),
            b"size" => extension.size = Some(number(value).ok_or_else(bad)?),
            b"uid" => extension.uid = Some(number(value).ok_or_else(bad)?),
            b"gid" => extension.gid = Some(number(value).ok_or_else(bad)?),
            b"mtime" => {
                let seconds = value.split(|byte| *byte == b'.').next().unwrap_or_default();
                extension.mtime = Some(number(seconds).ok_or_else(bad)?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(UnpackError::header("is sparse")),
            _ => {
                if let Some(name) = key.strip_prefix(PAX_XATTR) {
                    if extension.xattrs.len() == XATTRS_MAX {
                        let limit = XATTRS_MAX as u64;
                        let what = "extended attributes on an entry";
                        return Err(UnpackError::TooMuch { what, limit });
                    }
                    extension.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A numeric field; some writers leave those blank that do not matter.
fn field<T: Default>(
    header: &tar::Header,
    range: std::ops::Range<usize>,
    read: impl Fn(&tar::Header) -> std::io::Result<T>,
) -> Result<T, UnpackError> {
    if header.as_bytes()[range]
        .iter()
        .all(|byte| matches!(byte, 0 | b' '))
    {
        return Ok(T::default());
    }
    read(header).map_err(|_| UnpackError::header("has a bad number"))
}

fn entry(header: &tar::Header, size: u64, extension: Extension) -> Result<Entry, UnpackError> {
    let kind = match header.entry_type().as_byte() {
        b'0' | 0 | b'7' => EntryKind::File,
        b'1' => EntryKind::HardLink,
        b'2' => EntryKind::Symlink,
        b'3' | b'4' => EntryKind::Device,
        b'5' => EntryKind::Directory,
        b'6' => EntryKind::Fifo,
        b'S' => return Err(UnpackError::header("is sparse")),
        _ => return Err(UnpackError::header("has an unknown type")),
    };
    let path = extension
        .path
        .unwrap_or_else(|| header.path_bytes().into_owned());
    // Before POSIX, a directory was a file whose name ended in a slash.
    let kind = if kind == EntryKind::File && path.ends_with(b"/") {
        EntryKind::Directory
    } else {
        kind
    };
    let link = extension
        .link
        .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
        .unwrap_or_default();
    let uid = extension
        .uid
        .map_or_else(|| field(header, UID, tar::Header::uid), Ok)?;
    let gid = extension
        .gid
        .map_or_else(|| field(header, GID, tar::Header::gid), Ok)?;
    let mtime = match extension.mtime {
        Some(mtime) => mtime,
        None => i64::try_from(field(header, MTIME, tar::Header::mtime)?).unwrap_or(0),
    };
    // Only files have content; what other entries claim is a hint of some writers.
    let size = match kind {
        EntryKind::File => extension.size.unwrap_or(size),
        EntryKind::HardLink
        | EntryKind::Symlink
        | EntryKind::Directory
        | EntryKind::Fifo
        | EntryKind::Device => 0,
    };
    let mode = field(header, MODE, tar::Header::mode)? & 0o7777;
    Ok(Entry {
        path,
        link,
        kind,
        mode,
        uid,
        gid,
        mtime,
        size,
        xattrs: extension.xattrs,
    })
}

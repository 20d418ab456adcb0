//! The ways in which Debian compresses kernels and modules, each with a bound
//! on what comes out.

use super::elf::{slice, u32_at};
use super::limits::VMLINUX_BYTES_MAX;
use std::io::{self, Read};

/// A format, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
    /// The format of `lz4 -l`, which kernels are compressed with: no header,
    /// no checksum, blocks of 8 MiB.
    Lz4Legacy,
}

/// What a block of `lz4 -l` holds at most.
const LZ4_BLOCK_BYTES: usize = 8 * 1024 * 1024;
const LZ4_MAGIC: &[u8] = b"\x02\x21\x4c\x18";

impl Compression {
    pub(super) fn detect(bytes: &[u8]) -> Option<Self> {
        let formats: [(&[u8], Self); 4] = [
            (b"\x1f\x8b", Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
            (LZ4_MAGIC, Self::Lz4Legacy),
        ];
        let format = formats.iter().find(|(magic, _)| bytes.starts_with(magic));
        format.map(|(_, compression)| *compression)
    }

    /// Decompresses; more than `bytes_max` is an error.
    pub(super) fn decompress(self, bytes: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => read_bounded(flate2::read::GzDecoder::new(bytes), bytes_max),
            Self::Xz => {
                let memory_kib = u32::try_from(VMLINUX_BYTES_MAX / 1024).unwrap_or(u32::MAX);
                let reader = lzma_rust2::XzReader::new_mem_limit(bytes, false, memory_kib);
                read_bounded(reader, bytes_max)
            }
            Self::Zstd => {
                let reader = zstd::stream::read::Decoder::with_buffer(bytes)?;
                read_bounded(reader.single_frame(), bytes_max)
            }
            Self::Lz4Legacy => decompress_lz4(bytes, bytes_max),
        }
    }
}

fn read_bounded(reader: impl Read, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    Ok(content)
}

fn decompress_lz4(bytes: &[u8], bytes_max: usize) -> io::Result<Vec<u8>> {
    let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "an lz4 block is cut off");
    let mut rest = bytes.strip_prefix(LZ4_MAGIC).unwrap_or(bytes);
    let mut content = Vec::new();
    let mut block = Vec::new();
    while !rest.is_empty() {
        let size = u32_at(rest, 0).and_then(|size| usize::try_from(size).ok());
        let compressed = size.and_then(|size| slice(rest, 4, size));
        let compressed = compressed.ok_or_else(cut_off)?;
        rest = &rest[4 + compressed.len()..];
        block.resize(LZ4_BLOCK_BYTES, 0);
        let n_bytes = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if content.len() + n_bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        content.extend_from_slice(&block[..n_bytes]);
    }
    Ok(content)
}

fn too_large(bytes_max: usize) -> io::Error {
    io::Error::other(format!("more than {bytes_max} bytes"))
}

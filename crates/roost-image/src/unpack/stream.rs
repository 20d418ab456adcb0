//! The uncompressed bytes of a layer: decompressed, hashed and counted on the way.

use crate::limits::{
    COMPRESSION_RATIO_FLOOR_BYTES, COMPRESSION_RATIO_MAX, UNPACKED_BYTES_MAX, ZSTD_WINDOW_LOG_MAX,
};
use roost_model::digest::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const READ_BUFFER_BYTES: usize = 256 * 1024;

/// How a file is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Which one these first bytes begin.
    pub(crate) fn of(start: &[u8]) -> Self {
        if start.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if start.starts_with(&ZSTD_MAGIC) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Reads a file through whatever it is compressed with.
///
/// The content decides, not the media type: writers get the latter wrong, and
/// the diff id decides in the end.
pub(crate) fn decompress(file: File) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(READ_BUFFER_BYTES, file);
    match Compression::of(file.fill_buf()?) {
        Compression::None => Ok(Box::new(file)),
        Compression::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(file))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Ok(Box::new(decoder))
        }
    }
}

/// Hashes and counts what is read, and ends a bomb.
pub(super) struct LayerStream {
    inner: Box<dyn Read + Send>,
    hasher: Sha256,
    n_bytes: u64,
    n_bytes_max: u64,
}

impl LayerStream {
    /// The layer in `file`, whose blob has `blob_bytes`.
    pub(super) fn open(file: File, blob_bytes: u64) -> io::Result<Self> {
        let by_ratio = blob_bytes.saturating_mul(COMPRESSION_RATIO_MAX);
        let n_bytes_max = by_ratio.clamp(COMPRESSION_RATIO_FLOOR_BYTES, UNPACKED_BYTES_MAX);
        let inner = decompress(file)?;
        Ok(Self {
            inner,
            hasher: Sha256::new(),
            n_bytes: 0,
            n_bytes_max,
        })
    }

    /// Reads to the end: the diff id covers what follows the last entry too.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((
            Digest::from_sha256(self.hasher.finalize().into()),
            self.n_bytes,
        ))
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.n_bytes += n as u64;
        if self.n_bytes > self.n_bytes_max {
            let message = format!("more than {} bytes come out of it", self.n_bytes_max);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

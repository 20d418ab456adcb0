//! Unpacking a layer into a directory of its own, that becomes a lower
//! directory of an overlay.
//!
//! The layer is hostile until proven otherwise. Nothing is ever reached by a
//! path with more than one component but through a directory that was opened
//! beneath the layer's root with symbolic links refused (`openat2`), so an
//! entry can neither leave the root nor be written through a link.
//!
//! Whiteouts become what overlayfs reads: `.wh.NAME` a character device 0:0
//! named `NAME`, `.wh..wh..opq` the attribute `trusted.overlay.opaque` of its
//! directory. Images cannot bring either themselves: devices and `trusted.*`
//! attributes are dropped.

mod header;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
mod tree;

pub use header::{Entry, EntryKind, next_entry};

use crate::limits::ENTRIES_MAX;
pub(crate) use header::padding;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use stream::LayerStream;
use tree::Tree;
pub(crate) use tree::{OPAQUE_XATTR, is_kept_xattr};

/// Bytes copied at once.
const COPY_BYTES: usize = 128 * 1024;

/// A layer could not be unpacked. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The compressed stream or the archive is damaged, cut off, or a bomb.
    #[error("layer content is not readable")]
    Read(#[source] io::Error),
    /// A header is not right.
    #[error("an entry of the layer {problem}")]
    Header {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// One entry may not be unpacked.
    #[error("entry `{path}` of the layer {problem}")]
    Entry {
        /// Which entry, cut to a printable length.
        path: String,
        /// Why.
        problem: &'static str,
    },
    /// A limit was passed.
    #[error("layer has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The uncompressed layer is not what the image config announces.
    #[error("layer has diff id {actual}, not {expected}")]
    DiffId {
        /// What was announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The image's layers and diff ids do not pair up, or the blob is not in the store.
    #[error("layer {digest} is not in the store")]
    Missing {
        /// Which one.
        digest: Digest,
    },
    /// A file of the layer could not be made.
    #[error("unpack `{path}`")]
    Write {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory of the store could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The work was cut off by the end of the process.
    #[error("unpacking was interrupted")]
    Interrupted,
}

impl UnpackError {
    fn header(problem: &'static str) -> Self {
        Self::Header { problem }
    }

    fn read(source: io::Error) -> Self {
        Self::Read(source)
    }

    fn entry(path: &[u8], problem: &'static str) -> Self {
        Self::Entry {
            path: printable(path),
            problem,
        }
    }

    fn write(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Write {
            path: printable(path),
            source: source.into(),
        }
    }
}

pub(crate) fn printable(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .take(200)
        .flat_map(char::escape_debug)
        .collect()
}

/// A layer to unpack.
#[derive(Debug, Clone)]
pub(crate) struct LayerSource {
    pub blob: PathBuf,
    pub blob_bytes: u64,
    pub diff_id: Digest,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Size of the uncompressed archive.
    pub n_bytes: u64,
    /// Entries and attributes that were left out: devices, foreign attributes.
    pub n_dropped: u64,
}

/// Unpacks a layer to `temporary` and renames that to `target`.
///
/// After an error neither is there. The caller syncs the file system before
/// it trusts `target`.
pub(crate) fn unpack_layer(
    source: &LayerSource,
    temporary: &Path,
    target: &Path,
) -> Result<Unpacked, UnpackError> {
    ensure_dir(temporary)?;
    let unpacked = unpack_into(source, temporary).and_then(|unpacked| {
        // Left by an unpacking that was never recorded.
        ensure_no_dir(target)?;
        std::fs::rename(temporary, target).on("rename to", target)?;
        Ok(unpacked)
    });
    if unpacked.is_err()
        && let Err(error) = ensure_no_dir(temporary)
    {
        tracing::warn!(error = %error, "half an unpacked layer stays until the next start");
    }
    unpacked
}

fn unpack_into(source: &LayerSource, root: &Path) -> Result<Unpacked, UnpackError> {
    let file = std::fs::File::open(&source.blob).on("open", &source.blob)?;
    let mut stream = LayerStream::open(file, source.blob_bytes).map_err(UnpackError::Read)?;
    let mut tree = Tree::open(root)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut n_entries = 0;
    while let Some(entry) = next_entry(&mut stream)? {
        n_entries += 1;
        if n_entries > ENTRIES_MAX {
            return Err(UnpackError::TooMuch {
                what: "entries",
                limit: ENTRIES_MAX,
            });
        }
        let file = tree.place(&entry)?;
        copy_content(&mut stream, &entry, file.as_ref(), &mut buffer)?;
        if let Some(file) = file {
            tree.finish_file(&entry, &file)?;
        }
    }
    let n_dropped = tree.finish()?;
    let (actual, n_bytes) = stream.finish().map_err(UnpackError::Read)?;
    if actual != source.diff_id {
        return Err(UnpackError::DiffId {
            expected: source.diff_id.clone(),
            actual,
        });
    }
    Ok(Unpacked { n_bytes, n_dropped })
}

/// Copies the entry's content to `file`, if it has one, and skips the padding.
fn copy_content(
    stream: &mut LayerStream,
    entry: &Entry,
    file: Option<&std::fs::File>,
    buffer: &mut [u8],
) -> Result<(), UnpackError> {
    let mut left = entry.size.saturating_add(padding(entry.size));
    let mut content_left = entry.size;
    while left > 0 {
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let n = stream
            .read(&mut buffer[..wanted])
            .map_err(UnpackError::Read)?;
        // Writers (umoci among them) leave out what pads the last entry, as they
        // may the end marks; the diff id tells whether bytes are missing.
        if n == 0 && content_left == 0 {
            return Ok(());
        }
        if n == 0 {
            return Err(UnpackError::entry(&entry.path, "is cut off"));
        }
        left -= n as u64;
        let n_content = usize::try_from(content_left).unwrap_or(usize::MAX).min(n);
        content_left -= n_content as u64;
        if let Some(mut file) = file {
            file.write_all(&buffer[..n_content])
                .map_err(|error| UnpackError::write(&entry.path, error))?;
        }
    }
    Ok(())
}

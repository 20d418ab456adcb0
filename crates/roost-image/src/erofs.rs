//! Writing the root file system of a VM: the layers of an image, merged, as
//! one read-only EROFS file system.
//!
//! Nothing is mounted. The layers are read as [`crate::unpack`] leaves them —
//! its whiteouts and opaque directories mean what they mean to overlayfs, so
//! that a VM sees the tree that a container of the same image sees. They are
//! reached only beneath their roots, with symbolic links refused.
//!
//! ```text
//! layers ── merge ──► Tree (in memory) ── place ──► Layout ── write ──► file
//!
//! block 0        superblock
//! block 1…       inodes, each with its attributes and often its last, unfilled block
//! then           whole blocks of files and directories
//! ```
//!
//! Nothing is compressed: where the CPU is emulated, unpacking costs more than
//! reading. The same layers give the same bytes: directories are sorted, the
//! inodes are in the order of a walk by breadth, and nothing of the host or of
//! the time of writing goes in. Linux 6.1, 6.12 and 6.18 were seen to read it.

mod format;
mod layers;
mod layout;
mod merge;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use crate::unpack::printable;
use layers::Layers;
use layout::Layout;
use roost_runtime::fs::FileError;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Raise it when the same layers give other bytes than before.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// A root file system could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteErofsError {
    /// Something in an unpacked layer could not be read.
    #[error("read `{path}` of an unpacked layer")]
    Read {
        /// Which path, cut to a printable length.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer is not what it was a moment ago.
    #[error("`{path}` of an unpacked layer changed while it was read")]
    Changed {
        /// Which path, cut to a printable length.
        path: String,
    },
    /// A limit was passed.
    #[error("image has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A layer could not be opened.
    #[error(transparent)]
    File(#[from] FileError),
    /// The result could not be written.
    #[error("write file system")]
    Write(#[source] io::Error),
}

impl WriteErofsError {
    fn read(path: &[u8], source: impl Into<io::Error>) -> Self {
        Self::Read {
            path: printable(path),
            source: source.into(),
        }
    }

    fn changed(path: &[u8]) -> Self {
        Self::Changed {
            path: printable(path),
        }
    }
}

/// Writes the layers, lowest first, as one file system into the empty file `target`.
///
/// The caller syncs the file. Blocks until all is written.
pub(crate) fn write_erofs(
    layers: &[PathBuf],
    uuid: [u8; 16],
    target: &File,
) -> Result<(), WriteErofsError> {
    let layers = Layers::open(layers)?;
    let tree = merge::merge(&layers)?;
    let layout = Layout::of(&tree)?;
    write::write(&layers, &tree, &layout, uuid, target)
}

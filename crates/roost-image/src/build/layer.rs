//! Writes a layer: tar, gzip and both digests in one pass, straight into the store.
//!
//! Archives are made on a blocking thread; their bytes come over a bounded
//! channel. Equal inputs give equal layers: entries are sorted, belong to root,
//! and bear the epoch as their time.

use super::tree::{self, NodeKind, WalkError};
use crate::limits::{BUILD_BYTES_MAX, LAYER_CHUNK_BYTES, LAYER_CHUNKS_MAX};
use crate::store::{CommitBlobError, ContentStore, StoreError};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// A layer could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteLayerError {
    /// A folder cannot be packed.
    #[error(transparent)]
    Tree(#[from] WalkError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// An entry cannot be written to the archive.
    #[error("pack `{path}`")]
    Entry {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All files together are too large.
    #[error("the files have more than {BUILD_BYTES_MAX} bytes")]
    TooLarge,
    /// The store failed.
    #[error("store the layer")]
    Store(#[from] StoreError),
    /// The work was cut off by the end of the process.
    #[error("packing was interrupted")]
    Interrupted,
}

/// Something to put into a layer.
#[derive(Debug)]
pub(super) enum Entry {
    /// A file that can be run.
    Program { path: String, source: PathBuf },
    /// A small file.
    Text { path: String, content: &'static str },
    /// A folder with all it holds.
    Tree { path: String, source: PathBuf },
}

/// A layer in the store.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) size: u64,
}

/// Packs the entries into one layer.
pub(super) async fn write(
    store: &ContentStore,
    entries: Vec<Entry>,
) -> Result<Layer, WriteLayerError> {
    let (tx, mut rx) = mpsc::channel(LAYER_CHUNKS_MAX);
    let packing = tokio::task::spawn_blocking(move || pack(&entries, tx));
    let mut writer = store.begin_blob().await?;
    while let Some(chunk) = rx.recv().await {
        // On an error the channel closes, and the packing thread ends by that.
        writer.write(&chunk).await?;
    }
    let (digest, diff_id) = packing.await.map_err(|_| WriteLayerError::Interrupted)??;
    match writer.commit(&digest).await {
        Ok(size) => Ok(Layer {
            digest,
            diff_id,
            size,
        }),
        Err(CommitBlobError::Store(error)) => Err(error.into()),
        Err(CommitBlobError::Mismatch { .. }) => Err(WriteLayerError::Interrupted),
    }
}

fn pack(entries: &[Entry], tx: mpsc::Sender<Bytes>) -> Result<(Digest, Digest), WriteLayerError> {
    let sink = ChannelWriter {
        tx,
        buffer: BytesMut::with_capacity(LAYER_CHUNK_BYTES),
    };
    let compressed = Hashing {
        inner: sink,
        hasher: Sha256::new(),
    };
    let plain = Hashing {
        inner: GzEncoder::new(compressed, Compression::fast()),
        hasher: Sha256::new(),
    };
    let mut archive = Archive {
        tar: tar::Builder::new(plain),
        folders: BTreeSet::new(),
        n_bytes: 0,
    };
    for entry in entries {
        match entry {
            Entry::Program { path, source } => archive.file(Path::new(path), source, 0o755)?,
            Entry::Text { path, content } => archive.text(Path::new(path), content)?,
            Entry::Tree { path, source } => archive.tree(Path::new(path), source)?,
        }
    }
    let end = |source| WriteLayerError::Entry {
        path: "end of archive".into(),
        source,
    };
    let plain = archive.tar.into_inner().map_err(end)?;
    let diff_id = Digest::from_sha256(plain.hasher.finalize().into());
    let compressed = plain.inner.finish().map_err(end)?;
    let mut sink = compressed.inner;
    sink.flush().map_err(end)?;
    Ok((
        Digest::from_sha256(compressed.hasher.finalize().into()),
        diff_id,
    ))
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    folders: BTreeSet<PathBuf>,
    n_bytes: u64,
}

impl<W: Write> Archive<W> {
    fn tree(&mut self, path: &Path, source: &Path) -> Result<(), WriteLayerError> {
        self.folder(path)?;
        for node in tree::walk(source)? {
            let inside = path.join(&node.path);
            match node.kind {
                NodeKind::Folder => self.folder(&inside)?,
                NodeKind::File { is_program } => {
                    let mode = if is_program { 0o755 } else { 0o644 };
                    self.file(&inside, &source.join(&node.path), mode)?;
                }
                NodeKind::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    let written = self.tar.append_link(&mut header, &inside, &target);
                    written.map_err(|source| of(&inside, source))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the folder and those above it, each once.
    fn folder(&mut self, path: &Path) -> Result<(), WriteLayerError> {
        if path.as_os_str().is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        let written = self
            .tar
            .append_data(&mut header, path.join(""), io::empty());
        written.map_err(|source| of(path, source))
    }

    fn text(&mut self, path: &Path, content: &str) -> Result<(), WriteLayerError> {
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        let mut header = header(tar::EntryType::Regular, 0o644, content.len() as u64);
        let written = self.tar.append_data(&mut header, path, content.as_bytes());
        written.map_err(|source| of(path, source))
    }

    fn file(&mut self, path: &Path, source: &Path, mode: u32) -> Result<(), WriteLayerError> {
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        let file = File::open(source).on("open", source)?;
        let size = file.metadata().on("look at", source)?.len();
        self.n_bytes = self.n_bytes.saturating_add(size);
        if self.n_bytes > BUILD_BYTES_MAX {
            return Err(WriteLayerError::TooLarge);
        }
        let mut header = header(tar::EntryType::Regular, mode, size);
        // A file that shrinks meanwhile would shift all that follows it.
        let mut exact = Exact { file, left: size };
        let written = self.tar.append_data(&mut header, path, &mut exact);
        written.map_err(|source| of(path, source))
    }
}

fn of(path: &Path, source: io::Error) -> WriteLayerError {
    WriteLayerError::Entry {
        path: path.display().to_string(),
        source,
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Reads as many bytes as the header says, or fails.
struct Exact {
    file: File,
    left: u64,
}

impl io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if wanted == 0 {
            return Ok(0);
        }
        let n_read = self.file.read(&mut buffer[..wanted])?;
        if n_read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter",
            ));
        }
        self.left -= n_read as u64;
        Ok(n_read)
    }
}

/// Hashes what passes through.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n_written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n_written]);
        Ok(n_written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Sends what is written to the other side, in chunks.
struct ChannelWriter {
    tx: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= LAYER_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the store takes no more");
        self.tx.blocking_send(chunk).map_err(gone)
    }
}

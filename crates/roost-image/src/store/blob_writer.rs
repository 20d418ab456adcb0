//! Writing one blob: hash while writing, trust only after the whole was verified.
//!
//! Bytes collect in a buffer; a full one goes to a blocking thread that writes
//! and hashes it while the next one fills, so that the network, the hash and
//! the disk work at the same time.

use super::{ContentStore, StoreError};
use crate::limits::WRITE_BUFFER_BYTES;
use crate::no_space::is_no_space;
use roost_model::digest::Digest;
use roost_runtime::fs::{FileError, IoContext as _, ensure_no_file};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use tokio::task::JoinHandle;

/// A blob could not be taken into the store.
#[derive(Debug, thiserror::Error)]
pub enum CommitBlobError {
    /// The content is not what was announced. Nothing was kept.
    #[error("content has digest {actual}, not {expected}")]
    Mismatch {
        /// What was announced.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The file and the hash over all that is in it.
#[derive(Debug)]
struct Sink {
    file: File,
    hasher: Sha256,
}

impl Sink {
    fn write(&mut self, content: &[u8], path: &Path) -> Result<(), FileError> {
        self.file.write_all(content).on("write", path)?;
        self.hasher.update(content);
        Ok(())
    }
}

type Writing = JoinHandle<(Sink, Vec<u8>, Result<(), FileError>)>;

#[derive(Debug)]
enum State {
    Ready(Box<Sink>, Vec<u8>),
    Writing(Writing),
    /// An earlier write failed.
    Broken,
}

/// A blob on its way into the store.
///
/// Dropped without [`commit`](Self::commit), an upload is removed and a
/// download stays in `partial/` to be continued; neither is ever trusted.
#[derive(Debug)]
pub struct BlobWriter {
    store: ContentStore,
    path: PathBuf,
    keep: Keep,
    state: State,
    buffer: Vec<u8>,
    written: u64,
}

/// What happens to an unfinished file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    ForResume,
    No,
}

impl BlobWriter {
    pub(super) async fn create(store: ContentStore, path: PathBuf) -> Result<Self, StoreError> {
        Self::open(store, path, Keep::No).await
    }

    pub(super) async fn resume(store: ContentStore, path: PathBuf) -> Result<Self, StoreError> {
        Self::open(store, path, Keep::ForResume).await
    }

    async fn open(store: ContentStore, path: PathBuf, keep: Keep) -> Result<Self, StoreError> {
        let opened = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || open_sink(&path, keep))
        };
        let opened = opened.await.map_err(|_| StoreError::Interrupted {
            operation: "open blob",
        })?;
        let (sink, written) = opened?;
        let state = State::Ready(Box::new(sink), Vec::new());
        Ok(Self {
            store,
            path,
            keep,
            state,
            buffer: Vec::new(),
            written,
        })
    }

    /// Bytes taken so far, those of an earlier attempt included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes the next bytes.
    ///
    /// An error of an earlier write may surface here. Not cancel safe: after a
    /// dropped call the writer refuses further work.
    pub async fn write(&mut self, mut content: &[u8]) -> Result<(), StoreError> {
        self.written += content.len() as u64;
        while !content.is_empty() {
            let space = WRITE_BUFFER_BYTES.saturating_sub(self.buffer.len());
            let (now, later) = content.split_at(content.len().min(space));
            self.buffer.extend_from_slice(now);
            content = later;
            if self.buffer.len() >= WRITE_BUFFER_BYTES {
                self.hand_over().await?;
            }
        }
        Ok(())
    }

    /// Gives the full buffer to a blocking thread, after the one before it is done.
    async fn hand_over(&mut self) -> Result<(), StoreError> {
        let (mut sink, spare) = self.settle().await?;
        let full = std::mem::replace(&mut self.buffer, spare);
        let path = self.path.clone();
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            let result = sink.write(&full, &path);
            let mut spare = full;
            spare.clear();
            (*sink, spare, result)
        }));
        Ok(())
    }

    /// Waits for the write in flight.
    async fn settle(&mut self) -> Result<(Box<Sink>, Vec<u8>), StoreError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Ready(sink, spare) => Ok((sink, spare)),
            State::Writing(writing) => {
                let interrupted = |_| StoreError::Interrupted {
                    operation: "write blob",
                };
                let (sink, spare, result) = writing.await.map_err(interrupted)?;
                if let Err(error) = result {
                    if is_no_space(&error) {
                        // What is there of it would only keep the disk full.
                        self.keep = Keep::No;
                    }
                    return Err(error.into());
                }
                Ok((Box::new(sink), spare))
            }
            State::Broken => Err(StoreError::Interrupted {
                operation: "write blob",
            }),
        }
    }

    /// Forgets everything written, to start again from the first byte.
    pub async fn restart(&mut self) -> Result<(), StoreError> {
        let (mut sink, _spare) = self.settle().await?;
        sink.file.set_len(0).on("empty", &self.path)?;
        std::io::Seek::rewind(&mut sink.file).on("rewind", &self.path)?;
        sink.hasher = Sha256::new();
        self.buffer.clear();
        self.written = 0;
        self.state = State::Ready(sink, Vec::new());
        Ok(())
    }

    /// Writes out what is buffered, so that a later attempt can continue after it.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        self.hand_over().await?;
        let (sink, spare) = self.settle().await?;
        self.state = State::Ready(sink, spare);
        Ok(())
    }

    /// Puts the content into the store, whatever its digest is; returns digest and size.
    pub async fn finish(mut self) -> Result<(Digest, u64), StoreError> {
        self.flush().await?;
        let (sink, spare) = self.settle().await?;
        let digest = Digest::from_sha256(sink.hasher.clone().finalize().into());
        self.state = State::Ready(sink, spare);
        match self.commit(&digest).await {
            Ok(size) => Ok((digest, size)),
            Err(CommitBlobError::Store(error)) => Err(error),
            Err(CommitBlobError::Mismatch { .. }) => Err(StoreError::Interrupted {
                operation: "finish blob",
            }),
        }
    }

    /// Verifies the whole content and puts it into the store; returns its size.
    pub async fn commit(mut self, expected: &Digest) -> Result<u64, CommitBlobError> {
        self.flush().await?;
        let (sink, _spare) = self.settle().await?;
        let actual = Digest::from_sha256(sink.hasher.clone().finalize().into());
        if &actual != expected {
            drop(sink);
            self.keep = Keep::No;
            return Err(CommitBlobError::Mismatch {
                expected: expected.clone(),
                actual,
            });
        }
        // Pinned before it has a name, so that a collection does not take it between file and row.
        let _pin = self.store.pin(expected);
        let path = self.path.clone();
        let synced = tokio::task::spawn_blocking(move || sink.file.sync_data().on("sync", &path));
        let interrupted = |_| StoreError::Interrupted {
            operation: "commit blob",
        };
        let placed = match synced.await.map_err(interrupted)? {
            Ok(()) => self.place(expected).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = placed {
            if is_no_space(&error) {
                self.keep = Keep::No;
            }
            return Err(error.into());
        }
        // It is no unfinished file any more.
        self.keep = Keep::ForResume;
        Ok(self.written)
    }

    async fn place(&self, digest: &Digest) -> Result<(), StoreError> {
        let target = self.store.blob_path(digest);
        let metadata = &self.store.inner.metadata;
        metadata
            .place_blob(digest, self.written, self.path.clone(), target)
            .await
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.keep == Keep::No
            && let Err(error) = ensure_no_file(&self.path)
        {
            tracing::warn!(error = %error, "unfinished blob stays until the next start");
        }
    }
}

/// Opens the file and hashes what it already holds.
fn open_sink(path: &Path, keep: Keep) -> Result<(Sink, u64), FileError> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(keep == Keep::No);
    let mut file = options.open(path).on("create", path)?;
    let mut hasher = Sha256::new();
    let mut written = 0;
    let mut buffer = vec![0; WRITE_BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).on("read", path)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                written += n as u64;
            }
        }
    }
    Ok((Sink { file, hasher }, written))
}

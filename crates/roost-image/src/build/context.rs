//! Receives a folder as a tar stream, plain or gzip, from a user.
//!
//! Nothing is ever written through a link: each parent of an entry must be a
//! folder that this upload made. Sizes, counts and header lengths are bounded,
//! and a refused upload leaves no folder.

use super::tree::stays_within;
use crate::limits::{
    BUILD_BYTES_MAX, BUILD_ENTRIES_MAX, EXTENDED_HEADER_BYTES_MAX, LAYER_CHUNKS_MAX,
    PATH_BYTES_MAX, PATH_DEPTH_MAX, UPLOAD_STALL_TIMEOUT,
};
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir, ensure_no_file};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tokio::sync::mpsc;

/// Bytes copied at once.
const COPY_BYTES: usize = 64 * 1024;

/// An uploaded folder was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveContextError {
    /// The upload broke off.
    #[error("the upload broke off")]
    Upload(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No byte came for a long time.
    #[error("no byte of the upload came for {} s", UPLOAD_STALL_TIMEOUT.as_secs())]
    Stalled,
    /// Not a tar archive, or a broken one.
    #[error("the upload is not a whole tar archive")]
    Archive(#[source] io::Error),
    /// An entry whose path is not one within the folder.
    #[error("the upload has the path `{path}`, which {problem}")]
    Path {
        /// The path, cut to a printable length.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// All files together are too large.
    #[error("the upload has more than {BUILD_BYTES_MAX} bytes")]
    TooLarge,
    /// Too many files.
    #[error("the upload has more than {BUILD_ENTRIES_MAX} files and folders")]
    TooMany,
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The work was cut off by the end of the process.
    #[error("unpacking the upload was interrupted")]
    Interrupted,
}

impl ReceiveContextError {
    /// Whether the upload itself is at fault.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Interrupted)
    }
}

/// Unpacks a tar stream into `dir`, which must not exist yet. On an error nothing stays.
pub async fn receive_context<S, E>(stream: S, dir: &Path) -> Result<(), ReceiveContextError>
where
    S: Stream<Item = Result<Bytes, E>> + Send,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (tx, rx) = mpsc::channel(LAYER_CHUNKS_MAX);
    let target = dir.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        let result = unpack(
            ChannelReader {
                rx,
                current: Bytes::new(),
            },
            &target,
        );
        if result.is_err() {
            // The first error is the one to tell.
            drop(ensure_no_dir(&target));
        }
        result
    });
    let sent = feed(stream, tx).await;
    let unpacked = unpacking
        .await
        .map_err(|_| ReceiveContextError::Interrupted)?;
    match (sent, unpacked) {
        (Ok(()), unpacked) => unpacked,
        (Err(error), _) => {
            ensure_no_dir(dir)?;
            Err(error)
        }
    }
}

/// Passes the stream on until its end, or until the other side wants no more.
async fn feed<S, E>(stream: S, tx: mpsc::Sender<Bytes>) -> Result<(), ReceiveContextError>
where
    S: Stream<Item = Result<Bytes, E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut stream = std::pin::pin!(stream);
    loop {
        let next = tokio::time::timeout(UPLOAD_STALL_TIMEOUT, stream.next()).await;
        let Some(chunk) = next.map_err(|_| ReceiveContextError::Stalled)? else {
            return Ok(());
        };
        let chunk = chunk.map_err(|error| ReceiveContextError::Upload(error.into()))?;
        if tx.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

fn unpack(mut reader: ChannelReader, dir: &Path) -> Result<(), ReceiveContextError> {
    ensure_dir(dir)?;
    let is_gzip = reader
        .peek()
        .map_err(ReceiveContextError::Archive)?
        .starts_with(&[0x1f, 0x8b]);
    let plain: Box<dyn Read> = if is_gzip {
        Box::new(MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    };
    let budget = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(Budgeted {
        inner: plain,
        left: Rc::clone(&budget),
    });
    let mut entries = archive.entries().map_err(ReceiveContextError::Archive)?;
    let mut folders = Folders {
        dir,
        n_left: BUILD_ENTRIES_MAX,
    };
    let (mut n_entries, mut n_bytes) = (0_usize, 0_u64);
    loop {
        // Headers are read into memory, so what they may take is bounded.
        budget.set(EXTENDED_HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else {
            return Ok(());
        };
        let mut entry = entry.map_err(ReceiveContextError::Archive)?;
        n_entries += 1;
        n_bytes = n_bytes.saturating_add(entry.size());
        if n_entries > BUILD_ENTRIES_MAX {
            return Err(ReceiveContextError::TooMany);
        }
        if n_bytes > BUILD_BYTES_MAX {
            return Err(ReceiveContextError::TooLarge);
        }
        budget.set(u64::MAX);
        place(&mut entry, &mut folders)?;
        // What was not read must not count as the next header.
        io::copy(&mut entry, &mut io::sink()).map_err(ReceiveContextError::Archive)?;
    }
}

fn place<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    folders: &mut Folders<'_>,
) -> Result<(), ReceiveContextError> {
    use tar::EntryType;
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(());
    }
    let path = entry
        .path()
        .map_err(ReceiveContextError::Archive)?
        .into_owned();
    let refuse = |problem| {
        let path = path.display().to_string().chars().take(120).collect();
        ReceiveContextError::Path { path, problem }
    };
    let inside = normal(&path).map_err(refuse)?;
    if inside.as_os_str().is_empty() {
        return Ok(());
    }
    let parent = inside.parent().unwrap_or(Path::new(""));
    folders.make(parent)?.map_err(refuse)?;
    let full = folders.dir.join(&inside);
    match kind {
        EntryType::Directory => folders.make(&inside)?.map_err(refuse),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let mode = entry
                .header()
                .mode()
                .map_err(ReceiveContextError::Archive)?;
            // A later entry of the same name wins, as in any archive.
            ensure_no_file(&full)?;
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .mode(0o600 | (mode & 0o755));
            let mut file = options.open(&full).on("create", &full)?;
            copy(entry, &mut file, &full)
        }
        EntryType::Symlink => {
            let target = entry.link_name().map_err(ReceiveContextError::Archive)?;
            let target = target.ok_or_else(|| refuse("is a link to nothing"))?;
            if !stays_within(parent, &target) {
                return Err(refuse("is a link that leads out of the folder"));
            }
            ensure_no_file(&full)?;
            Ok(symlink(&target, &full).on("create link", &full)?)
        }
        _ => Err(refuse("is neither a file nor a folder nor a symbolic link")),
    }
}

/// Tells what cannot be read, the upload's fault, from what cannot be written.
fn copy(
    from: &mut impl Read,
    file: &mut impl io::Write,
    path: &Path,
) -> Result<(), ReceiveContextError> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n_read) => file.write_all(&buffer[..n_read]).on("write", path)?,
            Err(error) => return Err(ReceiveContextError::Archive(error)),
        }
    }
}

/// The path without dots; what is wrong with it otherwise.
fn normal(path: &Path) -> Result<PathBuf, &'static str> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("leads upwards"),
            Component::RootDir | Component::Prefix(_) => return Err("is absolute"),
        }
    }
    if path.as_os_str().len() > PATH_BYTES_MAX || out.components().count() > PATH_DEPTH_MAX {
        return Err("is too long or too deep");
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err("holds a NUL");
    }
    Ok(out)
}

/// The folders of an upload. One entry can bring as many as its path is deep,
/// so they are counted apart.
struct Folders<'a> {
    dir: &'a Path,
    n_left: usize,
}

impl Folders<'_> {
    /// Makes the folders of a path; the inner error says that something else is in the way.
    fn make(&mut self, inside: &Path) -> Result<Result<(), &'static str>, ReceiveContextError> {
        let mut path = self.dir.to_owned();
        for name in inside.components() {
            path.push(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let left = self.n_left.checked_sub(1);
                    self.n_left = left.ok_or(ReceiveContextError::TooMany)?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !std::fs::symlink_metadata(&path)
                        .on("look at", &path)?
                        .is_dir()
                    {
                        return Ok(Err("leads through something that is no folder"));
                    }
                }
                Err(error) => return Err(error).on("create directory", &path)?,
            }
        }
        Ok(Ok(()))
    }
}

/// Reads what comes over the channel.
struct ChannelReader {
    rx: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChannelReader {
    /// The next bytes, at least two where there are two, without taking them.
    fn peek(&mut self) -> io::Result<&[u8]> {
        while self.current.len() < 2 {
            let Some(next) = self.rx.blocking_recv() else {
                break;
            };
            self.current = [self.current.as_ref(), next.as_ref()].concat().into();
        }
        Ok(&self.current)
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.rx.blocking_recv() {
                Some(next) => self.current = next,
                None => return Ok(0),
            }
        }
        let n_read = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n_read]);
        Ok(n_read)
    }
}

/// Fails after so many bytes.
struct Budgeted<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 {
            return Err(io::Error::other("the header of an entry is too long"));
        }
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n_read = self.inner.read(&mut buffer[..wanted])?;
        self.left.set(left - n_read as u64);
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use super::{Folders, ReceiveContextError};
    use std::path::Path;

    #[test]
    fn folders_that_no_entry_lists_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = Folders {
            dir: dir.path(),
            n_left: 3,
        };
        folders.make(Path::new("a/b/c")).unwrap().unwrap();
        folders.make(Path::new("a/b")).unwrap().unwrap();
        let error = folders.make(Path::new("a/d")).unwrap_err();
        assert!(matches!(error, ReceiveContextError::TooMany), "{error}");
    }
}

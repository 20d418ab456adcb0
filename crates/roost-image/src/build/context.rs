//! Receives a folder as a tar stream, plain or gzip, from a user.
//!
//! Nothing is ever written through a link: each parent of an entry must be a
//! folder that this upload made. Where links lead is looked at once all is
//! there, since a later entry can change it: none may lead out of the folder,
//! through whatever other links. Sizes, counts and header lengths are bounded,
//! and a refused upload leaves no folder.

use super::tree::stays_within;
use crate::beneath::{Folder, OpenBeneathError};
use crate::limits::{
    BUILD_BYTES_MAX, BUILD_ENTRIES_MAX, EXTENDED_HEADER_BYTES_MAX, LAYER_CHUNKS_MAX,
    LINK_PATHS_BYTES_MAX, PATH_BYTES_MAX, PATH_DEPTH_MAX, UPLOAD_STALL_TIMEOUT,
};
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir, ensure_no_file};
use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use tar::EntryType;
use tokio::sync::mpsc;

/// Bytes copied at once.
const COPY_BYTES: usize = 64 * 1024;
/// Most characters of a path that an error shows.
const PATH_CHARS_SHOWN: usize = 120;
const NO_FOLDER: &str = "leads through something that is no folder";
const LEADS_OUT: &str = "is a link that leads out of the folder";

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
            let dir = dir.to_owned();
            let removed = tokio::task::spawn_blocking(move || ensure_no_dir(&dir)).await;
            removed.map_err(|_| ReceiveContextError::Interrupted)??;
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
    let mut upload = Upload {
        dir,
        n_folders_left: BUILD_ENTRIES_MAX,
        links: Vec::new(),
        link_bytes_left: LINK_PATHS_BYTES_MAX,
    };
    let (mut n_entries, mut n_bytes) = (0_usize, 0_u64);
    loop {
        // Headers are read into memory, so what they may take is bounded.
        budget.set(EXTENDED_HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else {
            return upload.check_links();
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
        upload.take(&mut entry)?;
        // What was not read must not count as the next header.
        io::copy(&mut entry, &mut io::sink()).map_err(ReceiveContextError::Archive)?;
    }
}

/// Why an entry was not placed.
#[derive(Debug)]
enum Refusal {
    /// What is wrong with its path.
    Path(&'static str),
    Other(ReceiveContextError),
}

impl From<ReceiveContextError> for Refusal {
    fn from(error: ReceiveContextError) -> Self {
        Self::Other(error)
    }
}

impl From<FileError> for Refusal {
    /// What the path itself brings about is the upload's fault; the rest is the node's.
    fn from(error: FileError) -> Self {
        match error.source.kind() {
            ErrorKind::IsADirectory => Self::Path("is also a folder"),
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Self::Path(NO_FOLDER),
            ErrorKind::InvalidFilename => Self::Path("has a name that is too long"),
            _ => Self::Other(error.into()),
        }
    }
}

fn refuse(path: &Path, problem: &'static str) -> ReceiveContextError {
    let path = path.display().to_string();
    let path = path.chars().take(PATH_CHARS_SHOWN).collect();
    ReceiveContextError::Path { path, problem }
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

/// What an upload has brought so far.
struct Upload<'a> {
    dir: &'a Path,
    /// One entry can bring as many folders as its path is deep, so they are counted apart.
    n_folders_left: usize,
    /// To be looked at when all is there.
    links: Vec<PathBuf>,
    link_bytes_left: usize,
}

impl Upload<'_> {
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), ReceiveContextError> {
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            return Ok(());
        }
        let path = entry.path().map_err(ReceiveContextError::Archive)?;
        let path = path.into_owned();
        match self.place(entry, &path) {
            Ok(()) => Ok(()),
            Err(Refusal::Path(problem)) => Err(refuse(&path, problem)),
            Err(Refusal::Other(error)) => Err(error),
        }
    }

    fn place<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
    ) -> Result<(), Refusal> {
        let inside = normal(path).map_err(Refusal::Path)?;
        if inside.as_os_str().is_empty() {
            return Ok(());
        }
        let parent = inside.parent().unwrap_or(Path::new(""));
        self.make_folders(parent)?;
        let full = self.dir.join(&inside);
        match entry.header().entry_type() {
            EntryType::Directory => self.make_folders(&inside),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mode = entry.header().mode();
                let mode = mode.map_err(ReceiveContextError::Archive)?;
                // A later entry of the same name wins, as in any archive.
                ensure_no_file(&full)?;
                let mut options = OpenOptions::new();
                options
                    .write(true)
                    .create_new(true)
                    .mode(0o600 | (mode & 0o755));
                let mut file = options.open(&full).on("create", &full)?;
                Ok(copy(entry, &mut file, &full)?)
            }
            EntryType::Symlink => {
                let target = entry.link_name().map_err(ReceiveContextError::Archive)?;
                let target = target.ok_or(Refusal::Path("is a link to nothing"))?;
                // One that leads nowhere yet is judged by this alone.
                if !stays_within(parent, &target) {
                    return Err(Refusal::Path(LEADS_OUT));
                }
                ensure_no_file(&full)?;
                symlink(&target, &full).on("create link", &full)?;
                self.note_link(inside)
            }
            _ => Err(Refusal::Path(
                "is neither a file nor a folder nor a symbolic link",
            )),
        }
    }

    /// Makes the folders of a path.
    fn make_folders(&mut self, inside: &Path) -> Result<(), Refusal> {
        let mut path = self.dir.to_owned();
        for name in inside.components() {
            path.push(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let left = self.n_folders_left.checked_sub(1);
                    self.n_folders_left = left.ok_or(ReceiveContextError::TooMany)?;
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let metadata = std::fs::symlink_metadata(&path).on("look at", &path)?;
                    if !metadata.is_dir() {
                        return Err(Refusal::Path(NO_FOLDER));
                    }
                }
                Err(error) => return Err(error).on("create directory", &path)?,
            }
        }
        Ok(())
    }

    fn note_link(&mut self, inside: PathBuf) -> Result<(), Refusal> {
        let left = self.link_bytes_left.checked_sub(inside.as_os_str().len());
        let too_many = "is one link more than an upload may have";
        self.link_bytes_left = left.ok_or(Refusal::Path(too_many))?;
        self.links.push(inside);
        Ok(())
    }

    /// Refuses links that lead out, be it through other links.
    fn check_links(&self) -> Result<(), ReceiveContextError> {
        let folder = Folder::open(self.dir)?;
        for link in &self.links {
            match folder.check(link) {
                Ok(()) | Err(OpenBeneathError::NotFound | OpenBeneathError::NotFile) => {}
                Err(OpenBeneathError::Outside) => return Err(refuse(link, LEADS_OUT)),
                Err(OpenBeneathError::TooManyLinks) => {
                    let problem = "is a link in a circle, or through too many others";
                    return Err(refuse(link, problem));
                }
                Err(OpenBeneathError::File(error)) => return Err(error.into()),
            }
        }
        Ok(())
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
    use super::{ReceiveContextError, Refusal, Upload};
    use std::path::{Path, PathBuf};

    #[test]
    fn folders_and_links_are_counted_even_when_no_entry_lists_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut upload = Upload {
            dir: dir.path(),
            n_folders_left: 3,
            links: Vec::new(),
            link_bytes_left: 3,
        };
        upload.make_folders(Path::new("a/b/c")).unwrap();
        upload.make_folders(Path::new("a/b")).unwrap();
        let error = upload.make_folders(Path::new("a/d")).unwrap_err();
        assert!(
            matches!(error, Refusal::Other(ReceiveContextError::TooMany)),
            "{error:?}"
        );
        upload.note_link(PathBuf::from("a/l")).unwrap();
        assert!(upload.note_link(PathBuf::from("m")).is_err());
    }
}

//! File operations whose errors say what was attempted on which path.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct FileError {
    /// What was attempted: `read`, `create directory`, …
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Whether the disk is full.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Adds the operation and path to an I/O error.
pub trait IoContext<T> {
    /// The same result, with an error that names the path.
    fn on(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FileError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn on(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            operation,
            path: path.as_ref().to_owned(),
            source,
        })
    }
}

/// Reads a whole file of at most `bytes_max` bytes.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let file = std::fs::File::open(path).on("open", path)?;
    let size = file.metadata().on("look at", path)?.len();
    if size > bytes_max {
        let error = io::Error::other(format!("{size} bytes, and {bytes_max} is the most"));
        return Err(error).on("read", path);
    }
    // What a device or a pipe gives has no size beforehand, and what grows another one.
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut content)
        .on("read", path)?;
    if content.len() as u64 > bytes_max {
        let error = io::Error::other(format!("more than {bytes_max} bytes"));
        return Err(error).on("read", path);
    }
    Ok(content)
}

/// Writes a file so that after a crash it has either the old or the new content.
///
/// The content goes to a temporary file beside it, is synced, and is renamed.
/// `mode` are the permission bits of a new file.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".tmp{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .on("create", &temporary)?;
    file.write_all(content).on("write", &temporary)?;
    file.sync_all().on("sync", &temporary)?;
    std::fs::rename(&temporary, path).on("rename to", path)
}

/// Makes a directory and its parents; an existing one is fine.
pub fn ensure_dir(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).on("create directory", path)
}

/// Removes a file; a missing one is fine.
pub fn ensure_no_file(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.on("remove", path),
    }
}

/// Removes a directory with all it holds; a missing one is fine.
pub fn ensure_no_dir(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.on("remove directory", path),
    }
}

#[cfg(test)]
mod tests {
    use super::{ensure_no_dir, ensure_no_file, read_bounded, write_atomic};

    #[test]
    fn a_written_file_is_read_back_and_a_large_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomic(&path, b"hello", 0o600).unwrap();
        write_atomic(&path, b"hello again", 0o600).unwrap();
        assert_eq!(read_bounded(&path, 100).unwrap(), b"hello again");
        let error = read_bounded(&path, 3).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()));
        let endless = std::path::Path::new("/dev/zero");
        assert!(read_bounded(endless, 100).is_err());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        ensure_no_file(&dir.path().join("none")).unwrap();
        ensure_no_dir(&dir.path().join("none")).unwrap();
    }
}

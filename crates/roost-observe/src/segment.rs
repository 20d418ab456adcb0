//! Segment files: their names, their order, the end of what can be read.

use crate::limits;
use roost_runtime::fs::{FileError, IoContext as _};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One segment file as it was found.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) modified: SystemTime,
}

pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    // Zeros, so that `ls` and `cat *` show them in order.
    dir.join(format!("{number:010}.log"))
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 10 {
        digits.parse().ok()
    } else {
        None
    }
}

/// The segments in a machine's directory, oldest first; none when it is missing.
pub(crate) fn segments(dir: &Path) -> Result<Vec<Segment>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.on("list", dir)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.on("list", dir)?;
        let Some(number) = entry.file_name().to_str().and_then(number_of) else {
            continue;
        };
        // One that was removed since is none.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if !metadata.is_file() {
            continue;
        }
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.push(Segment {
            number,
            path: entry.path(),
            bytes: metadata.len(),
            modified,
        });
    }
    found.sort_by_key(|segment| segment.number);
    Ok(found)
}

/// The names of the directories in one, sorted; none when it is missing.
pub(crate) fn directory_names(dir: &Path) -> Result<Vec<String>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.on("list", dir)?,
    };
    let mut names = Vec::new();
    for entry in entries.take(limits::MACHINES_MAX) {
        let entry = entry.on("list", dir)?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if let (true, Ok(name)) = (is_dir, entry.file_name().into_string()) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The complete lines in a segment from `offset`, at most about `bytes_max` bytes.
///
/// A line that ends after the limit is not part of the result, unless it is
/// the first one. An unfinished last line never is. A missing file has none.
pub(crate) fn complete_lines(
    path: &Path,
    offset: u64,
    bytes_max: u64,
) -> Result<Vec<u8>, FileError> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.on("open", path)?,
    };
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(offset)).on("seek in", path)?;
    let mut part_bytes = bytes_max;
    loop {
        let read = file
            .by_ref()
            .take(part_bytes)
            .read_to_end(&mut content)
            .on("read", path)?;
        if let Some(end) = content.iter().rposition(|byte| *byte == b'\n') {
            content.truncate(end + 1);
            return Ok(content);
        }
        let is_too_large =
            u64::try_from(content.len()).unwrap_or(u64::MAX) > limits::SEGMENT_READ_BYTES_MAX;
        if read == 0 || is_too_large {
            return Ok(Vec::new());
        }
        part_bytes = bytes_max;
    }
}

/// Cuts an unfinished last line away, which a crash or a full disk left; returns the size then.
pub(crate) fn repair(file: &File, path: &Path) -> Result<u64, FileError> {
    use std::os::unix::fs::FileExt as _;
    const PART_BYTES: u64 = 64 * 1024;
    let bytes = file.metadata().on("look at", path)?.len();
    let mut end = bytes;
    let mut part = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PART_BYTES);
        part.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut part, start).on("read", path)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            end = start + u64::try_from(at).unwrap_or(0) + 1;
            break;
        }
        end = start;
    }
    if end < bytes {
        file.set_len(end).on("shorten", path)?;
    }
    Ok(end)
}

//! Writes lines to numbered segments of bounded size and number.
//!
//! A line is one `write` to a file opened for appending. A writer holds a lock
//! on its segment: a second writer of the same directory takes one of its own.

use crate::segment::{repair, segment_path, segments};
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The segment that is written to, and the bounds of all.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    dir: PathBuf,
    /// A segment that has reached this size gets no more lines.
    segment_bytes: u64,
    /// How many segments are kept, the newest ones; at least 1.
    segments_max: usize,
    number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

impl SegmentWriter {
    /// Continues the newest segment when no other writer holds it and it has room. Makes the
    /// directory.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        segments_max: usize,
    ) -> Result<Self, FileError> {
        ensure_dir(dir)?;
        let writer = |number, path, file, bytes| Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments_max,
            number,
            path,
            file,
            bytes,
        };
        let begin = |number| {
            let (number, path, file) = begin_segment(dir, number, segments_max)?;
            Ok(writer(number, path, file, 0))
        };
        let Some(newest) = segments(dir)?.pop() else {
            return begin(0);
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&newest.path)
            .on("open", &newest.path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return begin(newest.number + 1),
            Err(TryLockError::Error(error)) => return Err(error).on("lock", &newest.path),
            Ok(()) => {}
        }
        let bytes = repair(&file, &newest.path)?;
        if bytes >= segment_bytes {
            return begin(newest.number + 1);
        }
        Ok(writer(newest.number, newest.path, file, bytes))
    }

    /// Appends whole lines.
    pub(crate) fn append(&mut self, text: &[u8]) -> Result<(), FileError> {
        if self.bytes >= self.segment_bytes {
            let (dir, next) = (&self.dir, self.number + 1);
            let begun = begin_segment(dir, next, self.segments_max)?;
            (self.number, self.path, self.file) = begun;
            self.bytes = 0;
        }
        if let Err(error) = self.file.write_all(text) {
            // Part of it may have been written. Should this fail as well, the
            // next line ends the torn one, and readers skip what is no record.
            if self.file.set_len(self.bytes).is_err() {
                drop(self.file.write_all(b"\n"));
                let metadata = self.file.metadata();
                self.bytes = metadata.map_or(self.bytes, |metadata| metadata.len());
            }
            return Err(error).on("write", &self.path);
        }
        self.bytes += u64::try_from(text.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

/// Makes a segment with the first free number from `number`, and removes those beyond the count.
fn begin_segment(
    dir: &Path,
    mut number: u64,
    segments_max: usize,
) -> Result<(u64, PathBuf, File), FileError> {
    let (path, file) = loop {
        let path = segment_path(dir, number);
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            // Another writer took the number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => ensure_dir(dir)?,
            file => break (path.clone(), file.on("create", &path)?),
        }
    };
    match file.try_lock() {
        // Somebody looks at it for removal or continuation: it is ours all the same.
        Ok(()) | Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error).on("lock", &path),
    }
    if let Err(error) = remove_old_segments(dir, segments_max) {
        // The next one tries again; to fail here would make a segment for each line.
        let error = roost_model::error::chain(&error);
        tracing::warn!(error, "old segments of a log are left");
    }
    Ok((number, path, file))
}

fn remove_old_segments(dir: &Path, segments_max: usize) -> Result<(), FileError> {
    let found = segments(dir)?;
    let n_old = found.len().saturating_sub(segments_max.max(1));
    for segment in &found[..n_old] {
        let Ok(file) = File::open(&segment.path) else {
            continue;
        };
        // One that a writer holds is still written to.
        if file.try_lock().is_ok() {
            roost_runtime::fs::ensure_no_file(&segment.path)?;
        }
    }
    Ok(())
}

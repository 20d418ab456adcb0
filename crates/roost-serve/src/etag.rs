//! Entity tags made from the content of files.
//!
//! Layers of an image carry no useful modification times (they are all set to
//! the epoch, so that equal folders give equal layers). Size and time would
//! therefore call a changed file of the same length unchanged; the hash of the
//! content cannot. It is computed once per file and remembered.

use crate::limits;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What must stay the same for a remembered tag to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The tags that are known.
#[derive(Debug, Default)]
pub(crate) struct Etags {
    known: Mutex<HashMap<PathBuf, (Version, String)>>,
}

impl Etags {
    /// The tag of a file, with its quotes. Reads the whole file the first time: it may block.
    pub(crate) fn of(&self, path: &Path, file: &File, metadata: &Metadata) -> io::Result<String> {
        let version = Version::of(metadata);
        if let Some((known, tag)) = self.known.lock().get(path)
            && *known == version
        {
            return Ok(tag.clone());
        }
        let tag = hash(file, metadata.len())?;
        let mut known = self.known.lock();
        if known.len() >= limits::ETAGS_MAX {
            known.clear();
        }
        known.insert(path.to_owned(), (version, tag.clone()));
        Ok(tag)
    }
}

fn hash(file: &File, size: u64) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; limits::CHUNK_BYTES];
    let mut reader = file.take(size);
    loop {
        let n_read = reader.read(&mut buffer)?;
        if n_read == 0 {
            break;
        }
        hasher.update(&buffer[..n_read]);
    }
    // 96 bits tell the versions of one file apart.
    let mut tag = String::from("\"");
    for byte in &hasher.finalize()[..12] {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag.push('"');
    Ok(tag)
}

//! The kernels of a node: made once, verified when opened, kept as long as a
//! machine or a snapshot names them.
//!
//! A kernel is a folder that appears whole, by a rename. Its record holds the
//! checksums of the two files; the first opening in a process compares them,
//! later ones only look whether a file was touched since.
//!
//! Several processes use one store. Who writes holds a lock on its folder; who
//! reads needs none, because kernels appear and vanish whole.

use super::import::{ID_LEN, ImportKernelError, Input, KernelSource};
use super::limits::{RECORD_BYTES_MAX, VMLINUX_BYTES_MAX};
use super::{GuestKernel, KernelFlavor};
use parking_lot::Mutex;
use roost_runtime::fs::{FileError, IoContext as _, ensure_dir, ensure_no_dir, read_bounded};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const VMLINUX: &str = "vmlinux";
const INITRAMFS: &str = "initramfs.cpio";
const RECORD: &str = "kernel.json";
/// Folders that are being written.
const TEMPORARY_PREFIX: &str = "tmp-";

/// A kernel of the store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenKernelError {
    /// It is not there.
    #[error("no guest kernel {id} in {}", dir.display())]
    Missing {
        /// Its id.
        id: String,
        /// The store.
        dir: PathBuf,
    },
    /// It is not what was imported.
    #[error("guest kernel {id} is damaged: {file} {reason}")]
    Damaged {
        /// Its id.
        id: String,
        /// The file of it.
        file: &'static str,
        /// What is wrong with the file.
        reason: String,
    },
    /// It could not be read.
    #[error("open guest kernel {id}")]
    File {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: FileError,
    },
}

/// The kernels of a node. Clones share one store.
#[derive(Debug, Clone)]
pub struct GuestKernels {
    store: Arc<Store>,
}

impl GuestKernels {
    /// Opens the store in a folder, which is made if needed.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        ensure_dir(dir)?;
        let store = Store {
            dir: dir.to_owned(),
            verified: Mutex::default(),
        };
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// Takes a kernel into the store. One that is there already is verified
    /// only, and one that is damaged is made anew.
    ///
    /// Dropping the future does not stop the work; the store is whole at any time.
    pub async fn import(&self, source: KernelSource) -> Result<GuestKernel, ImportKernelError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || store.import(&source)).await {
            Ok(result) => result,
            Err(error) => Err(ImportKernelError::Interrupted(io::Error::other(error))),
        }
    }

    /// A kernel of the store, verified.
    pub async fn get(&self, id: &str) -> Result<GuestKernel, OpenKernelError> {
        let store = Arc::clone(&self.store);
        let owned_id = id.to_owned();
        match tokio::task::spawn_blocking(move || store.get(&owned_id)).await {
            Ok(result) => result,
            Err(error) => Err(OpenKernelError::File {
                id: id.to_owned(),
                source: interrupted("verify", &self.store.dir, error),
            }),
        }
    }

    /// Removes all kernels but these: those that machines and snapshots name,
    /// and the one that new machines get. Returns the ids of the removed ones.
    pub async fn collect(&self, keep: &[String]) -> Result<Vec<String>, FileError> {
        let store = Arc::clone(&self.store);
        let keep = keep.to_vec();
        match tokio::task::spawn_blocking(move || store.collect(&keep)).await {
            Ok(result) => result,
            Err(error) => Err(interrupted("clean", &self.store.dir, error)),
        }
    }
}

fn interrupted(operation: &'static str, dir: &Path, error: tokio::task::JoinError) -> FileError {
    FileError {
        operation,
        path: dir.to_owned(),
        source: io::Error::other(error),
    }
}

#[derive(Debug)]
struct Store {
    dir: PathBuf,
    /// Kernels whose checksums were right, and how their files looked then.
    /// No more entries than kernels: an entry goes with its folder.
    verified: Mutex<HashMap<String, (Touched, GuestKernel)>>,
}

/// Inode, size and time of change of the two files: differs when somebody
/// wrote to one of them.
type Touched = [(u64, u64, i64, i64); 2];

/// `kernel.json`.
#[derive(Debug, Serialize, Deserialize)]
struct KernelRecord {
    release: String,
    flavor: KernelFlavor,
    vmlinux: FileRecord,
    initramfs: FileRecord,
    /// In load order, for whoever looks.
    modules: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

impl FileRecord {
    fn of(content: &[u8]) -> Self {
        Self {
            bytes: content.len() as u64,
            sha256: hex::encode(Sha256::digest(content)),
        }
    }
}

impl Store {
    /// Waits until no other process or thread writes, and removes what one that
    /// was interrupted left. Ends with the file.
    fn lock_for_writing(&self) -> Result<File, FileError> {
        let lock = File::open(&self.dir).on("open", &self.dir)?;
        lock.lock().on("lock", &self.dir)?;
        for name in entry_names(&self.dir)? {
            if name.starts_with(TEMPORARY_PREFIX) {
                ensure_no_dir(&self.dir.join(name))?;
            }
        }
        Ok(lock)
    }

    fn import(&self, source: &KernelSource) -> Result<GuestKernel, ImportKernelError> {
        let _writing = self.lock_for_writing()?;
        let input = Input::read(source)?;
        match self.get(&input.id) {
            Ok(kernel) => return Ok(kernel),
            Err(OpenKernelError::Missing { .. }) => {}
            Err(error) => {
                tracing::warn!(kernel_id = input.id, %error, "guest kernel is made anew");
            }
        }
        self.write(&input)?;
        self.get(&input.id).map_err(ImportKernelError::Verify)
    }

    /// Writes a kernel beside its place and moves it there.
    fn write(&self, input: &Input<'_>) -> Result<(), ImportKernelError> {
        let image = input.image()?;
        let record = KernelRecord {
            release: image.release,
            flavor: image.flavor,
            vmlinux: FileRecord::of(&image.vmlinux),
            initramfs: FileRecord::of(&input.initramfs),
            modules: input
                .modules
                .iter()
                .map(|module| module.name.clone())
                .collect(),
        };
        let record = serde_json::to_vec_pretty(&record).expect("a record of strings and numbers");
        let place = self.dir.join(&input.id);
        let temporary = self.dir.join(format!("{TEMPORARY_PREFIX}{}", input.id));
        ensure_dir(&temporary)?;
        write_synced(&temporary.join(VMLINUX), &image.vmlinux)?;
        write_synced(&temporary.join(INITRAMFS), &input.initramfs)?;
        write_synced(&temporary.join(RECORD), &record)?;
        sync_dir(&temporary)?;
        // Only a damaged kernel is there, if any.
        ensure_no_dir(&place)?;
        std::fs::rename(&temporary, &place).on("rename to", &place)?;
        sync_dir(&self.dir)?;
        Ok(())
    }

    fn get(&self, id: &str) -> Result<GuestKernel, OpenKernelError> {
        let missing = || OpenKernelError::Missing {
            id: id.to_owned(),
            dir: self.dir.clone(),
        };
        let dir = self.dir.join(id);
        // An id is part of a path; nothing else than an id may be.
        let is_id = id.len() == ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id || !dir.is_dir() {
            self.verified.lock().remove(id);
            return Err(missing());
        }
        let open = OpenKernel { id, dir: &dir };
        let touched = open.touched()?;
        if let Some((then, kernel)) = self.verified.lock().get(id)
            && *then == touched
        {
            return Ok(kernel.clone());
        }
        let kernel = open.verify()?;
        let verified = (touched, kernel.clone());
        self.verified.lock().insert(id.to_owned(), verified);
        Ok(kernel)
    }

    fn collect(&self, keep: &[String]) -> Result<Vec<String>, FileError> {
        let _writing = self.lock_for_writing()?;
        let mut removed = Vec::new();
        for name in entry_names(&self.dir)? {
            if keep.contains(&name) {
                continue;
            }
            // First out of the way, so that no half a kernel has its name.
            let temporary = self.dir.join(format!("{TEMPORARY_PREFIX}{name}"));
            let place = self.dir.join(&name);
            std::fs::rename(&place, &temporary).on("rename", &place)?;
            self.verified.lock().remove(&name);
            ensure_no_dir(&temporary)?;
            removed.push(name);
        }
        Ok(removed)
    }
}

/// A kernel's folder while it is looked at.
struct OpenKernel<'a> {
    id: &'a str,
    dir: &'a Path,
}

impl OpenKernel<'_> {
    fn touched(&self) -> Result<Touched, OpenKernelError> {
        Ok([self.touched_file(VMLINUX)?, self.touched_file(INITRAMFS)?])
    }

    fn touched_file(&self, name: &'static str) -> Result<(u64, u64, i64, i64), OpenKernelError> {
        let path = self.dir.join(name);
        let metadata = std::fs::metadata(&path).on("look at", &path);
        let metadata = metadata.map_err(|error| self.file_error(name, error))?;
        let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
        Ok((metadata.ino(), metadata.len(), seconds, nanoseconds))
    }

    fn verify(&self) -> Result<GuestKernel, OpenKernelError> {
        let record = self.read(RECORD, RECORD_BYTES_MAX)?;
        let record: KernelRecord = serde_json::from_slice(&record)
            .map_err(|error| self.damaged(RECORD, error.to_string()))?;
        for (name, expected) in [(VMLINUX, &record.vmlinux), (INITRAMFS, &record.initramfs)] {
            let content = self.read(name, VMLINUX_BYTES_MAX as u64)?;
            if FileRecord::of(&content) != *expected {
                let reason = "does not have the checksum of its import";
                return Err(self.damaged(name, reason.to_owned()));
            }
        }
        Ok(GuestKernel {
            id: self.id.to_owned(),
            release: record.release,
            flavor: record.flavor,
            vmlinux: self.dir.join(VMLINUX),
            initramfs: self.dir.join(INITRAMFS),
        })
    }

    fn read(&self, name: &'static str, bytes_max: u64) -> Result<Vec<u8>, OpenKernelError> {
        read_bounded(&self.dir.join(name), bytes_max).map_err(|error| self.file_error(name, error))
    }

    fn file_error(&self, file: &'static str, source: FileError) -> OpenKernelError {
        if source.source.kind() == io::ErrorKind::NotFound {
            return self.damaged(file, "is missing".to_owned());
        }
        OpenKernelError::File {
            id: self.id.to_owned(),
            source,
        }
    }

    fn damaged(&self, file: &'static str, reason: String) -> OpenKernelError {
        OpenKernelError::Damaged {
            id: self.id.to_owned(),
            file,
            reason,
        }
    }
}

/// Names in the store's folder; what is not ours there (no text) is left alone.
fn entry_names(dir: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).on("list", dir)? {
        let name = entry.on("list", dir)?.file_name();
        names.extend(name.into_string());
    }
    Ok(names)
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut file = File::create(path).on("create", path)?;
    file.write_all(content).on("write", path)?;
    file.sync_all().on("sync", path)
}

fn sync_dir(path: &Path) -> Result<(), FileError> {
    let dir = File::open(path).on("open", path)?;
    dir.sync_all().on("sync", path)
}

#[cfg(test)]
mod tests;

//! Snapshots on disk: what one depends on, and whether it is whole.
//!
//! ```text
//!   snapshot.new/            while it is written; never used, removed at the next start
//!     …the hypervisor's files
//!   snapshot/                renamed when all is on disk
//!     …the same files
//!     manifest.json          what they are: checksums, and the tags of what they need
//! ```
//!
//! A snapshot is a machine in the middle of an instruction: it goes on only
//! under the same hypervisor, kernel, processor and config, and with its disk as
//! it was. Anything else is refused here, with the reason, and the machine
//! starts from its image instead.

use super::HypervisorFacts;
use roost_model::size::ByteSize;
use roost_runtime::fs::{ensure_no_dir, write_atomic};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of this layout.
const FORMAT: u32 = 1;
/// The file that makes a snapshot whole.
const MANIFEST: &str = "manifest.json";
/// Most bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Most files of a snapshot.
const FILES_MAX: usize = 16;
/// How much is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Time for a guest to write what it has buffered before its snapshot.
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(60);
/// The slowest disk that snapshots are for.
const DISK_BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
/// Time beyond that of the disk, on a busy host.
const STATE_TIMEOUT_MIN: Duration = Duration::from_secs(120);

/// Time to write or to read the state of a guest with this much memory.
pub const fn state_timeout(memory: ByteSize) -> Duration {
    let disk = Duration::from_secs(memory.bytes() / DISK_BYTES_PER_SECOND);
    STATE_TIMEOUT_MIN.saturating_add(disk)
}

/// Time to suspend a guest with this much memory: it is frozen, its state is
/// written, and read again for the checksum.
pub const fn suspend_timeout(memory: ByteSize) -> Duration {
    FREEZE_TIMEOUT.saturating_add(state_timeout(memory).saturating_mul(2))
}

/// What a snapshot can only be resumed with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTags {
    /// The hypervisor that wrote it.
    pub hypervisor: HypervisorFacts,
    /// The id of the guest kernel.
    pub kernel: String,
    /// The model of the host's processor; of an emulated one its name.
    pub cpu: String,
    /// Digest of all else that the VM was started with.
    pub config: String,
}

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    tags: SnapshotTags,
    /// The machine's own disk at that moment.
    disk: DiskMark,
    files: Vec<FileRecord>,
}

/// By which a changed disk is told from an unchanged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct DiskMark {
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
    inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    name: String,
    bytes: u64,
    sha256: String,
}

/// Why a snapshot is not resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotRefusal {
    /// There is none.
    #[error("there is no snapshot")]
    Missing,
    /// It could not be read.
    #[error("the snapshot cannot be read")]
    Unreadable(#[source] io::Error),
    /// It has no manifest, or one that makes no sense.
    #[error("the snapshot is not whole: {0}")]
    Incomplete(String),
    /// A file is not what was written.
    #[error("the snapshot is damaged: {0} is not what was written")]
    Damaged(String),
    /// It was made by or for something else.
    #[error("the snapshot is of another {what}: {then}, and this is {now}")]
    Differs {
        /// What differs.
        what: &'static str,
        /// As it was.
        then: String,
        /// As it is.
        now: String,
    },
    /// It was made by another version of the machine's config.
    #[error("the snapshot is of another version of the machine")]
    OtherVersion,
    /// The machine's disk has changed since.
    #[error("the machine's disk has changed since the snapshot was made")]
    DiskChanged,
}

/// Where a snapshot that is to be `path` is written; empties it.
pub fn prepare(path: &Path) -> io::Result<PathBuf> {
    let new = path.with_extension("new");
    ensure_no_dir(&new).map_err(io::Error::other)?;
    std::fs::create_dir(&new)?;
    Ok(new)
}

/// Makes the files in the directory of [`prepare`] the snapshot at `path`.
///
/// When it returns everything is on disk. A crash before that leaves no
/// snapshot at `path`.
pub fn seal(path: &Path, disk: &Path, tags: &SnapshotTags) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&new)? {
        let entry = entry?;
        let (sha256, bytes) = hash(&entry.path())?;
        File::open(entry.path())?.sync_all()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push(FileRecord {
            name,
            bytes,
            sha256,
        });
    }
    File::open(disk)?.sync_all()?;
    let manifest = Manifest {
        format: FORMAT,
        tags: tags.clone(),
        disk: disk_mark(disk)?,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)?;
    write_atomic(&new.join(MANIFEST), &text, 0o600).map_err(io::Error::other)?;
    ensure_no_dir(path).map_err(io::Error::other)?;
    std::fs::rename(&new, path)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Whether there is a snapshot that was finished. Does not read its files.
pub fn is_sealed(path: &Path) -> bool {
    read_manifest(path).is_ok()
}

/// Whether the snapshot is whole, undamaged, and fits these tags.
pub fn verify(path: &Path, disk: &Path, tags: &SnapshotTags) -> Result<(), SnapshotRefusal> {
    let manifest = read_manifest(path)?;
    compare(&manifest.tags, tags)?;
    let mark = disk_mark(disk).map_err(SnapshotRefusal::Unreadable)?;
    if mark != manifest.disk {
        return Err(SnapshotRefusal::DiskChanged);
    }
    for file in &manifest.files {
        let is_plain = !file.name.is_empty() && !file.name.contains('/') && file.name != "..";
        if !is_plain {
            return Err(SnapshotRefusal::Incomplete(format!(
                "`{}` is not the name of a file of it",
                file.name
            )));
        }
        match hash(&path.join(&file.name)) {
            Ok((sha256, bytes)) if sha256 == file.sha256 && bytes == file.bytes => {}
            Ok(_) => return Err(SnapshotRefusal::Damaged(file.name.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SnapshotRefusal::Incomplete(format!(
                    "{} is missing",
                    file.name
                )));
            }
            Err(error) => return Err(SnapshotRefusal::Unreadable(error)),
        }
    }
    Ok(())
}

fn compare(then: &SnapshotTags, now: &SnapshotTags) -> Result<(), SnapshotRefusal> {
    let hypervisor = |facts: &HypervisorFacts| {
        format!(
            "{} {} ({})",
            facts.kind.as_str(),
            facts.version,
            facts.accelerator.as_str()
        )
    };
    let parts = [
        (
            "hypervisor",
            hypervisor(&then.hypervisor),
            hypervisor(&now.hypervisor),
        ),
        ("guest kernel", then.kernel.clone(), now.kernel.clone()),
        ("processor", then.cpu.clone(), now.cpu.clone()),
    ];
    if let Some((what, then, now)) = parts.into_iter().find(|(_, then, now)| then != now) {
        return Err(SnapshotRefusal::Differs { what, then, now });
    }
    // Secrets are part of it, so its digest is not told.
    if then.config == now.config {
        Ok(())
    } else {
        Err(SnapshotRefusal::OtherVersion)
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, SnapshotRefusal> {
    if !path.is_dir() {
        return Err(SnapshotRefusal::Missing);
    }
    let incomplete = |why: String| SnapshotRefusal::Incomplete(why);
    let mut text = Vec::new();
    match File::open(path.join(MANIFEST)) {
        Ok(file) => file
            .take(MANIFEST_BYTES_MAX)
            .read_to_end(&mut text)
            .map_err(SnapshotRefusal::Unreadable)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(incomplete("its manifest is missing".into()));
        }
        Err(error) => return Err(SnapshotRefusal::Unreadable(error)),
    };
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|error| incomplete(format!("its manifest: {error}")))?;
    if manifest.format != FORMAT {
        return Err(SnapshotRefusal::Differs {
            what: "format",
            then: manifest.format.to_string(),
            now: FORMAT.to_string(),
        });
    }
    if manifest.files.is_empty() || manifest.files.len() > FILES_MAX {
        return Err(incomplete(format!(
            "its manifest lists {} files",
            manifest.files.len()
        )));
    }
    Ok(manifest)
}

fn disk_mark(disk: &Path) -> io::Result<DiskMark> {
    let metadata = std::fs::metadata(disk)?;
    Ok(DiskMark {
        bytes: metadata.len(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
        inode: metadata.ino(),
    })
}

/// SHA-256 in hexadecimal, and the length.
fn hash(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok((hex::encode(hasher.finalize()), bytes));
        }
        hasher.update(&chunk[..n]);
        bytes += u64::try_from(n).map_err(io::Error::other)?;
    }
}

#[cfg(test)]
mod tests;

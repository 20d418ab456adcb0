//! The storage of builds: images and layers that later builds begin with.
//!
//! It is kept as a whole while it is small enough, and removed as a whole when
//! it is not: the next builds fill it again. So nothing here depends on how
//! `buildah` lays its storage out.

use super::{mounts_below, unmount_below};
use crate::tree::remove_tree;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What `stat` counts blocks in (inode(7)).
const BLOCK_BYTES: u64 = 512;

/// Removes what builds left in the folder for temporary files.
pub(super) fn clear_temporary(dir: &Path) {
    let tmp = dir.join("tmp");
    if let Err(error) = remove_tree(&tmp).and_then(|()| std::fs::create_dir_all(&tmp)) {
        tracing::warn!(error = %error, path = %tmp.display(), "temporary files of builds stay");
    }
}

/// Removes the storage when it takes more than `bytes_max`. No build may run meanwhile.
pub(super) fn trim(dir: &Path, bytes_max: u64) {
    let used = bytes_used(&dir.join("storage"));
    if used <= bytes_max {
        return;
    }
    match clear(dir) {
        Ok(()) => tracing::info!(
            used,
            bytes_max,
            "the storage of builds was too large and is removed"
        ),
        Err(error) => tracing::warn!(
            error = %error, used, bytes_max, "the storage of builds is too large and stays"
        ),
    }
}

fn clear(dir: &Path) -> io::Result<()> {
    unmount_below(dir);
    // What is mounted there belongs to somebody else.
    if let Some(point) = mounts_below(dir).first() {
        let text = format!("{} is still mounted", point.display());
        return Err(io::Error::other(text));
    }
    remove_tree(&dir.join("storage"))?;
    remove_tree(&dir.join("run"))
}

/// Bytes of the disk that all files take; what cannot be looked at does not count.
fn bytes_used(dir: &Path) -> u64 {
    let mut used = 0_u64;
    let mut folders: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        for entry in entries {
            // Of the entry itself: links are not followed.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            used = used.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    used
}

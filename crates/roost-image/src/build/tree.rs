//! A folder as a sorted list of what goes into a layer.

use crate::limits::{BUILD_ENTRIES_MAX, PATH_DEPTH_MAX};
use roost_runtime::fs::{FileError, IoContext as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

/// A folder holds something that does not belong into an image.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// More than an image may have.
    #[error("the folder has more than {BUILD_ENTRIES_MAX} entries or {PATH_DEPTH_MAX} levels")]
    TooMany,
    /// A link that leads out of the folder.
    #[error("the link `{path}` leads out of the folder, to `{target}`")]
    Escape {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A socket, pipe or device.
    #[error("`{path}` is neither a file nor a folder nor a link")]
    Special {
        /// What it is called.
        path: String,
    },
}

/// One thing in a folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its path within the folder.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) kind: NodeKind,
}

/// What a thing is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Folder,
    File { is_program: bool },
    Link { target: PathBuf },
}

/// All that is in a folder: parents before their content, siblings by name.
pub(super) fn walk(root: &Path) -> Result<Vec<Node>, WalkError> {
    let mut nodes = Vec::new();
    walk_into(root, Path::new(""), 0, &mut nodes)?;
    Ok(nodes)
}

fn walk_into(
    root: &Path,
    inside: &Path,
    depth: usize,
    nodes: &mut Vec<Node>,
) -> Result<(), WalkError> {
    if depth > PATH_DEPTH_MAX {
        return Err(WalkError::TooMany);
    }
    let folder = root.join(inside);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).on("list", &folder)? {
        names.push(entry.on("list", &folder)?.file_name());
        if names.len() + nodes.len() > BUILD_ENTRIES_MAX {
            return Err(WalkError::TooMany);
        }
    }
    names.sort();
    for name in names {
        let path = inside.join(&name);
        let full = root.join(&path);
        let metadata = std::fs::symlink_metadata(&full).on("look at", &full)?;
        let kind = if metadata.is_dir() {
            NodeKind::Folder
        } else if metadata.is_file() {
            NodeKind::File {
                is_program: metadata.permissions().mode() & 0o111 != 0,
            }
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&full).on("read link", &full)?;
            check_link(inside, &path, &target)?;
            NodeKind::Link { target }
        } else {
            return Err(WalkError::Special {
                path: path.display().to_string(),
            });
        };
        let is_folder = kind == NodeKind::Folder;
        nodes.push(Node {
            path: path.clone(),
            kind,
        });
        if is_folder {
            walk_into(root, &path, depth + 1, nodes)?;
        }
    }
    Ok(())
}

/// Refuses a link whose text leads above the folder.
fn check_link(parent: &Path, path: &Path, target: &Path) -> Result<(), WalkError> {
    if stays_within(parent, target) {
        return Ok(());
    }
    let (path, target) = (path.display().to_string(), target.display().to_string());
    Err(WalkError::Escape { path, target })
}

/// Whether a link in folder `parent` stays at or below the root by its text alone:
/// enough for a link that is only packed, not for one that is followed.
pub(super) fn stays_within(parent: &Path, target: &Path) -> bool {
    let mut depth = parent.components().count();
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

//! From the path of a request to a file below the root, or to nothing.
//!
//! A path is decoded once, split at slashes, and refused when any part is `..`,
//! holds a NUL or a slash, or is hidden (`.well-known` is not). What remains is
//! looked up with all symbolic links followed, and refused when it ends up
//! outside of the root.

use roost_model::web::path;
use std::io;
use std::path::{Path, PathBuf};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file.
    File(PathBuf),
    /// A folder, named without its slash at the end.
    FolderWithoutSlash,
    /// Nothing that may be served.
    Nothing,
}

/// Looks up `path`, which is still percent-encoded. `root` must be canonical.
pub(crate) fn resolve(root: &Path, path: &str) -> io::Result<Target> {
    let Some(parts) = path::parts(path) else {
        return Ok(Target::Nothing);
    };
    let mut wanted = root.to_owned();
    wanted.extend(&parts);
    let Some(found) = canonical_below(root, &wanted)? else {
        return Ok(Target::Nothing);
    };
    if !std::fs::metadata(&found)?.is_dir() {
        let is_file = std::fs::metadata(&found)?.is_file() && !path.ends_with('/');
        return Ok(if is_file {
            Target::File(found)
        } else {
            Target::Nothing
        });
    }
    let Some(index) = canonical_below(root, &found.join("index.html"))? else {
        return Ok(Target::Nothing);
    };
    if !path.ends_with('/') {
        return Ok(Target::FolderWithoutSlash);
    }
    Ok(if index.is_file() {
        Target::File(index)
    } else {
        Target::Nothing
    })
}

/// The file with all links followed; `None` when it is missing or outside of the root.
pub(crate) fn canonical_below(root: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    match std::fs::canonicalize(path) {
        Ok(found) if found.starts_with(root) => Ok(Some(found)),
        Ok(_) => Ok(None),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    // ELOOP has no stable kind; a loop of links is as good as nothing.
    matches!(
        error.kind(),
        NotFound | NotADirectory | InvalidInput | InvalidFilename | PermissionDenied
    ) || error.raw_os_error() == Some(40)
}

#[cfg(test)]
mod tests {
    use super::{Target, resolve};
    use std::os::unix::fs::symlink;

    #[test]
    fn links_may_point_within_the_root_and_not_out_of_it() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(root.join("in")).unwrap();
        std::fs::write(root.join("in/a.txt"), "a").unwrap();
        symlink("in", root.join("alias")).unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(
            resolve(&root, "/alias/a.txt").unwrap(),
            Target::File(root.join("in/a.txt"))
        );
        for path in [
            "/out/secret",
            "/loop",
            "/in/a.txt/",
            "/in/a.txt/b",
            "/in",
            "/none",
        ] {
            assert_eq!(resolve(&root, path).unwrap(), Target::Nothing, "{path}");
        }
    }
}

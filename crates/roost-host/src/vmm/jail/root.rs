//! The file system that a jailed process sees.
//!
//! Made in two halves: directories and mount points by ordinary code before the
//! fork, mounts by the child, in a mount namespace of its own. So it needs no
//! cleaning but that the directory is removed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// What of the host is seen: programs, libraries and firmware. Those that are
/// links on this host (merged `/usr`) are links inside as well.
const HOST_DIRS: [&str; 5] = ["/usr", "/lib", "/lib64", "/bin", "/sbin"];
/// The dynamic linker's list, for libraries outside of the usual places.
const LINKER_CACHE: &str = "/etc/ld.so.cache";

/// A file of the host that is seen inside, read-only. Its mode counts, those of
/// the directories above it do not.
#[derive(Debug, Clone)]
pub(in crate::vmm) struct JailFile {
    /// On the host.
    pub(in crate::vmm) source: PathBuf,
    /// Inside.
    pub(in crate::vmm) target: &'static str,
}

/// A character device of the host that the process may open, as its own.
#[derive(Debug, Clone, Copy)]
pub(in crate::vmm) struct JailDevice {
    /// Its path, on the host and inside: directly below `/dev`.
    pub(in crate::vmm) path: &'static str,
}

/// A mount that the child makes.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) source: CString,
    pub(super) target: CString,
}

/// A device node that the child makes.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: CString,
    pub(super) device: u64,
}

/// What is left to do for the child, in system calls only.
#[derive(Debug)]
pub(super) struct Root {
    /// Becomes `/`.
    pub(super) path: CString,
    pub(super) binds: Vec<Bind>,
    /// `/dev` inside.
    pub(super) dev: CString,
    pub(super) nodes: Vec<Node>,
}

/// Makes the directory with all mount points.
pub(super) fn prepare(
    root: &Path,
    program: &Path,
    files: &[JailFile],
    devices: &[JailDevice],
) -> io::Result<Root> {
    fs::create_dir(root)?;
    // Root's own, and for all to look at: the process has nowhere to write.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    let mut binds = Vec::new();
    for dir in HOST_DIRS.map(Path::new) {
        let inside = below(root, dir);
        match fs::symlink_metadata(dir) {
            Ok(data) if data.is_symlink() => {
                std::os::unix::fs::symlink(fs::read_link(dir)?, inside)?;
            }
            Ok(_) => {
                fs::create_dir(&inside)?;
                binds.push(bind(dir, &inside)?);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let program = fs::canonicalize(program)?;
    let is_seen = HOST_DIRS.iter().any(|dir| program.starts_with(dir));
    let more = [
        (!is_seen).then(|| (program.clone(), program.clone())),
        Some((LINKER_CACHE.into(), LINKER_CACHE.into())),
    ];
    for (source, target) in more.into_iter().flatten() {
        if source.exists() {
            binds.push(bind_file(root, &source, &target)?);
        }
    }
    for file in files {
        binds.push(bind_file(root, &file.source, Path::new(file.target))?);
    }
    let dev = root.join("dev");
    fs::create_dir(&dev)?;
    Ok(Root {
        path: c_path(root)?,
        binds,
        dev: c_path(&dev)?,
        nodes: devices
            .iter()
            .map(|device| {
                Ok(Node {
                    path: c_path(&below(root, Path::new(device.path)))?,
                    device: fs::metadata(device.path)?.rdev(),
                })
            })
            .collect::<io::Result<_>>()?,
    })
}

fn bind_file(root: &Path, source: &Path, target: &Path) -> io::Result<Bind> {
    // Fails with the path at hand, where the child could only give a number.
    fs::metadata(source)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", source.display())))?;
    let inside = below(root, target);
    if let Some(parent) = inside.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::create_new(&inside)?;
    bind(source, &inside)
}

fn bind(source: &Path, target: &Path) -> io::Result<Bind> {
    Ok(Bind {
        source: c_path(source)?,
        target: c_path(target)?,
    })
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

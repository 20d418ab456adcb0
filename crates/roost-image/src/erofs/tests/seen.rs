//! What is seen of a tree, and mounts to see it in, that nobody else sees.

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Why a mount cannot be made here.
#[derive(Debug)]
pub(super) struct Skipped(pub String);

/// A mount that is attached nowhere, and goes when this is dropped.
pub(super) struct Mounted {
    root: OwnedFd,
}

impl Mounted {
    /// The file itself is mounted, without a loop device.
    pub(super) fn erofs(image: &Path) -> Result<Self, Skipped> {
        Self::mount("erofs", &[("source", image.to_str().unwrap())])
    }

    /// Layers are given lowest first; at least two.
    pub(super) fn overlay(layers: &[PathBuf]) -> Result<Self, Skipped> {
        let paths: Vec<&str> = layers
            .iter()
            .rev()
            .map(|path| path.to_str().unwrap())
            .collect();
        Self::mount(
            "overlay",
            &[("source", "test"), ("lowerdir", &paths.join(":"))],
        )
    }

    fn mount(kind: &str, options: &[(&str, &str)]) -> Result<Self, Skipped> {
        let skip = |error: Errno| match error {
            Errno::PERM | Errno::NODEV | Errno::NOTBLK | Errno::NOSYS => {
                Skipped(format!("this kernel mounts no {kind} here: {error}"))
            }
            other => panic!("mount {kind}: {other}"),
        };
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(skip)?;
        for (key, value) in options {
            fsconfig_set_string(&context, *key, *value).unwrap();
        }
        fsconfig_set_flag(&context, "ro").unwrap();
        fsconfig_create(&context).map_err(skip)?;
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).unwrap();
        Ok(Self { root })
    }

    pub(super) fn path(&self) -> PathBuf {
        // With a component behind it, so that the link itself is never meant.
        PathBuf::from(format!("/proc/self/fd/{}/.", self.root.as_raw_fd()))
    }
}

/// One file as programs see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub device: u64,
    /// Bytes of a file, target of a link.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All below a directory, by path.
pub(super) fn walk(root: &Path) -> BTreeMap<PathBuf, Seen> {
    walk_names(root, |_| true)
}

/// The same below an overlay: of a directory that one layer alone has, it lists
/// the whiteouts too, though they are not there for those who look them up.
pub(super) fn walk_overlay(root: &Path) -> BTreeMap<PathBuf, Seen> {
    walk_names(root, |path| path.symlink_metadata().is_ok())
}

fn walk_names(root: &Path, is_there: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if !is_there(&root.join(&path)) {
                continue;
            }
            let seen = look(&root.join(&path));
            // What the listing says without a look at the inode.
            let kind = entry.file_type().unwrap();
            assert_eq!(
                kind.is_dir(),
                seen.mode & 0o170_000 == 0o040_000,
                "{path:?}"
            );
            if kind.is_dir() {
                waiting.push(path.clone());
            }
            assert!(all.insert(path, seen).is_none(), "listed once");
        }
    }
    all
}

fn look(path: &Path) -> Seen {
    let data = path.symlink_metadata().unwrap();
    let content = if data.is_file() {
        std::fs::read(path).unwrap()
    } else if data.is_symlink() {
        let target = rustix::fs::readlinkat(CWD, path, Vec::new()).unwrap();
        target.into_bytes()
    } else {
        Vec::new()
    };
    assert!(
        data.is_dir() || data.len() == content.len() as u64,
        "{path:?}"
    );
    Seen {
        mode: data.mode(),
        owner: (data.uid(), data.gid()),
        mtime: (data.mtime(), data.mtime_nsec()),
        device: data.rdev(),
        content,
        xattrs: xattrs(path),
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let n_bytes = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap_or_default();
    let names = buffer[..n_bytes].split(|byte| *byte == 0);
    names
        .filter(|name| name.starts_with(b"user.") || *name == b"security.capability")
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let n_bytes = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(n_bytes);
            (name.to_vec(), value)
        })
        .collect()
}

/// Names what differs first, not two whole trees.
pub(super) fn assert_same(actual: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    for path in actual.keys().chain(expected.keys()) {
        let (one, other) = (actual.get(path), expected.get(path));
        if one != other {
            let brief = |seen: Option<&Seen>| {
                let mut seen = seen?.clone();
                seen.content.truncate(50);
                Some(seen)
            };
            let name = String::from_utf8_lossy(path.as_os_str().as_bytes());
            panic!("{name}: {:?} is not {:?}", brief(one), brief(other));
        }
    }
}

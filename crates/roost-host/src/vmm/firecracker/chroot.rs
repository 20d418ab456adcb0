//! The directory that becomes the jailed Firecracker's root, and what is in it.
//!
//! ```text
//!   <dir of the VM>/firecracker/<id>/root/
//!     vmlinux initramfs drive-0 …   links to the files of the VM
//!     load-state load-memory        links to the snapshot that it starts from
//!     save/                         root's own: snapshots that it writes
//!     log metrics                   pipes that are read by this process
//!     api.sock agent.sock           made by Firecracker
//! ```
//!
//! Nothing is copied. A file of the same file system is linked; another one is
//! mounted over an empty file, in the mount namespace of the jailer, so that the
//! mount ends with the process. What counts then is the file's own mode and
//! owner: the jailer changes those of directories only.

use super::config::inside;
use super::limits::ID_BYTES_MAX;
use crate::vmm::{DriveAccess, VmConfig, VmOwner};
use roost_runtime::fs::{FileError, IoContext as _};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, fstat};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::unix::pipe;

/// A root that is ready for the jailer.
#[derive(Debug)]
pub(super) struct Chroot {
    /// The VM's id in the jailer's alphabet.
    pub(super) id: String,
    /// On the host.
    pub(super) root: PathBuf,
    /// What has to be mounted before the jailer is executed.
    pub(super) binds: Vec<Bind>,
    /// The program's messages.
    pub(super) log: pipe::Receiver,
    /// The program's counters.
    pub(super) metrics: pipe::Receiver,
    /// Where it writes snapshots. Held open: the name may come to mean something else.
    pub(super) save: OwnedFd,
}

/// A file to be mounted over an empty one.
#[derive(Debug)]
pub(super) struct Bind {
    pub(super) source: CString,
    pub(super) target: CString,
    pub(super) access: DriveAccess,
}

impl Chroot {
    /// Makes it, for a program of this name; `load` has a snapshot. Blocks shortly.
    pub(super) fn prepare(
        config: &VmConfig,
        program: &OsStr,
        load: Option<&Path>,
    ) -> Result<Self, FileError> {
        let id = jail_id(&config.name);
        let root = config.dir.join(program).join(&id).join("root");
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(&root).on("create directory", &root)?;
        let mut chroot = Links {
            root: &root,
            binds: Vec::new(),
        };
        let kernel = &config.kernel;
        chroot.add(&kernel.vmlinux, inside::KERNEL, DriveAccess::ReadOnly)?;
        chroot.add(&kernel.initramfs, inside::INITRAMFS, DriveAccess::ReadOnly)?;
        for (idx, drive) in config.drives.iter().enumerate() {
            chroot.add(&drive.path, &inside::drive(idx), drive.access)?;
        }
        if let Some(files) = load {
            let (state, memory) = (files.join(STATE), files.join(MEMORY));
            chroot.add(&state, inside::LOAD_STATE, DriveAccess::ReadOnly)?;
            chroot.add(&memory, inside::LOAD_MEMORY, DriveAccess::ReadOnly)?;
        }
        let binds = chroot.binds;
        let save = root.join("save");
        Ok(Self {
            id,
            binds,
            log: make_pipe(&below(&root, inside::LOG), config.owner)?,
            metrics: make_pipe(&below(&root, inside::METRICS), config.owner)?,
            save: make_save(&save).on("create directory", &save)?,
            root,
        })
    }
}

/// The file of a snapshot that has the devices and processors.
const STATE: &str = "state";
/// The file that has the memory.
const MEMORY: &str = "memory";

/// Makes the empty files that a snapshot is written into, as Firecracker's own.
///
/// The directory is root's, so that it cannot put anything else in their places.
pub(super) fn begin_save(save: &OwnedFd, owner: VmOwner) -> io::Result<()> {
    for name in [STATE, MEMORY] {
        // Of an attempt that failed.
        match rustix::fs::unlinkat(save, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(save, name, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::fchown(&file, Some(uid(owner)), Some(gid(owner)))?;
    }
    Ok(())
}

/// Moves what was written into `files`. Blocks, long if that is on another file system.
pub(super) fn end_save(save: &OwnedFd, files: &Path) -> io::Result<()> {
    for name in [STATE, MEMORY] {
        let target = files.join(name);
        match rustix::fs::renameat(save, name, rustix::fs::CWD, &target) {
            Ok(()) => {}
            Err(Errno::XDEV) => move_by_copy(save, name, &target)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn move_by_copy(save: &OwnedFd, name: &str, target: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(save, name, flags, Mode::empty())?;
    let owner = fstat(&source)?;
    let mut copy = File::create_new(target)?;
    io::copy(&mut File::from(source), &mut copy)?;
    let owner = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    rustix::fs::fchown(&copy, Some(owner.0), Some(owner.1))?;
    copy.set_permissions(Permissions::from_mode(0o600))?;
    Ok(rustix::fs::unlinkat(save, name, AtFlags::empty())?)
}

struct Links<'a> {
    root: &'a Path,
    binds: Vec<Bind>,
}

impl Links<'_> {
    fn add(&mut self, source: &Path, name: &str, access: DriveAccess) -> Result<(), FileError> {
        // A hard link to a symbolic one would dangle in the jail.
        let source = fs::canonicalize(source).on("find", source)?;
        let kind = fs::metadata(&source).on("look at", &source)?.file_type();
        if !kind.is_file() {
            return Err(io::Error::other("not a regular file")).on("use", &source);
        }
        let target = below(self.root, name);
        match rustix::fs::link(&source, &target) {
            Ok(()) => Ok(()),
            // Another file system, or one that has as many links as it can.
            Err(Errno::XDEV | Errno::MLINK) => {
                File::create_new(&target).on("create", &target)?;
                self.binds.push(Bind {
                    source: c_path(&source).on("use", &source)?,
                    target: c_path(&target).on("use", &target)?,
                    access,
                });
                Ok(())
            }
            Err(errno) => Err(io::Error::from(errno)).on("link", &source),
        }
    }
}

/// Opened for both ways, so that it does not end when no writer is left.
fn make_pipe(path: &Path, owner: VmOwner) -> Result<pipe::Receiver, FileError> {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .map_err(io::Error::from)
    .on("make a pipe at", path)?;
    std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid)).on("change owner of", path)?;
    pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(path)
        .on("open", path)
}

fn make_save(path: &Path) -> io::Result<OwnedFd> {
    DirBuilder::new().mode(0o711).create(path)?;
    // The process's file mode mask may have taken away from it.
    fs::set_permissions(path, Permissions::from_mode(0o711))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The jailer takes letters, digits and hyphens.
fn jail_id(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(ID_BYTES_MAX)
        .collect()
}

fn below(root: &Path, name: &str) -> PathBuf {
    root.join(name.trim_start_matches('/'))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn uid(owner: VmOwner) -> Uid {
    Uid::from_raw(owner.uid)
}

fn gid(owner: VmOwner) -> Gid {
    Gid::from_raw(owner.gid)
}

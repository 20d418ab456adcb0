//! The root file system of a machine: shared layers below, its own writes above.
//!
//! Layers lie on the host once, owned by root (ids 0 to 65,535), and are never
//! written. A machine's id 0 is some other id on the host, so each layer is
//! mounted with its owners shifted into the machine's range (an id-mapped
//! mount); an overlay puts an empty writable directory on top. Everything is
//! mounted in a mount namespace of the shim's own, so that it is gone when the
//! machine and its shim are.
//!
//! The mounts are put at a place that every user can reach, because the
//! machine's root user must walk to it and is nobody outside: data directories
//! are closed to others.

use crate::failure::{Attempt as _, LaunchError};
use crate::sys::{self, Fork};
use roost_host::tree::remove_tree;
use roost_proto::shim::ShimLaunch;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind,
    mount_change, move_mount, open_tree,
};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{Uid, UnshareFlags};
use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};

/// Places that exist on every Debian and that every user can reach.
const STAGES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];
/// Most layers under one overlay (images: 127; the kernel's limit is 500).
const LAYERS_MAX: usize = 256;

/// An assembled root file system.
#[derive(Debug)]
pub(crate) struct Root {
    /// Where it is mounted, in this mount namespace.
    pub(crate) path: PathBuf,
    /// The directory itself.
    pub(crate) dir: OwnedFd,
    /// The user namespace that the machine runs in.
    pub(crate) user_namespace: OwnedFd,
}

/// Mounts the machine's root in a new mount namespace of this process.
pub(crate) fn assemble(launch: &ShimLaunch) -> Result<Root, LaunchError> {
    if launch.layers.len() > LAYERS_MAX {
        return Err(LaunchError::machine(format!(
            "the image has {} layers, and {LAYERS_MAX} is the most",
            launch.layers.len()
        )));
    }
    sys::unshare(UnshareFlags::NEWNS).attempt("make a mount namespace")?;
    // Nothing mounted here may show up on the host.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).attempt("make mounts private")?;

    let writable = prepare_writable(launch)?;
    let user_namespace = make_user_namespace(launch.id_base, launch.id_size)?;
    let layers = open_layers(launch, &user_namespace)?;
    let stage = choose_stage(launch)?;
    mount(
        "tmpfs",
        stage,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        c"mode=0755",
    )
    .attempt(format_args!(
        "mount a scratch file system on {}",
        stage.display()
    ))?;
    for (idx, layer) in layers.iter().enumerate() {
        let place = stage.join(idx.to_string());
        make_dir(&place, 0o755)?;
        move_mount(
            layer,
            "",
            rustix::fs::CWD,
            &place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .attempt(format_args!("mount a layer on {}", place.display()))?;
    }
    let above = stage.join("rw");
    make_dir(&above, 0o700)?;
    mount_bind(&writable, &above).attempt(format_args!("bind {}", writable.display()))?;
    let path = stage.join("root");
    make_dir(&path, 0o755)?;
    mount_overlay(stage, layers.len())?;
    let dir = File::open(&path).attempt(format_args!("open {}", path.display()))?;
    Ok(Root {
        path,
        dir: dir.into(),
        user_namespace,
    })
}

/// Empties the directory of the machine's writes: every start begins with the image.
fn prepare_writable(launch: &ShimLaunch) -> Result<PathBuf, LaunchError> {
    let writable = launch.data_dir.join("root");
    remove_tree(&writable).attempt(format_args!("empty {}", writable.display()))?;
    std::fs::create_dir_all(&launch.data_dir)
        .attempt(format_args!("create {}", launch.data_dir.display()))?;
    make_dir(&writable, 0o700)?;
    make_dir(&writable.join("work"), 0o700)?;
    let upper = writable.join("upper");
    make_dir(&upper, 0o755)?;
    chown(&upper, Some(launch.id_base), Some(launch.id_base))
        .attempt(format_args!("change the owner of {}", upper.display()))?;
    Ok(writable)
}

/// Opens each layer as a detached mount with shifted owners, highest first.
///
/// A layer that occurs twice is used once, at its highest place: whatever the
/// lower one would add is hidden by the same files above, and the kernel
/// refuses the same directory twice.
fn open_layers(launch: &ShimLaunch, user_namespace: &OwnedFd) -> Result<Vec<OwnedFd>, LaunchError> {
    let mut seen = HashSet::new();
    let mut layers = Vec::with_capacity(launch.layers.len());
    for path in launch.layers.iter().rev().filter(|path| seen.insert(*path)) {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let layer = open_tree(rustix::fs::CWD, path, flags)
            .attempt(format_args!("open layer {}", path.display()))?;
        sys::map_mount_ids(layer.as_fd(), user_namespace.as_fd()).map_err(|error| {
            let hint = match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
                    " (machines need Linux 5.19 or newer and a file system with id-mapped mounts, such as ext4, xfs or btrfs)"
                }
                _ => "",
            };
            LaunchError::host(format!("map the owners of layer {}: {error}{hint}", path.display()))
        })?;
        layers.push(layer);
    }
    Ok(layers)
}

/// A user namespace in which id 0 is `base`, as a handle; no process stays in it.
///
/// It belongs to the host's user `base`. The kernel counts what the processes of
/// a user namespace hold (inotify instances and watches, message queues, pending
/// signals, namespaces) against its owner as well: were that root, one machine
/// could use up what root on the host may have.
fn make_user_namespace(base: u32, size: u32) -> Result<OwnedFd, LaunchError> {
    let (ready, mut tell_ready) = std::io::pipe().attempt("make a pipe")?;
    let child = match sys::fork().attempt("fork")? {
        Fork::Child => {
            let made = become_owner(base).and_then(|()| sys::unshare(UnshareFlags::NEWUSER));
            let _ = io::Write::write_all(&mut tell_ready, &[u8::from(made.is_ok())]);
            loop {
                // Until it is killed, a moment later.
                let _ = rustix::thread::nanosleep(&rustix::thread::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                });
            }
        }
        Fork::Parent(pid) => pid,
    };
    drop(tell_ready);
    let result = open_user_namespace(ready, child, base, size);
    let _ = rustix::process::kill_process(child, Signal::KILL);
    let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
    result
}

/// Makes `base` the effective user, without giving up the right to make namespaces.
fn become_owner(base: u32) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    let (root, user) = (Uid::ROOT, Uid::from_raw(base));
    rustix::thread::set_thread_res_uid(root, user, root)?;
    // The change has cleared them.
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

fn open_user_namespace(
    mut ready: io::PipeReader,
    child: Pid,
    base: u32,
    size: u32,
) -> Result<OwnedFd, LaunchError> {
    let mut answer = [0];
    io::Read::read_exact(&mut ready, &mut answer).attempt("make a user namespace")?;
    if answer != [1] {
        return Err(LaunchError::host(
            "make a user namespace: the kernel refused",
        ));
    }
    let child = child.as_raw_nonzero();
    let map = format!("0 {base} {size}");
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{child}/{file}");
        std::fs::write(&path, &map).attempt(format_args!("write {map} to {path}"))?;
    }
    let file = File::open(format!("/proc/{child}/ns/user")).attempt("open a user namespace")?;
    Ok(file.into())
}

/// The first stage that hides nothing which the shim still needs.
fn choose_stage(launch: &ShimLaunch) -> Result<&'static Path, LaunchError> {
    let program = std::env::current_exe().ok();
    let needed: Vec<PathBuf> = [&launch.run_dir, &launch.log_dir]
        .into_iter()
        .chain(&launch.runtime)
        .chain(&program)
        .map(|path| path.canonicalize().unwrap_or_else(|_| path.clone()))
        .collect();
    STAGES
        .iter()
        .map(Path::new)
        .find(|stage| stage.is_dir() && !needed.iter().any(|path| path.starts_with(stage)))
        .ok_or_else(|| {
            LaunchError::host(format!("none of {} is free to mount on", STAGES.join(", ")))
        })
}

/// Mounts the overlay with short relative paths: the kernel takes one page of options.
fn mount_overlay(stage: &Path, n_layers: usize) -> Result<(), LaunchError> {
    let lower = if n_layers == 0 {
        make_dir(&stage.join("none"), 0o755)?;
        "none".to_owned()
    } else {
        (0..n_layers)
            .map(|idx| idx.to_string())
            .collect::<Vec<_>>()
            .join(":")
    };
    // `volatile`: the writes of a machine do not outlive it, so syncing them buys nothing.
    let options = format!("lowerdir={lower},upperdir=rw/upper,workdir=rw/work,volatile\0");
    let options =
        CStr::from_bytes_with_nul(options.as_bytes()).attempt("write the options of an overlay")?;
    rustix::process::chdir(stage).attempt(format_args!("enter {}", stage.display()))?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    let result = mount("overlay", "root", "overlay", flags, options);
    rustix::process::chdir("/").attempt("enter /")?;
    result.attempt(format_args!("mount an overlay of {n_layers} layers"))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), LaunchError> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .attempt(format_args!("create {}", path.display()))
}

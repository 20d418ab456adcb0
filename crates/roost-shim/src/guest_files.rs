//! Reading and writing files of a machine's root from outside.
//!
//! The image is not trusted: any of its paths may be a link to somewhere else.
//! Every path is resolved by the kernel as if the root were the whole world
//! (`RESOLVE_IN_ROOT`), so that no link leads out of it, and a file that is
//! written replaces what had its name instead of writing through it.

use crate::failure::{Attempt as _, LaunchError};
use crate::root::Root;
use roost_model::machine::own_names;
use roost_proto::shim::ShimLaunch;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

/// Opens a path of the machine.
pub(crate) fn open_inside(root: &Root, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(
        &root.dir,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Reads a regular file of the machine; `None` when there is none.
pub(crate) fn read_inside(
    root: &Root,
    path: &str,
    bytes_max: u64,
) -> Result<Option<String>, LaunchError> {
    // Non-blocking: it might be a pipe.
    let file = match open_inside(root, path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => {
            return Err(LaunchError::machine(format!(
                "read {path} of the image: {error}"
            )));
        }
    };
    let metadata = file
        .metadata()
        .attempt(format_args!("look at {path} of the image"))?;
    if !metadata.is_file() || metadata.len() > bytes_max {
        return Err(LaunchError::machine(format!(
            "{path} of the image is not a file of at most {bytes_max} bytes"
        )));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max)
        .read_to_end(&mut bytes)
        .attempt(format_args!("read {path} of the image"))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Makes a directory of the machine and its parents; owned by the machine's root.
pub(crate) fn ensure_dir_inside(
    root: &Root,
    path: &str,
    owner: u32,
) -> Result<OwnedFd, LaunchError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    if let Ok(dir) = open_inside(root, path, flags) {
        return Ok(dir);
    }
    let refuse = |error: Errno| {
        LaunchError::machine(format!("make directory {path} in the machine: {error}"))
    };
    let mut dir = open_inside(root, "/", flags).map_err(refuse)?;
    let mut so_far = String::new();
    for name in components(path)? {
        so_far.push('/');
        so_far.push_str(name);
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => own(&dir, name, owner).map_err(refuse)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(refuse(error)),
        }
        // By the whole path, so that a link in it stays within the root.
        dir = open_inside(root, &so_far, flags).map_err(refuse)?;
    }
    Ok(dir)
}

/// Writes a file of the machine, owned by its root.
pub(crate) fn write_inside(
    root: &Root,
    path: &str,
    content: &[u8],
    mode: u32,
    owner: u32,
) -> Result<(), LaunchError> {
    let refuse =
        |error: Errno| LaunchError::machine(format!("write {path} in the machine: {error}"));
    let names = components(path)?;
    let Some((name, parents)) = names.split_last() else {
        return Err(LaunchError::machine(format!(
            "`{path}` is not the path of a file"
        )));
    };
    let dir = ensure_dir_inside(root, &format!("/{}", parents.join("/")), owner)?;
    match rustix::fs::unlinkat(&dir, *name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(refuse(error)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        rustix::fs::openat(&dir, *name, flags, Mode::from_raw_mode(0o600)).map_err(refuse)?;
    rustix::fs::fchown(
        &file,
        Some(Uid::from_raw(owner)),
        Some(Gid::from_raw(owner)),
    )
    .map_err(refuse)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(refuse)?;
    File::from(file)
        .write_all(content)
        .attempt(format_args!("write {path} in the machine"))
}

/// Writes what every machine has, and what its config asks for.
pub(crate) fn write_all(root: &Root, launch: &ShimLaunch) -> Result<(), LaunchError> {
    let owner = launch.id_base;
    let mut hosts =
        String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for &address in &launch.addresses {
        let names = own_names(&launch.machine_id, address).join(" ");
        let _ = writeln!(hosts, "{address}\t{names}");
    }
    let mut resolv = String::new();
    for server in &launch.nameservers {
        let _ = writeln!(resolv, "nameserver {server}");
    }
    let hostname = format!("{}\n", launch.machine_id);
    for (path, content) in [
        ("/etc/hosts", hosts),
        ("/etc/resolv.conf", resolv),
        ("/etc/hostname", hostname),
    ] {
        write_inside(root, path, content.as_bytes(), 0o644, owner)?;
    }
    for file in &launch.files {
        write_inside(root, &file.guest_path, &file.content, file.mode, owner)?;
    }
    Ok(())
}

fn components(path: &str) -> Result<Vec<&str>, LaunchError> {
    let bad = |problem: &str| LaunchError::machine(format!("path `{path}` {problem}"));
    if !path.starts_with('/') {
        return Err(bad("does not start with a slash"));
    }
    if path.contains('\0') {
        return Err(bad("has a zero byte"));
    }
    let names: Vec<&str> = path
        .split('/')
        .filter(|name| !name.is_empty() && *name != ".")
        .collect();
    if names.contains(&"..") {
        return Err(bad("has `..` in it"));
    }
    Ok(names)
}

fn own(dir: &OwnedFd, name: &str, owner: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dir.as_fd(), name, Some(user), Some(group), flags)
}

//! The guest's root: a shared read-only image below, the machine's own disk above.
//!
//! The image (EROFS) and the scratch disk (ext4 without journal) are joined by
//! an overlay. Both are mounted at places of the initramfs that go out of sight
//! when the overlay becomes `/`; the overlay keeps them alive.

mod swap;

use crate::early::{make_dir, mount_at};
use crate::failure::{Attempt as _, Failure};
use crate::limits::{DEVICE_POLL_INTERVAL, DEVICE_TIMEOUT};
use roost_agent::proto;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use std::ffi::CStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// Where the image is mounted in the initramfs.
const IMAGE_DIR: &str = "/image";
/// Where the scratch disk is mounted in the initramfs.
const SCRATCH_DIR: &str = "/scratch";
/// Where the root is put together in the initramfs.
const ROOT_DIR: &str = "/root-of-app";
/// What of the initramfs is of no use any more once the root is in place.
const INITRAMFS_LEFTOVERS: [&str; 2] = ["/modules", "/init"];
/// Names that programs expect for what they have open.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts the root and makes it that of this process and all to come.
pub(crate) async fn enter_root(disks: &proto::RootDisks, swap_bytes: u64) -> Result<(), Failure> {
    let image = find_device(&disks.image_device).await?;
    let scratch = find_device(&disks.scratch_device).await?;
    mount_disk(
        &image,
        IMAGE_DIR,
        "erofs",
        MountFlags::RDONLY | MountFlags::NODEV,
    )?;
    mount_disk(
        &scratch,
        SCRATCH_DIR,
        "ext4",
        MountFlags::NOATIME | MountFlags::NODEV,
    )?;
    for name in ["upper", "work"] {
        make_dir(&Path::new(SCRATCH_DIR).join(name))?;
    }
    if swap_bytes > 0 {
        swap::make(&Path::new(SCRATCH_DIR).join("swap"), swap_bytes)?;
    }
    make_dir(Path::new(ROOT_DIR))?;
    // `volatile`: what a machine writes does not outlive it, so syncing it buys nothing.
    let options = c"lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work,volatile";
    mount("overlay", ROOT_DIR, "overlay", MountFlags::NODEV, options).attempt("mount the root")?;
    switch_root()?;
    mount_below_root()
}

/// Mounts a further disk of the machine.
pub(crate) async fn mount_volume(volume: &proto::Mount) -> Result<(), Failure> {
    if !volume.path.starts_with('/') || volume.path.contains('\0') {
        return Err(Failure::request(format!(
            "`{}` is not a place to mount on",
            volume.path
        )));
    }
    let device = find_device(&volume.device).await?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RELATIME;
    if volume.read_only {
        flags |= MountFlags::RDONLY;
    }
    mount_disk(&device, &volume.path, &volume.file_system, flags)
}

/// The device file of a disk; it may take a moment to appear.
async fn find_device(name: &str) -> Result<PathBuf, Failure> {
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name {
        return Err(Failure::request(format!(
            "`{name}` is not the name of a disk"
        )));
    }
    let path = Path::new("/dev").join(name);
    let deadline = Instant::now() + DEVICE_TIMEOUT;
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(Failure::guest(format!("disk {name} does not appear")));
        }
        tokio::time::sleep(DEVICE_POLL_INTERVAL).await;
    }
    Ok(path)
}

fn mount_disk(device: &Path, place: &str, kind: &str, flags: MountFlags) -> Result<(), Failure> {
    make_dir(Path::new(place))?;
    mount(device, place, kind, flags, None::<&CStr>).attempt(format_args!(
        "mount {} ({kind}) on {place}",
        device.display()
    ))
}

/// Puts the assembled root in the place of the initramfs, which is emptied.
///
/// An initramfs cannot be left by `pivot_root`; it stays, hidden, below.
fn switch_root() -> Result<(), Failure> {
    for place in ["/dev", "/proc", "/sys"] {
        let target = format!("{ROOT_DIR}{place}");
        make_dir(Path::new(&target))?;
        mount_move(place, &target).attempt(format_args!("move {place} into the root"))?;
    }
    for place in [IMAGE_DIR, SCRATCH_DIR] {
        unmount(place, UnmountFlags::DETACH).attempt(format_args!("let go of {place}"))?;
    }
    for leftover in INITRAMFS_LEFTOVERS.map(Path::new) {
        // It only costs memory when it stays.
        let _ = match leftover.is_dir() {
            true => std::fs::remove_dir_all(leftover),
            false => std::fs::remove_file(leftover),
        };
    }
    rustix::process::chdir(ROOT_DIR).attempt("enter the root")?;
    mount_move(".", "/").attempt("move the root")?;
    rustix::process::chroot(".").attempt("change the root")?;
    rustix::process::chdir("/").attempt("enter /")
}

/// What programs expect in `/dev`. `/run` and `/tmp` are as the image has them.
fn mount_below_root() -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let tty_flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at(
        "/dev/pts",
        "devpts",
        tty_flags,
        "newinstance,gid=5,mode=0620,ptmxmode=0666",
    )?;
    mount_at("/dev/shm", "tmpfs", flags, "mode=1777")?;
    if let Err(failure) = mount_at("/dev/mqueue", "mqueue", flags, "") {
        // A kernel may come without; few programs ask for it.
        crate::console::say(format_args!("warning: {}", failure.message));
    }
    for (target, link) in DEVICE_LINKS {
        match symlink(target, link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).attempt(format_args!("link {link}"));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

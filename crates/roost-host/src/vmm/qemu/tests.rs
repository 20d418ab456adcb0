//! QEMU as it is installed here, with the kernel of `scripts/guest-kernel`.

use super::Qemu;
use crate::vmm::contract::{self, Fixture};
use crate::vmm::kernel::{GuestKernel, read_kernel};
use crate::vmm::{Accelerator, VmOwner};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A user that nobody else is.
const OWNER: VmOwner = VmOwner {
    uid: 1_879_048_192,
    gid: 1_879_048_192,
};
/// A boot takes 4 s of processor time.
const LIMIT: Duration = Duration::from_secs(120);
/// A program that is a whole user land, statically linked.
const BUSYBOX: &str = "/bin/busybox";

/// The guest of the contract, in a shell.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
port=/dev/$(basename $(dirname $(grep -lx roost.agent /sys/class/virtio-ports/*/name)))
exec 3<>$port
count=0
while :; do
    # While nobody is connected, a read ends at once.
    read -r line <&3 || { sleep 0.05; continue; }
    count=$((count + 1))
    case $line in
        hello) echo the guest says hello ;;
        flood) yes flood >/dev/console & ;;
        off) poweroff -f ;;
    esac
    echo $count $line >&3
done
"#;

#[tokio::test(flavor = "multi_thread")]
async fn qemu_keeps_the_contract() {
    let Some((fixture, _dir)) = fixture().await else {
        return;
    };
    contract::check_all(&fixture).await;
}

/// The installed QEMU under emulation; `None`, with the reason printed, without.
async fn fixture() -> Option<(Fixture, TempDir)> {
    let skip = |reason: &str| {
        println!("skipped: {reason}");
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("not root");
    }
    let qemu = Qemu::new(None, Accelerator::Emulation);
    if let Err(error) = crate::vmm::Hypervisor::facts(&qemu).await {
        return skip(&error.to_string());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-kernel");
    let Ok(vmlinuz) = std::fs::read(folder.join("vmlinuz")) else {
        return skip("no guest kernel; run scripts/guest-kernel");
    };
    let Ok(busybox) = std::fs::read(BUSYBOX) else {
        return skip("no static busybox; install the Debian package `busybox-static`");
    };
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture {
        hypervisor: Box::new(qemu),
        kernel: kernel(dir.path(), &vmlinuz, &busybox),
        owner: OWNER,
        dir: dir.path().to_owned(),
        limit: LIMIT,
    };
    Some((fixture, dir))
}

fn kernel(dir: &Path, vmlinuz: &[u8], busybox: &[u8]) -> GuestKernel {
    let image = read_kernel(vmlinuz).unwrap();
    let write = |name: &str, content: &[u8]| -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    GuestKernel {
        id: "contract".into(),
        release: image.release.clone(),
        flavor: image.flavor,
        vmlinux: write("vmlinux", &image.vmlinux),
        initramfs: write("initramfs.cpio", &initramfs(busybox)),
    }
}

/// A cpio archive in the "newc" format.
fn initramfs(busybox: &[u8]) -> Vec<u8> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    let entries: [(&str, u32, &[u8]); 7] = [
        ("bin", DIRECTORY, b""),
        ("bin/busybox", PROGRAM, busybox),
        ("proc", DIRECTORY, b""),
        ("sys", DIRECTORY, b""),
        ("dev", DIRECTORY, b""),
        ("init", PROGRAM, INIT.as_bytes()),
        ("TRAILER!!!", 0, b""),
    ];
    let mut archive = Vec::new();
    for (position, (name, mode, content)) in entries.into_iter().enumerate() {
        // After the mode: user, group, links, time; after the size: four device
        // numbers; after the length of the name: a checksum that nobody reads.
        let position = u32::try_from(position).unwrap();
        let size = u32::try_from(content.len()).unwrap();
        let name_size = u32::try_from(name.len() + 1).unwrap();
        let fields = [position, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let fields = fields.map(|field| format!("{field:08x}"));
        archive.extend_from_slice(b"070701");
        archive.extend_from_slice(fields.concat().as_bytes());
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

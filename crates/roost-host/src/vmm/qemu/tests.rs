//! QEMU as it is installed here, with the kernel of `scripts/guest-kernel`.

use super::{Qemu, check_version};
use crate::vmm::contract::{self, Fixture};
use crate::vmm::kernel::{GuestKernel, GuestKernels, KernelFlavor, KernelSource};
use crate::vmm::{Accelerator, Hypervisor as _, VmOwner};
use std::path::Path;
use std::time::Duration;

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
for module in /modules/*.ko; do insmod $module; done
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
        disks)
            dd if=/dev/vda of=/dev/vdb bs=512 count=1 conv=fsync
            dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync ;;
        link)
            ip link set eth0 up
            ip address add 192.0.2.2/24 dev eth0
            until ping -c 1 -W 1 192.0.2.1; do :; done ;;
        off) poweroff -f ;;
    esac
    echo $count $line >&3
done
"#;

#[test]
fn versions_from_7_2_on_are_taken() {
    let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright\n";
    assert_eq!(check_version(debian).unwrap(), "7.2.22");
    assert_eq!(
        check_version("QEMU emulator version 10.0.2\n").unwrap(),
        "10.0.2"
    );
}

#[test]
fn an_older_version_is_refused_with_what_to_install() {
    let error = check_version("QEMU emulator version 5.2.0 (Debian 1:5.2+dfsg)\n").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("QEMU 5.2.0 is not supported; 7.2 or later is"),
        "{error}"
    );
    assert!(error.to_string().contains("`qemu-system-x86`"));
    check_version("BusyBox v1.35").unwrap_err();
    check_version("QEMU emulator version 7\n").unwrap_err();
}

#[test]
fn qemu_keeps_the_contract() {
    let Some(host) = Host::find() else { return };
    contract::enter_namespaces();
    host.run(async |fixture| contract::check_all(fixture).await);
}

#[test]
fn the_machine_of_a_slim_kernel_starts() {
    let Some(host) = Host::find() else { return };
    host.run(async |fixture| {
        let mut config = fixture.config("slim");
        // What would tell it of its devices is missing in this kernel: it
        // boots, but nothing can be said to it.
        config.kernel.flavor = KernelFlavor::Slim;
        let mut vm = fixture.hypervisor.launch(&config).await.unwrap();
        vm.kill().await.unwrap();
    });
}

#[test]
fn the_kvm_device_is_open_to_the_process() {
    let Some(host) = Host::find() else { return };
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: no /dev/kvm");
        return;
    }
    host.run(async |fixture| {
        let qemu = Qemu::new(None, Accelerator::Kvm);
        // Whether the guest gets anywhere is not the question here.
        let mut vm = qemu.launch(&fixture.config("kvm")).await.unwrap();
        vm.kill().await.unwrap();
    });
}

/// What these tests need of the host.
struct Host {
    qemu: Qemu,
    kernel: KernelSource,
}

impl Host {
    /// `None`, with the reason printed, where something is missing.
    fn find() -> Option<Self> {
        let skip = |reason: &str| {
            println!("skipped: {reason}");
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("not root");
        }
        let qemu = Qemu::new(None, Accelerator::Emulation);
        if let Err(error) = runtime().block_on(qemu.facts()) {
            return skip(&error.to_string());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest-kernel");
        if !folder.join("vmlinuz").exists() {
            return skip("no guest kernel; run scripts/guest-kernel");
        }
        if !Path::new(BUSYBOX).exists() {
            return skip("no static busybox; install the Debian package `busybox-static`");
        }
        let kernel = KernelSource::in_folder(&folder, BUSYBOX.into()).unwrap();
        Some(Self { qemu, kernel })
    }

    fn run(self, check: impl AsyncFnOnce(&Fixture)) {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let fixture = Fixture {
                hypervisor: Box::new(self.qemu),
                kernel: kernel(dir.path(), self.kernel).await,
                owner: OWNER,
                dir: dir.path().to_owned(),
                limit: LIMIT,
            };
            check(&fixture).await;
        });
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The kernel of the store, with a shell for an init.
async fn kernel(dir: &Path, source: KernelSource) -> GuestKernel {
    let store = GuestKernels::open(&dir.join("kernels")).unwrap();
    let kernel = store.import(source).await.unwrap();
    // Of two archives in a row, the files of the second replace those of the first.
    let mut archive = std::fs::read(&kernel.initramfs).unwrap();
    archive.extend(initramfs(&std::fs::read(BUSYBOX).unwrap()));
    let initramfs = dir.join("initramfs.cpio");
    std::fs::write(&initramfs, archive).unwrap();
    GuestKernel {
        initramfs,
        ..kernel
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

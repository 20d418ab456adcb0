//! The guest of the contract: a kernel of the store, with a shell script for an init.

use crate::vmm::kernel::cpio::Cpio;
use crate::vmm::kernel::{GuestKernel, GuestKernels, KernelSource};
use std::path::Path;

/// A program that is a whole user land, statically linked.
pub const BUSYBOX: &str = "/bin/busybox";

/// Called as `init serve` it serves a stream on standard input and output;
/// otherwise it is the first process.
const INIT: &str = r#"#!/bin/busybox sh
serve() {
    # Counted in a file: there is a process for each stream on a vsock.
    while read -r line; do
        read -r count </count
        count=$((count + 1))
        echo $count >/count
        case $line in
            hello) echo the guest says hello >/dev/console ;;
            flood) yes flood >/dev/console & ;;
            disks)
                dd if=/dev/vda of=/dev/vdb bs=512 count=1 conv=fsync
                dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync ;;
            link)
                ip link set eth0 up
                ip address add 192.0.2.2/24 dev eth0
                until ping -c 1 -W 1 192.0.2.1 >/dev/null; do :; done ;;
            # Without ACPI nothing else ends a machine, and a VM need not have it.
            off) reboot -f ;;
        esac
        echo $count $line
    done
}
# The kernel passes on what it does not know of its command line.
[ "$1" = serve ] && { serve; exit; }
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
echo 0 >/count
port=$(grep -lx roost.agent /sys/class/virtio-ports/*/name)
if [ -z "$port" ]; then
    exec /vsock-serve 1024 /init serve
fi
exec 3<>/dev/$(basename $(dirname $port))
while :; do
    # While nobody is connected, a read ends at once.
    serve <&3 >&3
    sleep 0.05
done
"#;

/// Makes it in `dir`. A hypervisor without a serial port for the stream needs
/// `vsock_serve`, the example of `roost-init`.
pub async fn kernel(dir: &Path, source: KernelSource, vsock_serve: Option<&Path>) -> GuestKernel {
    let store = GuestKernels::open(&dir.join("kernels")).expect("open a store");
    let kernel = store.import(source).await.expect("import a kernel");
    let read = |path: &Path| std::fs::read(path).expect("read a file");
    let mut files = Cpio::default();
    for directory in ["bin", "proc", "sys", "dev"] {
        files.add_directory(directory);
    }
    files.add_file("bin/busybox", 0o755, &read(Path::new(BUSYBOX)));
    files.add_file("init", 0o755, INIT.as_bytes());
    if let Some(program) = vsock_serve {
        files.add_file("vsock-serve", 0o755, &read(program));
    }
    // Of two archives in a row, the files of the second replace those of the first.
    let mut archive = read(&kernel.initramfs);
    archive.extend(files.finish());
    let initramfs = dir.join("initramfs.cpio");
    std::fs::write(&initramfs, archive).expect("write an archive");
    GuestKernel {
        initramfs,
        ..kernel
    }
}

//! Debian's kernel, as `scripts/guest-kernel` leaves it, through the store.

#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

use roost_host::vmm::kernel::{GuestKernels, KernelFlavor, KernelSource};
use std::path::{Path, PathBuf};

/// Any static program; this one comes with the packages of the tests.
const STATIC_PROGRAM: &str = "/bin/busybox";

fn source() -> Option<KernelSource> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../guest-kernel");
    if !folder.join("vmlinuz").exists() {
        println!("skipped: no guest kernel; run scripts/guest-kernel");
        return None;
    }
    if !Path::new(STATIC_PROGRAM).exists() {
        println!("skipped: no {STATIC_PROGRAM}; run scripts/setup --tests");
        return None;
    }
    // By hand: the kernel of `make kernel` would go before it.
    let releases = std::fs::read_dir(folder.join("modules")).unwrap();
    let modules = releases.map(|entry| entry.unwrap().path()).next();
    Some(KernelSource {
        kernel: folder.join("vmlinuz"),
        modules,
        init: PathBuf::from(STATIC_PROGRAM),
    })
}

/// Names of the files in a cpio archive of the kind that the store writes.
fn entry_names(archive: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = archive;
    loop {
        let field = |index: usize| {
            let start = 6 + 8 * index;
            let text = std::str::from_utf8(&rest[start..start + 8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let (content_len, name_len) = (field(6), field(11));
        let name = String::from_utf8(rest[110..110 + name_len - 1].to_vec()).unwrap();
        if name == "TRAILER!!!" {
            return names;
        }
        names.push(name);
        let content_start = (110 + name_len).next_multiple_of(4);
        rest = &rest[(content_start + content_len).next_multiple_of(4)..];
    }
}

#[tokio::test]
async fn debians_kernel_becomes_an_elf_file_and_an_archive_with_its_modules_in_order() {
    let Some(source) = source() else { return };
    let dir = tempfile::tempdir().unwrap();
    let kernels = GuestKernels::open(dir.path()).unwrap();
    let kernel = kernels.import(source.clone()).await.unwrap();
    let folder_of_modules = source.modules.clone().unwrap();
    assert!(folder_of_modules.ends_with(&kernel.release), "{kernel:?}");
    assert_eq!(kernel.flavor, KernelFlavor::Debian);
    let vmlinux = std::fs::read(&kernel.vmlinux).unwrap();
    assert!(vmlinux.starts_with(b"\x7fELF"));
    let names = entry_names(&std::fs::read(&kernel.initramfs).unwrap());
    let position = |suffix: &str| names.iter().position(|name| name.ends_with(suffix));
    assert!(position("init").is_some() && position("dev/console").is_some());
    // Each stands behind what it needs, and the names sort in that order.
    for (first, then) in [
        ("-failover.ko", "-net_failover.ko"),
        ("-net_failover.ko", "-virtio_net.ko"),
        ("-libcrc32c.ko", "-erofs.ko"),
        ("-vsock.ko", "-vmw_vsock_virtio_transport.ko"),
    ] {
        let (first, then) = (position(first).unwrap(), position(then).unwrap());
        assert!(first < then && names[first] < names[then], "{names:?}");
    }
    assert!(position("-overlay.ko").is_some() && position("-virtio_blk.ko").is_some());

    // The same source is the same kernel, also for the next process.
    let again = GuestKernels::open(dir.path()).unwrap();
    assert_eq!(again.import(source).await.unwrap(), kernel);
    assert_eq!(again.get(&kernel.id).await.unwrap(), kernel);
}

//! The store over restarts, damage and removal.

use super::super::{ImportKernelError, KernelSource, samples};
use super::{GuestKernels, OpenKernelError};
use std::path::Path;

/// A kernel with everything built in, and a static init.
fn source(dir: &Path) -> KernelSource {
    let kernel = samples::vmlinux(&samples::banner());
    std::fs::write(dir.join("vmlinux"), kernel).unwrap();
    std::fs::write(dir.join("init"), samples::program(false)).unwrap();
    KernelSource::in_folder(dir, dir.join("init")).unwrap()
}

fn damage_of(error: &OpenKernelError) -> String {
    assert!(
        matches!(error, OpenKernelError::Damaged { .. }),
        "{error:?}"
    );
    error.to_string()
}

#[tokio::test]
async fn a_kernel_is_named_by_its_content_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let store = dir.path().join("kernels");
    let kernels = GuestKernels::open(&store).unwrap();
    let first = kernels.import(source.clone()).await.unwrap();
    assert_eq!(first.release, samples::RELEASE);
    assert!(first.vmlinux.exists() && first.initramfs.exists());
    assert_eq!(kernels.import(source.clone()).await.unwrap(), first);
    let kernels = GuestKernels::open(&store).unwrap();
    assert_eq!(kernels.get(&first.id).await.unwrap(), first);
    // Another init is another guest.
    let mut other_init = samples::program(false);
    other_init.push(0);
    std::fs::write(&source.init, other_init).unwrap();
    let second = kernels.import(source).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(kernels.get(&first.id).await.unwrap(), first);
}

#[tokio::test]
async fn a_damaged_kernel_is_refused_by_name_and_made_anew_by_the_next_import() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let kernels = GuestKernels::open(&dir.path().join("kernels")).unwrap();
    let kernel = kernels.import(source.clone()).await.unwrap();
    let record = kernel.vmlinux.with_file_name("kernel.json");
    for path in [&kernel.vmlinux, &kernel.initramfs, &record] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let mut content = std::fs::read(path).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 0x80;
        std::fs::write(path, content).unwrap();
        // The record counts at the first opening only.
        let reopened = GuestKernels::open(&dir.path().join("kernels")).unwrap();
        let error = reopened.get(&kernel.id).await.unwrap_err();
        assert!(damage_of(&error).contains(name), "{error}");
        assert_eq!(reopened.import(source.clone()).await.unwrap(), kernel);
        assert_eq!(reopened.get(&kernel.id).await.unwrap(), kernel);
    }
    std::fs::remove_file(&kernel.initramfs).unwrap();
    let error = kernels.get(&kernel.id).await.unwrap_err();
    assert!(
        damage_of(&error).ends_with("initramfs.cpio is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_kernel_that_is_written_to_while_the_store_is_open_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let kernels = GuestKernels::open(&dir.path().join("kernels")).unwrap();
    let kernel = kernels.import(source(dir.path())).await.unwrap();
    let mut content = std::fs::read(&kernel.vmlinux).unwrap();
    content.push(0);
    std::fs::write(&kernel.vmlinux, content).unwrap();
    damage_of(&kernels.get(&kernel.id).await.unwrap_err());
}

#[tokio::test]
async fn what_nobody_needs_goes_and_what_is_not_an_id_is_not_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let kernels = GuestKernels::open(&dir.path().join("kernels")).unwrap();
    let kept = kernels.import(source.clone()).await.unwrap();
    std::fs::write(&source.init, [samples::program(false), vec![1]].concat()).unwrap();
    let unused = kernels.import(source).await.unwrap();
    let removed = kernels
        .collect(std::slice::from_ref(&kept.id))
        .await
        .unwrap();
    assert_eq!(removed, [unused.id.as_str()]);
    assert_eq!(kernels.get(&kept.id).await.unwrap(), kept);
    for id in [unused.id.as_str(), "../../etc", "", ".", "0123456789abcdeg"] {
        let error = kernels.get(id).await.unwrap_err();
        assert!(
            matches!(error, OpenKernelError::Missing { .. }),
            "{id}: {error:?}"
        );
    }
}

#[tokio::test]
async fn what_an_interrupted_import_left_is_removed_by_who_writes_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("kernels");
    let left = store.join("tmp-0123456789abcdef");
    let leave = || {
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("vmlinux"), "half a ker").unwrap();
    };
    leave();
    let kernels = GuestKernels::open(&store).unwrap();
    assert!(left.exists(), "another process may be writing it");
    kernels.import(source(dir.path())).await.unwrap();
    assert!(!left.exists());
    leave();
    assert_eq!(kernels.collect(&[]).await.unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
}

#[tokio::test]
async fn imports_at_the_same_time_make_one_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let source = source(dir.path());
    let store = dir.path().join("kernels");
    // Each with a view of its own, as other processes have it.
    let views = [(); 4].map(|()| GuestKernels::open(&store).unwrap());
    let imports = views.iter().map(|view| view.import(source.clone()));
    let imported = futures_util::future::try_join_all(imports).await.unwrap();
    assert!(imported.iter().all(|kernel| *kernel == imported[0]));
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 1);
}

#[tokio::test]
async fn a_source_that_cannot_boot_leaves_nothing_in_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("kernels");
    let kernels = GuestKernels::open(&store).unwrap();
    let good = source(dir.path());
    std::fs::write(&good.init, samples::program(true)).unwrap();
    let error = kernels.import(good.clone()).await.unwrap_err();
    assert!(matches!(error, ImportKernelError::Init { .. }), "{error:?}");
    let good = source(dir.path());
    std::fs::write(&good.kernel, "not a kernel").unwrap();
    let error = kernels.import(good.clone()).await.unwrap_err();
    assert!(
        matches!(error, ImportKernelError::Kernel { .. }),
        "{error:?}"
    );
    // Modules of another kernel.
    let good = source(dir.path());
    std::fs::write(
        &good.kernel,
        samples::vmlinux("Linux version 6.1.0 (other)"),
    )
    .unwrap();
    let modules = dir.path().join("modules").join("6.1.0");
    std::fs::create_dir_all(&modules).unwrap();
    std::fs::write(
        modules.join("modules.builtin"),
        "virtio_pci.ko\nvirtio_mmio.ko\nvirtio_console.ko\nvmw_vsock_virtio_transport.ko\n\
         virtio_blk.ko\next4.ko\noverlay.ko\nvirtio_net.ko\n",
    )
    .unwrap();
    std::fs::write(modules.join("erofs.ko"), samples::module("erofs", "")).unwrap();
    let with_modules = KernelSource::in_folder(dir.path(), good.init.clone()).unwrap();
    let error = kernels.import(with_modules).await.unwrap_err();
    assert!(
        matches!(error, ImportKernelError::OtherKernel { .. }),
        "{error:?}"
    );
    std::fs::remove_file(&good.kernel).unwrap();
    let error = kernels.import(good).await.unwrap_err();
    assert!(error.to_string().contains("vmlinux"), "{error}");
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
}

//! Folders of modules as Debian has them, and wrong ones.

use super::super::samples;
use super::{SIGNATURE_MAGIC, WANTED, collect_modules};
use std::path::Path;

/// Writes a folder in which the modules of `files` are files and all others
/// that a guest wants are built in.
fn folder(dir: &Path, files: &[(&str, Vec<u8>)]) {
    let has_file = |name: &str| {
        let stem = |path: &str| path.rsplit('/').next().unwrap().replace('-', "_");
        files
            .iter()
            .any(|(path, _)| stem(path).starts_with(&format!("{name}.ko")))
    };
    let builtin: String = WANTED
        .iter()
        .filter(|(name, _)| !has_file(name))
        .map(|(name, _)| format!("kernel/drivers/{name}.ko\n"))
        .collect();
    std::fs::write(dir.join("modules.builtin"), builtin).unwrap();
    for (path, content) in files {
        let path = dir.join("kernel").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let modules = collect_modules(dir).unwrap();
    modules.into_iter().map(|module| module.name).collect()
}

#[test]
fn modules_come_after_what_they_need_and_built_in_ones_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    folder(
        dir.path(),
        &[
            (
                "net/virtio_net.ko",
                samples::module("virtio_net", "net_failover"),
            ),
            (
                "net/net-failover.ko",
                samples::module("net_failover", "failover"),
            ),
            ("net/failover.ko", samples::module("failover", "")),
            ("fs/erofs.ko", samples::module("erofs", "libcrc32c,ext4")),
            ("lib/libcrc32c.ko", samples::module("libcrc32c", "")),
            ("char/virtio-rng.ko", samples::module("virtio_rng", "")),
            ("sound/not_wanted.ko", samples::module("not_wanted", "")),
        ],
    );
    assert_eq!(
        names(dir.path()),
        [
            "libcrc32c",
            "erofs",
            "failover",
            "net_failover",
            "virtio_net",
            "virtio_rng"
        ]
    );
}

#[test]
fn a_circle_ends_and_what_nobody_has_is_named_with_who_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let circle = [
        ("a/erofs.ko", samples::module("erofs", "overlay")),
        ("a/overlay.ko", samples::module("overlay", "erofs")),
    ];
    folder(dir.path(), &circle);
    assert_eq!(names(dir.path()), ["overlay", "erofs"]);
    let dir = tempfile::tempdir().unwrap();
    folder(
        dir.path(),
        &[("a/erofs.ko", samples::module("erofs", "libcrc32c"))],
    );
    let error = collect_modules(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), "no module libcrc32c for erofs");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("modules.builtin"), "").unwrap();
    let error = collect_modules(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), "no module virtio_pci for a guest");
}

#[test]
fn compressed_and_signed_modules_are_stored_plain() {
    let plain = samples::module("erofs", "");
    let mut signed = plain.clone();
    signed.extend_from_slice(&[7; 20]);
    signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 20]);
    signed.extend_from_slice(SIGNATURE_MAGIC);
    let gzip = samples::gzip_payload(&signed);
    let zstd = zstd::stream::encode_all(signed.as_slice(), 3).unwrap();
    for (name, content) in [
        ("erofs.ko", signed),
        ("erofs.ko.gz", gzip),
        ("erofs.ko.zst", zstd),
    ] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), &[(name, content)]);
        let modules = collect_modules(dir.path()).unwrap();
        assert_eq!(modules.len(), 1);
        assert_eq!(modules[0].bytes, plain, "{name}");
        assert_eq!(modules[0].release, samples::RELEASE);
    }
}

#[test]
fn a_module_that_is_none_is_named_by_its_path() {
    // A signature larger than the file is no signature.
    let lying = [b"\xff\xff\xff\xff".as_slice(), SIGNATURE_MAGIC].concat();
    for content in [
        b"".to_vec(),
        b"text".to_vec(),
        samples::program(false),
        lying,
    ] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), &[("fs/erofs.ko", content)]);
        let error = collect_modules(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("kernel/fs/erofs.ko is not a kernel module"),
            "{error}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), &[("fs/erofs.ko.xz", b"\xfd7zXZ\0cut".to_vec())]);
    let error = collect_modules(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("erofs.ko.xz is not a kernel module"),
        "{error}"
    );
}

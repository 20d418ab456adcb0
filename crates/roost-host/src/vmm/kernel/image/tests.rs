//! Images as they are, cut, and wrong.

use super::super::samples;
use super::{KernelFlavor, ReadKernelError, read_kernel};
use proptest::prelude::*;

fn kernel() -> Vec<u8> {
    samples::vmlinux(&samples::banner())
}

/// The fixed parts of a file with one of them changed.
fn with(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn the_same_kernel_comes_out_of_every_wrapping() {
    for file in [
        kernel(),
        samples::bzimage(&samples::zstd_payload(&kernel())),
        samples::bzimage(&samples::gzip_payload(&kernel())),
        samples::bzimage(&samples::lz4_payload(&kernel())),
    ] {
        let image = read_kernel(&file).unwrap();
        assert_eq!(image.vmlinux, kernel());
        assert_eq!(image.release, samples::RELEASE);
        assert_eq!(image.flavor, KernelFlavor::Debian);
    }
}

#[test]
fn a_kernel_that_takes_devices_from_its_command_line_is_known_by_the_parameter() {
    let banner = samples::banner() + "\0virtio_mmio.device\0";
    let image = samples::vmlinux(&banner);
    assert_eq!(read_kernel(&image).unwrap().flavor, KernelFlavor::Slim);
}

#[test]
fn a_wrong_file_is_told_what_is_wrong_with_it() {
    let good = samples::bzimage(&samples::zstd_payload(&kernel()));
    let size = u32::try_from(kernel().len()).unwrap();
    let mut wrong_size = samples::zstd_payload(&kernel());
    let trailer = wrong_size.len() - 4;
    wrong_size[trailer..].copy_from_slice(&(size + 1).to_le_bytes());
    let cases: [(Vec<u8>, &str); 9] = [
        (b"#!/bin/sh".to_vec(), "neither a bzImage"),
        (
            with(good.clone(), 0x206, &[7, 2]),
            "older than protocol 2.08",
        ),
        (with(good.clone(), 0x24c, &[0xff; 4]), "outside of the file"),
        (with(good.clone(), 0x248, &[0xff; 4]), "outside of the file"),
        (good[..good.len() - 100].to_vec(), "outside of the file"),
        (
            samples::bzimage(b"BZh91AY&SY....."),
            "unknown way (first bytes [42, 5a,",
        ),
        (samples::bzimage(&wrong_size), "instead of"),
        (samples::vmlinux("no banner"), "no release"),
        (samples::program(false), "no PVH entry point"),
    ];
    for (file, expected) in cases {
        let error = read_kernel(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say: {expected}");
    }
    let cut_off = samples::zstd_payload(&kernel());
    let cut_off = samples::bzimage(&cut_off[..cut_off.len() / 2]);
    assert!(matches!(
        read_kernel(&cut_off),
        Err(ReadKernelError::Decompress { .. })
    ));
}

#[test]
fn a_release_that_could_leave_a_folder_is_none() {
    for release in ["../../etc", "6.12/..", "v6", "6.1\n", &"6".repeat(65)] {
        let kernel = samples::vmlinux(&format!("Linux version {release} (somebody)"));
        assert!(
            matches!(read_kernel(&kernel), Err(ReadKernelError::NoRelease)),
            "{release}"
        );
    }
}

proptest! {
    #[test]
    fn any_change_of_an_image_gives_a_kernel_or_an_error(
        format in 0..4_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = match format {
            0 => kernel(),
            1 => samples::bzimage(&samples::zstd_payload(&kernel())),
            2 => samples::bzimage(&samples::gzip_payload(&kernel())),
            _ => samples::bzimage(&samples::lz4_payload(&kernel())),
        };
        for (index, value) in changes {
            let index = index.index(file.len());
            file[index] = value;
        }
        drop(read_kernel(&file));
        file.truncate(cut.index(file.len()));
        drop(read_kernel(&file));
    }

    #[test]
    fn garbage_is_never_a_kernel(payload in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(read_kernel(&payload).is_err());
        for magic in [&b"\x1f\x8b\x08"[..], b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"] {
            let payload = [magic, &payload].concat();
            prop_assert!(read_kernel(&samples::bzimage(&payload)).is_err());
        }
    }
}

//! Kernels: whatever a file says of itself, it is a kernel or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = roost_host::vmm::kernel::read_kernel(bytes) {
        assert!(image.vmlinux.starts_with(b"\x7fELF"));
        assert!(!image.release.contains('/'));
    }
});

//! Guest kernels: what a VM boots.

use std::path::PathBuf;

/// A kernel with its initial file system, in the node's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestKernel {
    /// Follows from the content: the same id boots the same guest.
    pub id: String,
    /// `uname -r` of the guest.
    pub release: String,
    /// How its devices are found.
    pub flavor: KernelFlavor,
    /// The kernel, an ELF file.
    pub vmlinux: PathBuf,
    /// The initial file system, an uncompressed cpio archive.
    pub initramfs: PathBuf,
}

/// Where a guest kernel comes from, and so how it finds its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFlavor {
    /// Debian's cloud kernel: devices by PCI or ACPI.
    Debian,
    /// Built by `make kernel`: devices by the kernel command line as well.
    Slim,
}

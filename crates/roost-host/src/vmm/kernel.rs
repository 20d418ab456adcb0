//! Guest kernels: what a VM boots.
//!
//! ```text
//!   vmlinuz ──── image ────▶ vmlinux ─────────┐
//!   modules/ ─── modules ─┐                   ├──▶ <store>/<id>/{vmlinux, initramfs.cpio, kernel.json}
//!   roost-init ───────────┴▶ initramfs.cpio ──┘
//! ```
//!
//! The first file system holds `/init` and, as `/modules/NN-NAME.ko`, what the
//! kernel has not built in; the init loads these files in the order of their
//! names. Neither file is compressed: the guest would have to undo it, and an
//! emulated guest is slow.
//!
//! The store ([`GuestKernels`]) is content-addressed: a machine and a snapshot
//! name the kernel that they booted by its id, and an id never changes its
//! meaning.

use std::path::PathBuf;

pub(super) mod cpio;
mod decompress;
mod elf;
mod image;
mod import;
mod initramfs;
pub mod limits;
mod modules;
#[cfg(test)]
mod samples;
mod store;

pub use image::{KernelImage, ReadKernelError, read_kernel};
pub use import::{ImportKernelError, KernelSource};
pub use initramfs::BuildInitramfsError;
pub use modules::CollectModulesError;
pub use store::{GuestKernels, OpenKernelError};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelFlavor {
    /// Debian's cloud kernel: devices by PCI or ACPI.
    Debian,
    /// Built by `make kernel`: devices by the kernel command line as well.
    Slim,
}

impl KernelFlavor {
    /// The word in statuses and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Slim => "slim",
        }
    }
}

//! The kernel proper, taken out of what a distribution ships.
//!
//! A bzImage is a loader that decompresses a kernel. Emulated, that costs up
//! to a second, so it is done once, here: the setup header says where the
//! compressed kernel lies. What comes out is an ELF file that a hypervisor
//! enters directly (PVH).
//!
//! Setup header: `Documentation/arch/x86/boot.rst` of the kernel's source.

use super::KernelFlavor;
use super::decompress::Compression;
use super::elf::{Elf, slice, u16_at, u32_at};
use super::limits::{RELEASE_BYTES_MAX, VMLINUX_BYTES_MAX};
use std::borrow::Cow;

/// Oldest boot protocol that tells where the compressed kernel lies.
const BOOT_PROTOCOL_MIN: u16 = 0x0208;
const SECTOR_BYTES: usize = 512;
/// What the kernel's build puts behind formats that do not tell their size.
const SIZE_TRAILER_BYTES: usize = 4;
/// What a kernel prints first.
const BANNER: &[u8] = b"Linux version ";
/// The parameter that names devices on the command line. A kernel that has it
/// built in knows this string.
const MMIO_PARAMETER: &[u8] = b"\0virtio_mmio.device\0";

/// A kernel that a hypervisor can boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage<'a> {
    /// The ELF file.
    pub vmlinux: Cow<'a, [u8]>,
    /// `uname -r` of a guest.
    pub release: String,
    /// How it finds its devices.
    pub flavor: KernelFlavor,
}

/// A file is not a kernel that roost can boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadKernelError {
    /// It is something else.
    #[error("neither a bzImage nor an ELF file for x86-64")]
    NotAKernel,
    /// It is a bzImage whose header is wrong.
    #[error("the setup header {0}")]
    SetupHeader(&'static str),
    /// It is compressed in a way that is not supported.
    #[error("compressed in an unknown way (first bytes {0:02x?})")]
    Compression(Vec<u8>),
    /// It could not be decompressed.
    #[error("decompress the kernel ({format})")]
    Decompress {
        /// How it is compressed.
        format: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The size that came out is not the one that the build noted.
    #[error("decompressed to {actual} bytes instead of {expected}")]
    Size {
        /// What the file says.
        expected: u32,
        /// What came out.
        actual: usize,
    },
    /// It cannot be entered by a hypervisor.
    #[error("no PVH entry point: the kernel was built without CONFIG_PVH")]
    NoPvhEntry,
    /// It does not tell its release.
    #[error("no release in the kernel's banner")]
    NoRelease,
}

/// Reads a kernel from a bzImage (`vmlinuz`) or an ELF file (`vmlinux`).
pub fn read_kernel(file: &[u8]) -> Result<KernelImage<'_>, ReadKernelError> {
    let vmlinux = match Elf::parse(file) {
        Some(_) => Cow::Borrowed(file),
        None => Cow::Owned(decompress_payload(bzimage_payload(file)?)?),
    };
    let elf = Elf::parse(&vmlinux).ok_or(ReadKernelError::NotAKernel)?;
    if !elf.has_pvh_entry() {
        return Err(ReadKernelError::NoPvhEntry);
    }
    // Both strings are constants; a stripped kernel still has its sections.
    let constants = elf.section(".rodata").unwrap_or(&vmlinux);
    let release = find_release(constants).ok_or(ReadKernelError::NoRelease)?;
    let flavor = match find(constants, MMIO_PARAMETER) {
        Some(_) => KernelFlavor::Slim,
        None => KernelFlavor::Debian,
    };
    Ok(KernelImage {
        release,
        flavor,
        vmlinux,
    })
}

/// The compressed kernel inside a bzImage.
fn bzimage_payload(file: &[u8]) -> Result<&[u8], ReadKernelError> {
    let cut_off = || ReadKernelError::SetupHeader("is cut off");
    if slice(file, 0x202, 4) != Some(b"HdrS") {
        return Err(ReadKernelError::NotAKernel);
    }
    if u16_at(file, 0x206).ok_or_else(cut_off)? < BOOT_PROTOCOL_MIN {
        return Err(ReadKernelError::SetupHeader("is older than protocol 2.08"));
    }
    // 0 stands for 4, for loaders of the time before the field.
    let n_setup_sectors = match file.get(0x1f1).ok_or_else(cut_off)? {
        0 => 4,
        n => usize::from(*n),
    };
    let field = |offset| u32_at(file, offset).and_then(|value| usize::try_from(value).ok());
    let offset = field(0x248).ok_or_else(cut_off)?;
    let len = field(0x24c).ok_or_else(cut_off)?;
    ((n_setup_sectors + 1) * SECTOR_BYTES)
        .checked_add(offset)
        .and_then(|start| slice(file, start, len))
        .ok_or(ReadKernelError::SetupHeader(
            "points outside of the file; is the file whole?",
        ))
}

fn decompress_payload(payload: &[u8]) -> Result<Vec<u8>, ReadKernelError> {
    let Some(compression) = Compression::detect(payload) else {
        let first = payload.iter().take(6).copied().collect();
        return Err(ReadKernelError::Compression(first));
    };
    let decompress = |compressed| {
        let result = compression.decompress(compressed, VMLINUX_BYTES_MAX);
        result.map_err(|source| ReadKernelError::Decompress {
            format: format!("{compression:?}").to_lowercase(),
            source,
        })
    };
    // The last four bytes are the size: of gzip by itself, else by the build.
    let trailer_start = payload.len().saturating_sub(SIZE_TRAILER_BYTES);
    let expected = u32_at(payload, trailer_start).unwrap_or_default();
    let kernel = match compression {
        Compression::Gzip => decompress(payload)?,
        Compression::Xz | Compression::Zstd | Compression::Lz4Legacy => {
            decompress(&payload[..trailer_start])?
        }
    };
    if u32::try_from(kernel.len()).ok() != Some(expected) {
        return Err(ReadKernelError::Size {
            expected,
            actual: kernel.len(),
        });
    }
    Ok(kernel)
}

/// The release in the banner, if it is one that may be part of a path.
fn find_release(constants: &[u8]) -> Option<String> {
    let after = &constants[find(constants, BANNER)? + BANNER.len()..];
    let len = after
        .iter()
        .take(RELEASE_BYTES_MAX + 1)
        .position(|byte| *byte == b' ')?;
    let release = std::str::from_utf8(&after[..len]).ok()?;
    let is_fine = release.starts_with(|c: char| c.is_ascii_digit())
        && release
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-._~".contains(c));
    is_fine.then(|| release.to_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests;

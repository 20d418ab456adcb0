//! Bounds of guest kernels. Debian's are named, with some room.

/// Largest kernel file; Debian's 6.12 has 12 MiB compressed, 57 MiB as ELF.
pub const KERNEL_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Largest kernel, decompressed.
pub const VMLINUX_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest program that is put into a guest as its first process.
pub const INIT_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Largest kernel module, compressed or not; overlay has 0.5 MiB.
pub const MODULE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most modules of one guest; Debian's 6.1 needs 19.
pub const MODULES_MAX: usize = 64;
/// Most entries of a folder of modules that are looked at; Debian's 6.12 has 1,800.
pub const MODULE_TREE_ENTRIES_MAX: usize = 20_000;
/// Largest list of what a kernel has built in; Debian's has 8 KiB.
pub const BUILTIN_LIST_BYTES_MAX: u64 = 1024 * 1024;
/// Longest release, as `uname -r` would print it (the kernel's own limit).
pub const RELEASE_BYTES_MAX: usize = 64;
/// Largest record of a kernel in the store.
pub const RECORD_BYTES_MAX: u64 = 64 * 1024;

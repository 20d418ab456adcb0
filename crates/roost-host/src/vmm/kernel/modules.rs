//! The kernel modules of a guest: which, in which order, decompressed.
//!
//! A guest has no `modprobe`: it loads files one by one. What each needs first
//! is in the module itself (`depends=`), so neither `modules.dep` nor `depmod`
//! is needed; Debian makes that file only when a kernel is installed.
//!
//! Signatures are cut off. The store's checksums vouch for the modules, and an
//! emulated guest takes 30 ms for each signature, more than for the loading.

use super::decompress::Compression;
use super::elf::{Elf, slice};
use super::limits::{
    BUILTIN_LIST_BYTES_MAX, MODULE_BYTES_MAX, MODULE_TREE_ENTRIES_MAX, MODULES_MAX,
};
use roost_runtime::fs::{FileError, IoContext as _, read_bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What ends a module that is signed; before it are 12 bytes, of which the last
/// four are the size of the signature that precedes them (big endian).
const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
const SIGNATURE_INFO_BYTES: usize = 12;

/// Whether a guest can do without a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// What a guest needs of its kernel, in this order: the buses, the stream to
/// the host, disks and file systems, the network. Much of it is built into
/// newer kernels. `virtio_mmio` and vsock serve Firecracker, the rest both.
const WANTED: [(&str, Need); 12] = [
    ("virtio_pci", Need::Required),
    ("virtio_mmio", Need::Required),
    ("virtio_console", Need::Required),
    ("vmw_vsock_virtio_transport", Need::Required),
    ("virtio_blk", Need::Required),
    ("erofs", Need::Required),
    ("ext4", Need::Required),
    ("overlay", Need::Required),
    ("virtio_net", Need::Required),
    ("virtio_rng", Need::Optional),
    ("virtio_balloon", Need::Optional),
    ("vmgenid", Need::Optional),
];

/// A module as a kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module {
    pub(super) name: String,
    /// Of the kernel that it was built for.
    pub(super) release: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules that a guest needs could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectModulesError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder is not one of modules.
    #[error("{} has more than {MODULE_TREE_ENTRIES_MAX} entries", .0.display())]
    FolderTooLarge(PathBuf),
    /// A module is neither built in nor in the folder.
    #[error("no module {name} for {needed_by}")]
    Missing {
        /// Its name.
        name: String,
        /// What needs it.
        needed_by: String,
    },
    /// A file is not a module.
    #[error("{} is not a kernel module: {reason}", path.display())]
    NotAModule {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The guest would need more than anything sensible.
    #[error("more than {MODULES_MAX} modules are needed")]
    TooMany,
}

/// What a guest of a kernel has to load, in order. `folder` is that of the
/// release, as in `/lib/modules/RELEASE`.
pub(super) fn collect_modules(folder: &Path) -> Result<Vec<Module>, CollectModulesError> {
    let mut collection = Collection {
        builtin: builtin_modules(&folder.join("modules.builtin"))?,
        paths: module_paths(folder)?,
        seen: BTreeSet::new(),
        modules: Vec::new(),
    };
    for (name, need) in WANTED {
        if need == Need::Required || collection.paths.contains_key(name) {
            collection.add(name, "a guest")?;
        }
    }
    Ok(collection.modules)
}

struct Collection {
    builtin: BTreeSet<String>,
    paths: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Collection {
    /// Adds a module after those that it needs. A circle, which no kernel's
    /// build would make, ends at the module that is already being added.
    fn add(&mut self, name: &str, needed_by: &str) -> Result<(), CollectModulesError> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        if self.seen.len() > MODULES_MAX {
            return Err(CollectModulesError::TooMany);
        }
        let path = self.paths.get(name).cloned();
        let path = path.ok_or_else(|| CollectModulesError::Missing {
            name: name.to_owned(),
            needed_by: needed_by.to_owned(),
        })?;
        let bytes = read_module(&path)?;
        let facts = ModuleFacts::read(&bytes).ok_or_else(|| CollectModulesError::NotAModule {
            path,
            reason: "no ELF file with a section .modinfo".to_owned(),
        })?;
        for dependency in &facts.depends {
            self.add(dependency, name)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            release: facts.release,
            bytes,
        });
        Ok(())
    }
}

/// What a module says about itself.
#[derive(Debug, PartialEq, Eq)]
struct ModuleFacts {
    release: String,
    depends: Vec<String>,
}

impl ModuleFacts {
    fn read(module: &[u8]) -> Option<Self> {
        let section = Elf::parse(module)?.section(".modinfo")?;
        let value = |key: &str| {
            let entries = section.split(|byte| *byte == 0);
            let mut values = entries.filter_map(|entry| {
                std::str::from_utf8(entry)
                    .ok()?
                    .strip_prefix(key)?
                    .strip_prefix('=')
            });
            values.next()
        };
        let depends = value("depends").unwrap_or_default().split(',');
        Some(Self {
            release: value("vermagic")?.split(' ').next()?.to_owned(),
            depends: depends
                .filter(|name| !name.is_empty())
                .map(canonical_name)
                .collect(),
        })
    }
}

fn read_module(path: &Path) -> Result<Vec<u8>, CollectModulesError> {
    let file = read_bounded(path, MODULE_BYTES_MAX as u64)?;
    let mut module = match Compression::detect(&file) {
        None => file,
        Some(compression) => {
            let decompressed = compression.decompress(&file, MODULE_BYTES_MAX);
            decompressed.map_err(|error| CollectModulesError::NotAModule {
                path: path.to_owned(),
                reason: error.to_string(),
            })?
        }
    };
    module.truncate(len_without_signature(&module));
    Ok(module)
}

fn len_without_signature(module: &[u8]) -> usize {
    let signed_len = || {
        let info_end = module.strip_suffix(SIGNATURE_MAGIC)?.len();
        let size = slice(module, info_end.checked_sub(4)?, 4)?;
        let size = u32::from_be_bytes(size.try_into().ok()?);
        let signature_end = info_end.checked_sub(SIGNATURE_INFO_BYTES)?;
        signature_end.checked_sub(usize::try_from(size).ok()?)
    };
    signed_len().unwrap_or(module.len())
}

/// The names of what the kernel has built in.
fn builtin_modules(list: &Path) -> Result<BTreeSet<String>, FileError> {
    let list = read_bounded(list, BUILTIN_LIST_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&list);
    Ok(text
        .lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect())
}

/// Where each module of a folder lies. Links are not followed.
fn module_paths(folder: &Path) -> Result<BTreeMap<String, PathBuf>, CollectModulesError> {
    let mut paths = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    let mut n_entries = 0;
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).on("list", &current)? {
            let entry = entry.on("list", &current)?;
            n_entries += 1;
            if n_entries > MODULE_TREE_ENTRIES_MAX {
                return Err(CollectModulesError::FolderTooLarge(folder.to_owned()));
            }
            let kind = entry.file_type().on("look at", entry.path())?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Some(name) = module_name(&entry.path())
            {
                paths.insert(name, entry.path());
            }
        }
    }
    Ok(paths)
}

/// The module that a file of this name holds.
fn module_name(path: &Path) -> Option<String> {
    let (name, suffix) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(suffix, "" | ".gz" | ".xz" | ".zst").then(|| canonical_name(name))
}

/// File names and lists use `-` and `_` as they like; the kernel uses `_`.
fn canonical_name(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests;

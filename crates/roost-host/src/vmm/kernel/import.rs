//! From the files of a kernel to the two files that a VM boots.
//!
//! In two steps, so that a kernel that is in the store costs no more than
//! reading its source: the input gives the id, and only a new id is built.

use super::image::{KernelImage, ReadKernelError, read_kernel};
use super::initramfs::{BuildInitramfsError, build_initramfs};
use super::limits::{INIT_BYTES_MAX, KERNEL_FILE_BYTES_MAX};
use super::modules::{CollectModulesError, Module, collect_modules};
use super::store::OpenKernelError;
use roost_runtime::fs::{FileError, IoContext as _, read_bounded};
use sha2::{Digest as _, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// Part of every id: a change of what is made from the same input is a new kernel.
const FORMAT_VERSION: u32 = 1;
/// Hexadecimal digits of an id: enough that no two kernels of a node share one.
pub(super) const ID_LEN: usize = 16;

/// Where `make kernel` puts its kernel, within the folder of Debian's.
const SLIM_FOLDER: &str = "own";

/// What a kernel is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSource {
    /// A bzImage (`vmlinuz`) or ELF file (`vmlinux`).
    pub kernel: PathBuf,
    /// The folder of the release, as in `/lib/modules/RELEASE`; none for a
    /// kernel that has everything built in.
    pub modules: Option<PathBuf>,
    /// The guest's first process, a static executable.
    pub init: PathBuf,
}

impl KernelSource {
    /// What `scripts/guest-kernel` leaves in a folder: `vmlinux` or `vmlinuz`,
    /// and perhaps `modules/RELEASE`. The kernel of `make kernel`, in `own`,
    /// goes before Debian's: it boots in a third of the time. Looks at the
    /// folder; nothing is read yet.
    pub fn in_folder(folder: &Path, init: PathBuf) -> Result<Self, FileError> {
        let own = folder.join(SLIM_FOLDER);
        let slim = own.join("vmlinux");
        let has_slim = slim.try_exists().on("look at", &slim)?;
        let folder = if has_slim { own.as_path() } else { folder };
        let vmlinux = folder.join("vmlinux");
        let is_there = vmlinux.try_exists().on("look at", &vmlinux)?;
        let releases = folder.join("modules");
        let modules = match std::fs::read_dir(&releases) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => {
                let first = entries.on("list", &releases)?.next().transpose();
                first.on("list", &releases)?.map(|entry| entry.path())
            }
        };
        Ok(Self {
            kernel: if is_there {
                vmlinux
            } else {
                folder.join("vmlinuz")
            },
            modules,
            init,
        })
    }
}

/// A kernel could not be taken into the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportKernelError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel cannot be booted.
    #[error("read kernel {}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ReadKernelError,
    },
    /// Its modules are not complete.
    #[error("collect kernel modules in {}", folder.display())]
    Modules {
        /// Where they were looked for.
        folder: PathBuf,
        /// Why.
        #[source]
        source: CollectModulesError,
    },
    /// The modules are of another kernel.
    #[error("module {module} is of kernel {actual}, and the kernel is {expected}")]
    OtherKernel {
        /// The first such module.
        module: String,
        /// Its release.
        actual: String,
        /// The release of the kernel.
        expected: String,
    },
    /// The init cannot run in a guest.
    #[error("put {} into a guest", path.display())]
    Init {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BuildInitramfsError,
    },
    /// What was written does not read back.
    #[error("verify the imported kernel")]
    Verify(#[source] OpenKernelError),
    /// The work was cut short.
    #[error("import a guest kernel")]
    Interrupted(#[source] io::Error),
}

/// A source that was read, and what of it needs no building.
#[derive(Debug)]
pub(super) struct Input<'a> {
    source: &'a KernelSource,
    kernel: Vec<u8>,
    pub(super) id: String,
    pub(super) modules: Vec<Module>,
    pub(super) initramfs: Vec<u8>,
}

impl<'a> Input<'a> {
    pub(super) fn read(source: &'a KernelSource) -> Result<Self, ImportKernelError> {
        let kernel = read_bounded(&source.kernel, KERNEL_FILE_BYTES_MAX)?;
        let modules = match &source.modules {
            None => Vec::new(),
            Some(folder) => {
                collect_modules(folder).map_err(|error| ImportKernelError::Modules {
                    folder: folder.clone(),
                    source: error,
                })?
            }
        };
        let init = read_bounded(&source.init, INIT_BYTES_MAX)?;
        let initramfs =
            build_initramfs(&init, &modules).map_err(|error| ImportKernelError::Init {
                path: source.init.clone(),
                source: error,
            })?;
        let mut id_of = Sha256::new();
        id_of.update(format!("roost guest kernel {FORMAT_VERSION}\n"));
        id_of.update(Sha256::digest(&kernel));
        id_of.update(Sha256::digest(&initramfs));
        let mut id = hex::encode(id_of.finalize());
        id.truncate(ID_LEN);
        Ok(Self {
            source,
            kernel,
            id,
            modules,
            initramfs,
        })
    }

    /// The kernel proper; its modules have to be its own.
    pub(super) fn image(&self) -> Result<KernelImage<'_>, ImportKernelError> {
        let image = read_kernel(&self.kernel).map_err(|error| ImportKernelError::Kernel {
            path: self.source.kernel.clone(),
            source: error,
        })?;
        match self
            .modules
            .iter()
            .find(|module| module.release != image.release)
        {
            None => Ok(image),
            Some(other) => Err(ImportKernelError::OtherKernel {
                module: other.name.clone(),
                actual: other.release.clone(),
                expected: image.release,
            }),
        }
    }
}

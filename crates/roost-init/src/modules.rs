//! The kernel modules that the initramfs brings.
//!
//! Loading them is most of the time between the start of init and that of the
//! app, so what neither the root nor the network needs comes after the app.

use crate::console::say;
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where they lie, as `NN-NAME.ko`; the order of their names is the order of loading.
const MODULES_DIR: &str = "/modules";
/// Modules that an app does not wait for. No other module builds on one of them
/// that is not in this list.
const LATER: [&str; 6] = [
    "vsock",
    "vmw_vsock_virtio_transport_common",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_balloon",
    "vmgenid",
];

/// What there is to load, each in its order.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// What disks and network need.
    pub(crate) first: Vec<Module>,
    /// What can wait, unless the stream to the node is a vsock.
    pub(crate) later: Vec<Module>,
}

/// A module, open: its name may be gone with the initramfs when it is loaded.
#[derive(Debug)]
pub(crate) struct Module {
    path: PathBuf,
    file: File,
}

/// Looks what there is.
pub(crate) fn find() -> Modules {
    let (later, first) = list(Path::new(MODULES_DIR))
        .into_iter()
        .filter_map(open)
        .partition(|module| LATER.contains(&name(&module.path)));
    Modules { first, later }
}

/// Loads modules. One that fails is named on the console: what needs it will
/// fail with a reason of its own, and the rest may do without.
pub(crate) fn load_all(modules: &[Module]) {
    for Module { path, file } in modules {
        match rustix::system::finit_module(file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => say(format_args!("warning: load {}: {error}", path.display())),
        }
    }
}

fn open(path: PathBuf) -> Option<Module> {
    match File::open(&path) {
        Ok(file) => Some(Module { path, file }),
        Err(error) => {
            say(format_args!("warning: open {}: {error}", path.display()));
            None
        }
    }
}

/// `erofs` of `06-erofs.ko`.
fn name(path: &Path) -> &str {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.unwrap_or_default();
    stem.split_once('-').map_or(stem, |(_, name)| name)
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        // A kernel with everything built in comes without modules.
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::{list, name};
    use std::path::Path;

    #[test]
    fn a_module_is_known_by_its_name_without_the_number() {
        assert_eq!(name(Path::new("/modules/06-erofs.ko")), "erofs");
        assert_eq!(name(Path::new("erofs.ko")), "erofs");
    }

    #[test]
    fn modules_are_loaded_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10-b.ko", "02-a.ko", "README", "10-a.ko"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names: Vec<_> = list(dir.path())
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["02-a.ko", "10-a.ko", "10-b.ko"]);
        assert!(list(&dir.path().join("none")).is_empty());
    }
}

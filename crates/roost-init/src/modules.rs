//! The kernel modules that the initramfs brings.

use crate::console::say;
use rustix::io::Errno;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where they lie; the order of their names is the order of loading.
const MODULES_DIR: &str = "/modules";

/// Loads all modules. One that fails is named on the console: what needs it
/// will fail with a reason of its own, and the rest may do without.
pub(crate) fn load_all() {
    for path in list(Path::new(MODULES_DIR)) {
        if let Err(error) = load(&path) {
            say(format_args!("warning: load {}: {error}", path.display()));
        }
    }
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

fn load(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::list;

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

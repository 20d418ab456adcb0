//! Which guest kernel each machine has: a record beside its disk, from its
//! start until nothing of it is left. A suspended machine goes on with the
//! kernel that it had, whatever the node gives to new ones meanwhile.

use crate::vmm::kernel::GuestKernel;
use roost_runtime::fs::{FileError, IoContext as _, read_bounded, write_atomic};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of a record; it has about a hundred.
const RECORD_BYTES_MAX: u64 = 4 * 1024;

#[derive(Debug, Serialize, Deserialize)]
struct KernelRecord {
    /// Its id in the node's store.
    id: String,
    /// `uname -r` of the guest, for people.
    release: String,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("kernel.json")
}

/// Notes what the machine with this directory boots.
pub(super) fn note(data_dir: &Path, kernel: &GuestKernel) -> Result<(), FileError> {
    let record = KernelRecord {
        id: kernel.id.clone(),
        release: kernel.release.clone(),
    };
    let text = serde_json::to_vec(&record).expect("a record of strings");
    write_atomic(&path(data_dir), &text, 0o600)
}

/// The id of the kernel that the machine with this directory was started with.
pub(super) fn of_machine(data_dir: &Path) -> Result<Option<String>, FileError> {
    let path = path(data_dir);
    let text = match read_bounded(&path, RECORD_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let record: KernelRecord = serde_json::from_slice(&text)
        .map_err(io::Error::from)
        .on("read", &path)?;
    Ok(Some(record.id))
}

/// The ids of all kernels that machines below this directory run or are to
/// resume with. An error when one of them is not known.
pub fn in_use(machines: &Path) -> Result<Vec<String>, FileError> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(machines).on("list", machines)? {
        let dir = entry.on("list", machines)?.path();
        ids.extend(of_machine(&dir)?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::{in_use, note, of_machine, path};
    use crate::vmm::kernel::{GuestKernel, KernelFlavor};

    fn kernel(id: &str) -> GuestKernel {
        GuestKernel {
            id: id.to_owned(),
            release: "6.12.1".into(),
            flavor: KernelFlavor::Debian,
            vmlinux: "/none".into(),
            initramfs: "/none".into(),
        }
    }

    #[test]
    fn kernels_are_in_use_as_long_as_a_machine_has_a_directory() {
        let machines = tempfile::tempdir().unwrap();
        for (machine, id) in [("a", "2222"), ("b", "1111"), ("c", "2222")] {
            let dir = machines.path().join(machine);
            std::fs::create_dir(&dir).unwrap();
            note(&dir, &kernel(id)).unwrap();
        }
        // A container has no kernel.
        std::fs::create_dir(machines.path().join("d")).unwrap();
        assert_eq!(in_use(machines.path()).unwrap(), ["1111", "2222"]);
        std::fs::remove_dir_all(machines.path().join("b")).unwrap();
        assert_eq!(in_use(machines.path()).unwrap(), ["2222"]);
        assert_eq!(of_machine(&machines.path().join("d")).unwrap(), None);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error_and_not_no_kernel() {
        let machines = tempfile::tempdir().unwrap();
        let dir = machines.path().join("a");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(path(&dir), "{}").unwrap();
        let error = in_use(machines.path()).unwrap_err();
        assert!(error.to_string().contains("kernel.json"), "{error}");
    }
}

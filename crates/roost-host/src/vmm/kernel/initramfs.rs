//! The first file system of a guest: its init, modules, mount points.

use super::cpio::Cpio;
use super::elf::Elf;
use super::modules::Module;

/// Mount points of the init, and the folders of what it finds.
const DIRECTORIES: [&str; 6] = ["dev", "modules", "newroot", "proc", "run", "sys"];

/// The init cannot run in a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildInitramfsError {
    /// It is not a program for the guest's processor.
    #[error("not an ELF file for x86-64")]
    NotAProgram,
    /// It needs files that a guest does not have.
    #[error("linked dynamically; a guest's init has to be one static executable")]
    NotStatic,
}

/// Builds the archive; the same input gives the same bytes.
pub(super) fn build_initramfs(
    init: &[u8],
    modules: &[Module],
) -> Result<Vec<u8>, BuildInitramfsError> {
    let program = Elf::parse(init).ok_or(BuildInitramfsError::NotAProgram)?;
    if program.is_dynamic() {
        return Err(BuildInitramfsError::NotStatic);
    }
    let mut archive = Cpio::default();
    for name in DIRECTORIES {
        archive.add_directory(name);
    }
    // The kernel opens it for the init before anything is mounted.
    archive.add_device("dev/console", 5, 1);
    archive.add_file("init", 0o755, init);
    for (index, module) in modules.iter().enumerate() {
        let name = format!("modules/{index:02}-{}.ko", module.name);
        archive.add_file(&name, 0o644, &module.bytes);
    }
    Ok(archive.finish())
}

//! Who a process runs as, by the files of the image.

use crate::failure::{Attempt as _, Failure};
use crate::limits::IDS_MAX;
use roost_model::account::Account;
use roost_model::limits::ACCOUNT_FILE_BYTES_MAX;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

/// Resolves a user of the guest; nobody named means root.
pub(crate) fn resolve(user: &str) -> Result<Account, Failure> {
    let passwd = read_image_file(Path::new("/etc/passwd"))?;
    let group = read_image_file(Path::new("/etc/group"))?;
    Account::resolve(user, &passwd, &group, IDS_MAX)
        .map_err(|error| Failure::machine(error.to_string()))
}

/// Reads a text of the image; nothing when there is none.
fn read_image_file(path: &Path) -> Result<String, Failure> {
    let what = || format!("read {} of the image", path.display());
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        Err(error) => return Err(error).attempt_for_machine(what()),
    };
    // Looked at before it is opened: opening a pipe would wait.
    if !metadata.is_file() || metadata.len() > ACCOUNT_FILE_BYTES_MAX {
        return Err(Failure::machine(format!(
            "{} of the image is not a file of at most {ACCOUNT_FILE_BYTES_MAX} bytes",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .attempt_for_machine(what())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

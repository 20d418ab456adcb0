//! Who a machine's program runs as, by the files of the image.

use crate::failure::LaunchError;
use crate::guest_files::read_inside;
use crate::root::Root;
use roost_model::account::Account;
use roost_model::limits::ACCOUNT_FILE_BYTES_MAX;

/// Resolves the user of a machine whose ids are below `id_size`.
pub(crate) fn resolve(root: &Root, user: &str, id_size: u32) -> Result<Account, LaunchError> {
    let passwd = read_inside(root, "/etc/passwd", ACCOUNT_FILE_BYTES_MAX)?.unwrap_or_default();
    let group = read_inside(root, "/etc/group", ACCOUNT_FILE_BYTES_MAX)?.unwrap_or_default();
    Account::resolve(user, &passwd, &group, id_size)
        .map_err(|error| LaunchError::machine(error.to_string()))
}

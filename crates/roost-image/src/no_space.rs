//! Telling a full disk from other failures, however deep it lies in an error.

use std::error::Error;
use std::io::ErrorKind;

/// Whether a full disk, or a used-up quota, is behind this error of the crate.
pub fn is_no_space(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref().is_some_and(is_of_files)
            || error.downcast_ref().is_some_and(is_of_database)
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn is_of_files(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// No room for the database, its log, or the log's index.
fn is_of_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == rusqlite::ErrorCode::DiskFull
            || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    })
}

#[cfg(test)]
mod tests {
    use super::is_no_space;
    use crate::build::{ReceiveContextError, WriteLayerError};
    use crate::{StoreError, UnpackError};
    use roost_runtime::fs::IoContext as _;
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_full_disk_is_found_below_any_error_and_nothing_else_is() {
        let file = |kind: ErrorKind| {
            Err::<(), _>(Error::from(kind))
                .on("write", "x")
                .unwrap_err()
        };
        let database = |code| StoreError::Database {
            operation: "record blob",
            source: rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None),
        };
        let full: [&(dyn std::error::Error + 'static); 5] = [
            &StoreError::File(file(ErrorKind::StorageFull)),
            &UnpackError::Store(StoreError::File(file(ErrorKind::QuotaExceeded))),
            &WriteLayerError::Store(database(rusqlite::ffi::SQLITE_FULL)),
            &database(rusqlite::ffi::SQLITE_IOERR_SHMSIZE),
            &ReceiveContextError::Archive(ErrorKind::StorageFull.into()),
        ];
        for error in full {
            assert!(is_no_space(error), "{error:?}");
        }
        let other: [&(dyn std::error::Error + 'static); 2] = [
            &StoreError::File(file(ErrorKind::PermissionDenied)),
            &database(rusqlite::ffi::SQLITE_IOERR),
        ];
        for error in other {
            assert!(!is_no_space(error), "{error:?}");
        }
    }
}

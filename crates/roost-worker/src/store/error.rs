//! Why the database could not be used.

use roost_fsm::JournalError;

/// The database could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite refused.
    #[error("{operation}")]
    Sqlite {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// A row does not have the form it must have.
    #[error("machine {machine} has a damaged record: {problem}")]
    Damaged {
        /// Which machine.
        machine: String,
        /// What is wrong.
        problem: String,
    },
    /// The journal of operations refused.
    #[error("journal of operations")]
    Journal(#[source] JournalError),
    /// The file is from a newer roost.
    #[error(
        "database has schema version {found}, and this roost knows up to {known}; use the newer roost"
    )]
    TooNew {
        /// The version found.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The thread that ran the operation is gone.
    #[error("database operation was cut off")]
    CutOff,
}

impl StoreError {
    /// Whether the disk is full: no room for the database, its log, or the log's index.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            Self::Sqlite { source, .. } => source.sqlite_error().is_some_and(|error| {
                error.code == rusqlite::ErrorCode::DiskFull
                    || error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }),
            Self::Journal(error) => matches!(error, JournalError::Full { .. }),
            Self::Damaged { .. } | Self::TooNew { .. } | Self::CutOff => false,
        }
    }
}

/// Adds the operation to an SQLite error.
pub(crate) trait SqliteContext<T> {
    fn during(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> SqliteContext<T> for Result<T, rusqlite::Error> {
    fn during(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Sqlite { operation, source })
    }
}

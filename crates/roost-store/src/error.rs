//! Why the control database did not do what it was asked.

use roost_fsm::JournalError;
use roost_model::error::{Blame, CallerFault, Classify, ErrorCode, Retry};

/// The control database could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such record.
    #[error("{0} does not exist")]
    NotFound(String),
    /// There is one already.
    #[error("{0} exists already")]
    Exists(String),
    /// The app is being deleted and takes nothing new.
    #[error("app `{0}` is being deleted")]
    Deleting(String),
    /// There are as many as there may be.
    #[error("{what}: {max} is the most")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: i64,
    },
    /// The disk has no room.
    #[error("{operation}: the disk that holds the control database is full")]
    DiskFull {
        /// What was attempted.
        operation: &'static str,
        /// The database's own words.
        #[source]
        source: sqlx::Error,
    },
    /// The file is not a database, or is damaged.
    #[error("{operation}: the control database is damaged; restore it from a backup")]
    Corrupt {
        /// What was attempted.
        operation: &'static str,
        /// The database's own words.
        #[source]
        source: sqlx::Error,
    },
    /// The database was written by another version of roost.
    #[error("migrate the control database")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A stored value cannot be read.
    #[error("{operation}: the control database holds a value that cannot be read: {value}")]
    Unreadable {
        /// What was attempted.
        operation: &'static str,
        /// Which.
        value: String,
    },
    /// A run could not be recorded or read.
    #[error("the journal of runs")]
    Runs(#[from] JournalError),
    /// Anything else.
    #[error("{operation}")]
    Database {
        /// What was attempted.
        operation: &'static str,
        /// The database's own words.
        #[source]
        source: sqlx::Error,
    },
}

impl StoreError {
    pub(crate) fn is_unique(error: &sqlx::Error) -> bool {
        error
            .as_database_error()
            .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
    }
}

/// What a result code of SQLite means to a user.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    DiskFull,
    Corrupt,
    Other,
}

/// Sorts an extended result code (sqlite.org/rescode.html).
fn kind(code: u32) -> Kind {
    /// The shared-memory file could not grow: what a full disk says to the first connection.
    const IOERR_SHMSIZE: u32 = 4874;
    // The low byte is the primary code: FULL, CORRUPT, NOTADB.
    match (code, code & 0xff) {
        (IOERR_SHMSIZE, _) | (_, 13) => Kind::DiskFull,
        (_, 11 | 26) => Kind::Corrupt,
        _ => Kind::Other,
    }
}

/// Adds to a database error what was attempted, and sorts it.
pub(crate) trait Attempt<T> {
    fn attempt(self, operation: &'static str) -> Result<T, StoreError>;
}

impl<T> Attempt<T> for Result<T, sqlx::Error> {
    fn attempt(self, operation: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| {
            let code = source
                .as_database_error()
                .and_then(|error| error.code())
                .unwrap_or_default();
            match kind(code.parse().unwrap_or(0)) {
                Kind::DiskFull => StoreError::DiskFull { operation, source },
                Kind::Corrupt => StoreError::Corrupt { operation, source },
                Kind::Other => StoreError::Database { operation, source },
            }
        })
    }
}

impl Classify for StoreError {
    fn blame(&self) -> Blame {
        match self {
            Self::NotFound(_) => Blame::Caller(CallerFault::NotFound),
            Self::Exists(_) | Self::Deleting(_) => Blame::Caller(CallerFault::Conflict),
            Self::TooMany { .. } => Blame::Caller(CallerFault::Invalid),
            Self::DiskFull { .. } | Self::Runs(JournalError::Full { .. }) => Blame::Environment,
            Self::Corrupt { .. }
            | Self::Migrate(_)
            | Self::Unreadable { .. }
            | Self::Runs(_)
            | Self::Database { .. } => Blame::Internal,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::DiskFull { .. }
            | Self::Runs(JournalError::Full { .. } | JournalError::Storage { .. })
            | Self::Database { .. } => Retry::Backoff,
            Self::NotFound(_)
            | Self::Exists(_)
            | Self::Deleting(_)
            | Self::TooMany { .. }
            | Self::Corrupt { .. }
            | Self::Migrate(_)
            | Self::Runs(_)
            | Self::Unreadable { .. } => Retry::Never,
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound(_) => ErrorCode("not-found"),
            Self::Exists(_) => ErrorCode("already-exists"),
            Self::Deleting(_) => ErrorCode("app-deleting"),
            Self::TooMany { .. } => ErrorCode("too-many"),
            Self::DiskFull { .. } | Self::Runs(JournalError::Full { .. }) => ErrorCode("disk-full"),
            Self::Corrupt { .. }
            | Self::Migrate(_)
            | Self::Unreadable { .. }
            | Self::Runs(_)
            | Self::Database { .. } => ErrorCode("internal"),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::Deleting(_) => Some("wait for its end; deleting it again completes it".into()),
            Self::TooMany { .. } => Some("remove some that are not needed".into()),
            Self::DiskFull { .. } | Self::Runs(JournalError::Full { .. }) => Some(
                "make room on the disk of roost's data folder and try again; nothing was changed"
                    .into(),
            ),
            Self::NotFound(_)
            | Self::Exists(_)
            | Self::Corrupt { .. }
            | Self::Migrate(_)
            | Self::Unreadable { .. }
            | Self::Runs(_)
            | Self::Database { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, kind};

    #[test]
    fn a_full_disk_is_known_by_each_of_its_codes() {
        assert_eq!([kind(13), kind(4874)], [Kind::DiskFull, Kind::DiskFull]);
        // CORRUPT_INDEX, NOTADB; IOERR_READ, BUSY.
        assert_eq!([kind(779), kind(26)], [Kind::Corrupt, Kind::Corrupt]);
        assert_eq!([kind(266), kind(5)], [Kind::Other, Kind::Other]);
    }
}

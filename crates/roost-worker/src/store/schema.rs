//! Versions of the database. A version that was released is never changed.

use super::{SqliteContext as _, StoreError};
use rusqlite::{Connection, TransactionBehavior};

/// Statements that lead from each version to the next.
const MIGRATIONS: [&str; 6] = [
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    // Operations of machines.
    roost_fsm::sqlite::SCHEMA,
    include_str!("migrations/5.sql"),
    include_str!("migrations/6.sql"),
];

/// Brings a database of any known version to the newest.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .during("begin migration")?;
    let found: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .during("read schema version")?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for statements in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(statements).during("migrate")?;
    }
    transaction
        .pragma_update(None, "user_version", known)
        .during("write schema version")?;
    transaction.commit().during("commit migration")
}

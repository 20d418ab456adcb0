//! Releases in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::{NewRelease, ReleaseRecord, ReleaseStatus};
use crate::{Store, StoreError};
use roost_model::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

const READ: &str = "read a release";

fn release(row: &SqliteRow) -> Result<ReleaseRecord, StoreError> {
    let config: String = row.try_get("config").attempt(READ)?;
    let status: String = row.try_get("status").attempt(READ)?;
    let unreadable = |value: String| StoreError::Unreadable {
        operation: READ,
        value,
    };
    Ok(ReleaseRecord {
        id: row.try_get("id").attempt(READ)?,
        app_id: row.try_get("app_id").attempt(READ)?,
        version: to_u64(row.try_get("version").attempt(READ)?),
        image: row.try_get("image").attempt(READ)?,
        image_digest: row.try_get("image_digest").attempt(READ)?,
        // The config's own text may hold what a user would not want in a log.
        config: serde_json::from_str(&config)
            .map_err(|error| unreadable(format!("a release config ({error})")))?,
        description: row.try_get("description").attempt(READ)?,
        status: ReleaseStatus::parse(&status).ok_or_else(|| unreadable(status))?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at").attempt(READ)?)),
    })
}

/// Adds a release with the app's next number, within a transaction.
pub(crate) async fn insert(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
    new: &NewRelease,
    now: Timestamp,
) -> Result<u64, StoreError> {
    const OPERATION: &str = "add a release";
    let row = sqlx::query(
        "UPDATE apps SET next_release = next_release + 1 WHERE id = $1 RETURNING next_release - 1 AS version",
    )
    .bind(app_id)
    .fetch_optional(&mut **transaction)
    .await
    .attempt(OPERATION)?
    .ok_or_else(|| StoreError::NotFound(format!("app `{app_id}`")))?;
    let version: i64 = row.try_get("version").attempt(OPERATION)?;
    let config = serde_json::to_string(&new.config).map_err(|error| StoreError::Unreadable {
        operation: OPERATION,
        value: error.to_string(),
    })?;
    sqlx::query(
        "INSERT INTO releases
             (id, app_id, version, image, image_digest, config, description, status, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&new.id)
    .bind(app_id)
    .bind(version)
    .bind(&new.image)
    .bind(&new.image_digest)
    .bind(config)
    .bind(&new.description)
    .bind(ReleaseStatus::Pending.as_str())
    .bind(to_i64(now.as_ms()))
    .execute(&mut **transaction)
    .await
    .attempt(OPERATION)?;
    Ok(to_u64(version))
}

/// Sets a release's status, within a transaction.
pub(crate) async fn set_status(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
    version: u64,
    status: ReleaseStatus,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE releases SET status = $1 WHERE app_id = $2 AND version = $3")
        .bind(status.as_str())
        .bind(app_id)
        .bind(to_i64(version))
        .execute(&mut **transaction)
        .await
        .attempt("set a release's status")?;
    Ok(())
}

impl Store {
    /// The newest releases of an app, newest first.
    pub async fn releases(&self, app_id: &str) -> Result<Vec<ReleaseRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM releases WHERE app_id = $1 ORDER BY version DESC LIMIT $2")
                .bind(app_id)
                // And the one that serves, which may be older.
                .bind(crate::limits::LIST_MAX + 1)
                .fetch_all(&self.pool)
                .await
                .attempt("list releases")?;
        rows.iter().map(release).collect()
    }

    /// One release of an app.
    pub async fn release(&self, app_id: &str, version: u64) -> Result<ReleaseRecord, StoreError> {
        let row = sqlx::query("SELECT * FROM releases WHERE app_id = $1 AND version = $2")
            .bind(app_id)
            .bind(to_i64(version))
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)?;
        row.as_ref()
            .map(release)
            .transpose()?
            .ok_or_else(|| StoreError::NotFound(format!("release {version}")))
    }
}

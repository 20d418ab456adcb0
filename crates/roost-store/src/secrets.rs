//! Sealed secrets in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::{SecretChange, SecretRecord};
use crate::{Store, StoreError, limits};
use roost_model::name::SecretName;
use roost_model::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

const READ: &str = "read secrets";
const CHANGE: &str = "change secrets";

fn secret(row: &SqliteRow) -> Result<SecretRecord, StoreError> {
    let name: String = row.try_get("name").attempt(READ)?;
    Ok(SecretRecord {
        name: SecretName::parse(&name).map_err(|_| StoreError::Unreadable {
            operation: READ,
            value: name,
        })?,
        sealed: row.try_get("sealed").attempt(READ)?,
        digest: row.try_get("digest").attempt(READ)?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at").attempt(READ)?)),
        updated_at: Timestamp::from_ms(to_u64(row.try_get("updated_at").attempt(READ)?)),
    })
}

impl Store {
    /// The secrets of an app by name.
    pub async fn secrets(&self, app_id: &str) -> Result<Vec<SecretRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM secrets WHERE app_id = $1 ORDER BY name")
            .bind(app_id)
            .fetch_all(&self.pool)
            .await
            .attempt(READ)?;
        rows.iter().map(secret).collect()
    }

    /// Makes all these changes or none, and returns the new version.
    pub async fn change_secrets(
        &self,
        app_id: &str,
        changes: &[SecretChange],
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut transaction = self.begin(CHANGE).await?;
        for change in changes {
            match change {
                SecretChange::Set {
                    name,
                    sealed,
                    digest,
                } => {
                    sqlx::query(
                        "INSERT INTO secrets (app_id, name, sealed, digest, created_at, updated_at)
                         VALUES ($1, $2, $3, $4, $5, $5)
                         ON CONFLICT (app_id, name) DO UPDATE SET
                             sealed = excluded.sealed,
                             digest = excluded.digest,
                             updated_at = excluded.updated_at",
                    )
                    .bind(app_id)
                    .bind(name.as_str())
                    .bind(sealed)
                    .bind(digest)
                    .bind(to_i64(now.as_ms()))
                    .execute(&mut *transaction)
                    .await
                    .attempt(CHANGE)?;
                }
                SecretChange::Remove(name) => {
                    sqlx::query("DELETE FROM secrets WHERE app_id = $1 AND name = $2")
                        .bind(app_id)
                        .bind(name.as_str())
                        .execute(&mut *transaction)
                        .await
                        .attempt(CHANGE)?;
                }
            }
        }
        let n_secrets: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM secrets WHERE app_id = $1")
            .bind(app_id)
            .fetch_one(&mut *transaction)
            .await
            .attempt(CHANGE)?;
        if n_secrets > limits::SECRETS_MAX {
            return Err(StoreError::TooMany {
                what: "secrets of an app",
                max: limits::SECRETS_MAX,
            });
        }
        let row = sqlx::query(
            "UPDATE apps SET secrets_version = secrets_version + 1 WHERE id = $1 RETURNING secrets_version",
        )
        .bind(app_id)
        .fetch_optional(&mut *transaction)
        .await
        .attempt(CHANGE)?
        .ok_or_else(|| StoreError::NotFound(format!("app `{app_id}`")))?;
        let version: i64 = row.try_get("secrets_version").attempt(CHANGE)?;
        transaction.commit().await.attempt(CHANGE)?;
        Ok(to_u64(version))
    }
}

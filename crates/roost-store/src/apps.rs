//! Apps in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::AppRecord;
use crate::{Store, StoreError};
use roost_model::name::AppName;
use roost_model::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

fn app(row: &SqliteRow) -> Result<AppRecord, StoreError> {
    let name: String = row.try_get("name").attempt("read an app")?;
    let current: Option<i64> = row.try_get("current_release").attempt("read an app")?;
    Ok(AppRecord {
        id: row.try_get("id").attempt("read an app")?,
        name: AppName::parse(&name).map_err(|_| StoreError::Unreadable {
            operation: "read an app",
            value: name,
        })?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at").attempt("read an app")?)),
        current_release: current.map(to_u64),
        secrets_version: to_u64(row.try_get("secrets_version").attempt("read an app")?),
    })
}

impl Store {
    /// Records an app.
    pub async fn create_app(
        &self,
        id: &str,
        name: &AppName,
        now: Timestamp,
    ) -> Result<AppRecord, StoreError> {
        let result = sqlx::query("INSERT INTO apps (id, name, created_at) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(name.as_str())
            .bind(to_i64(now.as_ms()))
            .execute(&self.pool)
            .await;
        match result {
            Err(error) if StoreError::is_unique(&error) => {
                return Err(StoreError::Exists(format!("app `{name}`")));
            }
            other => other.attempt("create an app")?,
        };
        self.app(name).await
    }

    /// The app of this name.
    pub async fn app(&self, name: &AppName) -> Result<AppRecord, StoreError> {
        let row = sqlx::query("SELECT * FROM apps WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await
            .attempt("read an app")?;
        row.as_ref()
            .map(app)
            .transpose()?
            .ok_or_else(|| StoreError::NotFound(format!("app `{name}`")))
    }

    /// The app with this id.
    pub async fn app_by_id(&self, id: &str) -> Result<AppRecord, StoreError> {
        let row = sqlx::query("SELECT * FROM apps WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .attempt("read an app")?;
        row.as_ref()
            .map(app)
            .transpose()?
            .ok_or_else(|| StoreError::NotFound(format!("app `{id}`")))
    }

    /// All apps by name.
    pub async fn apps(&self) -> Result<Vec<AppRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM apps ORDER BY name")
            .fetch_all(&self.pool)
            .await
            .attempt("list apps")?;
        rows.iter().map(app).collect()
    }

    /// Removes an app with its releases, deployments and secrets; a missing one is fine.
    pub async fn delete_app(&self, id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM apps WHERE id = $1")
            .bind(id)
            .execute(&self.pool)
            .await
            .attempt("delete an app")?;
        Ok(())
    }
}

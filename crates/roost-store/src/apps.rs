//! Apps in the control database.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::AppRecord;
use crate::{Answer, Store, StoreError, host_names, limits, placements};
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
        deleting_at: row
            .try_get::<Option<i64>, _>("deleting_at")
            .attempt("read an app")?
            .map(|ms| Timestamp::from_ms(to_u64(ms))),
        secrets_version: to_u64(row.try_get("secrets_version").attempt("read an app")?),
    })
}

/// What the runs of an app act on. By its id: an app of the same name may come after it.
pub fn subject_of_app(id: &str) -> String {
    format!("app/{id}")
}

impl Store {
    /// Records an app, and with it the answer to the request for it, if it is to be kept.
    pub async fn create_app(
        &self,
        id: &str,
        name: &AppName,
        now: Timestamp,
        answer: Option<Answer<'_, AppRecord>>,
    ) -> Result<AppRecord, StoreError> {
        const OPERATION: &str = "create an app";
        let mut transaction = self.begin(OPERATION).await?;
        let inserted =
            sqlx::query("INSERT INTO apps (id, name, created_at) VALUES ($1, $2, $3) RETURNING *")
                .bind(id)
                .bind(name.as_str())
                .bind(to_i64(now.as_ms()))
                .fetch_one(&mut *transaction)
                .await;
        let row = match inserted {
            Err(error) if StoreError::is_unique(&error) => {
                return Err(StoreError::Exists(format!("app `{name}`")));
            }
            other => other.attempt(OPERATION)?,
        };
        let n_apps: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM apps")
            .fetch_one(&mut *transaction)
            .await
            .attempt(OPERATION)?;
        if n_apps > limits::APPS_MAX {
            return Err(StoreError::TooMany {
                what: "apps",
                max: limits::APPS_MAX,
            });
        }
        let record = app(&row)?;
        if let Some(answer) = answer {
            answer.keep(&mut transaction, &record, now).await?;
        }
        transaction.commit().await.attempt(OPERATION)?;
        Ok(record)
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

    /// Marks an app as one that is being deleted: from now on it takes no deployment.
    ///
    /// Fails with [`StoreError::Exists`] while a deployment of it is unfinished:
    /// the machines that it makes would be nobody's. An app that is gone is
    /// [`StoreError::NotFound`], so that nobody deletes one of the same name in its place.
    pub async fn begin_app_deletion(&self, id: &str, now: Timestamp) -> Result<(), StoreError> {
        const OPERATION: &str = "begin to delete an app";
        let mut transaction = self.begin(OPERATION).await?;
        let unfinished = sqlx::query(
            "SELECT id FROM deployments WHERE app_id = $1 AND finished_at IS NULL LIMIT 1",
        )
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await
        .attempt(OPERATION)?;
        if unfinished.is_some() {
            return Err(StoreError::Exists("an unfinished deployment".into()));
        }
        let marked =
            sqlx::query("UPDATE apps SET deleting_at = COALESCE(deleting_at, $2) WHERE id = $1")
                .bind(id)
                .bind(to_i64(now.as_ms()))
                .execute(&mut *transaction)
                .await
                .attempt(OPERATION)?;
        if marked.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("app `{id}`")));
        }
        transaction.commit().await.attempt(OPERATION)
    }

    /// Removes an app whose deletion has begun, with its releases, deployments, secrets and runs;
    /// a missing one is fine. Machines that are still recorded must not be from then on.
    pub async fn delete_app(&self, id: &str, now: Timestamp) -> Result<(), StoreError> {
        const DELETE: &str = "delete an app";
        let mut transaction = self.begin(DELETE).await?;
        placements::fence_all(&mut transaction, id, now).await?;
        host_names::revoke_later(&mut transaction, id, None, now).await?;
        let deleted = sqlx::query("DELETE FROM apps WHERE id = $1 AND deleting_at IS NOT NULL")
            .bind(id)
            .execute(&mut *transaction)
            .await
            .attempt(DELETE)?;
        if deleted.rows_affected() > 0 {
            sqlx::query("DELETE FROM runs WHERE subject = $1")
                .bind(subject_of_app(id))
                .execute(&mut *transaction)
                .await
                .attempt(DELETE)?;
        }
        transaction.commit().await.attempt(DELETE)
    }
}

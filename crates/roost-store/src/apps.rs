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
    ///
    /// Fails with [`StoreError::Exists`] while a deployment of it is unfinished:
    /// the machines that it makes would be nobody's.
    pub async fn delete_app(&self, id: &str) -> Result<(), StoreError> {
        const OPERATION: &str = "delete an app";
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
        sqlx::query("DELETE FROM apps WHERE id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await
            .attempt(OPERATION)?;
        transaction.commit().await.attempt(OPERATION)
    }
}

#[cfg(test)]
mod tests {
    use crate::records::{DeploymentStatus, NewDeployment, NewRelease};
    use crate::{Store, StoreError};
    use roost_model::name::AppName;
    use roost_model::time::Timestamp;
    use roost_proto::machine_config::MachineConfig;
    use std::time::Duration;

    #[tokio::test]
    async fn an_app_is_not_deleted_under_a_deployment() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("control.db")).await.unwrap();
        let (name, now) = (AppName::parse("web").unwrap(), Timestamp::from_ms(1));
        store.create_app("app_1", &name, now).await.unwrap();
        let release = NewRelease {
            id: "rel_1".into(),
            image: "hello".into(),
            image_digest: None,
            config: MachineConfig::default(),
            description: None,
        };
        let deployment = NewDeployment {
            id: "dep_1".into(),
            slots: vec![],
            batches: vec![],
            wait_timeout: Duration::from_secs(1),
        };
        let record = store
            .create_deployment("app_1", &release, &deployment, now)
            .await
            .unwrap();
        let refused = store.delete_app("app_1").await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
        store.app(&name).await.unwrap();
        store
            .finish_deployment(&record, DeploymentStatus::Failed, now)
            .await
            .unwrap();
        store.delete_app("app_1").await.unwrap();
        store.delete_app("app_1").await.unwrap();
        let gone = store.app(&name).await;
        assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    }
}

//! Deployments in the control database: their plans, and how far each slot came.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::records::{
    DeploymentRecord, DeploymentStatus, NewDeployment, NewRelease, ReleaseStatus, SlotPhase,
    SlotRecord,
};
use crate::runs::Statements;
use crate::{Answer, Store, StoreError, limits, releases};
use roost_fsm::journal::{Entry, NewRun, Opened};
use roost_fsm::sql;
use roost_model::id::MachineId;
use roost_model::time::Timestamp;
use roost_proto::rest::{DeploymentCanary, DeploymentError, DeploymentStep};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteExecutor, Transaction};
use std::time::Duration;

const READ: &str = "read a deployment";
const WRITE: &str = "write a deployment";

fn unreadable(value: impl Into<String>) -> StoreError {
    StoreError::Unreadable {
        operation: READ,
        value: value.into(),
    }
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))
}

fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| unreadable(error.to_string()))
}

fn deployment(row: &SqliteRow) -> Result<DeploymentRecord, StoreError> {
    let status: String = row.try_get("status").attempt(READ)?;
    let batches: String = row.try_get("batches").attempt(READ)?;
    let error: Option<String> = row.try_get("error").attempt(READ)?;
    let canary: Option<String> = row.try_get("canary").attempt(READ)?;
    let finished_at: Option<i64> = row.try_get("finished_at").attempt(READ)?;
    let wait_timeout: i64 = row.try_get("wait_timeout_ms").attempt(READ)?;
    Ok(DeploymentRecord {
        id: row.try_get("id").attempt(READ)?,
        app_id: row.try_get("app_id").attempt(READ)?,
        release_version: to_u64(row.try_get("release_version").attempt(READ)?),
        status: DeploymentStatus::parse(&status).ok_or_else(|| unreadable(status))?,
        batches: json(&batches)?,
        wait_timeout: Duration::from_millis(to_u64(wait_timeout)),
        canary: canary
            .as_deref()
            .map(json::<DeploymentCanary>)
            .transpose()?,
        error: error.as_deref().map(json::<DeploymentError>).transpose()?,
        created_at: Timestamp::from_ms(to_u64(row.try_get("created_at").attempt(READ)?)),
        finished_at: finished_at.map(|ms| Timestamp::from_ms(to_u64(ms))),
    })
}

fn slot(row: &SqliteRow) -> Result<SlotRecord, StoreError> {
    let machine = |column: &str| -> Result<Option<MachineId>, StoreError> {
        let text: Option<String> = row.try_get(column).attempt(READ)?;
        text.map(|text| MachineId::parse(&text).map_err(|error| unreadable(error.to_string())))
            .transpose()
    };
    let phase: String = row.try_get("phase").attempt(READ)?;
    Ok(SlotRecord {
        idx: usize::try_from(row.try_get::<i64, _>("idx").attempt(READ)?).unwrap_or(0),
        old_machine: machine("old_machine")?,
        old_ran: row.try_get::<i64, _>("old_ran").attempt(READ)? != 0,
        makes_new: row.try_get::<i64, _>("makes_new").attempt(READ)? != 0,
        new_machine: machine("new_machine")?,
        phase: SlotPhase::parse(&phase).ok_or_else(|| unreadable(phase))?,
    })
}

fn step(row: &SqliteRow) -> Result<DeploymentStep, StoreError> {
    Ok(DeploymentStep {
        seq: to_u64(row.try_get("seq").attempt(READ)?),
        name: row.try_get("name").attempt(READ)?,
        machine: row.try_get("machine").attempt(READ)?,
        status: row.try_get("status").attempt(READ)?,
        message: row.try_get("message").attempt(READ)?,
        at: to_u64(row.try_get("at").attempt(READ)?),
    })
}

fn idx_to_i64(idx: usize) -> i64 {
    i64::try_from(idx).unwrap_or(i64::MAX)
}

/// Not by time: the clock may have been set back.
async fn newest(
    executor: impl SqliteExecutor<'_>,
    app_id: &str,
) -> Result<Option<DeploymentRecord>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM deployments WHERE app_id = $1 ORDER BY release_version DESC LIMIT 1",
    )
    .bind(app_id)
    .fetch_optional(executor)
    .await
    .attempt(READ)?;
    row.as_ref().map(deployment).transpose()
}

async fn refuse_if_deleting(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT name FROM apps WHERE id = $1 AND deleting_at IS NOT NULL")
        .bind(app_id)
        .fetch_optional(&mut **transaction)
        .await
        .attempt(WRITE)?;
    match row {
        Some(row) => Err(StoreError::Deleting(row.try_get("name").attempt(WRITE)?)),
        None => Ok(()),
    }
}

/// Forgets releases and deployments that no list shows any more. The release that serves stays.
async fn forget_old(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
    newest_version: u64,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM deployments WHERE app_id = $1 AND release_version <= $2",
        "DELETE FROM releases WHERE app_id = $1 AND version <= $2
             AND version IS NOT (SELECT current_release FROM apps WHERE id = $1)",
    ] {
        sqlx::query(statement)
            .bind(app_id)
            .bind(to_i64(newest_version) - limits::LIST_MAX)
            .execute(&mut **transaction)
            .await
            .attempt(WRITE)?;
    }
    Ok(())
}

async fn insert_slot(
    transaction: &mut Transaction<'static, Sqlite>,
    deployment_id: &str,
    slot: &SlotRecord,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployment_slots
             (deployment_id, idx, old_machine, old_ran, makes_new, new_machine, phase)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(deployment_id)
    .bind(idx_to_i64(slot.idx))
    .bind(slot.old_machine.as_ref().map(MachineId::as_str))
    .bind(i64::from(slot.old_ran))
    .bind(i64::from(slot.makes_new))
    .bind(slot.new_machine.as_ref().map(MachineId::as_str))
    .bind(slot.phase.as_str())
    .execute(&mut **transaction)
    .await
    .attempt(WRITE)?;
    Ok(())
}

impl Store {
    /// Records a release, the deployment to it, its slots, its run, and the answer to the request
    /// for it, if it is to be kept: all or nothing.
    ///
    /// From here on the deployment alone changes the app's machines that deployments made.
    /// Fails with [`StoreError::Exists`] while another deployment of the app is unfinished,
    /// and when one came since the slots were planned: its machines are not those of the plan.
    pub async fn create_deployment(
        &self,
        app_id: &str,
        release: &NewRelease,
        new: &NewDeployment,
        now: Timestamp,
        answer: Option<Answer<'_, DeploymentRecord>>,
    ) -> Result<DeploymentRecord, StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        refuse_if_deleting(&mut transaction, app_id).await?;
        if newest(&mut *transaction, app_id)
            .await?
            .map(|newest| newest.id)
            != new.follows
        {
            return Err(StoreError::Exists("a newer deployment".into()));
        }
        let version = releases::insert(&mut transaction, app_id, release, now).await?;
        let batches = to_json(&new.batches)?;
        let canary = new.canary.as_ref().map(to_json).transpose()?;
        let timeout_ms = u64::try_from(new.wait_timeout.as_millis()).unwrap_or(u64::MAX);
        let inserted = sqlx::query(
            "INSERT INTO deployments
                 (id, app_id, release_version, status, batches, wait_timeout_ms, created_at, canary)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *",
        )
        .bind(&new.id)
        .bind(app_id)
        .bind(to_i64(version))
        .bind(DeploymentStatus::Pending.as_str())
        .bind(batches)
        .bind(to_i64(timeout_ms))
        .bind(to_i64(now.as_ms()))
        .bind(canary)
        .fetch_one(&mut *transaction)
        .await;
        let row = match inserted {
            Err(error) if StoreError::is_unique(&error) => {
                return Err(StoreError::Exists("an unfinished deployment".into()));
            }
            other => other.attempt(WRITE)?,
        };
        for slot in &new.slots {
            insert_slot(&mut transaction, &new.id, slot).await?;
        }
        match sql::open(&mut Statements(&mut transaction), &new.run).await? {
            Opened::New { .. } => {}
            other => return Err(StoreError::Exists(format!("a run ({other:?})"))),
        }
        forget_old(&mut transaction, app_id, version).await?;
        let record = deployment(&row)?;
        if let Some(answer) = answer {
            answer.keep(&mut transaction, &record, now).await?;
        }
        transaction.commit().await.attempt(WRITE)?;
        Ok(record)
    }

    /// The app's newest deployment, by its release.
    pub async fn newest_deployment(
        &self,
        app_id: &str,
    ) -> Result<Option<DeploymentRecord>, StoreError> {
        newest(&self.pool, app_id).await
    }

    /// One deployment of an app.
    pub async fn deployment(&self, app_id: &str, id: &str) -> Result<DeploymentRecord, StoreError> {
        let row = sqlx::query("SELECT * FROM deployments WHERE app_id = $1 AND id = $2")
            .bind(app_id)
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)?;
        row.as_ref()
            .map(deployment)
            .transpose()?
            .ok_or_else(|| StoreError::NotFound(format!("deployment `{id}`")))
    }

    /// The newest deployments of an app, newest first.
    pub async fn deployments(&self, app_id: &str) -> Result<Vec<DeploymentRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM deployments WHERE app_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2",
        )
        .bind(app_id)
        .bind(limits::LIST_MAX)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(deployment).collect()
    }

    /// Deployments that have not ended, of one app or of all.
    pub async fn unfinished_deployments(
        &self,
        app_id: Option<&str>,
    ) -> Result<Vec<DeploymentRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM deployments
             WHERE finished_at IS NULL AND ($1 IS NULL OR app_id = $1) ORDER BY created_at",
        )
        .bind(app_id)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(deployment).collect()
    }

    /// The slots of a deployment in order.
    pub async fn slots(&self, deployment_id: &str) -> Result<Vec<SlotRecord>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM deployment_slots WHERE deployment_id = $1 ORDER BY idx")
                .bind(deployment_id)
                .fetch_all(&self.pool)
                .await
                .attempt(READ)?;
        rows.iter().map(slot).collect()
    }

    /// Journals how far a slot came.
    pub async fn set_slot(&self, deployment_id: &str, slot: &SlotRecord) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE deployment_slots SET new_machine = $1, phase = $2 WHERE deployment_id = $3 AND idx = $4",
        )
        .bind(slot.new_machine.as_ref().map(MachineId::as_str))
        .bind(slot.phase.as_str())
        .bind(deployment_id)
        .bind(idx_to_i64(slot.idx))
        .execute(&self.pool)
        .await
        .attempt("journal a slot")?;
        Ok(())
    }

    /// Records what became of a deployment's canary.
    pub async fn set_canary(
        &self,
        deployment_id: &str,
        canary: &DeploymentCanary,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE deployments SET canary = $1 WHERE id = $2")
            .bind(to_json(canary)?)
            .bind(deployment_id)
            .execute(&self.pool)
            .await
            .attempt(WRITE)?;
        Ok(())
    }

    /// Sets where a deployment is, and why it is undone; one that has ended stays as it is.
    ///
    /// At `Retiring` the deployment's release becomes the app's current one and what spoke
    /// against it is forgotten, in the same transaction.
    pub async fn set_deployment_status(
        &self,
        record: &DeploymentRecord,
        status: DeploymentStatus,
        error: Option<&DeploymentError>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let error = error.map(to_json).transpose()?;
        let (release_status, finished_at) = match status {
            DeploymentStatus::Pending => (ReleaseStatus::Pending, None),
            DeploymentStatus::Running | DeploymentStatus::Undoing => (ReleaseStatus::Running, None),
            DeploymentStatus::Retiring => (ReleaseStatus::Succeeded, None),
            DeploymentStatus::Succeeded => (ReleaseStatus::Succeeded, Some(now)),
            DeploymentStatus::Failed => (ReleaseStatus::Failed, Some(now)),
        };
        let mut transaction = self.begin(WRITE).await?;
        let updated = sqlx::query(
            "UPDATE deployments SET status = $1, finished_at = $2,
                 error = CASE $1 WHEN 'retiring' THEN NULL ELSE COALESCE($3, error) END
             WHERE id = $4 AND finished_at IS NULL",
        )
        .bind(status.as_str())
        .bind(finished_at.map(|at| to_i64(at.as_ms())))
        .bind(error)
        .bind(&record.id)
        .execute(&mut *transaction)
        .await
        .attempt(WRITE)?;
        if updated.rows_affected() == 0 {
            return Ok(());
        }
        releases::set_status(
            &mut transaction,
            &record.app_id,
            record.release_version,
            release_status,
        )
        .await?;
        if status == DeploymentStatus::Retiring {
            sqlx::query("UPDATE apps SET current_release = $1 WHERE id = $2")
                .bind(to_i64(record.release_version))
                .bind(&record.app_id)
                .execute(&mut *transaction)
                .await
                .attempt(WRITE)?;
        }
        transaction.commit().await.attempt(WRITE)
    }

    /// Records the run of a deployment that has none, with what its status says that the run
    /// has done so far: one that a version of roost without runs left unfinished.
    pub async fn take_up_deployment(
        &self,
        run: &NewRun,
        done: &[Entry],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        const TAKE_UP: &str = "take up a deployment of an earlier version";
        let mut transaction = self.begin(TAKE_UP).await?;
        let mut statements = Statements(&mut transaction);
        sql::open(&mut statements, run).await?;
        if !done.is_empty() {
            // A lease that ends at once: whoever executes runs takes it next.
            let taken = sql::take(&mut statements, &run.id, "earlier version", now, now).await?;
            sql::record(&mut statements, &taken.fence(), done, now).await?;
        }
        transaction.commit().await.attempt(TAKE_UP)
    }

    /// Adds a step to a deployment's story and returns it with its number.
    pub async fn add_step(
        &self,
        deployment_id: &str,
        new: DeploymentStep,
    ) -> Result<DeploymentStep, StoreError> {
        let row = sqlx::query(
            "INSERT INTO deployment_steps (deployment_id, seq, name, machine, status, message, at)
             SELECT $1, COALESCE(MAX(seq), 0) + 1, $2, $3, $4, $5, $6
             FROM deployment_steps WHERE deployment_id = $1
             RETURNING *",
        )
        .bind(deployment_id)
        .bind(&new.name)
        .bind(&new.machine)
        .bind(&new.status)
        .bind(&new.message)
        .bind(to_i64(new.at))
        .fetch_one(&self.pool)
        .await
        .attempt("add a deployment step")?;
        step(&row)
    }

    /// The steps of a deployment after number `after`, oldest first.
    pub async fn steps(
        &self,
        deployment_id: &str,
        after: u64,
    ) -> Result<Vec<DeploymentStep>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM deployment_steps WHERE deployment_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(deployment_id)
        .bind(to_i64(after))
        .bind(limits::STEPS_MAX)
        .fetch_all(&self.pool)
        .await
        .attempt(READ)?;
        rows.iter().map(step).collect()
    }
}

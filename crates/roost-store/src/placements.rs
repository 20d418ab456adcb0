//! Which node has which machine, what is to be there, and what must not be there any more.

mod fences;

pub use fences::Fence;
pub(crate) use fences::fence_all;

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::{Store, StoreError};
use roost_model::id::{InstanceId, MachineId, NodeId};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteExecutor};

const READ: &str = "read where a machine is";
const WRITE: &str = "write where a machine is";

/// Where a machine is, and how it is with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The request for it.
    pub request_id: String,
    /// The id of its app.
    pub app_id: String,
    /// Its app.
    pub app: AppName,
    /// Its name.
    pub name: MachineName,
    /// The release that a deployment made it for; none when no deployment did.
    pub release_version: Option<u64>,
    /// Whether it is made anew when it vanishes.
    pub is_kept: bool,
    /// The node that has it, or is asked for it.
    pub node: NodeId,
    /// Why that node.
    pub why: String,
    /// How often another node was asked before.
    pub attempt: u64,
    /// The machine, once the node has answered.
    pub machine: Option<MachineId>,
    /// The version of the machine that the record is of; none while a change of it is asked for.
    pub version: Option<InstanceId>,
    /// Whether it is to rest, or rested when its node was last asked.
    pub rests: bool,
    /// Whether new traffic is kept from it.
    pub is_cordoned: bool,
    /// Since when its removal is asked for, and the answer not known.
    pub leaving_since: Option<Timestamp>,
    /// When the node was chosen, or asked again.
    pub placed_at: Timestamp,
}

/// What a machine is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// Where it may run.
    pub region: RegionCode,
    /// Its config.
    pub config: MachineConfig,
    /// See [`Placement::release_version`].
    pub release_version: Option<u64>,
    /// See [`Placement::is_kept`].
    pub is_kept: bool,
}

/// What is recorded of a machine from now on. What is none here stays as it was, but for the
/// version.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// See [`Placement::version`].
    pub version: Option<InstanceId>,
    /// What it is to be.
    pub blueprint: Option<Blueprint>,
    /// See [`Placement::rests`].
    pub rests: Option<bool>,
    /// See [`Placement::is_cordoned`].
    pub is_cordoned: Option<bool>,
}

/// A node that was chosen for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The node.
    pub node: NodeId,
    /// Why it.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

/// Text of the database that has to have a form.
fn parsed<T, E>(row: &SqliteRow, column: &str) -> Result<T, StoreError>
where
    T: TryFrom<String, Error = E>,
{
    let text: String = row.try_get(column).attempt(READ)?;
    T::try_from(text.clone()).map_err(|_| StoreError::Unreadable {
        operation: READ,
        value: text,
    })
}

/// The same, where there may be none.
fn parsed_if_any<T, E>(row: &SqliteRow, column: &str) -> Result<Option<T>, StoreError>
where
    T: TryFrom<String, Error = E>,
{
    let text: Option<String> = row.try_get(column).attempt(READ)?;
    text.map(|_| parsed(row, column)).transpose()
}

fn time(row: &SqliteRow, column: &str) -> Result<Timestamp, StoreError> {
    let ms: i64 = row.try_get(column).attempt(READ)?;
    Ok(Timestamp::from_ms(to_u64(ms)))
}

fn flag(row: &SqliteRow, column: &str) -> Result<bool, StoreError> {
    Ok(row.try_get::<i64, _>(column).attempt(READ)? != 0)
}

fn placement(row: &SqliteRow) -> Result<Placement, StoreError> {
    let release: Option<i64> = row.try_get("release_version").attempt(READ)?;
    let leaving_since: Option<i64> = row.try_get("leaving_since").attempt(READ)?;
    Ok(Placement {
        request_id: row.try_get("request_id").attempt(READ)?,
        app_id: row.try_get("app_id").attempt(READ)?,
        app: parsed(row, "app")?,
        name: parsed(row, "name")?,
        release_version: release.map(to_u64),
        is_kept: flag(row, "is_kept")?,
        node: parsed(row, "node")?,
        why: row.try_get("why").attempt(READ)?,
        attempt: to_u64(row.try_get("attempt").attempt(READ)?),
        machine: parsed_if_any(row, "machine")?,
        version: parsed_if_any(row, "version")?,
        rests: flag(row, "rests")?,
        is_cordoned: flag(row, "is_cordoned")?,
        leaving_since: leaving_since.map(|ms| Timestamp::from_ms(to_u64(ms))),
        placed_at: time(row, "placed_at")?,
    })
}

fn to_json(config: &MachineConfig) -> Result<String, StoreError> {
    serde_json::to_string(config).map_err(|error| StoreError::Unreadable {
        operation: WRITE,
        value: error.to_string(),
    })
}

/// All but the config, which only a machine that is made anew needs.
const PLACEMENTS: &str = "
    SELECT p.request_id, p.app_id, a.name AS app, p.name, p.release_version, p.is_kept, p.node,
           p.why, p.attempt, p.machine, p.version, p.rests, p.is_cordoned, p.leaving_since,
           p.placed_at
    FROM placements p JOIN apps a ON a.id = p.app_id";

async fn find(
    executor: impl SqliteExecutor<'_>,
    request_id: &str,
) -> Result<Option<Placement>, StoreError> {
    let query = format!("{PLACEMENTS} WHERE p.request_id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(request_id)
        .fetch_optional(executor)
        .await
        .attempt(READ)?;
    row.as_ref().map(placement).transpose()
}

async fn change(
    executor: impl SqliteExecutor<'_>,
    machine: &MachineId,
    change: &Change,
) -> Result<(), StoreError> {
    let blueprint = change.blueprint.as_ref();
    let config = blueprint.map(|blueprint| to_json(&blueprint.config));
    let release = blueprint.and_then(|blueprint| blueprint.release_version);
    sqlx::query(
        "UPDATE placements SET version = $1, config = COALESCE($2, config),
             release_version = CASE WHEN $2 IS NULL THEN release_version ELSE $3 END,
             is_kept = COALESCE($4, is_kept), rests = COALESCE($5, rests),
             is_cordoned = COALESCE($6, is_cordoned)
         WHERE machine = $7",
    )
    .bind(change.version.as_ref().map(InstanceId::as_str))
    .bind(config.transpose()?)
    .bind(release.map(to_i64))
    .bind(blueprint.map(|blueprint| i64::from(blueprint.is_kept)))
    .bind(change.rests.map(i64::from))
    .bind(change.is_cordoned.map(i64::from))
    .bind(machine.as_str())
    .execute(executor)
    .await
    .attempt(WRITE)?;
    Ok(())
}

async fn forget(executor: impl SqliteExecutor<'_>, machine: &MachineId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM placements WHERE machine = $1")
        .bind(machine.as_str())
        .execute(executor)
        .await
        .attempt(WRITE)?;
    Ok(())
}

/// How many rows there were: one or none.
async fn give_up(executor: impl SqliteExecutor<'_>, seen: &Placement) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM placements
         WHERE request_id = $1 AND attempt = $2 AND machine IS $3 AND placed_at = $4",
    )
    .bind(&seen.request_id)
    .bind(to_i64(seen.attempt))
    .bind(seen.machine.as_ref().map(MachineId::as_str))
    .bind(to_i64(seen.placed_at.as_ms()))
    .execute(executor)
    .await
    .attempt(WRITE)?;
    Ok(deleted.rows_affected())
}

impl Store {
    /// Where the machine of a request is, if its node was chosen.
    pub async fn placement(&self, request_id: &str) -> Result<Option<Placement>, StoreError> {
        find(&self.pool, request_id).await
    }

    /// Where the machine of this name is.
    pub async fn placement_of_name(
        &self,
        app_id: &str,
        name: &MachineName,
    ) -> Result<Option<Placement>, StoreError> {
        let query = format!("{PLACEMENTS} WHERE p.app_id = $1 AND p.name = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(app_id)
            .bind(name.as_str())
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)?;
        row.as_ref().map(placement).transpose()
    }

    /// Records that the node of a request whose answer is not known is asked again.
    pub async fn ask_placement_again(
        &self,
        request_id: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE placements SET placed_at = $1 WHERE request_id = $2 AND machine IS NULL",
        )
        .bind(to_i64(now.as_ms()))
        .bind(request_id)
        .execute(&self.pool)
        .await
        .attempt(WRITE)?;
        Ok(())
    }

    /// Where all machines are.
    pub async fn placements(&self) -> Result<Vec<Placement>, StoreError> {
        let rows = sqlx::query(PLACEMENTS).fetch_all(&self.pool).await;
        rows.attempt(READ)?.iter().map(placement).collect()
    }

    /// What the machine of a request is to be.
    pub async fn blueprint(&self, request_id: &str) -> Result<Blueprint, StoreError> {
        let row = sqlx::query(
            "SELECT region, config, release_version, is_kept FROM placements WHERE request_id = $1",
        )
        .bind(request_id)
        .fetch_optional(&self.pool)
        .await
        .attempt(READ)?
        .ok_or_else(|| StoreError::NotFound(format!("machine of request `{request_id}`")))?;
        let config: String = row.try_get("config").attempt(READ)?;
        let release: Option<i64> = row.try_get("release_version").attempt(READ)?;
        Ok(Blueprint {
            region: parsed(&row, "region")?,
            config: serde_json::from_str(&config).map_err(|error| StoreError::Unreadable {
                operation: READ,
                value: error.to_string(),
            })?,
            release_version: release.map(to_u64),
            is_kept: flag(&row, "is_kept")?,
        })
    }

    /// Records the node that is about to be asked for a machine. `false`, and nothing changed,
    /// when one is recorded for the request. Fails with [`StoreError::Exists`] when another
    /// request of the app has the name.
    pub async fn begin_placement(
        &self,
        (request_id, app_id, name): (&str, &str, &MachineName),
        blueprint: &Blueprint,
        chosen: &Chosen,
    ) -> Result<bool, StoreError> {
        let config = to_json(&blueprint.config)?;
        let inserted = sqlx::query(
            "INSERT INTO placements (request_id, app_id, name, region, config, release_version,
                 is_kept, node, why, attempt, rests, placed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, $10)
             ON CONFLICT (request_id) DO NOTHING",
        )
        .bind(request_id)
        .bind(app_id)
        .bind(name.as_str())
        .bind(blueprint.region.as_str())
        .bind(config)
        .bind(blueprint.release_version.map(to_i64))
        .bind(i64::from(blueprint.is_kept))
        .bind(chosen.node.as_str())
        .bind(&chosen.why)
        .bind(to_i64(chosen.at.as_ms()))
        .execute(&self.pool)
        .await;
        match inserted {
            Err(error) if StoreError::is_unique(&error) => {
                Err(StoreError::Exists(format!("a machine named {name}")))
            }
            inserted => Ok(inserted.attempt(WRITE)?.rows_affected() > 0),
        }
    }

    /// Records that another node is asked, and what must not be on the one before: in one
    /// transaction. `false`, and nothing changed, when the placement is not as it was seen.
    pub async fn move_placement(
        &self,
        seen: &Placement,
        chosen: &Chosen,
        fence: Option<&Fence>,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        let moved = sqlx::query(
            "UPDATE placements SET node = $1, why = $2, placed_at = $3, attempt = attempt + 1,
                 machine = NULL, version = NULL, rests = 0
             WHERE request_id = $4 AND attempt = $5 AND machine IS $6 AND version IS $7
                 AND leaving_since IS NULL",
        )
        .bind(chosen.node.as_str())
        .bind(&chosen.why)
        .bind(to_i64(chosen.at.as_ms()))
        .bind(&seen.request_id)
        .bind(to_i64(seen.attempt))
        .bind(seen.machine.as_ref().map(MachineId::as_str))
        .bind(seen.version.as_ref().map(InstanceId::as_str))
        .execute(&mut *transaction)
        .await
        .attempt(WRITE)?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some(fence) = fence {
            fences::insert(&mut transaction, fence).await?;
        }
        transaction.commit().await.attempt(WRITE)?;
        Ok(true)
    }

    /// Records the machine that the node answered with. `false` when another node was asked
    /// meanwhile, or nobody wants it any more.
    pub async fn settle_placement(
        &self,
        request_id: &str,
        attempt: u64,
        (machine, version): (&MachineId, &InstanceId),
    ) -> Result<bool, StoreError> {
        // Also the answer to a repetition is recorded; of the version then, nothing is known.
        let settled = sqlx::query(
            "UPDATE placements SET machine = $1,
                 version = CASE WHEN machine IS NULL THEN $2 ELSE version END
             WHERE request_id = $3 AND attempt = $4",
        )
        .bind(machine.as_str())
        .bind(version.as_str())
        .bind(request_id)
        .bind(to_i64(attempt))
        .execute(&self.pool)
        .await
        .attempt(WRITE)?;
        Ok(settled.rows_affected() > 0)
    }

    /// Records what a machine is, or is to be.
    pub async fn change_placement(
        &self,
        machine: &MachineId,
        change: &Change,
    ) -> Result<(), StoreError> {
        self::change(&self.pool, machine, change).await
    }

    /// The same, unless the record is not as it was seen.
    pub async fn note_placement(
        &self,
        seen: &Placement,
        change: &Change,
    ) -> Result<(), StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        let now = find(&mut *transaction, &seen.request_id).await?;
        if let Some(machine) = &seen.machine
            && now.as_ref() == Some(seen)
        {
            self::change(&mut *transaction, machine, change).await?;
        }
        transaction.commit().await.attempt(WRITE)
    }

    /// Records since when a machine's removal is asked for. Since when it was before.
    pub async fn set_leaving(
        &self,
        machine: &MachineId,
        since: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        let before = sqlx::query("SELECT leaving_since FROM placements WHERE machine = $1")
            .bind(machine.as_str())
            .fetch_optional(&mut *transaction)
            .await
            .attempt(READ)?;
        let before = match &before {
            Some(row) => row.try_get::<Option<i64>, _>("leaving_since"),
            None => Ok(None),
        };
        let before = before.attempt(READ)?;
        sqlx::query("UPDATE placements SET leaving_since = $1 WHERE machine = $2")
            .bind(to_i64(since.as_ms()))
            .bind(machine.as_str())
            .execute(&mut *transaction)
            .await
            .attempt(WRITE)?;
        transaction.commit().await.attempt(WRITE)?;
        Ok(before.map(|ms| Timestamp::from_ms(to_u64(ms))))
    }

    /// Records that a removal did not happen, unless another one was asked for since: all is
    /// as it was `before`.
    pub async fn set_staying(
        &self,
        machine: &MachineId,
        since: Timestamp,
        before: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE placements SET leaving_since = $1 WHERE machine = $2 AND leaving_since = $3",
        )
        .bind(before.map(|before| to_i64(before.as_ms())))
        .bind(machine.as_str())
        .bind(to_i64(since.as_ms()))
        .execute(&self.pool)
        .await
        .attempt(WRITE)?;
        Ok(())
    }

    /// Forgets a machine that is removed.
    pub async fn forget_placement(&self, machine: &MachineId) -> Result<(), StoreError> {
        forget(&self.pool, machine).await
    }

    /// Forgets a request for a machine, unless it is not as it was seen.
    pub async fn give_up_placement(&self, seen: &Placement) -> Result<(), StoreError> {
        give_up(&self.pool, seen).await.map(drop)
    }

    /// Forgets a machine whose node cannot be asked, and records that it must not be: in one
    /// transaction.
    pub async fn fence_out(&self, machine: &MachineId, fence: &Fence) -> Result<(), StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        forget(&mut *transaction, machine).await?;
        fences::insert(&mut transaction, fence).await?;
        transaction.commit().await.attempt(WRITE)
    }

    /// Forgets a request that its node has not answered, and records that what came of it must
    /// not be: in one transaction. `false`, and nothing changed, when it is not as it was seen.
    pub async fn fence_request(&self, seen: &Placement, fence: &Fence) -> Result<bool, StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        if give_up(&mut *transaction, seen).await? == 0 {
            return Ok(false);
        }
        fences::insert(&mut transaction, fence).await?;
        transaction.commit().await.attempt(WRITE)?;
        Ok(true)
    }
}

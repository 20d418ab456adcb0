//! Which node has which machine, what is to be there, and what must not be there any more.

use crate::database::{to_i64, to_u64};
use crate::error::Attempt as _;
use crate::{Store, StoreError};
use roost_model::id::{MachineId, NodeId};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteExecutor, Transaction};

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
    /// Whether it rested when its node was last asked.
    pub rests: bool,
    /// Whether its removal was asked for, and the answer is not known.
    pub is_leaving: bool,
    /// When the node was chosen.
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

/// A machine that must not be on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The node.
    pub node: NodeId,
    /// The machine's app; it may be gone.
    pub app: AppName,
    /// The machine's name.
    pub name: MachineName,
    /// The machine; unknown when the answer to its creation was lost.
    pub machine: Option<MachineId>,
    /// Why it must not be.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
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

fn machine(row: &SqliteRow) -> Result<Option<MachineId>, StoreError> {
    let text: Option<String> = row.try_get("machine").attempt(READ)?;
    text.map(|_| parsed(row, "machine")).transpose()
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
        machine: machine(row)?,
        rests: flag(row, "rests")?,
        is_leaving: flag(row, "is_leaving")?,
        placed_at: time(row, "placed_at")?,
    })
}

fn fence(row: &SqliteRow) -> Result<Fence, StoreError> {
    Ok(Fence {
        node: parsed(row, "node")?,
        app: parsed(row, "app")?,
        name: parsed(row, "name")?,
        machine: machine(row)?,
        why: row.try_get("why").attempt(READ)?,
        since: time(row, "since")?,
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
           p.why, p.attempt, p.machine, p.rests, p.is_leaving, p.placed_at
    FROM placements p JOIN apps a ON a.id = p.app_id";

async fn insert_fence(
    transaction: &mut Transaction<'static, Sqlite>,
    fence: &Fence,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO fences (node, app, name, machine, why, since) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, app, name) DO UPDATE SET
             machine = COALESCE(excluded.machine, machine), why = excluded.why,
             since = excluded.since",
    )
    .bind(fence.node.as_str())
    .bind(fence.app.as_str())
    .bind(fence.name.as_str())
    .bind(fence.machine.as_ref().map(MachineId::as_str))
    .bind(&fence.why)
    .bind(to_i64(fence.since.as_ms()))
    .execute(&mut **transaction)
    .await
    .attempt(WRITE)?;
    Ok(())
}

/// Fences all machines of an app whose deletion has begun. Since then none was asked for.
pub(crate) async fn fence_all(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO fences (node, app, name, machine, why, since)
         SELECT p.node, a.name, p.name, p.machine, 'its app was deleted', a.deleting_at
         FROM placements p JOIN apps a ON a.id = p.app_id
         WHERE a.id = $1 AND a.deleting_at IS NOT NULL
         ON CONFLICT (node, app, name) DO UPDATE SET machine = COALESCE(excluded.machine, machine)",
    )
    .bind(app_id)
    .execute(&mut **transaction)
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
        "DELETE FROM placements WHERE request_id = $1 AND attempt = $2 AND machine IS $3",
    )
    .bind(&seen.request_id)
    .bind(to_i64(seen.attempt))
    .bind(seen.machine.as_ref().map(MachineId::as_str))
    .execute(executor)
    .await
    .attempt(WRITE)?;
    Ok(deleted.rows_affected())
}

impl Store {
    /// Where the machine of a request is, if its node was chosen.
    pub async fn placement(&self, request_id: &str) -> Result<Option<Placement>, StoreError> {
        let query = format!("{PLACEMENTS} WHERE p.request_id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(request_id)
            .fetch_optional(&self.pool)
            .await
            .attempt(READ)?;
        row.as_ref().map(placement).transpose()
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
                 is_kept, node, why, attempt, machine, rests, is_leaving, placed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, NULL, 0, 0, $10)
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
                 machine = NULL, rests = 0
             WHERE request_id = $4 AND attempt = $5 AND machine IS $6 AND is_leaving = 0",
        )
        .bind(chosen.node.as_str())
        .bind(&chosen.why)
        .bind(to_i64(chosen.at.as_ms()))
        .bind(&seen.request_id)
        .bind(to_i64(seen.attempt))
        .bind(seen.machine.as_ref().map(MachineId::as_str))
        .execute(&mut *transaction)
        .await
        .attempt(WRITE)?;
        if moved.rows_affected() == 0 {
            return Ok(false);
        }
        if let Some(fence) = fence {
            insert_fence(&mut transaction, fence).await?;
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
        machine: &MachineId,
    ) -> Result<bool, StoreError> {
        let settled = sqlx::query(
            "UPDATE placements SET machine = $1 WHERE request_id = $2 AND attempt = $3",
        )
        .bind(machine.as_str())
        .bind(request_id)
        .bind(to_i64(attempt))
        .execute(&self.pool)
        .await
        .attempt(WRITE)?;
        Ok(settled.rows_affected() > 0)
    }

    /// Records what a machine is to be from now on.
    pub async fn change_blueprint(
        &self,
        machine: &MachineId,
        blueprint: &Blueprint,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE placements SET config = $1, release_version = $2, is_kept = $3
             WHERE machine = $4",
        )
        .bind(to_json(&blueprint.config)?)
        .bind(blueprint.release_version.map(to_i64))
        .bind(i64::from(blueprint.is_kept))
        .bind(machine.as_str())
        .execute(&self.pool)
        .await
        .attempt(WRITE)?;
        Ok(())
    }

    /// Records whether a machine rests.
    pub async fn set_rests(&self, machine: &MachineId, rests: bool) -> Result<(), StoreError> {
        sqlx::query("UPDATE placements SET rests = $1 WHERE machine = $2")
            .bind(i64::from(rests))
            .bind(machine.as_str())
            .execute(&self.pool)
            .await
            .attempt(WRITE)?;
        Ok(())
    }

    /// Records that a machine's removal is asked for, or that it was refused.
    pub async fn set_leaving(&self, machine: &MachineId, leaves: bool) -> Result<(), StoreError> {
        sqlx::query("UPDATE placements SET is_leaving = $1 WHERE machine = $2")
            .bind(i64::from(leaves))
            .bind(machine.as_str())
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
        insert_fence(&mut transaction, fence).await?;
        transaction.commit().await.attempt(WRITE)
    }

    /// Forgets a request that its node has not answered, and records that what came of it must
    /// not be: in one transaction. `false`, and nothing changed, when it is not as it was seen.
    pub async fn fence_request(&self, seen: &Placement, fence: &Fence) -> Result<bool, StoreError> {
        let mut transaction = self.begin(WRITE).await?;
        if give_up(&mut *transaction, seen).await? == 0 {
            return Ok(false);
        }
        insert_fence(&mut transaction, fence).await?;
        transaction.commit().await.attempt(WRITE)?;
        Ok(true)
    }

    /// All that must not be.
    pub async fn fences(&self) -> Result<Vec<Fence>, StoreError> {
        let rows = sqlx::query("SELECT * FROM fences ORDER BY since, node, app, name")
            .fetch_all(&self.pool)
            .await;
        rows.attempt(READ)?.iter().map(fence).collect()
    }

    /// Forgets a fence: what must not be is not.
    pub async fn lift_fence(&self, fence: &Fence) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM fences WHERE node = $1 AND app = $2 AND name = $3")
            .bind(fence.node.as_str())
            .bind(fence.app.as_str())
            .bind(fence.name.as_str())
            .execute(&self.pool)
            .await
            .attempt(WRITE)?;
        Ok(())
    }
}

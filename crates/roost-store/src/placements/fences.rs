//! What must not be there any more.

use super::{READ, WRITE, parsed, parsed_if_any, time};
use crate::database::to_i64;
use crate::error::Attempt as _;
use crate::{Store, StoreError};
use roost_model::id::{MachineId, NodeId};
use roost_model::name::{AppName, MachineName};
use roost_model::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, Transaction};

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

fn fence(row: &SqliteRow) -> Result<Fence, StoreError> {
    Ok(Fence {
        node: parsed(row, "node")?,
        app: parsed(row, "app")?,
        name: parsed(row, "name")?,
        machine: parsed_if_any(row, "machine")?,
        why: row.try_get("why").attempt(READ)?,
        since: time(row, "since")?,
    })
}

pub(super) async fn insert(
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

/// Fences all machines of an app whose deletion has begun.
pub(crate) async fn fence_all(
    transaction: &mut Transaction<'static, Sqlite>,
    app_id: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO fences (node, app, name, machine, why, since)
         SELECT p.node, a.name, p.name, p.machine, 'its app was deleted', $2
         FROM placements p JOIN apps a ON a.id = p.app_id
         WHERE a.id = $1 AND a.deleting_at IS NOT NULL
         ON CONFLICT (node, app, name) DO UPDATE SET
             machine = COALESCE(excluded.machine, machine), since = excluded.since",
    )
    .bind(app_id)
    .bind(to_i64(now.as_ms()))
    .execute(&mut **transaction)
    .await
    .attempt(WRITE)?;
    Ok(())
}

impl Store {
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

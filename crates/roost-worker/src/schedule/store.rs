//! Schedules in the database.

use crate::api::requests::come_due;
use crate::store::row::{self, to_sql};
use crate::store::{SqliteContext as _, Store, StoreError, change_row};
use roost_model::id::MachineId;
use roost_model::time::Timestamp;
use roost_proto::worker::Lease;
use rusqlite::{Connection, params};

/// Machines that are due and that nobody holds a lease on, longest due first.
const DUE: &str = "WHERE due_ms <= ?1 AND NOT EXISTS (SELECT 1 FROM leases \
    WHERE machine_id = machines.id AND expires_ms > ?1 AND expires_ms <= ?2) \
    ORDER BY due_ms LIMIT ?3";

impl Store {
    /// Has at most `limit` machines that are due started, or records why not.
    /// Gives those whose record has changed.
    pub(super) async fn start_due(
        &self,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<MachineId>, StoreError> {
        let none = self.run(move |connection| Ok(due(connection, now, 1)?.is_empty()));
        if none.await? {
            return Ok(vec![]);
        }
        self.write(move |transaction| {
            let ids = due(transaction, now, limit)?;
            for id in &ids {
                let come = |row: &mut row::Row| come_due(row, now).into_iter().collect();
                change_row(transaction, id, now, |_, row| {
                    Ok(Ok::<_, std::convert::Infallible>(come(row)))
                })?;
            }
            Ok(ids)
        })
        .await
    }

    /// Puts right what a clock that was set back makes wrong.
    pub(super) async fn recount_schedules(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |transaction| {
            for row in row::select(transaction, "WHERE due_ms IS NOT NULL", [])? {
                let schedule = row.spec.schedule.as_ref();
                let due_at =
                    schedule.and_then(|schedule| schedule.due(row.created_at, row.due_at, now));
                if due_at == row.due_at {
                    continue;
                }
                tracing::warn!(machine_id = %row.id, "the clock was set back; schedule counted anew");
                let due_ms = due_at.map(|at| to_sql(at.as_ms()));
                transaction
                    .execute(
                        "UPDATE machines SET due_ms = ?2 WHERE id = ?1",
                        params![row.id.as_str(), due_ms],
                    )
                    .during("record when a schedule is due")?;
            }
            Ok(())
        })
        .await
    }
}

fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<MachineId>, StoreError> {
    let [now, until] = row::ends_of_holding(now, Lease::TTL_MAX);
    let rows = row::select(connection, DUE, params![now, until, limit])?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

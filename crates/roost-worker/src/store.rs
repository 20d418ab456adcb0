//! The worker's database: the record of what is wanted and what is.
//!
//! One connection behind a lock, used on blocking threads. Every change is one
//! transaction that reads a row, changes it and appends events; WAL with
//! `synchronous=FULL`, so what was answered is on disk.

mod error;
mod leases;
pub(crate) mod row;
mod schema;

pub(crate) use error::{SqliteContext, StoreError};

use crate::capacity::rows::{admit, admit_resize};
use crate::capacity::{Admission, NoRoom};
use crate::limits;
use crate::operations::{self, Note};
use leases::LeaseRefusal;
use parking_lot::Mutex;
use roost_model::id::MachineId;
use roost_model::name::AppName;
use roost_model::placement::{Capacity, Shortage};
use roost_model::time::Timestamp;
use roost_proto::worker::{Asker, MachineEvent, TakeLease};
use roost_runtime::points;
use row::{NewEvent, Row};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Machines and their events on disk. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
    #[cfg(test)]
    pub(crate) power: Arc<crate::tests::power::Power>,
}

/// What an insertion came to.
pub(crate) enum Inserted {
    /// The machine is new.
    New(Row),
    /// An earlier request with this id made this machine.
    Repeated(Row),
    /// The app has a machine of this name.
    NameTaken(MachineId),
    /// There is no room for it.
    NoRoom(NoRoom),
}

impl Store {
    /// Opens or makes the database and brings it up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path).during("open file")?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .during("set busy time-out")?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .during("set journal mode")?;
        connection
            .pragma_update(None, "synchronous", "FULL")
            .during("set synchronous mode")?;
        connection
            .pragma_update(None, "foreign_keys", "ON")
            .during("set foreign keys")?;
        schema::migrate(&mut connection)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            #[cfg(test)]
            power: Arc::default(),
        })
    }

    /// Waits until no work is under way that had begun.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        drop(self.connection.lock());
    }

    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || work(&mut connection.lock()))
            .await
            .map_err(|_| StoreError::CutOff)?
    }

    /// Runs a transaction that writes.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        #[cfg(test)]
        let (n, power) = (self.power.before_write().await, self.power.clone());
        points::pass("worker.db-before-write");
        let result = self
            .run(move |connection| {
                #[cfg(test)]
                if power.is_cut() {
                    return Err(StoreError::CutOff);
                }
                let transaction = connection
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .during("begin transaction")?;
                let value = work(&transaction)?;
                points::pass("worker.db-before-commit");
                transaction.commit().during("commit")?;
                Ok(value)
            })
            .await;
        points::pass("worker.db-written");
        #[cfg(test)]
        self.power.after_write(n).await;
        result
    }

    /// Every machine, destroyed ones as well.
    pub(crate) async fn all(&self) -> Result<Vec<Row>, StoreError> {
        self.run(|connection| row::select(connection, "ORDER BY created_ms, id", []))
            .await
    }

    /// Machines that are not destroyed, all or of one app.
    pub(crate) async fn living(&self, app: Option<AppName>) -> Result<Vec<Row>, StoreError> {
        self.run(move |connection| {
            let app = app.map(String::from);
            let filter =
                "WHERE state <> 'destroyed' AND (?1 IS NULL OR app = ?1) ORDER BY created_ms, id";
            row::select(connection, filter, [app])
        })
        .await
    }

    /// Machines of an app that are destroyed, as long as they are on record.
    pub(crate) async fn destroyed(&self, app: AppName) -> Result<Vec<Row>, StoreError> {
        self.run(move |connection| {
            let filter = "WHERE state = 'destroyed' AND app = ?1 ORDER BY created_ms, id";
            row::select(connection, filter, [app.as_str()])
        })
        .await
    }

    /// One machine.
    pub(crate) async fn get(&self, id: &MachineId) -> Result<Option<Row>, StoreError> {
        let id = id.clone();
        self.run(move |connection| get_row(connection, &id)).await
    }

    /// Records a new machine, if it is admitted, and gives it a slot. Its history says who
    /// asked for it, and why here.
    pub(crate) async fn insert(
        &self,
        mut row: Row,
        admission: Admission,
        (asker, placement): (Asker, Option<String>),
        lease: Option<TakeLease>,
    ) -> Result<Inserted, StoreError> {
        self.write(move |transaction| {
            let by_request = row::select(transaction, "WHERE request_id = ?1", [&row.request_id])?;
            if let Some(earlier) = by_request.into_iter().next() {
                return Ok(Inserted::Repeated(earlier));
            }
            let filter = "WHERE app = ?1 AND name = ?2 AND state <> 'destroyed'";
            let names = [row.spec.app.as_str(), row.spec.name.as_str()];
            if let Some(other) = row::select(transaction, filter, names)?.into_iter().next() {
                return Ok(Inserted::NameTaken(other.id));
            }
            if let Err(reason) = admit(transaction, &admission, row.spec.guest, row.created_at)? {
                return Ok(Inserted::NoRoom(reason));
            }
            let max = admission.capacity.n_machines;
            let Some(slot) = free_slot(transaction, max)? else {
                return Ok(Inserted::NoRoom(NoRoom::Shortage(Shortage::Machines {
                    max,
                })));
            };
            row.slot = Some(slot);
            row::insert(transaction, &row)?;
            let mut event = NewEvent::asked("create", &asker.cause);
            if let Some(placement) = placement {
                event.detail["placement"] = placement.into();
            }
            append_event(transaction, &row, &event, row.created_at)?;
            if let Some(lease) = &lease {
                leases::write(transaction, &row, lease, &asker, row.created_at)?;
            }
            Ok(Inserted::New(row))
        })
        .await
    }

    /// Changes a machine's row in one transaction. `change` may refuse, and
    /// then nothing is changed; the events it returns are appended. Before it,
    /// `notes` are written of the operation under way.
    /// `None` when there is no such machine.
    pub(crate) async fn change<E, F>(
        &self,
        id: &MachineId,
        now: Timestamp,
        notes: Vec<Note>,
        change: F,
    ) -> Result<Option<Result<Row, E>>, StoreError>
    where
        E: Send + 'static,
        F: FnOnce(&mut Row) -> Result<Vec<NewEvent>, E> + Send + 'static,
    {
        let id = id.clone();
        self.write(move |transaction| {
            operations::note(transaction, &id, &notes, now)?;
            change_row(transaction, &id, now, |_, row| Ok(change(row)))
        })
        .await
    }

    /// The same without notes, for a change that somebody asks for, who may hold no
    /// lease, and that may be of the machine's size; refused when there is no room for the
    /// new one.
    pub(crate) async fn change_in_room<E, F>(
        &self,
        id: &MachineId,
        (asker, now): (Asker, Timestamp),
        capacity: Capacity,
        change: F,
    ) -> Result<Option<Result<Row, E>>, StoreError>
    where
        E: From<NoRoom> + From<LeaseRefusal> + Send + 'static,
        F: FnOnce(&mut Row) -> Result<Vec<NewEvent>, E> + Send + 'static,
    {
        let id = id.clone();
        self.write(move |transaction| {
            change_row(transaction, &id, now, |transaction, row| {
                if let Err(refusal) = leases::admit(transaction, &row.id, &asker, now)? {
                    return Ok(Err(refusal.into()));
                }
                let old = row.spec.guest;
                let events = match change(row) {
                    Ok(events) => events,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                let sizes = (old, row.spec.guest);
                let admitted = admit_resize(transaction, &capacity, sizes, now)?;
                Ok(admitted.map(|()| events).map_err(E::from))
            })
        })
        .await
    }

    /// Remembers which services were healthy, for the next start of `roostd`.
    pub(crate) async fn remember_health(
        &self,
        id: &MachineId,
        healthy: Vec<bool>,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.run(move |connection| {
            let json = serde_json::json!(healthy).to_string();
            connection
                .execute(
                    "UPDATE machines SET healthy = ?2 WHERE id = ?1",
                    params![id.as_str(), json],
                )
                .during("remember health")?;
            Ok(())
        })
        .await
    }

    /// The newest events of a machine, newest first.
    pub(crate) async fn events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, StoreError> {
        let id = id.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(move |connection| row::select_events(connection, &id, limit))
            .await
    }

    /// Drops the records of machines destroyed longer ago than `retention`.
    pub(crate) async fn forget_destroyed(
        &self,
        now: Timestamp,
        retention: Duration,
    ) -> Result<Vec<MachineId>, StoreError> {
        self.run(move |connection| {
            let all = row::select(connection, "WHERE state = 'destroyed'", [])?;
            let old = all
                .into_iter()
                .filter(|row| now.since(row.updated_at) >= retention);
            let ids: Vec<MachineId> = old.map(|row| row.id).collect();
            for id in &ids {
                connection
                    .execute("DELETE FROM machines WHERE id = ?1", [id.as_str()])
                    .during("forget machine")?;
            }
            Ok(ids)
        })
        .await
    }
}

pub(crate) fn get_row(connection: &Connection, id: &MachineId) -> Result<Option<Row>, StoreError> {
    Ok(row::select(connection, "WHERE id = ?1", [id.as_str()])?
        .into_iter()
        .next())
}

pub(crate) fn change_row<E>(
    transaction: &Transaction<'_>,
    id: &MachineId,
    now: Timestamp,
    change: impl FnOnce(&Transaction<'_>, &mut Row) -> Result<Result<Vec<NewEvent>, E>, StoreError>,
) -> Result<Option<Result<Row, E>>, StoreError> {
    let Some(mut row) = get_row(transaction, id)? else {
        return Ok(None);
    };
    let events = match change(transaction, &mut row)? {
        Ok(events) => events,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    row.updated_at = now;
    row::update(transaction, &row)?;
    for event in &events {
        append_event(transaction, &row, event, now)?;
    }
    Ok(Some(Ok(row)))
}

/// The next free slot after the one given last, so that an address is not
/// used again while somebody may still have a connection to its last owner.
fn free_slot(transaction: &Transaction<'_>, n_slots: u32) -> Result<Option<u32>, StoreError> {
    let last: Option<u32> = transaction
        .query_row(
            "SELECT value FROM facts WHERE name = 'last_slot'",
            [],
            |row| row.get(0),
        )
        .optional()
        .during("read last slot")?;
    let mut statement = transaction
        .prepare_cached("SELECT slot FROM machines WHERE slot IS NOT NULL")
        .during("read slots")?;
    let taken: std::collections::BTreeSet<u32> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .during("read slots")?;
    let first = last.map_or(0, |last| last.saturating_add(1));
    let slot = (first..n_slots)
        .chain(0..first.min(n_slots))
        .find(|slot| !taken.contains(slot));
    if let Some(slot) = slot {
        transaction
            .execute(
                "INSERT OR REPLACE INTO facts (name, value) VALUES ('last_slot', ?1)",
                [slot],
            )
            .during("write last slot")?;
    }
    Ok(slot)
}

fn append_event(
    transaction: &Transaction<'_>,
    row: &Row,
    event: &NewEvent,
    now: Timestamp,
) -> Result<(), StoreError> {
    row::insert_event(transaction, &row.id, row.state, event, now)?;
    if let Some(kind) = operations::opened_by(event) {
        let cause = event.detail["cause"].to_string();
        operations::begin(transaction, &row.id, kind, &cause, now)?;
    }
    transaction
        .execute(
            "DELETE FROM events WHERE machine_id = ?1 AND seq <= \
             (SELECT MAX(seq) FROM events WHERE machine_id = ?1) - ?2",
            params![row.id.as_str(), limits::EVENTS_PER_MACHINE_MAX],
        )
        .during("trim events")?;
    Ok(())
}

#[cfg(test)]
mod tests;

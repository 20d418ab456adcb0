//! Operations in the worker's database.

use super::{End, Note, list, note};
use crate::limits;
use crate::store::row::{self, Row};
use crate::store::{Store, StoreError, get_row};
use roost_fsm::{Run, Story, sqlite};
use roost_model::id::{MachineId, RunId};
use roost_model::time::Timestamp;
use roost_proto::worker::OperationFilter;

impl Store {
    /// Notes of the operation of a machine; nothing when it has none.
    pub(crate) async fn note(
        &self,
        id: &MachineId,
        notes: Vec<Note>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        self.write(move |transaction| note(transaction, &id, &notes, now))
            .await
    }

    /// Operations, newest first, without their steps.
    pub(crate) async fn operations(&self, filter: OperationFilter) -> Result<Vec<Run>, StoreError> {
        self.run(move |connection| {
            let of = |machine: Option<&MachineId>| {
                list(connection, machine, filter.only_unfinished, filter.limit)
            };
            let Some(app) = &filter.app else {
                return of(filter.machine.as_ref());
            };
            let mut runs = vec![];
            for row in row::select(connection, "WHERE app = ?1", [app.as_str()])? {
                if filter
                    .machine
                    .as_ref()
                    .is_none_or(|wanted| *wanted == row.id)
                {
                    runs.extend(of(Some(&row.id))?);
                }
            }
            runs.sort_by(|a, b| b.id.cmp(&a.id));
            runs.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
            Ok(runs)
        })
        .await
    }

    /// Ends the operation of a machine that is under way, if `end` says how, by
    /// the machine's row and the operation's kind as they are now.
    pub(crate) async fn end_operation(
        &self,
        machine: &MachineId,
        now: Timestamp,
        end: impl FnOnce(&Row, &str) -> Option<End> + Send + 'static,
    ) -> Result<(), StoreError> {
        let under_way = {
            let machine = machine.clone();
            self.run(move |connection| list(connection, Some(&machine), true, 1))
        };
        if under_way.await?.is_empty() {
            return Ok(());
        }
        let machine = machine.clone();
        self.write(move |transaction| {
            let run = list(transaction, Some(&machine), true, 1)?.pop();
            let row = get_row(transaction, &machine)?;
            let (Some(run), Some(row)) = (run, row) else {
                return Ok(());
            };
            match end(&row, &run.kind.name) {
                Some(end) => note(transaction, &machine, &[Note::Ended(end)], now),
                None => Ok(()),
            }
        })
        .await
    }

    /// One operation with its steps.
    pub(crate) async fn operation(&self, id: &RunId) -> Result<Option<Story>, StoreError> {
        let id = id.clone();
        self.run(move |connection| Ok(sqlite::load(connection, &id)?))
            .await
    }

    /// Ends the operations that a kill left open of machines that are gone and
    /// have no owner any more.
    pub(crate) async fn end_operations_of_the_gone(
        &self,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |transaction| {
            for row in row::select(transaction, "WHERE state = 'destroyed'", [])? {
                note(transaction, &row.id, &[Note::Ended(End::Succeeded)], now)?;
            }
            Ok(())
        })
        .await
    }

    /// Forgets old operations.
    pub(crate) async fn forget_operations(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.write(move |transaction| {
            Ok(sqlite::prune(transaction, &limits::OPERATIONS_KEPT, now)?)
        })
        .await
    }
}

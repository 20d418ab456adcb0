//! The worker's interface: writes what is wanted, wakes the owner, answers.
//!
//! Nothing here acts on a machine. A change is carried by a task of its own,
//! so that a caller that goes away changes nothing about it.

mod act;
mod leases;
pub(crate) mod requests;
mod wait;

use crate::drivers::Standing;
use crate::limits;
use crate::operations;
use crate::store::StoreError;
use crate::worker::Worker;
use async_trait::async_trait;
use roost_host::driver::DriverError;
use roost_model::error::chain;
use roost_model::id::{MachineId, ReservationId, RunId};
use roost_model::machine::StopSignal;
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn store_failure(error: &StoreError) -> WorkerError {
    tracing::error!(error = chain(error), "worker database failed");
    if error.is_no_space() {
        WorkerError::DiskFull(chain(error))
    } else {
        WorkerError::Internal(chain(error))
    }
}

fn driver_error(id: &MachineId, error: &DriverError) -> WorkerError {
    match error {
        DriverError::NotRunning(_) => {
            WorkerError::Conflict(format!("machine {id} does not run; start it first"))
        }
        DriverError::Refused(reason) => WorkerError::Invalid(reason.clone()),
        other => WorkerError::Internal(chain(other)),
    }
}

#[async_trait]
impl WorkerApi for Worker {
    async fn capacity(&self) -> Result<NodeView, WorkerError> {
        self.node_view().await
    }

    async fn reserve(&self, request: Reserve) -> Result<Reservation, WorkerError> {
        self.reserve_room(request).await
    }

    async fn release(&self, id: &ReservationId) -> Result<(), WorkerError> {
        self.release_room(id).await
    }

    async fn create_machine(
        &self,
        request: CreateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let asker = asker.clone();
        self.shielded(|inner| inner.create(request, asker)).await
    }

    async fn update_machine(
        &self,
        id: &MachineId,
        request: UpdateMachine,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| inner.update(id, request, asker))
            .await
    }

    async fn machine(&self, id: &MachineId) -> Result<MachineStatus, WorkerError> {
        Ok(self.inner.status(self.row(id).await?))
    }

    async fn machines(&self, app: Option<&AppName>) -> Result<Vec<MachineStatus>, WorkerError> {
        let rows = self
            .inner
            .store
            .living(app.cloned())
            .await
            .map_err(|error| store_failure(&error))?;
        Ok(rows.into_iter().map(|row| self.inner.status(row)).collect())
    }

    async fn destroyed_machines(&self, app: &AppName) -> Result<Vec<MachineStatus>, WorkerError> {
        let rows = self.inner.store.destroyed(app.clone()).await;
        let rows = rows.map_err(|error| store_failure(&error))?;
        Ok(rows.into_iter().map(|row| self.inner.status(row)).collect())
    }

    async fn start_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.change(id, asker, requests::start).await
    }

    async fn stop_machine(
        &self,
        id: &MachineId,
        signal: Option<StopSignal>,
        timeout: Option<Duration>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let timeout_max = Duration::from_secs(roost_model::limits::STOP_TIMEOUT_MAX_SECONDS);
        if timeout.is_some_and(|timeout| timeout > timeout_max) {
            return Err(WorkerError::Invalid(format!(
                "stop time-out is longer than {} s",
                timeout_max.as_secs()
            )));
        }
        self.change(id, asker, move |row| requests::stop(row, signal, timeout))
            .await
    }

    async fn suspend_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let row = self.row(id).await?;
        if let Some(rung) = row.rung {
            let driver = self.inner.drivers.of(rung);
            let driver = driver.map_err(|error| driver_error(id, &error))?;
            if !driver.can_suspend() {
                return Err(WorkerError::CannotSuspend {
                    machine: id.clone(),
                    rung,
                });
            }
        }
        self.change(id, asker, requests::suspend).await
    }

    async fn rungs(&self) -> Result<Vec<RungStatus>, WorkerError> {
        let standings = self.inner.drivers.standings().into_iter();
        let status = |(rung, standing)| RungStatus {
            rung,
            refusal: match standing {
                Standing::Proven => None,
                Standing::Proving => Some("it is being tried with a first guest".to_owned()),
                Standing::Refused(reason) => Some(reason),
            },
        };
        Ok(standings.map(status).collect())
    }

    async fn restart_machine(
        &self,
        id: &MachineId,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        self.change(id, asker, requests::restart).await
    }

    async fn signal_machine(
        &self,
        id: &MachineId,
        signal: StopSignal,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let now = self.inner.clock.now();
        let admitted = self.inner.store.admit_asker(id, asker.clone(), now).await;
        admitted.map_err(|error| store_failure(&error))??;
        asker.check_version(id, &self.row(id).await?.instance_id)?;
        let driver = self.driver_of_running(id).await?;
        let sent = driver.signal(id, signal.number()).await;
        sent.map_err(|error| driver_error(id, &error))
    }

    async fn destroy_machine(
        &self,
        id: &MachineId,
        force: bool,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| async move {
            let destroy = move |row: &mut _| requests::destroy(row, force);
            inner.change(&id, asker, destroy).await?;
            inner.board.update(&id, |entry| entry.cordoned = true);
            Ok(())
        })
        .await
    }

    async fn set_cordoned(
        &self,
        id: &MachineId,
        cordoned: bool,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| async move {
            let row = inner
                .change(&id, asker, move |row| requests::set_cordoned(row, cordoned))
                .await?;
            inner.board.update(&id, |entry| entry.cordoned = cordoned);
            Ok(inner.status(row))
        })
        .await
    }

    async fn set_metadata(
        &self,
        id: &MachineId,
        key: &str,
        value: Option<String>,
        asker: &Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let (id, key, asker) = (id.clone(), key.to_owned(), asker.clone());
        self.shielded(|inner| async move {
            let row = inner
                .change(&id, asker, move |row| {
                    requests::set_metadata(row, key, value)
                })
                .await?;
            let split = row.spec.split().map(Arc::new);
            inner.board.update(&id, |entry| entry.split = split);
            Ok(inner.status(row))
        })
        .await
    }

    async fn take_lease(
        &self,
        id: &MachineId,
        request: TakeLease,
        asker: &Asker,
    ) -> Result<Lease, WorkerError> {
        self.give_lease(id, request, asker).await
    }

    async fn lease(&self, id: &MachineId, asker: &Asker) -> Result<Option<Lease>, WorkerError> {
        self.lease_of(id, asker).await
    }

    async fn release_lease(
        &self,
        id: &MachineId,
        how: ReleaseLease,
        asker: &Asker,
    ) -> Result<(), WorkerError> {
        self.take_lease_back(id, how, asker).await
    }

    async fn wait_machine(
        &self,
        id: &MachineId,
        wait: WaitFor,
    ) -> Result<MachineStatus, WorkerError> {
        let timeout = wait.timeout.min(limits::WAIT_MAX);
        match tokio::time::timeout(timeout, self.inner.reach(id, &wait)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let states: Vec<&str> = wait.states.iter().map(|state| state.as_str()).collect();
                Err(WorkerError::WaitTimeout {
                    machine: id.clone(),
                    state: self.row(id).await?.state.as_str(),
                    wanted: states.join(" or "),
                    seconds: timeout.as_secs(),
                })
            }
        }
    }

    async fn machine_events(
        &self,
        id: &MachineId,
        limit: usize,
    ) -> Result<Vec<MachineEvent>, WorkerError> {
        self.row(id).await?;
        self.inner
            .store
            .events(id, limit)
            .await
            .map_err(|error| store_failure(&error))
    }

    async fn operations(&self, filter: OperationFilter) -> Result<Vec<Operation>, WorkerError> {
        let found = self.inner.store.operations(filter).await;
        let runs = found.map_err(|error| store_failure(&error))?;
        Ok(runs.iter().map(operations::operation).collect())
    }

    async fn operation(&self, id: &RunId) -> Result<Option<Operation>, WorkerError> {
        let found = self.inner.store.operation(id).await;
        let story = found.map_err(|error| store_failure(&error))?;
        Ok(story.as_ref().map(operations::operation_with_steps))
    }

    async fn exec(&self, id: &MachineId, command: ExecCommand) -> Result<ExecOutcome, WorkerError> {
        if command.command.first().is_none_or(String::is_empty) {
            return Err(WorkerError::Invalid("the command is empty".into()));
        }
        let driver = self.driver_of_running(id).await?;
        let outcome = driver.exec(id, command).await;
        outcome.map_err(|error| driver_error(id, &error))
    }

    async fn processes(&self, id: &MachineId) -> Result<Vec<Process>, WorkerError> {
        let driver = self.driver_of_running(id).await?;
        let processes = driver.processes(id).await;
        processes.map_err(|error| driver_error(id, &error))
    }

    async fn listening_sockets(&self, id: &MachineId) -> Result<Vec<ListeningSocket>, WorkerError> {
        let driver = self.driver_of_running(id).await?;
        let sockets = driver.listening_sockets(id).await;
        sockets.map_err(|error| driver_error(id, &error))
    }
}

/// A row as a creation makes it.
#[cfg(test)]
pub(crate) fn new_row_for_tests(
    id: MachineId,
    request: CreateMachine,
    now: roost_model::time::Timestamp,
) -> crate::store::row::Row {
    requests::new_row(id, request, vec![], now)
}

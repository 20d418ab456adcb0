//! The worker's interface: writes what is wanted, wakes the owner, answers.
//!
//! Nothing here acts on a machine. A change is carried by a task of its own,
//! so that a caller that goes away changes nothing about it.

mod leases;
pub(crate) mod requests;

use crate::drivers::Standing;
use crate::limits;
use crate::operations;
use crate::store::row::{NewEvent, Row};
use crate::store::{Inserted, StoreError};
use crate::worker::{Inner, Worker, entry_of};
use async_trait::async_trait;
use requests::Refusal;
use roost_host::driver::{DriverError, MachineDriver};
use roost_model::error::chain;
use roost_model::id::{InstanceId, MachineId, ReservationId, RunId};
use roost_model::machine::{MachineState, StopSignal};
use roost_model::name::AppName;
use roost_model::placement::NodeView;
use roost_proto::worker::{
    Asker, CreateMachine, ExecCommand, ExecOutcome, Lease, ListeningSocket, MachineEvent,
    MachineStatus, Operation, OperationFilter, Process, ReleaseLease, Reservation, Reserve,
    RungStatus, TakeLease, UpdateMachine, WaitFor, WorkerApi, WorkerError,
};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

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

impl Worker {
    /// Runs `work` in a task of its own and waits for its answer.
    pub(crate) async fn shielded<T, F>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, WorkerError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, WorkerError>> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let work = work(Arc::clone(&self.inner));
        self.inner.tasks.spawn("worker request", async move {
            // A caller that went away does not want the answer.
            let _ = answer.send(work.await);
        });
        answered
            .await
            .unwrap_or_else(|_| Err(WorkerError::Internal("request was cut off".into())))
    }

    /// Changes what is wanted of a machine and wakes its owner.
    async fn change<F>(
        &self,
        id: &MachineId,
        asker: &Asker,
        change: F,
    ) -> Result<MachineStatus, WorkerError>
    where
        F: FnOnce(&mut Row) -> Result<Option<&'static str>, Refusal> + Send + 'static,
    {
        let (id, asker) = (id.clone(), asker.clone());
        self.shielded(|inner| async move {
            let row = inner.change(&id, asker, change).await?;
            Ok(inner.status(row))
        })
        .await
    }

    async fn row(&self, id: &MachineId) -> Result<Row, WorkerError> {
        let found = self
            .inner
            .store
            .get(id)
            .await
            .map_err(|error| store_failure(&error))?;
        found.ok_or_else(|| WorkerError::NotFound(id.clone()))
    }

    async fn running_row(&self, id: &MachineId) -> Result<Row, WorkerError> {
        let row = self.row(id).await?;
        match row.state {
            MachineState::Started | MachineState::Stopping => Ok(row),
            MachineState::Created
            | MachineState::Starting
            | MachineState::Stopped
            | MachineState::Suspending
            | MachineState::Suspended
            | MachineState::Failed
            | MachineState::Destroying
            | MachineState::Destroyed => Err(WorkerError::Conflict(format!(
                "machine {id} is {}; this needs a started machine",
                row.state.as_str()
            ))),
        }
    }
}

impl Worker {
    async fn driver_of_running(
        &self,
        id: &MachineId,
    ) -> Result<Arc<dyn MachineDriver>, WorkerError> {
        let row = self.running_row(id).await?;
        let driver = self.inner.driver_of(id, row.rung);
        driver.map_err(|error| driver_error(id, &error))
    }
}

impl Inner {
    /// `change` gives the kind of the event that it is, unless it changes nothing.
    async fn change<F>(
        self: &Arc<Self>,
        id: &MachineId,
        asker: Asker,
        change: F,
    ) -> Result<Row, WorkerError>
    where
        F: FnOnce(&mut Row) -> Result<Option<&'static str>, Refusal> + Send + 'static,
    {
        let (now, capacity) = (self.clock.now(), self.config.capacity());
        let seen = asker.clone();
        let change = move |row: &mut Row| {
            seen.check_version(&row.id, &row.instance_id)?;
            match change(row) {
                Ok(Some(kind)) => Ok(vec![NewEvent::asked(kind, &seen.cause)]),
                Ok(None) => Ok(vec![]),
                Err(Refusal(reason)) => Err(WorkerError::Conflict(reason)),
            }
        };
        let changed = self
            .store
            .change_in_room(id, (asker, now), capacity, change);
        let changed = changed.await;
        let changed = changed.map_err(|error| store_failure(&error))?;
        let row = changed.ok_or_else(|| WorkerError::NotFound(id.clone()))??;
        self.notify(id);
        self.kick(id);
        Ok(row)
    }

    async fn create(
        self: Arc<Self>,
        request: CreateMachine,
        asker: Asker,
    ) -> Result<MachineStatus, WorkerError> {
        if request.request_id.is_empty() || request.request_id.len() > limits::REQUEST_ID_BYTES_MAX
        {
            return Err(WorkerError::Invalid(format!(
                "request id has {} characters; 1 to {} are possible",
                request.request_id.len(),
                limits::REQUEST_ID_BYTES_MAX
            )));
        }
        if request.spec.region != self.config.region {
            return Err(WorkerError::Invalid(format!(
                "region is {}, and this node is in {}",
                request.spec.region, self.config.region
            )));
        }
        if let Some(lease) = &request.lease {
            leases::check(lease)?;
        }
        let id = MachineId::from_bytes(rand::random());
        let secrets = self
            .seal_secrets(&id, &request.secrets)
            .map_err(WorkerError::Internal)?;
        let admission = self.admission(request.reservation.clone());
        let lease = request.lease.clone();
        let placement = request.placement.clone().map(|mut text| {
            text.truncate(text.floor_char_boundary(limits::PLACEMENT_BYTES_MAX));
            text
        });
        let row = requests::new_row(id, request, secrets, self.clock.now());
        let (app, name) = (row.spec.app.clone(), row.spec.name.clone());
        let inserted = self
            .store
            .insert(row, admission, (asker, placement), lease)
            .await;
        match inserted.map_err(|error| store_failure(&error))? {
            Inserted::New(row) => {
                self.board.put([(row.id.clone(), entry_of(&self, &row))]);
                self.own(&row, None);
                Ok(self.status(row))
            }
            Inserted::Repeated(row) => Ok(self.status(row)),
            Inserted::NameTaken(other) => Err(WorkerError::Conflict(format!(
                "app {app} has a machine named {name} already: {other}; choose another name or destroy it"
            ))),
            Inserted::NoRoom(reason) => Err(reason.into()),
        }
    }

    async fn update(
        self: Arc<Self>,
        id: MachineId,
        request: UpdateMachine,
        asker: Asker,
    ) -> Result<MachineStatus, WorkerError> {
        let secrets = self
            .seal_secrets(&id, &request.secrets)
            .map_err(WorkerError::Internal)?;
        let instance_id = InstanceId::from_ulid(ulid::Ulid::generate());
        let now = self.clock.now();
        let row = self
            .change(&id, asker, move |row| {
                requests::update(row, request, secrets, instance_id, now)
            })
            .await?;
        // What rests shows its new services at once; what runs, when it starts anew.
        if row.state.is_settled() && row.state != MachineState::Started && !row.vm_live {
            self.board
                .update(&id, |entry| entry.services.clone_from(&row.spec.services));
        }
        Ok(self.status(row))
    }

    /// Whether an event after this one led to one of the states.
    async fn was_reached(
        &self,
        id: &MachineId,
        states: &[MachineState],
        seq: u64,
    ) -> Result<bool, WorkerError> {
        let events = self
            .store
            .events(id, limits::EVENTS_PER_MACHINE_MAX as usize);
        let events = events.await.map_err(|error| store_failure(&error))?;
        let mut newer = events.iter().take_while(|event| event.seq > seq);
        Ok(newer.any(|event| states.contains(&event.state)))
    }

    /// Waits for a state without a bound on time; the caller has one.
    async fn reach(&self, id: &MachineId, wait: &WaitFor) -> Result<MachineStatus, WorkerError> {
        loop {
            // Subscribed before the row is read, so that no change is missed.
            let changes = self.changes(id);
            let row = self
                .store
                .get(id)
                .await
                .map_err(|error| store_failure(&error))?;
            let row = row.ok_or_else(|| WorkerError::NotFound(id.clone()))?;
            if let Some(instance_id) = &wait.instance_id
                && *instance_id != row.instance_id
            {
                return Err(WorkerError::Conflict(format!(
                    "machine {id} has version {} now; {instance_id} was replaced",
                    row.instance_id
                )));
            }
            let is_reached = match wait.after_event {
                None => wait.states.contains(&row.state),
                Some(seq) => self.was_reached(id, &wait.states, seq).await?,
            };
            if is_reached {
                return Ok(self.status(row));
            }
            let is_changed = match changes {
                Some(mut changes) => changes.changed().await.is_ok(),
                None => false,
            };
            if !is_changed {
                // No owner: nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
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
        self.change(id, asker, move |row| requests::destroy(row, force))
            .await
            .map(drop)
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
        let key = key.to_owned();
        self.change(id, asker, move |row| {
            requests::set_metadata(row, key, value)
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
) -> Row {
    requests::new_row(id, request, vec![], now)
}

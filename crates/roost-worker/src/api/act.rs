//! How a request is carried out: in a task of its own, in one transaction, and
//! with the owner woken.

use super::requests::{self, Refusal};
use super::{driver_error, leases, store_failure};
use crate::board::Entry;
use crate::limits;
use crate::store::Inserted;
use crate::store::row::{NewEvent, Row};
use crate::worker::{Inner, Worker, entry_of};
use roost_host::driver::MachineDriver;
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::MachineState;
use roost_proto::worker::{Asker, CreateMachine, MachineStatus, UpdateMachine, WorkerError};
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

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
    pub(crate) async fn change<F>(
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

    pub(super) async fn row(&self, id: &MachineId) -> Result<Row, WorkerError> {
        let found = self
            .inner
            .store
            .get(id)
            .await
            .map_err(|error| store_failure(&error))?;
        found.ok_or_else(|| WorkerError::NotFound(id.clone()))
    }

    pub(super) async fn running_row(&self, id: &MachineId) -> Result<Row, WorkerError> {
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
    pub(super) async fn driver_of_running(
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
    pub(super) async fn change<F>(
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

    pub(super) async fn create(
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

    pub(super) async fn update(
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
            self.board.update(&id, |entry| {
                entry.services = Entry::services_of(&row.spec);
                entry.is_standby = row.spec.is_standby();
            });
        }
        Ok(self.status(row))
    }
}

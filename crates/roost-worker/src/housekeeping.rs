//! The periodic pass: what no event would bring about.
//!
//! Level-triggered like everything here: it reads what is and closes the gap.
//! It removes what is left on the host of machines that the database does not
//! have, forgets machines destroyed long ago, and wakes every owner.

use crate::limits;
use crate::worker::Inner;
use async_trait::async_trait;
use roost_host::driver::MachineDriver;
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Upkeep of other parts that goes with the worker's periodic pass.
#[async_trait]
pub trait Housekeeper: Send + Sync + 'static {
    /// Collects image garbage, drops old logs, …; logs its own errors.
    ///
    /// `machines` are those that exist; what belongs to others may go.
    async fn run_once(&self, machines: HashSet<MachineId>);
}

/// No upkeep.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHousekeeper;

#[async_trait]
impl Housekeeper for NoHousekeeper {
    async fn run_once(&self, _machines: HashSet<MachineId>) {}
}

/// Runs a pass at each interval until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let stop = inner.tasks.stopping();
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: the token remembers that it fired.
            () = stop.cancelled() => return,
            // Cancel-safe: a dropped sleep is begun anew.
            () = tokio::time::sleep(limits::HOUSEKEEPING_INTERVAL) => {}
        }
        run_once(&inner).await;
    }
}

/// One pass.
pub(crate) async fn run_once(inner: &Arc<Inner>) {
    remove_leftovers(inner).await;
    let now = inner.clock.now();
    match inner
        .store
        .forget_destroyed(now, limits::DESTROYED_RETENTION)
        .await
    {
        Ok(forgotten) => inner.forget(&forgotten),
        Err(error) => tracing::error!(%error, "cannot forget destroyed machines"),
    }
    if let Err(error) = inner.store.forget_operations(now).await {
        tracing::error!(%error, "cannot forget old operations");
    }
    inner.kick_all();
    match inner.store.all().await {
        Ok(rows) => {
            inner
                .config
                .housekeeper
                .run_once(rows.into_iter().map(|row| row.id).collect())
                .await
        }
        Err(error) => tracing::error!(%error, "cannot read machines"),
    }
}

/// Removes from the host what no machine of the database owns.
pub(crate) async fn remove_leftovers(inner: &Arc<Inner>) {
    for driver in inner.drivers.all() {
        remove_leftovers_of(inner, driver.as_ref()).await;
    }
}

async fn remove_leftovers_of(inner: &Inner, driver: &dyn MachineDriver) {
    // The host is listed before the database is read: a machine created in
    // between is then in the database and not in the list.
    let listed = match driver.list().await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(rung = %driver.rung(), %error, "cannot list what is on the host");
            return;
        }
    };
    let known: BTreeSet<MachineId> = match inner.store.all().await {
        Ok(rows) => rows
            .into_iter()
            .filter(|row| row.state != MachineState::Destroyed)
            .map(|row| row.id)
            .collect(),
        Err(error) => {
            tracing::error!(%error, "cannot read machines");
            return;
        }
    };
    for id in listed {
        if known.contains(&id) {
            continue;
        }
        tracing::warn!(machine_id = %id, "removing what is left of an unknown machine");
        // One that hangs must not keep the others, or the start, waiting.
        let removal = driver.remove(&id);
        match tokio::time::timeout(limits::DRIVER_CALL_TIMEOUT, removal).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(machine_id = %id, %error, "cannot remove what is left of a machine");
            }
            Err(_) => {
                tracing::warn!(machine_id = %id, "removing what is left of a machine takes too long");
            }
        }
    }
}

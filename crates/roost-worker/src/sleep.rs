//! Sleep and wake: machines that requests start.
//!
//! The edge asks to wake a machine when a request wants it. That is a change like
//! one that a user asks for, and once it is recorded all others that ask find it so.

use crate::api::requests;
use crate::worker::{Inner, Worker};
use roost_model::id::MachineId;
use roost_proto::traffic::{SleepControl, WakeError, Waking};
use roost_proto::worker::{Asker, Cause};
use std::sync::{Arc, Weak};

/// Wakes machines for the edge, as long as there is a worker.
#[derive(Debug)]
struct Alarm(Weak<Inner>);

impl Worker {
    /// Wakes machines for the edge. It keeps nothing of this worker alive.
    pub fn sleep_control(&self) -> Arc<dyn SleepControl> {
        Arc::new(Alarm(Arc::downgrade(&self.inner)))
    }
}

impl SleepControl for Alarm {
    fn wake(&self, machine_id: MachineId) -> Waking {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let inner = inner.ok_or(WakeError::Away)?;
            // Whoever owns the machines now, it is not this process.
            if inner.tasks.stopping().is_cancelled() {
                return Err(WakeError::Away);
            }
            let stopping = inner.tasks.stopping();
            let worker = Worker { inner };
            let asker = Asker::from(Cause::Proxy);
            let woken = worker.change(&machine_id, &asker, requests::wake).await;
            woken.map(drop).map_err(|error| {
                if stopping.is_cancelled() {
                    WakeError::Away
                } else {
                    WakeError::Refused(error.to_string())
                }
            })
        })
    }
}

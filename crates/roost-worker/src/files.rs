//! Files of machines, for the edge.

use crate::worker::{Inner, Worker};
use roost_host::driver::DriverError;
use roost_model::id::MachineId;
use roost_proto::traffic::{MachineFiles, OpenFileError, Opening};
use std::sync::{Arc, Weak};

/// Opens files of machines that run, as long as there is a worker.
#[derive(Debug)]
struct Reader(Weak<Inner>);

impl Worker {
    /// Opens files of machines for the edge. It keeps nothing of this worker alive.
    pub fn files(&self) -> Arc<dyn MachineFiles> {
        Arc::new(Reader(Arc::downgrade(&self.inner)))
    }
}

impl MachineFiles for Reader {
    fn open(&self, machine_id: MachineId, path: String) -> Opening {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let Some(inner) = inner else {
                return Ok(None);
            };
            let entry = inner.board.get(&machine_id);
            let rung = entry.filter(|entry| entry.pid.is_some());
            let Some(rung) = rung.and_then(|entry| entry.rung) else {
                return Ok(None);
            };
            let driver = inner.driver_of(&machine_id, Some(rung));
            let opened = async { driver?.open_file(&machine_id, &path).await };
            match opened.await {
                Ok(file) => Ok(file),
                // Its end is on the way to the table: the request finds that out by itself.
                Err(DriverError::NotRunning(_)) => Ok(None),
                Err(error) => Err(OpenFileError(error.to_string())),
            }
        })
    }
}

//! Work that goes on after the answer and survives a crash.

pub(crate) mod deploy;

use crate::state::ApiState;
use deploy::Deploy;
use rand::SeedableRng as _;
use roost_fsm::Engine;
use roost_fsm::engine::{EngineConfig, RegisterError, Timing};
use std::sync::Arc;

/// One process at a time uses a control database.
const HOLDER: &str = "control plane";

/// Begins to execute the runs of the control database.
pub(crate) fn start(state: &ApiState) -> Result<Engine, RegisterError> {
    let config = EngineConfig {
        holder: HOLDER.to_owned(),
        journal: Arc::new(state.store.runs()),
        clock: Arc::clone(&state.clock),
        rng: Box::new(rand::rngs::StdRng::from_os_rng()),
        tasks: state.tasks.clone(),
        timing: Timing::default(),
    };
    // The engine has the workflows: were it in their state, none would ever be dropped.
    let apart = ApiState {
        engine: Arc::default(),
        ..state.clone()
    };
    let builder = Engine::builder(config).register(Deploy::new(apart))?;
    Ok(builder.start())
}

/// Ends a deployment as a crash would: just before its n-th write of how far it came.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct KillSwitch {
    writes_left: parking_lot::Mutex<Option<u32>>,
    pub(crate) fired: tokio::sync::Notify,
}

#[cfg(test)]
impl KillSwitch {
    /// Lets `n` writes through; the next one never happens.
    pub(crate) fn after(&self, n: u32) {
        *self.writes_left.lock() = Some(n);
    }

    /// Called before each write; never returns once the switch has fired.
    pub(crate) async fn pass(&self) {
        let fire = match &mut *self.writes_left.lock() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if fire {
            self.fired.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

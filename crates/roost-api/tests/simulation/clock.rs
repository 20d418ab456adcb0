//! Time that passes when nobody does anything.
//!
//! Tokio's paused clock moves on whenever all tasks wait. That would count the work of the
//! database's threads, of which tokio knows nothing, as hours. So it is kept from that, and
//! moved here, while the database has nothing to do.

use parking_lot::Mutex;
use roost_runtime::tasks::Tasks;
use roost_store::Store;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Time is moved on by this much at once: what is due within it happens in order still.
const STEP: Duration = Duration::from_millis(20);
/// Turns that every task gets in between.
const TURNS: usize = 3;

/// The clock of a simulation. Time stands still while there is no database.
pub(crate) struct Clock {
    store: Mutex<Option<Store>>,
    /// Dropped with this: a thread waits for it, and keeps tokio from moving the clock.
    _hold: mpsc::Sender<()>,
}

impl Clock {
    /// Starts it, in a runtime whose clock is paused.
    pub(crate) fn start(tasks: &Tasks) -> Arc<Self> {
        let (hold, held) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || held.recv());
        let clock = Arc::new(Self {
            store: Mutex::new(None),
            _hold: hold,
        });
        let (weak, stop) = (Arc::downgrade(&clock), tasks.stopping());
        tasks.spawn("clock", async move {
            while let Some(clock) = weak.upgrade() {
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
                let is_idle = clock.store.lock().as_ref().is_some_and(Store::is_idle);
                if is_idle {
                    tokio::time::advance(STEP).await;
                } else if stop.is_cancelled() {
                    return;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        clock
    }

    /// Follows this database, or none.
    pub(crate) fn follow(&self, store: Option<Store>) {
        *self.store.lock() = store;
    }
}

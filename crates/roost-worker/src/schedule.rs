//! Starts machines whose schedule is due.
//!
//! When one is due next is in its row, so it is known after a restart as well:
//! what was missed meanwhile is made up once. The time is the wall clock's,
//! which may jump; each look compares it with what is recorded and counts on no
//! timer. A schedule has no say over a machine that is cordoned, and waits while
//! somebody holds a lease on it.

mod store;

use crate::limits;
use crate::store::StoreError;
use crate::worker::Inner;
use roost_model::time::Timestamp;
use std::sync::Arc;

/// Looks again and again until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let stop = inner.tasks.stopping();
    let mut seen = None;
    loop {
        let now = inner.clock.now();
        let pause = match look(&inner, seen, now).await {
            Ok(()) => {
                seen = Some(now);
                limits::SCHEDULE_INTERVAL
            }
            Err(error) => {
                tracing::error!(%error, "cannot start machines by schedule");
                limits::HOUSEKEEPING_INTERVAL
            }
        };
        tokio::select! {
            biased;
            // Cancel-safe: the token remembers that it fired.
            () = stop.cancelled() => return,
            // Cancel-safe: a dropped sleep is begun anew.
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look; `seen` is the time of the last one of this process.
pub(crate) async fn look(
    inner: &Arc<Inner>,
    seen: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if seen.is_none_or(|seen| now < seen) {
        // The clock may have been set back, here or while no worker ran.
        inner.store.recount_schedules(now).await?;
    }
    for id in inner
        .store
        .start_due(now, limits::SCHEDULE_STARTS_MAX)
        .await?
    {
        inner.notify(&id);
        inner.kick(&id);
    }
    Ok(())
}

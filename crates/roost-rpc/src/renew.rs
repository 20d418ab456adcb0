//! Renews this process's identity.

use crate::limits;
use roost_auth::cluster::{ClusterAuthority, ClusterIdentity};
use roost_model::error::chain;
use roost_runtime::clock::Clock;
use roost_runtime::tasks::Tasks;
use std::sync::Arc;

/// Keeps `identity` good for as long as `tasks` run. A renewal that fails is
/// tried again; a third of the identity's life is left for that.
pub fn keep_renewed(
    identity: Arc<ClusterIdentity>,
    authority: Arc<ClusterAuthority>,
    clock: Arc<dyn Clock>,
    tasks: &Tasks,
) {
    let stop = tasks.stopping();
    tasks.spawn("identity renewal", async move {
        // By the clock and not by one long sleep: clocks are set, and hosts sleep.
        let mut tick = tokio::time::interval(limits::RENEWAL_CHECK_INTERVAL);
        loop {
            // Cancel-safe: the token remembers that it fired, a tick not taken comes again.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => renew_if_due(&identity, &authority, clock.as_ref()),
            }
        }
    });
}

fn renew_if_due(identity: &ClusterIdentity, authority: &ClusterAuthority, clock: &dyn Clock) {
    let now = clock.now();
    if now < identity.renew_at() {
        return;
    }
    let name = identity.peer().name();
    match identity.renew(authority, now) {
        Ok(()) => tracing::info!(name, "identity renewed"),
        Err(error) => {
            tracing::warn!(
                name,
                error = chain(&error),
                "cannot renew the identity; trying again"
            )
        }
    }
}

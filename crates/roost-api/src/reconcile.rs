//! Reconcilers: what keeps what is as it is wanted to be.
//!
//! A reconciler looks at what is and what is wanted, and closes a part of the gap. It keeps
//! nothing from one look to the next, so that a kill at any point costs one look. What woke it
//! does not matter: it looks at everything.
//!
//! - [`machines`]: every machine that is wanted is there once.
//! - [`standbys`]: what stands by for a machine of a lost node runs.
//! - [`fences`]: no machine is there that must not be.
//! - [`certificates`]: every custom host name has a certificate that holds.
//! - [`deployments`]: every deployment that has not ended has a run that goes on.
//!
//! Expired leases need none: they are compared with the clock where they are looked at. What a
//! worker leaves on its host is looked after by the worker.

mod certificates;
mod deployments;
mod fences;
mod machines;
mod standbys;

use crate::limits;
use crate::state::ApiState;
use async_trait::async_trait;
use certificates::Certificates;
use deployments::Deployments;
use fences::Fences;
use machines::Machines;
use roost_model::error::chain;
use roost_model::time::Timestamp;
use roost_proto::worker::WorkerError;
use roost_store::StoreError;
use standbys::Standbys;
use std::time::Duration;
use tokio::sync::watch;

/// Keeps one kind of thing as it is wanted to be.
#[async_trait]
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// Its name, for logs.
    fn name(&self) -> &'static str;
    /// Looks, and closes a bounded part of the gap.
    async fn pass(&self) -> Result<Pass, ReconcileError>;
}

/// What one look came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pass {
    /// What was done, for people.
    pub(crate) done: Vec<String>,
    /// Whether there is more to do than was done.
    pub(crate) is_more: bool,
}

/// A look could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// What is wanted could not be read.
    #[error("look at what is wanted")]
    Store(#[from] StoreError),
    /// What is could not be asked for.
    #[error("look at what is")]
    Worker(#[from] WorkerError),
}

/// One look at certificates.
#[cfg(test)]
pub(crate) async fn certificates_pass(state: &ApiState) -> Result<Pass, ReconcileError> {
    Certificates(state.clone()).pass().await
}

/// Lets all reconcilers look again and again.
pub(crate) fn spawn(state: &ApiState) {
    let fleet = || state.worker.changes();
    run(state, fleet(), Fences(state.clone()));
    run(state, fleet(), Machines(state.clone()));
    run(state, fleet(), Standbys(state.clone()));
    run(state, fleet(), Deployments(state.clone()));
    let changes = state.host_names.changes();
    run(state, changes, Certificates(state.clone()));
}

/// Lets a reconciler look now, at intervals, and when something changes.
fn run(state: &ApiState, mut changes: watch::Receiver<u64>, reconciler: impl Reconciler) {
    let stop = state.tasks.stopping();
    state.tasks.spawn(reconciler.name(), async move {
        loop {
            changes.mark_unchanged();
            let pause = tokio::select! {
                biased;
                // Cancel-safe: the next look is of what is then.
                () = stop.cancelled() => return,
                pause = look(&reconciler) => pause,
            };
            tokio::select! {
                biased;
                // Cancel-safe: it only waits.
                () = stop.cancelled() => return,
                () = wait(pause, &mut changes) => {}
            }
        }
    });
}

/// One look. How long to wait for the next.
async fn look(reconciler: &impl Reconciler) -> Duration {
    match reconciler.pass().await {
        Ok(pass) => {
            for done in &pass.done {
                tracing::info!(reconciler = reconciler.name(), "{done}");
            }
            if pass.is_more {
                limits::RECONCILE_PAUSE
            } else {
                jittered(limits::RECONCILE_INTERVAL)
            }
        }
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(reconciler = reconciler.name(), error, "looks again");
            jittered(limits::RECONCILE_INTERVAL)
        }
    }
}

/// Waits so long, or for a change; but a moment in any case, so that many changes are one look.
async fn wait(pause: Duration, changes: &mut watch::Receiver<u64>) {
    tokio::time::sleep(limits::RECONCILE_PAUSE).await;
    let rest = pause.saturating_sub(limits::RECONCILE_PAUSE);
    // The sender lives as long as the state that the reconciler holds.
    let _ = tokio::time::timeout(rest, changes.changed()).await;
}

/// Whether so much time has passed; also when the clock was set back by as much.
pub(crate) fn has_passed(since: Timestamp, time: Duration, now: Timestamp) -> bool {
    now.since(since) >= time || since.since(now) >= time
}

/// So long, or up to half as much again: by chance, so that control planes do not keep step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::random_range(1.0..1.5))
}

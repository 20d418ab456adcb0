//! Supervised tasks: each has a name, and all end at shutdown.
//!
//! A service owns a [`Tasks`]; its long-lived tasks watch [`Tasks::stopping`]
//! and return. [`Tasks::shutdown`] waits for them and names those that are
//! late. A task that panics is logged with its name; it does not end the node.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of one service. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    kill: CancellationToken,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A set of tasks that is asked to stop whenever this one is.
    pub fn child(&self) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: self.stop.child_token(),
            kill: self.kill.child_token(),
        }
    }

    /// Runs `future` as a task of this name.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // A root: a long-lived task does not belong to the request that began it.
        let span = tracing::info_span!(parent: None, "task", name);
        let kill = self.kill.clone();
        let task = async move {
            kill.run_until_cancelled(future).await;
        };
        let task = self.tracker.spawn(task.instrument(span));
        self.tracker.spawn(async move {
            match task.await {
                Err(error) if error.is_panic() => tracing::error!(task = name, "task panicked"),
                Ok(()) | Err(_) => {}
            }
        })
    }

    /// Fires when the tasks should end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks all tasks to end, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Drops all tasks wherever they wait, as the end of the process would.
    pub async fn kill(&self) {
        self.kill.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Asks all tasks to end and waits for them; `false` when some are late.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        let in_time = tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok();
        if !in_time {
            tracing::warn!(left = self.tracker.len(), "tasks did not end in time");
        }
        in_time
    }
}

#[cfg(test)]
mod tests {
    use super::Tasks;
    use std::time::Duration;

    #[tokio::test]
    async fn shutdown_waits_for_tasks_that_watch_the_token() {
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("waits", async move { stop.cancelled().await });
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn a_kill_drops_tasks_that_do_not_end() {
        let tasks = Tasks::new();
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        tasks.child().spawn("stuck", async move {
            let _held = held;
            std::future::pending().await
        });
        tasks.kill().await;
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_reported() {
        let tasks = Tasks::new();
        tasks.spawn("stuck", std::future::pending());
        assert!(!tasks.shutdown(Duration::from_millis(20)).await);
    }
}

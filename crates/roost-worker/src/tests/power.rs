//! Kills at journal writes: after the cut no write returns.

use parking_lot::Mutex;
use roost_host::fake::FakeDriver;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Where in a write the kill comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before anything is written.
    Before,
    /// After the commit.
    After,
}

/// The power supply of one run of a worker.
#[derive(Default)]
pub(crate) struct Power {
    is_cut: AtomicBool,
    n_writes: AtomicU64,
    plan: Mutex<Option<(u64, Moment, Arc<FakeDriver>)>>,
    pub(crate) went: Notify,
}

impl Power {
    /// Plans the kill at the `n`th write from now on, counted from 1.
    pub(crate) fn plan(&self, n: u64, moment: Moment, driver: Arc<FakeDriver>) {
        self.n_writes.store(0, Ordering::SeqCst);
        *self.plan.lock() = Some((n, moment, driver));
    }

    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Gives the write its number: others may begin before it ends.
    pub(crate) async fn before_write(&self) -> u64 {
        let n = self.n_writes.fetch_add(1, Ordering::SeqCst) + 1;
        self.pass(n, Moment::Before).await;
        n
    }

    pub(crate) async fn after_write(&self, n: u64) {
        self.pass(n, Moment::After).await;
    }

    async fn pass(&self, n_here: u64, here: Moment) {
        let is_now = match &*self.plan.lock() {
            Some((n, moment, driver)) => {
                let is_now = *moment == here && *n == n_here;
                if is_now {
                    driver.cut();
                    self.cut();
                    self.went.notify_one();
                }
                is_now
            }
            None => false,
        };
        if is_now || self.is_cut() {
            std::future::pending::<()>().await;
        }
    }
}

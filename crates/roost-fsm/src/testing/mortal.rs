//! A journal whose process is killed at a write.

use crate::journal::{
    CancelAnswer, Claim, Entry, Fence, Filter, Journal, JournalError, NewRun, Opened, PruneRule,
    Recorded, Renewal,
};
use crate::record::{Cancel, Run, Story};
use async_trait::async_trait;
use parking_lot::Mutex;
use roost_model::id::RunId;
use roost_model::time::Timestamp;
use std::sync::Arc;
use tokio::sync::Notify;

/// On which side of a write the kill strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The write never happens.
    Before,
    /// The write happened, and nobody was told.
    After,
}

/// Passes everything on until it is killed. From then on no write happens, and a write under
/// way is never answered: its caller has to be dropped, as the end of a process does.
#[derive(Debug)]
pub(crate) struct MortalJournal {
    inner: Arc<dyn Journal>,
    side: Side,
    /// Writes that still get through; the next one kills.
    n_writes_left: Mutex<usize>,
    is_dead: Mutex<bool>,
    pub(crate) died: Notify,
}

impl MortalJournal {
    pub(crate) fn new(inner: Arc<dyn Journal>, n_writes: usize, side: Side) -> Self {
        Self {
            inner,
            side,
            n_writes_left: Mutex::new(n_writes),
            is_dead: Mutex::new(false),
            died: Notify::new(),
        }
    }

    /// Kills it now.
    pub(crate) fn kill(&self) {
        *self.is_dead.lock() = true;
        self.died.notify_one();
    }

    /// Whether it was killed.
    pub(crate) fn is_killed(&self) -> bool {
        *self.is_dead.lock()
    }

    /// Whether this write is the one that kills.
    fn strikes(&self) -> bool {
        let mut n_writes_left = self.n_writes_left.lock();
        match n_writes_left.checked_sub(1) {
            Some(left) => {
                *n_writes_left = left;
                false
            }
            None => true,
        }
    }

    async fn never<T>() -> T {
        std::future::pending().await
    }

    fn alive(&self) -> Result<&dyn Journal, JournalError> {
        if *self.is_dead.lock() {
            return Err(JournalError::Storage {
                operation: "use the journal",
                source: "the process was killed".into(),
            });
        }
        Ok(&*self.inner)
    }
}

#[async_trait]
impl Journal for MortalJournal {
    async fn open(&self, new: NewRun) -> Result<Opened, JournalError> {
        match self.alive() {
            Ok(inner) => inner.open(new).await,
            Err(_) => Self::never().await,
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Run>, JournalError> {
        let runs = self.alive()?.claim(claim).await?;
        if !runs.is_empty() && self.strikes() {
            self.kill();
        }
        self.alive().map(|_| runs)
    }

    async fn renew(
        &self,
        fences: Vec<Fence>,
        until: Timestamp,
    ) -> Result<Vec<Renewal>, JournalError> {
        self.alive()?.renew(fences, until).await
    }

    async fn record(
        &self,
        fence: Fence,
        entries: Vec<Entry>,
        now: Timestamp,
    ) -> Result<Recorded, JournalError> {
        let Ok(inner) = self.alive() else {
            return Self::never().await;
        };
        if !self.strikes() {
            return inner.record(fence, entries, now).await;
        }
        // First, so that nobody sees the write before the kill is known.
        *self.is_dead.lock() = true;
        if self.side == Side::After {
            // What it answers is lost with the process.
            let _ = inner.record(fence, entries, now).await;
        }
        self.died.notify_one();
        Self::never().await
    }

    async fn ask_cancel(&self, run: RunId, cancel: Cancel) -> Result<CancelAnswer, JournalError> {
        self.alive()?.ask_cancel(run, cancel).await
    }

    async fn load(&self, run: RunId) -> Result<Option<Story>, JournalError> {
        self.alive()?.load(run).await
    }

    async fn list(&self, filter: Filter) -> Result<Vec<Run>, JournalError> {
        self.alive()?.list(filter).await
    }

    async fn prune(&self, rule: PruneRule, now: Timestamp) -> Result<usize, JournalError> {
        self.alive()?.prune(rule, now).await
    }
}

//! A workflow of which single attempts are meddled with.

use crate::context::Cx;
use crate::outline::Outline;
use crate::record::{Direction, Kind};
use crate::workflow::{AttemptFuture, Registered, StepError};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// What happens to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mischief {
    /// It fails before it did anything.
    FailBefore(StepError),
    /// It does all, and then fails.
    FailAfter(StepError),
    /// It is done twice.
    Twice,
    /// It does nothing, and does not end before the run turns back.
    HangBefore,
    /// It does all, and then does not end before the run turns back.
    HangAfter,
}

/// Meddles with the next attempt of one step in one direction, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meddling {
    pub(super) step_idx: usize,
    pub(super) direction: Direction,
    pub(super) mischief: Mischief,
}

/// What is still to be meddled with: shared by all processes of a case.
#[derive(Debug, Default)]
pub(super) struct Plot {
    left: Mutex<Vec<Meddling>>,
    pub(super) hangs: Notify,
}

impl Plot {
    pub(super) fn new(meddlings: Vec<Meddling>) -> Arc<Self> {
        Arc::new(Self {
            left: Mutex::new(meddlings),
            hangs: Notify::new(),
        })
    }

    fn next(&self, step_idx: usize, direction: Direction) -> Option<Mischief> {
        let mut left = self.left.lock();
        let idx = left
            .iter()
            .position(|next| next.step_idx == step_idx && next.direction == direction)?;
        // A kill may cut off a failure before it is recorded: it fails again, as it would.
        match &left[idx].mischief {
            mischief @ Mischief::FailAfter(StepError::Fail(_)) => Some(mischief.clone()),
            Mischief::FailAfter(StepError::Retry(_))
            | Mischief::FailBefore(_)
            | Mischief::Twice
            | Mischief::HangBefore
            | Mischief::HangAfter => Some(left.remove(idx).mischief),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.left.lock().is_empty()
    }
}

/// Waits in vain, until the run turns back.
async fn hang(cx: Cx<()>) -> Result<String, StepError> {
    cx.asked_to_turn_back().await;
    Err(StepError::Retry("the run turns back".into()))
}

/// A workflow whose attempts follow a plot.
pub(super) struct Meddled {
    pub(super) inner: Arc<dyn Registered>,
    pub(super) plot: Arc<Plot>,
}

impl Registered for Meddled {
    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn outline(&self) -> &Outline {
        self.inner.outline()
    }

    fn attempt(&self, step_idx: usize, direction: Direction, cx: Cx<()>) -> AttemptFuture {
        let Some(mischief) = self.plot.next(step_idx, direction) else {
            return self.inner.attempt(step_idx, direction, cx);
        };
        let inner = Arc::clone(&self.inner);
        let plot = Arc::clone(&self.plot);
        async move {
            match mischief {
                Mischief::FailBefore(error) => Err(error),
                Mischief::FailAfter(error) => {
                    inner.attempt(step_idx, direction, cx).await?;
                    Err(error)
                }
                Mischief::Twice => {
                    inner.attempt(step_idx, direction, cx.clone()).await?;
                    inner.attempt(step_idx, direction, cx).await
                }
                Mischief::HangBefore => {
                    plot.hangs.notify_one();
                    hang(cx).await
                }
                Mischief::HangAfter => {
                    inner.attempt(step_idx, direction, cx.clone()).await?;
                    plot.hangs.notify_one();
                    hang(cx).await
                }
            }
        }
        .boxed()
    }
}

//! The health gate: when a new machine may take the place of an old one.

use super::progress::Progress;
use super::{SlotError, diagnose};
use crate::limits;
use roost_model::error::{Classify as _, Retry};
use roost_model::id::MachineId;
use roost_model::machine::MachineState;
use roost_proto::worker::{CheckResult, MachineStatus, WorkerError};
use roost_store::StoreError;
use tokio::time::Instant;

/// What one look at a machine says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Healthy,
    Waiting,
    Broken,
    /// It was recorded but never started: a crash came in between.
    NotStarted,
}

/// A machine without checks counts as healthy once one process stayed up for a while.
#[derive(Debug, Default)]
struct Settling(Option<(Option<u32>, Instant)>);

impl Settling {
    fn has_settled(&mut self, pid: Option<u32>) -> bool {
        match self.0 {
            Some((seen, since)) if seen == pid => since.elapsed() >= limits::SETTLE,
            _ => {
                self.0 = Some((pid, Instant::now()));
                false
            }
        }
    }
}

/// Tells the people who watch where a machine listens while it is waited for in vain.
#[derive(Debug, Default)]
struct ListenNotice {
    next_look: Option<Instant>,
    said: Option<String>,
    n_said: usize,
}

impl ListenNotice {
    /// Looks now and then at a machine that runs and is not healthy yet.
    async fn look(
        &mut self,
        progress: &Progress,
        status: &MachineStatus,
    ) -> Result<(), StoreError> {
        if status.state != MachineState::Started {
            self.next_look = None;
            return Ok(());
        }
        let now = Instant::now();
        let next_look = *self
            .next_look
            .get_or_insert(now + limits::LISTEN_NOTICE_AFTER);
        if now < next_look || self.n_said >= limits::LISTEN_NOTICES_MAX {
            return Ok(());
        }
        self.next_look = Some(now + limits::LISTEN_NOTICE_POLL);
        let Some(text) = diagnose::misplaced(progress, status).await else {
            return Ok(());
        };
        if self.said.as_ref() == Some(&text) {
            return Ok(());
        }
        let seconds = progress.record.wait_timeout.as_secs();
        let message = format!("it {text}; waiting up to {seconds} s in all");
        self.said = Some(text);
        self.n_said += 1;
        progress
            .step("listening", Some(&status.id), "started", message)
            .await
    }
}

/// Waits until the machine takes traffic, or says why it will not.
pub(super) async fn await_healthy(progress: &Progress, id: &MachineId) -> Result<(), SlotError> {
    let worker = &progress.state.worker;
    let deadline = Instant::now() + progress.record.wait_timeout;
    let asker = progress.asker();
    let mut settling = Settling::default();
    let mut notice = ListenNotice::default();
    loop {
        let status = match progress.insist(|| worker.machine(id)).await {
            Ok(status) => status,
            Err(error) => {
                return Err(SlotError::Failed(Box::new(diagnose::of_worker_error(
                    id, &error,
                ))));
            }
        };
        match judge(progress, &status, &mut settling).await {
            Ok(Verdict::Healthy) => return Ok(()),
            Ok(Verdict::Waiting) => notice.look(progress, &status).await?,
            Ok(Verdict::NotStarted) => {
                if let Err(error) = progress.insist(|| worker.start_machine(id, &asker)).await {
                    return Err(SlotError::Failed(Box::new(diagnose::of_worker_error(
                        id, &error,
                    ))));
                }
            }
            Ok(Verdict::Broken) => {
                return Err(SlotError::Failed(Box::new(
                    diagnose::exited(progress, &status).await,
                )));
            }
            Err(error) => {
                return Err(SlotError::Failed(Box::new(diagnose::of_worker_error(
                    id, &error,
                ))));
            }
        }
        if Instant::now() >= deadline {
            return Err(SlotError::Failed(Box::new(
                diagnose::unhealthy(progress, &status).await,
            )));
        }
        tokio::time::sleep(limits::HEALTH_POLL).await;
    }
}

/// Fails if the machine has come to an end. One whose node does not answer now may be well.
pub(super) async fn still_runs(progress: &Progress, id: &MachineId) -> Result<(), SlotError> {
    let failed = |error| Err(SlotError::Failed(Box::new(error)));
    let looked = async {
        let status = progress.state.worker.machine(id).await?;
        let verdict = judge(progress, &status, &mut Settling::default()).await?;
        Ok::<_, WorkerError>((status, verdict))
    };
    match looked.await {
        Ok((status, Verdict::Broken)) => failed(diagnose::exited(progress, &status).await),
        Ok(_) => Ok(()),
        Err(error) if error.retry() != Retry::Never => Ok(()),
        Err(error) => failed(diagnose::of_worker_error(id, &error)),
    }
}

async fn judge(
    progress: &Progress,
    status: &MachineStatus,
    settling: &mut Settling,
) -> Result<Verdict, WorkerError> {
    if status.last_exit.is_some() && exits(progress, status).await? >= limits::EXITS_MAX {
        return Ok(Verdict::Broken);
    }
    Ok(match status.state {
        MachineState::Created => Verdict::NotStarted,
        MachineState::Starting => Verdict::Waiting,
        // Between two restarts a machine is starting, so a stopped one stays as it is.
        MachineState::Stopping
        | MachineState::Stopped
        | MachineState::Suspending
        | MachineState::Suspended
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => Verdict::Broken,
        MachineState::Started if checks_pass(status) => {
            let has_gate = !status.checks.is_empty();
            if has_gate || settling.has_settled(status.pid) {
                Verdict::Healthy
            } else {
                Verdict::Waiting
            }
        }
        MachineState::Started => Verdict::Waiting,
    })
}

/// Every check passes, and a machine that takes traffic has been seen to answer.
fn checks_pass(status: &MachineStatus) -> bool {
    let all_pass = status
        .checks
        .iter()
        .all(|check| check.result == CheckResult::Passing);
    let answers = status.spec.services.is_empty() || !status.checks.is_empty();
    all_pass && answers
}

async fn exits(progress: &Progress, status: &MachineStatus) -> Result<usize, WorkerError> {
    let events = progress
        .state
        .worker
        .machine_events(&status.id, limits::MACHINE_EVENTS_MAX)
        .await?;
    Ok(events.iter().filter(|event| event.kind == "exit").count())
}

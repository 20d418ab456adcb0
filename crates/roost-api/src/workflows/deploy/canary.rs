//! The canary of a deployment: its first new machine, tried out beside the release that serves.
//!
//! The machine is made with a label that says what it gets of the app's requests, so that it
//! never gets more. The label goes when the canary has passed, and else with the machine. A
//! watch that a kill has cut off begins anew: its own edge has forgotten what it had seen, and
//! of the others only what is new counts.

use super::SlotError;
use super::diagnose;
use super::health::{await_healthy, still_runs};
use super::progress::Progress;
use crate::limits;
use roost_model::canary::{self, Canary, Rules, Verdict};
use roost_model::id::MachineId;
use roost_model::id::NodeId;
use roost_model::machine::MachineSpec;
use roost_proto::release_traffic::{SideBySide, Watch};
use roost_proto::rest::{CanaryJudgement, DeploymentCanary, DeploymentError};
use roost_proto::worker::{MachineStatus, WorkerError};
use roost_store::records::SlotRecord;
use std::time::Duration;
use tokio::time::Instant;

/// How the machine of a slot is tried out, if it is: the first one, when a machine runs that it
/// can be compared with.
pub(super) fn of(progress: &Progress, slot: &SlotRecord) -> Option<Canary> {
    let canary = progress.record.canary.as_ref()?;
    let is_first = slot.idx == 0 && slot.makes_new && slot.old_ran;
    // It was checked before it was recorded.
    is_first.then(|| canary.config.to_canary().ok())?
}

/// Tries a healthy machine out, if it is the canary. Fails if it does not do.
pub(super) async fn try_out(
    progress: &Progress,
    slot: &SlotRecord,
    machine: &MachineId,
) -> Result<(), SlotError> {
    let (Some(recorded), Some(canary)) = (&progress.record.canary, of(progress, slot)) else {
        return Ok(());
    };
    let judgement = match &recorded.judgement {
        // Decided before a crash.
        Some(judgement) => judgement.clone(),
        None => {
            let judgement = judged(progress, &canary, machine).await?;
            let canary = DeploymentCanary {
                judgement: Some(judgement.clone()),
                ..recorded.clone()
            };
            // Only what is decided is told: a kill in between would have it decided again.
            progress.set_canary(&canary).await?;
            tell(progress, machine, &judgement).await?;
            judgement
        }
    };
    let status = status(progress, machine).await?;
    if !judgement.passed {
        let release = progress.record.release_version;
        return Err(SlotError::Failed(Box::new(DeploymentError {
            code: "canary-failed".to_owned(),
            message: format!(
                "the canary of release v{release} did not do: {}",
                judgement.reason
            ),
            hint: Some(
                "look at its last log lines; what a canary may do is set in `[deploy.canary]`"
                    .to_owned(),
            ),
            machine: Some(machine.to_string()),
            log_tail: diagnose::log_tail(progress, &status).await,
            listening: vec![],
        })));
    }
    let asker = progress.asker();
    let worker = &progress.state.worker;
    let ended =
        progress.insist(|| worker.set_metadata(machine, MachineSpec::SPLIT_KEY, None, &asker));
    ended.await.map_err(|error| refused(machine, &error))?;
    Ok(())
}

async fn judged(
    progress: &Progress,
    canary: &Canary,
    machine: &MachineId,
) -> Result<CanaryJudgement, SlotError> {
    let new = progress.record.release_version;
    let old = progress.app.current_release.unwrap_or_default();
    let judgement = |verdict, begun: Instant, seen: SideBySide, silent: &[NodeId]| {
        let (a, b) = ((old, &seen.a), (new, &seen.b));
        CanaryJudgement::of(verdict, begun.elapsed(), a, b, silent)
    };
    let begun = Instant::now();
    if status(progress, machine).await?.spec.services.is_empty() {
        let verdict = Verdict {
            has_passed: true,
            reason: "the app takes no traffic to compare".to_owned(),
        };
        return Ok(judgement(verdict, begun, SideBySide::default(), &[]));
    }
    let text = format!(
        "release v{new} is tried out with {} for {} s or {} requests, beside release v{old}",
        canary.split,
        canary.wait.as_secs(),
        canary.rules.requests
    );
    progress
        .step("canary", Some(machine), "started", text)
        .await?;
    let (verdict, seen, silent) = tokio::select! {
        biased;
        // Cancel-safe, both: they only look and wait.
        () = progress.cx.asked_to_turn_back() => return Err(SlotError::Cancelled),
        watched = watch(progress, canary, machine, (old, new)) => watched?,
    };
    Ok(judgement(verdict, begun, seen, &silent))
}

/// Looks on until the canary can be judged; fails if it comes to an end before.
async fn watch(
    progress: &Progress,
    canary: &Canary,
    machine: &MachineId,
    (old, new): (u64, u64),
) -> Result<(Verdict, SideBySide, Vec<NodeId>), SlotError> {
    let read = || progress.state.tallies(&progress.app.name);
    let (begun, mut watched) = (Instant::now(), Watch::begin(&read()));
    let mut next_look = begun;
    // What the verdict is, and since when.
    let mut stands: Option<(bool, Instant)> = None;
    let (verdict, seen, silent) = loop {
        let reading = read();
        watched.look(&reading);
        let seen = watched.side_by_side(old, new);
        let verdict = canary::judge(&canary.rules, &(&seen.a).into(), &(&seen.b).into());
        let requests = seen.b.requests();
        let is_known = begun.elapsed() >= canary.wait
            || requests >= canary.rules.requests
            || (!verdict.has_passed && requests >= Rules::REQUESTS_MIN);
        let now = (verdict.has_passed, Instant::now());
        let same = stands.filter(|(before, _)| *before == verdict.has_passed);
        stands = is_known.then(|| same.unwrap_or(now));
        // What the others have seen by now is to be heard: else a canary could fail by errors that
        // the old release has as well, only elsewhere.
        let lag = if reading.has_others() {
            limits::CANARY_LAG
        } else {
            Duration::ZERO
        };
        let is_decided = stands.is_some_and(|(_, since)| since.elapsed() >= lag);
        // A verdict that comes and goes holds nobody up for longer.
        if is_decided || begun.elapsed() >= canary.wait + 2 * lag {
            break (verdict, seen, reading.silent);
        }
        if Instant::now() >= next_look {
            still_runs(progress, machine).await?;
            next_look = Instant::now() + limits::CANARY_STATE_POLL;
        }
        tokio::time::sleep(limits::CANARY_POLL).await;
    };
    // One that is not healthy had few requests to fail.
    if verdict.has_passed {
        await_healthy(progress, machine).await?;
    }
    Ok((verdict, seen, silent))
}

async fn tell(
    progress: &Progress,
    machine: &MachineId,
    judgement: &CanaryJudgement,
) -> Result<(), SlotError> {
    let CanaryJudgement {
        reason, old, new, ..
    } = judgement;
    let (outcome, word) = if judgement.passed {
        ("done", "passed")
    } else {
        ("failed", "failed")
    };
    let text = format!("the canary {word}: {reason} ({old}; {new})");
    progress
        .step("canary", Some(machine), outcome, text)
        .await?;
    Ok(())
}

async fn status(progress: &Progress, machine: &MachineId) -> Result<MachineStatus, SlotError> {
    let status = progress.insist(|| progress.state.worker.machine(machine));
    status.await.map_err(|error| refused(machine, &error))
}

fn refused(machine: &MachineId, error: &WorkerError) -> SlotError {
    SlotError::Failed(Box::new(diagnose::of_worker_error(machine, error)))
}

//! What each request changes of a machine's row, or why it is refused. Pure.

use crate::store::row::{NewEvent, Row, StopAsked, Wanted};
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{MachineState, StopSignal};
use roost_model::time::Timestamp;
use roost_proto::worker::{Cause, CreateMachine, Launch, UpdateMachine};
use std::time::Duration;

/// Why the machine's state or version forbids a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal(pub(super) String);

/// The kind of event that a change is; none when there was nothing to change.
type Outcome = Result<Option<&'static str>, Refusal>;

/// The row of a new machine.
pub(super) fn new_row(
    id: MachineId,
    request: CreateMachine,
    secrets: Vec<u8>,
    now: Timestamp,
) -> Row {
    let (wanted, generation) = match request.launch {
        // Others start one that stands by, when it is needed.
        Launch::Start if !request.spec.is_standby() => (Wanted::Run, 1),
        Launch::Start | Launch::Skip => (Wanted::Rest, 0),
    };
    let schedule = request.spec.schedule.as_ref();
    let due_at = schedule.and_then(|schedule| schedule.next_after(now, now));
    Row {
        id,
        request_id: request.request_id,
        instance_id: InstanceId::from_ulid(ulid::Ulid::generate()),
        spec: request.spec,
        secrets,
        state: MachineState::Created,
        state_reason: None,
        wanted,
        generation,
        launched_generation: 0,
        vm_live: false,
        rung: None,
        has_snapshot: false,
        slot: None,
        cordoned: request.cordoned,
        image_digest: None,
        image_stop_signal: None,
        stop_asked: StopAsked::default(),
        last_exit: None,
        restarts: vec![],
        restart_at: None,
        due_at,
        n_passed_over: 0,
        healthy: vec![],
        created_at: now,
        updated_at: now,
    }
}

fn refuse_if_going(row: &Row, what: &str) -> Result<(), Refusal> {
    if row.wanted == Wanted::Gone || row.state == MachineState::Destroyed {
        let state = match row.state {
            MachineState::Destroyed => "destroyed",
            _ => "being destroyed",
        };
        return Err(Refusal(format!(
            "machine {} is {state}: it cannot be {what}; create another",
            row.id
        )));
    }
    Ok(())
}

/// Whether a process runs, or is on its way.
fn is_up(row: &Row) -> bool {
    match row.state {
        MachineState::Starting
        | MachineState::Started
        | MachineState::Stopping
        | MachineState::Suspending => true,
        MachineState::Created
        | MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Failed
        | MachineState::Destroying
        | MachineState::Destroyed => row.vm_live || row.wanted == Wanted::Run,
    }
}

/// Wants a new process. The state shows it at once, so that a caller that
/// waits for `started` next does not see the old process.
fn want_run(row: &mut Row) {
    row.state = match row.state {
        MachineState::Started | MachineState::Stopping => MachineState::Stopping,
        MachineState::Created
        | MachineState::Starting
        | MachineState::Stopped
        | MachineState::Suspended
        | MachineState::Failed => MachineState::Starting,
        state @ (MachineState::Suspending | MachineState::Destroying | MachineState::Destroyed) => {
            state
        }
    };
    row.wanted = Wanted::Run;
    row.restart_at = None;
    row.generation += 1;
    row.restarts.clear();
}

pub(super) fn start(row: &mut Row) -> Outcome {
    refuse_if_going(row, "started")?;
    if row.wanted == Wanted::Run {
        return Ok(None);
    }
    want_run(row);
    Ok(Some("start"))
}

/// Starts a machine that sleeps, since a request wants it.
pub(crate) fn wake(row: &mut Row) -> Outcome {
    refuse_if_going(row, "started")?;
    if row.wanted == Wanted::Run {
        return Ok(None);
    }
    let against = match row.state {
        _ if row.cordoned => "it is cordoned",
        _ if row.spec.is_standby() => "it stands by for another",
        _ if !row.spec.services.iter().any(|service| service.autostart) => {
            "none of its services has `autostart`"
        }
        MachineState::Created => "it was never started",
        MachineState::Failed => "it could not be started, or used up its restarts",
        MachineState::Starting
        | MachineState::Started
        | MachineState::Stopping
        | MachineState::Stopped
        | MachineState::Suspending
        | MachineState::Suspended
        | MachineState::Destroying
        | MachineState::Destroyed => {
            want_run(row);
            return Ok(Some("start"));
        }
    };
    Err(Refusal(format!(
        "machine {} is not started for a request: {against}",
        row.id
    )))
}

/// Starts a machine that sleeps, since too few of its app are awake. Gives nothing if it runs
/// already, or is not to be woken.
pub(crate) fn wake_for_minimum(row: &mut Row) -> Option<NewEvent> {
    let mut event = NewEvent::asked(wake(row).ok().flatten()?, &Cause::Proxy);
    event.detail["reason"] = "min_machines_running".into();
    Some(event)
}

/// Stops or suspends a machine that has no traffic; `after` is how long it had none.
/// Gives nothing if it is not running as it should any more.
pub(crate) fn fall_asleep(row: &mut Row, suspends: bool, after: Duration) -> Option<NewEvent> {
    if row.state != MachineState::Started || row.wanted != Wanted::Run || row.cordoned {
        return None;
    }
    let changed = if suspends {
        suspend(row)
    } else {
        stop(row, None, None)
    };
    let mut event = NewEvent::asked(changed.ok().flatten()?, &Cause::Proxy);
    let rule = if suspends { "autosuspend" } else { "autostop" };
    event.detail["reason"] = rule.into();
    event.detail["after_ms"] = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).into();
    Some(event)
}

/// Starts a machine whose schedule is due, unless something is against it; that
/// is told when it begins to be so.
pub(crate) fn come_due(row: &mut Row, now: Timestamp) -> Option<NewEvent> {
    let due_at = row.due_at.filter(|at| *at <= now)?;
    let schedule = row.spec.schedule.as_ref()?;
    row.due_at = schedule.next_after(row.created_at, now);
    let against = if row.cordoned {
        Some("it is cordoned")
    } else if row.wanted == Wanted::Run {
        Some("it runs already")
    } else {
        None
    };
    let mut event = match against {
        Some(reason) => {
            row.n_passed_over += 1;
            if row.n_passed_over > 1 {
                return None;
            }
            let mut event = NewEvent::asked("pass_over", &Cause::Schedule);
            event.detail["reason"] = reason.into();
            event
        }
        None => {
            want_run(row);
            let mut event = NewEvent::asked("start", &Cause::Schedule);
            event.detail["passed_over"] = std::mem::take(&mut row.n_passed_over).into();
            event
        }
    };
    event.detail["due_at"] = due_at.as_ms().into();
    Some(event)
}

pub(super) fn stop(
    row: &mut Row,
    signal: Option<StopSignal>,
    timeout: Option<Duration>,
) -> Outcome {
    refuse_if_going(row, "stopped")?;
    // A suspended one is stopped too: its snapshot is dropped.
    if !is_up(row) && !row.has_snapshot {
        return Ok(None);
    }
    row.state = match row.state {
        MachineState::Suspending => MachineState::Suspending,
        _ => MachineState::Stopping,
    };
    // A start that follows at once does not resume it.
    row.has_snapshot = false;
    row.wanted = Wanted::Rest;
    row.stop_asked = StopAsked { signal, timeout };
    Ok(Some("stop"))
}

/// Suspends a machine on a rung that can.
pub(super) fn suspend(row: &mut Row) -> Outcome {
    refuse_if_going(row, "suspended")?;
    if row.wanted == Wanted::Suspend {
        return Ok(None);
    }
    if row.state != MachineState::Started || row.wanted != Wanted::Run {
        return Err(Refusal(format!(
            "machine {} is {}: only a started machine can be suspended",
            row.id,
            row.state.as_str()
        )));
    }
    row.state = MachineState::Suspending;
    row.wanted = Wanted::Suspend;
    Ok(Some("suspend"))
}

/// A snapshot under way is of the version that runs: a new one must wait for it.
fn refuse_while_suspending(row: &Row, what: &str) -> Result<(), Refusal> {
    if row.state == MachineState::Suspending {
        return Err(Refusal(format!(
            "machine {} is suspending: wait until it is suspended before it is {what}",
            row.id
        )));
    }
    Ok(())
}

pub(super) fn restart(row: &mut Row) -> Outcome {
    refuse_if_going(row, "restarted")?;
    refuse_while_suspending(row, "restarted")?;
    if row.spec.is_standby() && !is_up(row) {
        return Ok(None);
    }
    row.has_snapshot = false;
    want_run(row);
    Ok(Some("restart"))
}

pub(super) fn destroy(row: &mut Row, force: bool) -> Outcome {
    if row.wanted == Wanted::Gone || row.state == MachineState::Destroyed {
        return Ok(None);
    }
    if is_up(row) && !force {
        return Err(Refusal(format!(
            "machine {} is {}: stop it first, or destroy it with force",
            row.id,
            row.state.as_str()
        )));
    }
    row.wanted = Wanted::Gone;
    // It ends by and by: no request is to start it again.
    row.cordoned = true;
    row.due_at = None;
    Ok(Some("destroy"))
}

pub(super) fn set_cordoned(row: &mut Row, cordoned: bool) -> Outcome {
    refuse_if_going(row, if cordoned { "cordoned" } else { "uncordoned" })?;
    if row.cordoned == cordoned {
        return Ok(None);
    }
    row.cordoned = cordoned;
    Ok(Some(if cordoned { "cordon" } else { "uncordon" }))
}

/// Its version stays: what runs does not know its metadata.
pub(super) fn set_metadata(row: &mut Row, key: String, value: Option<String>) -> Outcome {
    refuse_if_going(row, "changed")?;
    let metadata = &mut row.spec.metadata;
    let old = match &value {
        Some(value) => metadata.insert(key, value.clone()),
        None => metadata.remove(&key),
    };
    Ok((old != value).then_some("metadata"))
}

pub(super) fn update(
    row: &mut Row,
    request: UpdateMachine,
    secrets: Vec<u8>,
    instance_id: InstanceId,
    now: Timestamp,
) -> Outcome {
    refuse_if_going(row, "updated")?;
    refuse_while_suspending(row, "updated")?;
    if let Some(seen) = &request.current_version
        && *seen != row.instance_id
    {
        return Err(Refusal(format!(
            "machine {} has version {} now, not {seen}: read it again and repeat the update",
            row.id, row.instance_id
        )));
    }
    let (old, new) = (&row.spec, &request.spec);
    if (&old.app, &old.name, &old.region) != (&new.app, &new.name, &new.region) {
        return Err(Refusal(format!(
            "machine {} is {} of app {} in {}: an update cannot change app, name or region",
            row.id, old.name, old.app, old.region
        )));
    }
    if request.launch == Launch::Skip && is_up(row) {
        // It would run one version and be recorded as another.
        return Err(Refusal(format!(
            "machine {} is {}: stop it before an update that does not start it",
            row.id,
            row.state.as_str()
        )));
    }
    if row.spec.image != request.spec.image {
        row.image_digest = None;
    }
    if row.spec.schedule != request.spec.schedule {
        let schedule = request.spec.schedule.as_ref();
        row.due_at = schedule.and_then(|schedule| schedule.next_after(row.created_at, now));
        row.n_passed_over = 0;
    }
    row.spec = request.spec;
    row.secrets = secrets;
    row.instance_id = instance_id;
    let launch = match request.launch {
        Launch::Start if row.spec.is_standby() && !is_up(row) => Launch::Skip,
        launch => launch,
    };
    match launch {
        Launch::Start => want_run(row),
        // Its snapshot is of the old version.
        Launch::Skip if row.has_snapshot => row.wanted = Wanted::Rest,
        Launch::Skip => {}
    }
    row.has_snapshot = false;
    Ok(Some("update"))
}

//! Rows: how a machine and its events are written and read.

use super::{SqliteContext as _, StoreError};
use roost_model::id::{InstanceId, MachineId};
use roost_model::machine::{ExitCause, MachineExit, MachineSpec, MachineState, Rung, StopSignal};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::time::Timestamp;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::worker::{Cause, MachineEvent};
use rusqlite::{Connection, Params, named_params, params};
use std::time::Duration;

/// What is wanted of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// That it runs.
    Run,
    /// That it does not run.
    Rest,
    /// That it does not run, and that a snapshot of it is kept.
    Suspend,
    /// That it does not exist.
    Gone,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Rest => "rest",
            Self::Suspend => "suspend",
            Self::Gone => "gone",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Run, Self::Rest, Self::Suspend, Self::Gone]
            .into_iter()
            .find(|wanted| wanted.as_str() == text)
    }
}

/// How the stop under way was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StopAsked {
    /// The signal, if another than the usual one.
    pub(crate) signal: Option<StopSignal>,
    /// The time-out, if another than the spec's.
    pub(crate) timeout: Option<Duration>,
}

/// A machine on disk.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: MachineId,
    pub(crate) request_id: String,
    pub(crate) instance_id: InstanceId,
    pub(crate) spec: MachineSpec,
    /// The secrets' environment, sealed.
    pub(crate) secrets: Vec<u8>,
    pub(crate) state: MachineState,
    pub(crate) state_reason: Option<String>,
    pub(crate) wanted: Wanted,
    /// Grows with each request to start, restart or update.
    pub(crate) generation: u64,
    /// The generation that was launched last.
    pub(crate) launched_generation: u64,
    /// Whether a process may exist whose end is not recorded.
    pub(crate) vm_live: bool,
    /// The rung that it was launched on last.
    pub(crate) rung: Option<Rung>,
    /// Whether a snapshot of it is kept, for the next start to go on from.
    pub(crate) has_snapshot: bool,
    pub(crate) slot: Option<u32>,
    pub(crate) cordoned: bool,
    pub(crate) image_digest: Option<String>,
    /// The stop signal of the image that was launched last.
    pub(crate) image_stop_signal: Option<String>,
    pub(crate) stop_asked: StopAsked,
    pub(crate) last_exit: Option<MachineExit>,
    /// Times of restarts, newest last, bounded by the restart window.
    pub(crate) restarts: Vec<Timestamp>,
    pub(crate) restart_at: Option<Timestamp>,
    /// When its schedule is due next.
    pub(crate) due_at: Option<Timestamp>,
    /// How often it was due in vain since its schedule last started it.
    pub(crate) n_passed_over: u64,
    /// Which services were healthy when last seen, by position.
    pub(crate) healthy: Vec<bool>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

/// The source of what the worker did or saw by itself.
pub(crate) const WORKER: &str = "worker";

/// An event to append.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewEvent {
    pub(crate) kind: &'static str,
    pub(crate) source: &'static str,
    pub(crate) detail: serde_json::Value,
}

impl NewEvent {
    /// Something that was asked for.
    pub(crate) fn asked(kind: &'static str, cause: &Cause) -> Self {
        Self {
            kind,
            source: cause.as_str(),
            detail: serde_json::json!({ "cause": cause }),
        }
    }

    /// Something that the worker did or saw.
    pub(crate) fn by_worker(kind: &'static str, detail: serde_json::Value) -> Self {
        Self {
            kind,
            source: WORKER,
            detail,
        }
    }
}

/// A row as SQLite has it, before its texts are checked.
struct RawRow {
    id: String,
    app: String,
    name: String,
    region: String,
    instance_id: String,
    config: String,
    state: String,
    wanted: String,
    restarts: String,
    healthy: String,
    stop_signal: Option<String>,
    rung: Option<String>,
    exit_cause: Option<String>,
    rest: Rest,
}

/// The columns that need no check.
struct Rest {
    request_id: String,
    secrets: Vec<u8>,
    state_reason: Option<String>,
    generation: i64,
    launched_generation: i64,
    vm_live: bool,
    has_snapshot: bool,
    slot: Option<u32>,
    cordoned: bool,
    image_digest: Option<String>,
    image_stop_signal: Option<String>,
    stop_timeout_ms: Option<i64>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    oom_killed: bool,
    restart_at_ms: Option<i64>,
    due_ms: Option<i64>,
    n_passed_over: i64,
    created_ms: i64,
    updated_ms: i64,
}

pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The bounds of ends of what holds at `now`, the lower one excluded: an end
/// further ahead than `longest` is of a clock that was set back since.
pub(crate) fn ends_of_holding(now: Timestamp, longest: Duration) -> [i64; 2] {
    [now, now.after(longest)].map(|at| to_sql(at.as_ms()))
}

/// The rows that `filter` (`WHERE …`) selects.
pub(crate) fn select<P: Params>(
    connection: &Connection,
    filter: &'static str,
    parameters: P,
) -> Result<Vec<Row>, StoreError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT * FROM machines {filter}"))
        .during("read machines")?;
    let raw: Vec<RawRow> = statement
        .query_map(parameters, read_raw)
        .and_then(Iterator::collect)
        .during("read machines")?;
    raw.into_iter().map(check).collect()
}

fn read_raw(row: &rusqlite::Row<'_>) -> Result<RawRow, rusqlite::Error> {
    Ok(RawRow {
        id: row.get("id")?,
        app: row.get("app")?,
        name: row.get("name")?,
        region: row.get("region")?,
        instance_id: row.get("instance_id")?,
        config: row.get("config")?,
        state: row.get("state")?,
        wanted: row.get("wanted")?,
        restarts: row.get("restarts")?,
        healthy: row.get("healthy")?,
        stop_signal: row.get("stop_signal")?,
        rung: row.get("rung")?,
        exit_cause: row.get("exit_cause")?,
        rest: Rest {
            request_id: row.get("request_id")?,
            secrets: row.get("secrets")?,
            state_reason: row.get("state_reason")?,
            generation: row.get("generation")?,
            launched_generation: row.get("launched_generation")?,
            vm_live: row.get("vm_live")?,
            has_snapshot: row.get("has_snapshot")?,
            slot: row.get("slot")?,
            cordoned: row.get("cordoned")?,
            image_digest: row.get("image_digest")?,
            image_stop_signal: row.get("image_stop_signal")?,
            stop_timeout_ms: row.get("stop_timeout_ms")?,
            exit_code: row.get("exit_code")?,
            exit_signal: row.get("exit_signal")?,
            oom_killed: row.get("oom_killed")?,
            restart_at_ms: row.get("restart_at_ms")?,
            due_ms: row.get("due_ms")?,
            n_passed_over: row.get("n_passed_over")?,
            created_ms: row.get("created_ms")?,
            updated_ms: row.get("updated_ms")?,
        },
    })
}

fn check(raw: RawRow) -> Result<Row, StoreError> {
    let damaged = |problem: String| StoreError::Damaged {
        machine: raw.id.clone(),
        problem,
    };
    let text = |error: &dyn std::fmt::Display| damaged(error.to_string());
    let identity = MachineIdentity {
        app: AppName::parse(&raw.app).map_err(|error| text(&error))?,
        name: MachineName::parse(&raw.name).map_err(|error| text(&error))?,
        region: RegionCode::parse(&raw.region).map_err(|error| text(&error))?,
    };
    let config: MachineConfig = serde_json::from_str(&raw.config).map_err(|error| text(&error))?;
    let spec = config.to_recorded_spec(identity).map_err(|faults| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        damaged(faults.join("; "))
    })?;
    let unknown = |column: &str, value: &str| damaged(format!("{column} is `{value}`"));
    let state = MachineState::parse(&raw.state).ok_or_else(|| unknown("state", &raw.state))?;
    let wanted = Wanted::parse(&raw.wanted).ok_or_else(|| unknown("wanted", &raw.wanted))?;
    let rung = match &raw.rung {
        Some(text) => Some(Rung::parse(text).ok_or_else(|| unknown("rung", text))?),
        None => None,
    };
    let cause = raw.exit_cause.as_deref().and_then(ExitCause::parse);
    let restarts: Vec<u64> = serde_json::from_str(&raw.restarts).map_err(|error| text(&error))?;
    let healthy: Vec<bool> = serde_json::from_str(&raw.healthy).map_err(|error| text(&error))?;
    let rest = raw.rest;
    let exit = |exit_code| MachineExit {
        exit_code,
        signal: rest.exit_signal,
        oom_killed: rest.oom_killed,
        cause: cause.unwrap_or_default(),
    };
    Ok(Row {
        id: MachineId::parse(&raw.id).map_err(|error| text(&error))?,
        request_id: rest.request_id,
        instance_id: InstanceId::parse(&raw.instance_id).map_err(|error| text(&error))?,
        spec,
        secrets: rest.secrets,
        state,
        state_reason: rest.state_reason,
        wanted,
        generation: from_sql(rest.generation),
        launched_generation: from_sql(rest.launched_generation),
        vm_live: rest.vm_live,
        rung,
        has_snapshot: rest.has_snapshot,
        slot: rest.slot,
        cordoned: rest.cordoned,
        image_digest: rest.image_digest,
        image_stop_signal: rest.image_stop_signal,
        stop_asked: StopAsked {
            signal: raw.stop_signal.as_deref().and_then(StopSignal::parse),
            timeout: rest
                .stop_timeout_ms
                .map(|ms| Duration::from_millis(from_sql(ms))),
        },
        last_exit: rest.exit_code.map(exit),
        restarts: restarts.into_iter().map(Timestamp::from_ms).collect(),
        restart_at: rest
            .restart_at_ms
            .map(|ms| Timestamp::from_ms(from_sql(ms))),
        due_at: rest.due_ms.map(|ms| Timestamp::from_ms(from_sql(ms))),
        n_passed_over: from_sql(rest.n_passed_over),
        healthy,
        created_at: Timestamp::from_ms(from_sql(rest.created_ms)),
        updated_at: Timestamp::from_ms(from_sql(rest.updated_ms)),
    })
}

/// Writes a new row.
pub(super) fn insert(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    write(connection, row, INSERT, "record machine")
}

/// Writes all columns of an existing row.
pub(super) fn update(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    write(connection, row, UPDATE, "record change of machine")
}

const INSERT: &str = "INSERT INTO machines (id, request_id, app, name, region, process_group, \
    cpu_kind, cpus, memory_mb, instance_id, config, \
    secrets, state, state_reason, wanted, generation, launched_generation, vm_live, rung, \
    has_snapshot, slot, cordoned, image_digest, image_stop_signal, stop_signal, stop_timeout_ms, \
    exit_code, exit_signal, oom_killed, exit_cause, \
    restarts, restart_at_ms, due_ms, n_passed_over, healthy, created_ms, updated_ms) \
    VALUES (:id, :request_id, :app, :name, :region, :process_group, :cpu_kind, :cpus, :memory_mb, \
    :instance_id, :config, :secrets, :state, \
    :state_reason, :wanted, :generation, :launched_generation, :vm_live, :rung, :has_snapshot, \
    :slot, :cordoned, \
    :image_digest, :image_stop_signal, :stop_signal, :stop_timeout_ms, :exit_code, :exit_signal, \
    :oom_killed, :exit_cause, :restarts, :restart_at_ms, :due_ms, :n_passed_over, :healthy, :created_ms, :updated_ms)";

const UPDATE: &str = "UPDATE machines SET request_id = :request_id, app = :app, name = :name, \
    region = :region, process_group = :process_group, cpu_kind = :cpu_kind, cpus = :cpus, \
    memory_mb = :memory_mb, instance_id = :instance_id, config = :config, secrets = :secrets, \
    state = :state, state_reason = :state_reason, wanted = :wanted, generation = :generation, \
    launched_generation = :launched_generation, vm_live = :vm_live, rung = :rung, \
    has_snapshot = :has_snapshot, slot = :slot, \
    cordoned = :cordoned, image_digest = :image_digest, image_stop_signal = :image_stop_signal, \
    stop_signal = :stop_signal, stop_timeout_ms = :stop_timeout_ms, exit_code = :exit_code, \
    exit_signal = :exit_signal, oom_killed = :oom_killed, exit_cause = :exit_cause, \
    restarts = :restarts, \
    restart_at_ms = :restart_at_ms, due_ms = :due_ms, \
    n_passed_over = :n_passed_over, healthy = :healthy, created_ms = :created_ms, \
    updated_ms = :updated_ms WHERE id = :id";

fn write(
    connection: &Connection,
    row: &Row,
    statement: &'static str,
    operation: &'static str,
) -> Result<(), StoreError> {
    let stop_timeout_ms = row
        .stop_asked
        .timeout
        .map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    connection
        .prepare_cached(statement)
        .and_then(|mut statement| {
            statement.execute(named_params! {
                ":id": row.id.as_str(),
                ":request_id": row.request_id,
                ":app": row.spec.app.as_str(),
                ":name": row.spec.name.as_str(),
                ":region": row.spec.region.as_str(),
                ":process_group": row.spec.process_group(),
                ":cpu_kind": row.spec.guest.cpu_kind.as_str(),
                ":cpus": row.spec.guest.n_cpus,
                ":memory_mb": to_sql(row.spec.guest.memory.as_mib()),
                ":instance_id": row.instance_id.as_str(),
                ":config": serde_json::to_string(&MachineConfig::from(&row.spec)).unwrap_or_default(),
                ":secrets": row.secrets,
                ":state": row.state.as_str(),
                ":state_reason": row.state_reason,
                ":wanted": row.wanted.as_str(),
                ":generation": to_sql(row.generation),
                ":launched_generation": to_sql(row.launched_generation),
                ":vm_live": row.vm_live,
                ":rung": row.rung.map(Rung::as_str),
                ":has_snapshot": row.has_snapshot,
                ":slot": row.slot,
                ":cordoned": row.cordoned,
                ":image_digest": row.image_digest,
                ":image_stop_signal": row.image_stop_signal,
                ":stop_signal": row.stop_asked.signal.map(StopSignal::as_str),
                ":stop_timeout_ms": stop_timeout_ms,
                ":exit_code": row.last_exit.map(|exit| exit.exit_code),
                ":exit_signal": row.last_exit.and_then(|exit| exit.signal),
                ":oom_killed": row.last_exit.is_some_and(|exit| exit.oom_killed),
                ":exit_cause": row.last_exit.map(|exit| exit.cause.as_str()),
                ":restarts": restarts_json(&row.restarts),
                ":restart_at_ms": row.restart_at.map(|at| to_sql(at.as_ms())),
                ":due_ms": row.due_at.map(|at| to_sql(at.as_ms())),
                ":n_passed_over": to_sql(row.n_passed_over),
                ":healthy": serde_json::json!(row.healthy).to_string(),
                ":created_ms": to_sql(row.created_at.as_ms()),
                ":updated_ms": to_sql(row.updated_at.as_ms()),
            })
        })
        .during(operation)?;
    Ok(())
}

fn restarts_json(restarts: &[Timestamp]) -> String {
    let ms: Vec<u64> = restarts.iter().map(|at| at.as_ms()).collect();
    serde_json::json!(ms).to_string()
}

/// Appends an event.
pub(super) fn insert_event(
    connection: &Connection,
    id: &MachineId,
    state: MachineState,
    event: &NewEvent,
    now: Timestamp,
) -> Result<(), StoreError> {
    connection
        .execute(
            "INSERT INTO events (machine_id, seq, at_ms, kind, state, source, detail) VALUES (?1, \
             1 + COALESCE((SELECT MAX(seq) FROM events WHERE machine_id = ?1), 0), ?2, ?3, ?4, ?5, ?6)",
            params![
                id.as_str(),
                to_sql(now.as_ms()),
                event.kind,
                state.as_str(),
                event.source,
                event.detail.to_string()
            ],
        )
        .during("record event")?;
    Ok(())
}

/// The newest events of a machine, newest first.
pub(super) fn select_events(
    connection: &Connection,
    id: &MachineId,
    limit: i64,
) -> Result<Vec<MachineEvent>, StoreError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT seq, at_ms, kind, state, source, detail FROM events \
             WHERE machine_id = ?1 ORDER BY seq DESC LIMIT ?2",
        )
        .during("read events")?;
    statement
        .query_map(params![id.as_str(), limit], |row| {
            let state: String = row.get(3)?;
            let detail: String = row.get(5)?;
            Ok(MachineEvent {
                seq: from_sql(row.get(0)?),
                at: Timestamp::from_ms(from_sql(row.get(1)?)),
                kind: row.get(2)?,
                state: MachineState::parse(&state).unwrap_or(MachineState::Failed),
                source: row.get(4)?,
                detail: serde_json::from_str(&detail).unwrap_or_default(),
            })
        })
        .and_then(Iterator::collect)
        .during("read events")
}

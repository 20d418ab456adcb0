//! Sleep and wake: machines that traffic starts and stops.
//!
//! The edge asks to wake a machine when a request wants it. That is a change like
//! one that a user asks for, and once it is recorded all others that ask find it so.
//!
//! Machines that are too many for their traffic are stopped or suspended, app by
//! app, as [`roost_model::sleep`] says. What was seen of their traffic is kept in
//! memory: a new worker looks for the whole time before it puts a machine to sleep.
//! When too few are left awake, some that were put to sleep are woken ([`minimum`]).

mod minimum;
mod region;

use crate::api::requests;
use crate::board::Entry;
use crate::limits;
use crate::store::row::{NewEvent, Row};
use crate::worker::{Inner, Worker};
use minimum::Lacks;
use region::OfRegion;
use roost_model::id::MachineId;
use roost_model::machine::{Autostop, MachineState, Protocol, Service};
use roost_model::name::{AppName, RegionCode};
use roost_model::sleep::{Awake, to_sleep};
use roost_proto::traffic::{SleepControl, WakeError, Waking};
use roost_proto::worker::{Asker, Cause, WorkerError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// What was seen of a machine that runs.
#[derive(Debug)]
struct Seen {
    /// Its process: another one has been seen nothing of.
    pid: Option<u32>,
    n_begun: u64,
    /// When it was first seen to run.
    woke_at: Instant,
    /// When it was last busy, or began to run.
    busy_at: Instant,
    /// When it last served something, or began to run.
    active_at: Instant,
    /// Whether it was to be suspended: if it runs on, that failed.
    is_suspended: bool,
}

/// The machines that are alike: of an app, a region, and the same external ports.
type Alike = (AppName, RegionCode, Vec<(Protocol, u16)>);

/// Looks again and again until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    let stop = inner.tasks.stopping();
    let pause = inner.config.autostop_after / limits::SLEEP_LOOKS;
    let pause = pause.clamp(limits::SLEEP_INTERVAL_MIN, limits::SLEEP_INTERVAL_MAX);
    let (mut seen, mut lacks) = (HashMap::new(), Lacks::default());
    loop {
        tokio::select! {
            biased;
            // Cancel-safe: the token remembers that it fired.
            () = stop.cancelled() => return,
            // Cancel-safe: a dropped sleep is begun anew.
            () = tokio::time::sleep(pause) => {}
        }
        let (now, all) = (Instant::now(), inner.board.all());
        let tried = all.iter().filter(|(_, entry)| entry.split.is_some());
        // Neither side of a split can do the work of the other.
        let tried: HashSet<&AppName> = tried.map(|(_, entry)| &entry.app).collect();
        look(&inner, &mut seen, (&all, &tried), now).await;
        minimum::hold(&inner, &mut lacks, (&all, &tried), now).await;
    }
}

/// All machines of this node, and the apps of which a release is tried out.
type All<'a> = (&'a [(MachineId, Entry)], &'a HashSet<&'a AppName>);

async fn look(
    inner: &Arc<Inner>,
    seen: &mut HashMap<MachineId, Seen>,
    (all, tried): All<'_>,
    now: Instant,
) {
    seen.retain(|id, _| all.binary_search_by(|(other, _)| other.cmp(id)).is_ok());
    let mut groups: BTreeMap<Alike, Vec<(&MachineId, &Entry)>> = BTreeMap::new();
    for (id, entry) in all {
        if may_sleep(entry) {
            note(inner, seen, (id, entry), now);
            if tried.contains(&entry.app) {
                continue;
            }
            groups.entry(alike(entry)).or_default().push((id, entry));
        }
    }
    let after = inner.config.autostop_after;
    for (alike, group) in &groups {
        let awake: Vec<Awake> = group
            .iter()
            .filter_map(|(id, entry)| awake(inner, (id, entry), seen.get(id)?, now))
            .collect();
        for id in to_sleep(&awake, n_kept_here(inner, alike, group), after) {
            let entry = group.iter().find(|(other, _)| **other == id);
            let Some((_, entry)) = entry else { continue };
            let wants_suspend = asks_for_suspend(entry);
            if let Some(seen) = seen.get_mut(&id) {
                // One that could not be suspended is stopped.
                let suspends = wants_suspend && !seen.is_suspended && can_suspend(inner, &id).await;
                seen.is_suspended |= put_to_sleep(inner, &id, suspends).await && suspends;
            }
        }
    }
}

/// Whether a machine runs, takes traffic by all its services, and all of them
/// let it sleep.
fn may_sleep(entry: &Entry) -> bool {
    entry.state == MachineState::Started
        && !entry.cordoned
        && !entry.is_standby
        && !entry.services.is_empty()
        && entry.services.iter().all(|service| lets_sleep(service))
        && entry.healthy().into_iter().all(|is_healthy| is_healthy)
}

fn lets_sleep(service: &Service) -> bool {
    matches!(service.autostop, Autostop::Stop | Autostop::Suspend)
}

fn alike(entry: &Entry) -> Alike {
    let ports = ports_of(&entry.services);
    (entry.app.clone(), entry.region.clone(), ports)
}

/// The external ports of a machine.
fn ports_of<'a>(services: impl IntoIterator<Item = &'a Arc<Service>>) -> Vec<(Protocol, u16)> {
    let ports = services.into_iter().flat_map(|service| {
        let ports = service.ports.iter();
        ports.map(|port| (service.protocol, port.ports.first))
    });
    let mut ports: Vec<(Protocol, u16)> = ports.collect();
    ports.sort_unstable();
    ports
}

/// How many of the machines that are alike are to stay awake at this node.
fn n_kept_here(inner: &Inner, alike: &Alike, group: &[(&MachineId, &Entry)]) -> usize {
    let n_kept = group.iter().map(|(_, entry)| n_kept(entry)).max();
    let n_kept = n_kept.unwrap_or(0);
    let mut releases = group.iter().map(|(_, entry)| entry.release);
    let Some(release) = releases.next().filter(|_| n_kept > 0) else {
        return n_kept;
    };
    // Machines of two releases are alike by chance only.
    if releases.any(|other| other != release) {
        return n_kept;
    }
    let of_region = OfRegion {
        alike,
        release,
        n_kept,
    };
    let elsewhere = inner.gauge.elsewhere(&alike.0);
    n_kept.saturating_sub(of_region.n_kept_before(&inner.config.node.id, &elsewhere))
}

/// How many machines like this one are to stay awake.
fn n_kept(entry: &Entry) -> usize {
    let services = entry.services.iter();
    let most = services.map(|service| service.min_machines_running).max();
    if entry.is_primary {
        usize::try_from(most.unwrap_or(0)).unwrap_or(usize::MAX)
    } else {
        0
    }
}

fn asks_for_suspend(entry: &Entry) -> bool {
    let mut services = entry.services.iter();
    services.all(|service| service.autostop == Autostop::Suspend)
}

/// The smallest of its services': what comes is counted for the machine.
fn soft_limit(entry: &Entry) -> usize {
    let services = entry.services.iter();
    let least = services.map(|service| service.concurrency.soft_limit).min();
    usize::try_from(least.unwrap_or(0))
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Keeps what is seen of a machine's traffic.
fn note(
    inner: &Inner,
    seen: &mut HashMap<MachineId, Seen>,
    (id, entry): (&MachineId, &Entry),
    now: Instant,
) {
    let (load, n_begun) = (inner.gauge.in_flight(id), inner.gauge.n_begun(id));
    let new = || Seen {
        pid: entry.pid,
        n_begun,
        woke_at: now,
        busy_at: now,
        active_at: now,
        is_suspended: false,
    };
    let of_it = seen.entry(id.clone()).or_insert_with(new);
    if of_it.pid != entry.pid {
        *of_it = new();
    }
    if load > 0 || of_it.n_begun != n_begun {
        of_it.active_at = now;
    }
    if load >= soft_limit(entry) {
        of_it.busy_at = now;
    }
    of_it.n_begun = n_begun;
}

fn awake(
    inner: &Inner,
    (id, entry): (&MachineId, &Entry),
    seen: &Seen,
    now: Instant,
) -> Option<Awake> {
    Some(Awake {
        id: id.clone(),
        load: inner.gauge.in_flight(id),
        soft_limit: soft_limit(entry),
        awake_for: now.checked_duration_since(seen.woke_at)?,
        calm_for: now.checked_duration_since(seen.busy_at)?,
        idle_for: now.checked_duration_since(seen.active_at)?,
    })
}

/// Whether the driver that looks after a machine can write a snapshot of it.
async fn can_suspend(inner: &Inner, id: &MachineId) -> bool {
    let row = inner.store.get(id).await.ok().flatten();
    let driver = row.and_then(|row| inner.driver_of(id, row.rung).ok());
    driver.is_some_and(|driver| driver.can_suspend())
}

/// Whether it goes to sleep.
async fn put_to_sleep(inner: &Arc<Inner>, id: &MachineId, suspends: bool) -> bool {
    let after = inner.config.autostop_after;
    let sleeps = change(inner, id, move |row| {
        requests::fall_asleep(row, suspends, after)
    });
    let sleeps = sleeps.await;
    if sleeps {
        tracing::info!(machine_id = %id, suspends, "a machine without traffic goes to sleep");
    }
    sleeps
}

/// Changes a machine in the name of the proxy. Whether nothing was against it.
async fn change(
    inner: &Arc<Inner>,
    id: &MachineId,
    change: impl FnOnce(&mut Row) -> Option<NewEvent> + Send + 'static,
) -> bool {
    let (now, asker) = (inner.clock.now(), Asker::from(Cause::Proxy));
    let change = move |row: &mut Row| Ok::<_, WorkerError>(change(row).into_iter().collect());
    let capacity = inner.config.capacity();
    let changed = inner
        .store
        .change_in_room(id, (asker, now), capacity, change)
        .await;
    match changed {
        Ok(Some(Ok(_))) => {
            inner.notify(id);
            inner.kick(id);
            return true;
        }
        // Somebody holds a lease on it: it is looked at again.
        Ok(Some(Err(error))) => {
            tracing::debug!(machine_id = %id, %error, "a machine is left as it is");
        }
        Ok(None) => {}
        Err(error) => {
            tracing::error!(machine_id = %id, %error, "cannot put a machine to sleep, or wake it");
        }
    }
    false
}

/// Wakes machines for the edge, as long as there is a worker.
#[derive(Debug)]
struct Alarm(Weak<Inner>);

impl Worker {
    /// Wakes machines for the edge. It keeps nothing of this worker alive.
    pub fn sleep_control(&self) -> Arc<dyn SleepControl> {
        Arc::new(Alarm(Arc::downgrade(&self.inner)))
    }
}

impl SleepControl for Alarm {
    fn wake(&self, machine_id: MachineId) -> Waking {
        let inner = self.0.upgrade();
        Box::pin(async move {
            let inner = inner.ok_or(WakeError::Away)?;
            // Whoever owns the machines now, it is not this process.
            if inner.tasks.stopping().is_cancelled() {
                return Err(WakeError::Away);
            }
            let stopping = inner.tasks.stopping();
            let worker = Worker { inner };
            let asker = Asker::from(Cause::Proxy);
            let woken = worker.change(&machine_id, &asker, requests::wake).await;
            woken.map(drop).map_err(|error| {
                if stopping.is_cancelled() {
                    WakeError::Away
                } else {
                    WakeError::Refused(error.to_string())
                }
            })
        })
    }
}

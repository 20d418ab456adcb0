//! What an owner does: each action of `lifecycle` in one method.

use super::outcome::{Ending, bounded};
use super::{Arrival, Happened, Owner, Resolved, Start, StartFailure, Stopped};
use crate::health::{self, Unhealthy};
use crate::images::ResolvedImage;
use crate::launch::{plan_stop, resolve_process};
use crate::lifecycle::Event;
use crate::limits;
use crate::store::row::{NewEvent, Row, StopAsked, Wanted};
use crate::worker::{Inner, entry_of};
use futures_util::FutureExt as _;
use roost_host::driver::{Adoption, DriverError, IdRange, LaunchConfig, Origin};
use roost_host::vmm::snapshot::state_timeout;
use roost_model::error::{Retry, chain};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::{ExitCause, Isolation, MachineExit, MachineState, Rung};
use roost_model::restart::{BACKOFF_MAX, is_recent};
use roost_model::time::Timestamp;
use roost_proto::worker::{Cause, WorkerError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const SIGKILL: i32 = 9;
/// Why a machine has not begun to start, for people.
const WAITS_FOR_PROOF: &str = "waiting: the node is trying its isolation with a first guest";

impl Owner {
    /// Finds out what became of the process of an earlier `roostd`, or of one
    /// that could not be suspended.
    pub(super) fn begin_adoption(&mut self) {
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let adoption = async move {
            loop {
                let adopted = match inner.driver_of(&id, rung) {
                    Ok(driver) => driver.adopt(&id).await,
                    Err(error) => Err(error),
                };
                match adopted {
                    Ok(adoption) => return Happened::Adopted(adoption),
                    Err(DriverError::NotRunning(_)) => return Happened::Adopted(Adoption::Gone),
                    Err(error) => {
                        tracing::warn!(machine_id = %id, %error, "cannot adopt machine yet");
                        tokio::time::sleep(limits::RETRY_DELAY).await;
                    }
                }
            }
        };
        self.operation = Some(adoption.boxed());
    }

    /// Removes what a kill between the record of an end and its clearing left.
    pub(super) async fn clear_leftovers(&mut self) -> Result<(), Stopped> {
        let listed = match self.driver() {
            Ok(driver) => driver.list().await,
            Err(error) => Err(error),
        };
        match listed {
            Ok(listed) if !listed.contains(&self.id) => Ok(()),
            // Not knowing is no reason not to clear: removal is idempotent.
            Ok(_) | Err(_) => self.clear_host().await,
        }
    }

    /// Has the driver remove what is left on the host, until it succeeds.
    pub(super) async fn clear_host(&mut self) -> Result<(), Stopped> {
        let stop = self.inner.tasks.stopping();
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let removal = async move { remove_from_host(&inner, &id, rung).await };
        stop.run_until_cancelled(removal).await.ok_or(Stopped)
    }

    pub(super) async fn resolve(&mut self) -> Result<(), Stopped> {
        let drivers = self.inner.drivers.clone();
        let row = self
            .record(move |row| {
                row.state_reason = match (drivers.choose(row.spec.isolation), &row.image_digest) {
                    (Err(refused), _) if refused.is_proving => Some(WAITS_FOR_PROOF.to_owned()),
                    (_, Some(_)) => None,
                    (_, None) => Some(format!("pulling image {}", row.spec.image)),
                };
                vec![]
            })
            .await?;
        self.current_generation = row.generation;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        let pinned = row.image_digest.as_deref();
        let pinned = pinned.and_then(|text| roost_model::digest::Digest::parse(text).ok());
        let image = match pinned {
            Some(digest) => row.spec.image.with_digest(digest),
            None => row.spec.image.clone(),
        };
        let (inner, id, isolation) = (Arc::clone(&self.inner), self.id.clone(), row.spec.isolation);
        self.starting = Some(Box::new(Start {
            row,
            resolved: None,
        }));
        let resolution = async move {
            Happened::Resolved(Box::new(resolve(&inner, &id, isolation, &image).await))
        };
        self.operation = Some(resolution.boxed());
        Ok(())
    }

    pub(super) async fn launch(&mut self) -> Result<(), Stopped> {
        let Some(Start {
            row,
            resolved: Some(Resolved { driver, image }),
        }) = self.starting.take().map(|start| *start)
        else {
            self.operation = Some(launch_failure("the image is not here", false));
            return Ok(());
        };
        let rung = driver.rung();
        let lost_snapshot = self.move_to_rung(&row, rung).await?;
        let config = match self.build_launch(&row, &image) {
            Ok(config) => config,
            Err(reason) => {
                self.operation = Some(launch_failure(&reason, false));
                return Ok(());
            }
        };
        let generation = self.current_generation;
        self.record(move |row| {
            let mut event = match cause_of_relaunch(row, generation) {
                Some(cause) => NewEvent::asked("launch", &cause),
                None => NewEvent::by_worker("launch", serde_json::json!({})),
            };
            event.detail["image_digest"] = image.digest.to_string().into();
            event.detail["rung"] = rung.as_str().into();
            row.vm_live = true;
            row.rung = Some(rung);
            row.launched_generation = generation;
            row.restart_at = None;
            row.state_reason = None;
            // What runs is stopped by it, whatever image comes next.
            row.image_stop_signal.clone_from(&image.stop_signal);
            // The spec may have been replaced meanwhile, with another image.
            if row.generation == generation {
                row.image_digest = Some(image.digest.to_string());
            }
            vec![event]
        })
        .await?;
        let mut limit = limits::LAUNCH_TIMEOUT;
        if config.resume {
            limit += state_timeout(config.guest.memory) * 2;
        }
        let launch = async move {
            let launched = driver.launch(config);
            Happened::Launched(match tokio::time::timeout(limit, launched).await {
                Ok(Ok(mut running)) => {
                    if let Some(reason) = lost_snapshot {
                        running.origin = Origin::ColdAfter(reason);
                    }
                    Ok(running)
                }
                Ok(Err(error)) => Err(StartFailure {
                    is_transient: matches!(error, DriverError::Host { .. }),
                    reason: chain(&error),
                }),
                Err(_) => Err(StartFailure {
                    reason: format!("did not start within {} s", limit.as_secs()),
                    is_transient: true,
                }),
            })
        };
        self.operation = Some(launch.boxed());
        Ok(())
    }

    /// Leaves nothing on the rung of the last launch if it is another; gives the
    /// reason why a resume cannot be, if one was to be.
    async fn move_to_rung(&mut self, row: &Row, rung: Rung) -> Result<Option<String>, Stopped> {
        let lost_snapshot = match self.rung {
            Some(last) if last != rung => {
                self.clear_host().await?;
                let reason = || format!("its snapshot is of the rung {last}, not {rung}");
                row.has_snapshot.then(reason)
            }
            Some(_) | None => None,
        };
        self.rung = Some(rung);
        Ok(lost_snapshot)
    }

    fn build_launch(&self, row: &Row, image: &ResolvedImage) -> Result<LaunchConfig, String> {
        let config = &self.inner.config;
        let slot = row.slot.ok_or("the machine has no address")?;
        let addresses = (config.addresses)(slot);
        let secrets = self.inner.open_secrets(row)?;
        let programs = row.spec.programs();
        let programs = programs.iter().map(|program| {
            let around = (&secrets, addresses, config.platform_env.as_slice());
            resolve_process(row, program, image, around)
        });
        let mut programs = programs.collect::<Result<Vec<_>, _>>()?.into_iter();
        let process = programs.next().ok_or("the machine has no program")?;
        let log_dir = config
            .log_root
            .join(row.spec.app.as_str())
            .join(row.id.as_str());
        Ok(LaunchConfig {
            machine_id: row.id.clone(),
            instance_id: row.instance_id.clone(),
            app: row.spec.app.clone(),
            region: row.spec.region.clone(),
            root_fs: image.root_fs.clone(),
            // One of another rung was removed.
            resume: row.has_snapshot && row.rung == self.rung,
            process,
            beside: programs.collect(),
            guest: row.spec.guest,
            root_disk: row.spec.root_disk,
            swap: row.spec.swap,
            addresses,
            id_range: IdRange {
                base: limits::ID_RANGE_FIRST + slot * limits::ID_RANGE_SIZE,
                size: limits::ID_RANGE_SIZE,
            },
            files: row.spec.files.clone(),
            hostname: row.id.to_string(),
            log_dir,
        })
    }

    pub(super) async fn announce(&mut self) -> Result<(), Stopped> {
        let pid = self.pid;
        let arrival = self.arrival.clone();
        // Watched before anything is awaited, so that no end is missed.
        let watch = watch_exit(Arc::clone(&self.inner), self.id.clone(), self.rung);
        self.exit_watch = Some(watch.boxed());
        // On the board before it is recorded: who is told that it has started
        // finds its process id and checks there.
        let row = self.load().await?;
        let is_new = matches!(arrival, Arrival::Launched(_));
        let healthy = if is_new { &[] } else { row.healthy.as_slice() };
        let mut entry = entry_of(&self.inner, &row);
        entry.state = MachineState::Started;
        entry.pid = pid;
        health::begin(&mut entry, &row.spec, healthy, self.inner.clock.now());
        let ipv4 = entry.ipv4;
        self.inner.board.put([(self.id.clone(), entry)]);
        let generation = self.current_generation;
        let row = self
            .record(move |row| {
                if is_new {
                    row.healthy = vec![];
                }
                // A snapshot was used up, or is of no use any more.
                row.has_snapshot = false;
                let events = record_arrival(row, &arrival, pid);
                // Asked for something else meanwhile.
                row.state = match row.wanted {
                    Wanted::Run if row.generation == generation => MachineState::Started,
                    Wanted::Suspend => MachineState::Suspending,
                    Wanted::Run | Wanted::Rest | Wanted::Gone => MachineState::Stopping,
                };
                events
            })
            .await?;
        self.inner
            .board
            .update(&self.id, |entry| entry.cordoned = row.cordoned);
        self.inner.notify(&self.id);
        let checks = self.inner.tasks.stopping().child_token();
        let (unhealthy, mut told) = mpsc::channel(1);
        health::spawn(&self.inner, &row, ipv4, &checks, &unhealthy);
        self.checks = Some(checks);
        let ailment = async move {
            match told.recv().await {
                Some(ailment) => ailment,
                // No check is left that could ask for a stop.
                None => std::future::pending().await,
            }
        };
        self.unhealthy = Some(ailment.boxed());
        tracing::info!(machine_id = %self.id, pid, arrival = ?self.arrival, "machine runs");
        Ok(())
    }

    /// Its end is looked upon as a failure because of what is recorded here,
    /// also by a `roostd` that only finds that it has ended.
    pub(super) async fn record_unhealthy(&mut self) -> Result<(), Stopped> {
        let Some(ailment) = self.ailment.take() else {
            return Ok(());
        };
        let Unhealthy {
            check,
            n_failed,
            output,
        } = ailment;
        tracing::warn!(machine_id = %self.id, check, n_failed, output, "machine is unhealthy");
        self.record(move |row| {
            row.state_reason = Some(format!(
                "its check {check} failed {n_failed} times in a row: {output}"
            ));
            let detail = serde_json::json!({
                "check": check, "failures": n_failed, "output": output,
            });
            vec![NewEvent::by_worker("unhealthy", detail)]
        })
        .await
        .map(drop)
    }

    pub(super) async fn withdraw(&mut self) -> Result<(), Stopped> {
        self.cancel_checks();
        // The edge is told first, so that it sends nothing more meanwhile.
        let state = self.phase.state();
        self.inner
            .board
            .update(&self.id, |entry| entry.state = state);
        self.record(|_| vec![]).await.map(drop)
    }

    pub(super) fn drain(&mut self) {
        let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
        let has_services = inner
            .board
            .get(&id)
            .is_some_and(|entry| !entry.services.is_empty());
        let drain_timeout = inner.config.drain_timeout;
        let drain = async move {
            let wait = async {
                tokio::time::sleep(limits::DRAIN_SETTLE).await;
                while inner.gauge.in_flight(&id) > 0 {
                    tokio::time::sleep(limits::DRAIN_POLL).await;
                }
            };
            if has_services && tokio::time::timeout(drain_timeout, wait).await.is_err() {
                let n_left = inner.gauge.in_flight(&id);
                tracing::warn!(machine_id = %id, n_left, "requests under way are cut off");
            }
            Happened::Event(Event::Drained)
        };
        self.operation = Some(drain.boxed());
    }

    pub(super) async fn signal_stop(&mut self) -> Result<(), Stopped> {
        let plan = plan_stop(&self.load().await?);
        self.send_signal(plan.signal.number()).await;
        self.arm_signal_timer(plan.timeout);
        Ok(())
    }

    pub(super) async fn signal_kill(&mut self) -> Result<(), Stopped> {
        self.send_signal(SIGKILL).await;
        self.arm_signal_timer(limits::KILL_TIMEOUT);
        Ok(())
    }

    pub(super) async fn force_remove(&mut self) -> Result<(), Stopped> {
        tracing::warn!(machine_id = %self.id, "machine outlives SIGKILL; removing it by force");
        self.clear_host().await?;
        self.arm_signal_timer(limits::KILL_TIMEOUT);
        Ok(())
    }

    async fn send_signal(&mut self, signal: i32) {
        let driver = self.driver();
        let call = async { driver?.signal(&self.id, signal).await };
        match tokio::time::timeout(limits::DRIVER_CALL_TIMEOUT, call).await {
            // Not running: its end is on the way to us.
            Ok(Ok(()) | Err(DriverError::NotRunning(_))) => {}
            Ok(Err(error)) => {
                tracing::warn!(machine_id = %self.id, signal, %error, "cannot signal")
            }
            Err(_) => tracing::warn!(machine_id = %self.id, signal, "signal takes too long"),
        }
    }

    fn arm_signal_timer(&mut self, timeout: Duration) {
        self.operation = Some(
            async move {
                tokio::time::sleep(timeout).await;
                Happened::Event(Event::SignalTimedOut)
            }
            .boxed(),
        );
    }

    pub(super) fn arm_backoff(&mut self, at: Timestamp) {
        // Recorded by a clock that was set back since, it may be days ahead.
        let wait = at.since(self.inner.clock.now()).min(BACKOFF_MAX);
        self.operation = Some(
            async move {
                tokio::time::sleep(wait).await;
                Happened::Event(Event::BackoffElapsed)
            }
            .boxed(),
        );
    }

    pub(super) async fn record_end(&mut self) -> Result<(), Stopped> {
        self.cancel_checks();
        (self.operation, self.exit_watch, self.pid) = (None, None, None);
        let ending = self.ending.take().unwrap_or_else(Ending::gone);
        let (generation, state) = (self.current_generation, self.phase.state());
        self.inner.board.update(&self.id, |entry| {
            entry.state = state;
            entry.pid = None;
            entry.checks.clear();
        });
        // First the record, then the host: killed in between, the end is not
        // counted again, since `vm_live` is no longer set, and the next start
        // clears what is left.
        let row = self
            .record(move |row| apply_ending(row, &ending, generation))
            .await?;
        tracing::info!(machine_id = %self.id, reason = row.state_reason, "machine ended");
        self.clear_host().await
    }

    pub(super) async fn record_rest(&mut self) -> Result<(), Stopped> {
        self.operation = None;
        let row = self
            .record(|row| {
                row.restart_at = None;
                row.stop_asked = StopAsked::default();
                settle_suspend(row);
                vec![]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        Ok(())
    }

    pub(super) async fn remove(&mut self) -> Result<(), Stopped> {
        let row = self
            .record(|row| {
                row.wanted = Wanted::Gone;
                vec![]
            })
            .await?;
        self.inner
            .board
            .put([(self.id.clone(), entry_of(&self.inner, &row))]);
        let (inner, id, rung) = (Arc::clone(&self.inner), self.id.clone(), self.rung);
        let removal = async move {
            remove_from_host(&inner, &id, rung).await;
            // A failed release leaves garbage for the collector, nothing worse.
            if let Err(error) = inner.images.release(&id).await {
                tracing::warn!(machine_id = %id, %error, "cannot release image");
            }
            Happened::Event(Event::Removed)
        };
        self.operation = Some(removal.boxed());
        Ok(())
    }

    pub(super) async fn forget(&mut self) -> Result<(), Stopped> {
        self.inner.board.remove(&self.id);
        self.record(|row| {
            row.slot = None;
            row.has_snapshot = false;
            row.secrets = vec![];
            row.state_reason = None;
            vec![NewEvent::by_worker("destroyed", serde_json::json!({}))]
        })
        .await?;
        tracing::info!(machine_id = %self.id, "machine removed");
        Ok(())
    }
}

/// Why a machine is launched again that nobody asked for anew.
fn cause_of_relaunch(row: &Row, generation: u64) -> Option<Cause> {
    if row.launched_generation != generation {
        return None;
    }
    Some(match row.restart_at {
        Some(_) => Cause::RestartPolicy,
        // Its process was gone when this `roostd` looked for it.
        None => Cause::HostRestart,
    })
}

/// The event of a machine that runs, and its reason.
fn record_arrival(row: &mut Row, arrival: &Arrival, pid: Option<u32>) -> Vec<NewEvent> {
    let (kind, mut detail) = match arrival {
        Arrival::Launched(_) => ("start", serde_json::json!({ "pid": pid })),
        Arrival::Adopted => ("adopt", serde_json::json!({ "pid": pid })),
        // Its failed suspend was the event, and is the reason.
        Arrival::RunsOn => {
            if row.wanted == Wanted::Suspend {
                row.wanted = Wanted::Run;
            }
            return vec![];
        }
    };
    row.state_reason = None;
    if let Arrival::Launched(running) = arrival {
        if let Some(kernel) = &running.kernel {
            detail["kernel"] = kernel.as_str().into();
        }
        match &running.origin {
            Origin::Cold => {}
            Origin::Resumed => detail["resumed"] = true.into(),
            Origin::ColdAfter(reason) => {
                let reason = bounded(reason);
                row.state_reason = Some(format!(
                    "started anew, as it could not be resumed: {reason}"
                ));
                detail["resumed"] = false.into();
                detail["reason"] = reason.into();
            }
        }
    }
    vec![NewEvent::by_worker(kind, detail)]
}

/// Nothing is left to suspend.
fn settle_suspend(row: &mut Row) {
    if row.wanted == Wanted::Suspend {
        row.wanted = Wanted::Rest;
    }
}

fn apply_ending(row: &mut Row, ending: &Ending, generation: u64) -> Vec<NewEvent> {
    row.vm_live = false;
    // A start that is tried again finds what the driver could keep.
    row.has_snapshot &= ending.exit.is_none() && ending.restart.is_some();
    settle_suspend(row);
    row.last_exit = ending.exit.or(row.last_exit);
    row.state_reason.clone_from(&ending.reason);
    row.stop_asked = StopAsked::default();
    row.restart_at = ending.restart.map(|(_, at)| at);
    if let Some((now, _)) = ending.restart {
        row.restarts.retain(|at| is_recent(*at, now));
        row.restarts.push(now);
    }
    if ending.settles && row.wanted == Wanted::Run && row.generation == generation {
        row.wanted = Wanted::Rest;
    }
    if ending.destroys {
        row.wanted = Wanted::Gone;
    }
    vec![ending.event.clone()]
}

/// Chooses a driver, once it is known which ones work, and has the image there.
async fn resolve(
    inner: &Inner,
    id: &MachineId,
    isolation: Isolation,
    image: &ImageRef,
) -> Result<Resolved, StartFailure> {
    let chosen = inner.drivers.choose_when_tried(isolation);
    let chosen = tokio::time::timeout(limits::PROOF_TIMEOUT, chosen).await;
    // One that is being tried for longer than that is refused as it stands.
    let chosen = chosen.unwrap_or_else(|_| inner.drivers.choose(isolation));
    let driver = chosen.map_err(|refused| StartFailure {
        reason: refused.to_string(),
        is_transient: refused.is_proving,
    })?;
    let pull = inner.images.resolve(id, image, driver.root_fs());
    match tokio::time::timeout(limits::RESOLVE_TIMEOUT, pull).await {
        Ok(Ok(image)) => Ok(Resolved { driver, image }),
        Ok(Err(error)) => Err(image_failure(&error)),
        Err(_) => Err(StartFailure {
            reason: format!(
                "image {image} was not here after {} s",
                limits::RESOLVE_TIMEOUT.as_secs()
            ),
            is_transient: false,
        }),
    }
}

fn image_failure(error: &WorkerError) -> StartFailure {
    use roost_model::error::Classify as _;
    StartFailure {
        reason: chain(error),
        is_transient: error.retry() == Retry::Backoff,
    }
}

fn launch_failure(
    reason: &str,
    is_transient: bool,
) -> futures_util::future::BoxFuture<'static, Happened> {
    let failure = StartFailure {
        reason: reason.to_owned(),
        is_transient,
    };
    std::future::ready(Happened::Launched(Err(failure))).boxed()
}

/// Removes a machine from the host, trying until it succeeds.
async fn remove_from_host(inner: &Inner, id: &MachineId, rung: Option<Rung>) {
    loop {
        let removal = async { inner.driver_of(id, rung)?.remove(id).await };
        match tokio::time::timeout(limits::DRIVER_CALL_TIMEOUT, removal).await {
            // Not running: it was never launched.
            Ok(Ok(()) | Err(DriverError::NotRunning(_))) => return,
            Ok(Err(error)) => tracing::warn!(machine_id = %id, %error, "cannot clear machine yet"),
            Err(_) => tracing::warn!(machine_id = %id, "clearing machine takes too long"),
        }
        tokio::time::sleep(limits::RETRY_DELAY).await;
    }
}

/// Resolves when the machine's process has ended.
async fn watch_exit(inner: Arc<Inner>, id: MachineId, rung: Option<Rung>) -> MachineExit {
    loop {
        let exit = async { inner.driver_of(&id, rung)?.wait_exit(&id).await };
        match exit.await {
            Ok(exit) => return exit,
            Err(DriverError::NotRunning(_)) => {
                tracing::warn!(machine_id = %id, "how the machine ended is not known");
                return MachineExit {
                    exit_code: 128 + SIGKILL,
                    signal: Some(SIGKILL),
                    oom_killed: false,
                    cause: ExitCause::Shim,
                };
            }
            Err(error) => {
                tracing::warn!(machine_id = %id, %error, "cannot watch machine");
                tokio::time::sleep(limits::RETRY_DELAY).await;
            }
        }
    }
}

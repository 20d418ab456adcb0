//! From a wish to a process: driver, image, launch.

use super::{Happened, Owner, Resolved, Start, StartFailure, Stopped};
use crate::images::ResolvedImage;
use crate::launch::resolve_process;
use crate::limits;
use crate::store::row::{NewEvent, Row};
use crate::worker::{Inner, entry_of};
use futures_util::FutureExt as _;
use roost_host::driver::{DriverError, IdRange, LaunchConfig, Origin};
use roost_host::vmm::snapshot::state_timeout;
use roost_model::error::{Retry, chain};
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::machine::{Isolation, Rung};
use roost_proto::worker::{Cause, WorkerError};
use std::sync::Arc;

/// Why a machine has not begun to start, for people.
const WAITS_FOR_PROOF: &str = "waiting: the node is trying its isolation with a first guest";

impl Owner {
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

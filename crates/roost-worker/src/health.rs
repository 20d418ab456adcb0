//! Health of running machines: checks, and the port probe for services that have none.
//!
//! While a machine runs, one task per check asks it (`ask`), counts what it
//! answers (`streak`) and writes the result to the board, which decides what
//! takes requests. A service takes them while all of its checks pass, and those
//! of the machine that are for readiness; a service without checks takes them
//! once its port has accepted a connection. Until a check has passed for the
//! first time it runs more often than its interval, so that a machine that is
//! ready is found soon.
//!
//! All times are of the monotonic clock: setting the host's clock neither
//! floods machines with checks nor stops them.

mod ask;
mod streak;

#[cfg(test)]
mod tests;

pub(crate) use ask::Asker;

use crate::board::{CheckEntry, Decides, Entry};
use crate::limits;
use crate::store::row::Row;
use crate::worker::Inner;
use ask::{Answer, Target};
use roost_model::machine::{Check, CheckPurpose, MachineSpec, Protocol};
use roost_model::time::Timestamp;
use roost_proto::worker::{CheckResult, CheckStatus, LISTENING_SOCKETS_MAX, ListeningSocket};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use streak::{Outcome, Progress, Streak};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A check with what it decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedCheck {
    /// Its name in the machine's status.
    pub(crate) name: String,
    /// What it decides about.
    pub(crate) decides: Decides,
    /// What to ask.
    pub(crate) check: Check,
}

/// A check that asks for its machine to be stopped fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// Its name.
    pub(crate) check: String,
    /// So many runs in a row failed.
    pub(crate) n_failed: u32,
    /// What the last one saw, for people.
    pub(crate) output: String,
}

/// All checks of a machine: those of its services first.
pub(crate) fn plan_checks(spec: &MachineSpec) -> Vec<NamedCheck> {
    let mut checks = Vec::new();
    for (service_idx, service) in spec.services.iter().enumerate() {
        for check in &service.checks {
            let (prefix, idx) = (Check::SERVICE_PREFIX, checks.len());
            let kind = check.kind.as_str();
            let name = match check.kind.port() {
                Some(port) => format!("{prefix}{idx:02}-{kind}-{port}"),
                None => format!("{prefix}{idx:02}-{kind}"),
            };
            checks.push(NamedCheck {
                name,
                decides: Decides::Service(service_idx),
                check: check.clone(),
            });
        }
    }
    checks.extend(spec.checks.iter().map(|(name, check)| NamedCheck {
        name: name.clone(),
        decides: match check.purpose {
            CheckPurpose::Readiness => Decides::Machine,
            CheckPurpose::Informational => Decides::Nothing,
        },
        check: check.clone(),
    }));
    checks
}

/// Sets the entry of a machine that begins to run.
///
/// `healthy` is what was last known of the services of an adopted machine:
/// it is trusted until the first check. A new machine has none.
pub(crate) fn begin(entry: &mut Entry, spec: &MachineSpec, healthy: &[bool], now: Timestamp) {
    let was_healthy = |service_idx: usize| healthy.get(service_idx).copied().unwrap_or(false);
    entry.checks.clear();
    for NamedCheck { name, decides, .. } in plan_checks(spec) {
        let is_trusted = match decides {
            Decides::Service(idx) => was_healthy(idx),
            // While it fails no service takes requests.
            Decides::Machine => healthy.contains(&true),
            Decides::Nothing => false,
        };
        let (result, output) = if is_trusted {
            (CheckResult::Passing, "passed before roostd restarted")
        } else {
            (CheckResult::Waiting, "not checked yet")
        };
        let status = CheckStatus {
            name: name.clone(),
            result,
            output: output.into(),
            updated_at: now,
        };
        entry.checks.insert(name, CheckEntry { status, decides });
    }
    let services = spec.services.iter().enumerate();
    let ports = services.map(|(service_idx, service)| {
        let is_probed = service.checks.is_empty() && !was_healthy(service_idx);
        is_probed.then(|| format!("nothing has answered on port {} yet", service.internal_port))
    });
    entry.ports = ports.collect();
}

/// Runs the checks of a machine until the token fires.
///
/// The first check that fails and asks for the machine to be stopped is told to `unhealthy`.
pub(crate) fn spawn(
    inner: &Arc<Inner>,
    row: &Row,
    ipv4: Ipv4Addr,
    stop: &CancellationToken,
    unhealthy: &mpsc::Sender<Unhealthy>,
) {
    let watch = Arc::new(Watch {
        inner: Arc::clone(inner),
        target: Target {
            id: row.id.clone(),
            ipv4,
            driver: inner.driver_of(&row.id, row.rung),
            slots: Semaphore::new(limits::CHECKS_PER_MACHINE_MAX),
        },
        began: Instant::now(),
        unhealthy: unhealthy.clone(),
    });
    for (service_idx, service) in row.spec.services.iter().enumerate() {
        if service.checks.is_empty() {
            let (watch, stop) = (Arc::clone(&watch), stop.clone());
            let (protocol, port) = (service.protocol, service.internal_port);
            inner.tasks.spawn("port probe", async move {
                stop.run_until_cancelled(watch.probe(service_idx, protocol, port))
                    .await;
            });
        }
    }
    for check in plan_checks(&row.spec) {
        let (watch, stop) = (Arc::clone(&watch), stop.clone());
        inner.tasks.spawn("health check", async move {
            stop.run_until_cancelled(watch.repeat(check)).await;
        });
    }
}

/// What every check of one run of a machine needs.
struct Watch {
    inner: Arc<Inner>,
    target: Target,
    began: Instant,
    unhealthy: mpsc::Sender<Unhealthy>,
}

impl Watch {
    /// Tries a port until it accepts a connection, or until a socket takes its datagrams.
    async fn probe(&self, service_idx: usize, protocol: Protocol, port: u16) {
        let mut interval = limits::PROBE_INTERVAL_FIRST;
        loop {
            // Not counted among the bounded checks: it must find a ready
            // machine soon, and a refused connection costs next to nothing.
            let probed = match protocol {
                Protocol::Tcp => self.probe_tcp(port).await,
                Protocol::Udp => self.probe_udp(port).await,
            };
            match probed {
                Ok(()) => break,
                Err(fault) => self.set_port(service_idx, Some(fault)).await,
            }
            let interval_max = if self.began.elapsed() < limits::PROBE_FAST_PERIOD {
                limits::PROBE_INTERVAL
            } else {
                limits::PROBE_INTERVAL_SLOW
            };
            tokio::time::sleep(interval.min(interval_max)).await;
            interval = (interval * 2).min(interval_max);
        }
        self.set_port(service_idx, None).await;
    }

    async fn probe_tcp(&self, port: u16) -> Result<(), String> {
        let address = SocketAddr::from((self.target.ipv4, port));
        let asked = ask::tcp(address, limits::PROBE_TIMEOUT).await;
        asked.map_err(|problem| format!("port {port} does not accept connections: {problem}"))
    }

    /// An app need not answer a datagram that it does not understand: so its sockets are looked at.
    async fn probe_udp(&self, port: u16) -> Result<(), String> {
        let Target { id, driver, .. } = &self.target;
        let sockets = match driver {
            Ok(driver) => driver.listening_sockets(id).await,
            Err(_) => return Err("its sockets cannot be seen: it has no driver".to_owned()),
        };
        let sockets = sockets.map_err(|error| format!("its sockets cannot be seen: {error}"))?;
        let takes = |socket: &ListeningSocket| {
            socket.protocol.starts_with("udp")
                && socket.address.port() == port
                && !socket.address.ip().is_loopback()
        };
        // Of a list that may have been cut nobody can tell what is not there.
        let may_be_there = sockets.len() >= LISTENING_SOCKETS_MAX || sockets.iter().any(takes);
        may_be_there.then_some(()).ok_or_else(|| {
            format!(
                "no socket takes datagrams at port {port}; it has to be bound to 0.0.0.0:{port}"
            )
        })
    }

    async fn set_port(&self, service_idx: usize, fault: Option<String>) {
        self.change(|entry| {
            if let Some(slot) = entry.ports.get_mut(service_idx) {
                *slot = fault;
            }
        })
        .await;
    }

    /// Runs a check again and again.
    async fn repeat(&self, named: NamedCheck) {
        let check = &named.check;
        let result = self.known_result(&named.name);
        let is_trusted = result == CheckResult::Passing;
        let mut streak = Streak::new(result);
        let mut progress = Progress {
            has_passed: is_trusted,
            ..Progress::default()
        };
        // One that passed before is past its time of grace.
        let grace_period = if is_trusted {
            Duration::ZERO
        } else {
            check.grace_period
        };
        let mut counted_at: Option<Instant> = None;
        let draw = rand::random::<f64>;
        tokio::time::sleep(streak::first_pause(check, is_trusted, draw())).await;
        loop {
            let answer = self.inner.asker.ask(&self.target, check).await;
            progress.n_asked = progress.n_asked.saturating_add(1);
            progress.has_passed |= answer.is_ok();
            progress.age = self.began.elapsed();
            progress.since_failure = counted_at.map(|at| at.elapsed());
            let outcome = match answer {
                Ok(_) => Outcome::Passed,
                Err(_) if streak::counts(check, grace_period, &progress) => {
                    counted_at = Some(Instant::now());
                    Outcome::Failed
                }
                Err(_) => Outcome::Excused,
            };
            streak = streak.after(outcome, check);
            self.report(&named, streak, answer).await;
            tokio::time::sleep(streak::pause(check, &progress, draw())).await;
        }
    }

    fn known_result(&self, name: &str) -> CheckResult {
        let entry = self.inner.board.get(&self.target.id);
        let check = entry.and_then(|mut entry| entry.checks.remove(name));
        check.map_or(CheckResult::Waiting, |check| check.status.result)
    }

    async fn report(&self, named: &NamedCheck, streak: Streak, answer: Answer) {
        let now = self.inner.clock.now();
        let output = describe(streak, &named.check, answer);
        if named.check.stops_unhealthy && streak.result == CheckResult::Critical {
            // Full when another check was the first: one is enough.
            let _ = self.unhealthy.try_send(Unhealthy {
                check: named.name.clone(),
                n_failed: streak.n_failed,
                output: output.clone(),
            });
        }
        self.change(|entry| {
            let Some(check) = entry.checks.get_mut(&named.name) else {
                return;
            };
            let status = &mut check.status;
            if (status.result, &status.output) != (streak.result, &output) {
                status.updated_at = now;
            }
            (status.result, status.output) = (streak.result, output);
        })
        .await;
    }

    /// Changes what the board knows, and remembers it if other services take requests now.
    async fn change(&self, change: impl FnOnce(&mut Entry)) {
        let id = &self.target.id;
        let changed = self.inner.board.update(id, |entry| {
            let before = entry.healthy();
            change(entry);
            let after = entry.healthy();
            (before != after).then_some(after)
        });
        if let Some(Some(healthy)) = changed {
            self.inner.notify(id);
            if let Err(error) = self.inner.store.remember_health(id, healthy).await {
                tracing::warn!(machine_id = %id, %error, "cannot remember health");
            }
        }
    }
}

/// What a run saw, and how far it is from turning the result.
fn describe(streak: Streak, check: &Check, answer: Answer) -> String {
    match (answer, streak.result) {
        (Ok(output), CheckResult::Passing) | (Err(output), CheckResult::Critical) => output,
        (Ok(output), CheckResult::Waiting | CheckResult::Critical) => {
            let (n, needed) = (streak.n_passed, check.success_threshold);
            format!("passed {n} of {needed} times: {output}")
        }
        (Err(output), CheckResult::Passing | CheckResult::Waiting) if streak.n_failed > 0 => {
            let (n, needed) = (streak.n_failed, check.failure_threshold);
            format!("failed {n} of {needed} times: {output}")
        }
        (Err(output), CheckResult::Passing | CheckResult::Waiting) => output,
    }
}

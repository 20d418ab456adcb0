//! Health of running machines: checks, and the port probe for services that have none.
//!
//! While a machine runs, one task per check asks it at its private address and
//! writes the result to the board. A service takes requests while all of its
//! checks pass; a service without checks takes them once its port has
//! accepted a connection. Until a check has passed for the first time it runs
//! more often than its interval, so that a machine that is ready is found soon.

mod ask;

use crate::board::Entry;
use crate::limits;
use crate::worker::Inner;
use roost_model::id::MachineId;
use roost_model::machine::{Check, CheckKind, MachineSpec};
use roost_model::time::Timestamp;
use roost_proto::worker::{CheckResult, CheckStatus};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pause after the first run of a check that has not passed yet; doubles with each further one.
const FIRST_PASS_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The most that it grows to: until its first pass a check runs at least this often.
const FIRST_PASS_INTERVAL: Duration = Duration::from_millis(250);

/// A check with what it decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedCheck {
    /// Its name in the machine's status.
    pub(crate) name: String,
    /// The position of the service that it decides about, if any.
    pub(crate) service_idx: Option<usize>,
    /// What to ask.
    pub(crate) check: Check,
}

/// All checks of a machine: those of its services first.
pub(crate) fn plan_checks(spec: &MachineSpec) -> Vec<NamedCheck> {
    let mut checks = Vec::new();
    for (service_idx, service) in spec.services.iter().enumerate() {
        for check in &service.checks {
            let kind = match check.kind {
                CheckKind::Tcp => "tcp",
                CheckKind::Http { .. } => "http",
            };
            let name = format!("servicecheck-{:02}-{kind}-{}", checks.len(), check.port);
            checks.push(NamedCheck {
                name,
                service_idx: Some(service_idx),
                check: check.clone(),
            });
        }
    }
    checks.extend(spec.checks.iter().map(|(name, check)| NamedCheck {
        name: name.clone(),
        service_idx: None,
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
    for NamedCheck {
        name, service_idx, ..
    } in plan_checks(spec)
    {
        let (result, output) = match service_idx {
            Some(idx) if was_healthy(idx) => {
                (CheckResult::Passing, "passed before roostd restarted")
            }
            Some(_) | None => (CheckResult::Waiting, "not checked yet"),
        };
        let status = CheckStatus {
            name: name.clone(),
            result,
            output: output.into(),
            updated_at: now,
        };
        entry.checks.insert(name, status);
    }
    let fault = |service_idx: usize, port: u16| {
        (!was_healthy(service_idx)).then(|| format!("nothing has answered on port {port} yet"))
    };
    entry.faults = spec
        .services
        .iter()
        .enumerate()
        .map(|(service_idx, service)| fault(service_idx, service.internal_port))
        .collect();
}

/// Runs the checks of a machine until the token fires.
pub(crate) fn spawn(
    inner: &Arc<Inner>,
    id: &MachineId,
    spec: &MachineSpec,
    ipv4: Ipv4Addr,
    stop: &CancellationToken,
) {
    let started_at = inner.clock.now();
    let watch = |inner: &Arc<Inner>| Watch {
        inner: Arc::clone(inner),
        id: id.clone(),
        ipv4,
        started_at,
    };
    for (service_idx, service) in spec.services.iter().enumerate() {
        if service.checks.is_empty() {
            let (watch, stop) = (watch(inner), stop.clone());
            let port = service.internal_port;
            inner.tasks.spawn("port probe", async move {
                stop.run_until_cancelled(watch.probe(service_idx, port))
                    .await;
            });
        }
    }
    for check in plan_checks(spec) {
        let (watch, stop) = (watch(inner), stop.clone());
        inner.tasks.spawn("health check", async move {
            stop.run_until_cancelled(watch.repeat(check)).await;
        });
    }
}

/// What every check of one run of a machine needs.
struct Watch {
    inner: Arc<Inner>,
    id: MachineId,
    ipv4: Ipv4Addr,
    started_at: Timestamp,
}

impl Watch {
    /// Tries a port until it accepts a connection.
    async fn probe(&self, service_idx: usize, port: u16) {
        let address = SocketAddr::from((self.ipv4, port));
        let mut interval = limits::PROBE_INTERVAL_FIRST;
        loop {
            // Not counted among the bounded checks: it must find a ready
            // machine soon, and a refused connection costs next to nothing.
            match ask::tcp(address, limits::PROBE_TIMEOUT).await {
                Ok(_) => break,
                Err(problem) => {
                    let fault = format!("port {port} does not accept connections: {problem}");
                    self.set_fault(service_idx, Some(fault)).await;
                }
            }
            let age = self.inner.clock.now().since(self.started_at);
            let is_young = age < limits::PROBE_FAST_PERIOD;
            let interval_max = if is_young {
                limits::PROBE_INTERVAL
            } else {
                limits::PROBE_INTERVAL_SLOW
            };
            tokio::time::sleep(interval.min(interval_max)).await;
            interval = (interval * 2).min(interval_max);
        }
        self.set_fault(service_idx, None).await;
    }

    /// Runs a check again and again.
    async fn repeat(&self, named: NamedCheck) {
        let mut has_passed = false;
        let mut first_pass_interval = FIRST_PASS_INTERVAL_MIN;
        loop {
            let outcome = self.ask_bounded(&named.check).await;
            has_passed |= outcome.is_ok();
            self.report(&named, outcome).await;
            let interval = if has_passed {
                named.check.interval
            } else {
                named.check.interval.min(first_pass_interval)
            };
            first_pass_interval = (first_pass_interval * 2).min(FIRST_PASS_INTERVAL);
            // Spread, so that machines started together are not asked together.
            tokio::time::sleep(interval.mul_f64(rand::random_range(0.9..1.1))).await;
        }
    }

    async fn ask_bounded(&self, check: &Check) -> Result<String, String> {
        // The semaphore is never closed.
        let _slot = self.inner.check_slots.acquire().await;
        ask::ask(self.ipv4, check).await
    }

    async fn report(&self, named: &NamedCheck, outcome: Result<String, String>) {
        let now = self.inner.clock.now();
        let in_grace = now.since(self.started_at) < named.check.grace_period;
        let changed = self.inner.board.update(&self.id, |entry| {
            let healthy = entry.healthy();
            record_outcome(entry, named, outcome, in_grace, now);
            (healthy, entry.healthy())
        });
        if let Some((before, after)) = changed {
            self.remember_if_changed(&before, after).await;
        }
    }

    async fn set_fault(&self, service_idx: usize, fault: Option<String>) {
        let changed = self.inner.board.update(&self.id, |entry| {
            let before = entry.healthy();
            if let Some(slot) = entry.faults.get_mut(service_idx)
                // An adopted service is trusted until it is proven closed.
                && (slot.is_some() || fault.is_some())
            {
                *slot = fault;
            }
            (before, entry.healthy())
        });
        if let Some((before, after)) = changed {
            self.remember_if_changed(&before, after).await;
        }
    }

    async fn remember_if_changed(&self, before: &[bool], after: Vec<bool>) {
        if before == after {
            return;
        }
        self.inner.notify(&self.id);
        if let Err(error) = self.inner.store.remember_health(&self.id, after).await {
            tracing::warn!(machine_id = %self.id, %error, "cannot remember health");
        }
    }
}

/// Writes the outcome of one check to the entry and decides about its service.
fn record_outcome(
    entry: &mut Entry,
    named: &NamedCheck,
    outcome: Result<String, String>,
    in_grace: bool,
    now: Timestamp,
) {
    let Some(status) = entry.checks.get_mut(&named.name) else {
        return;
    };
    let (result, output) = match outcome {
        Ok(output) => (CheckResult::Passing, output),
        // In the grace period a failure changes nothing but the text.
        Err(problem) if in_grace && status.result != CheckResult::Critical => {
            (status.result, problem)
        }
        Err(problem) => (CheckResult::Critical, problem),
    };
    if (status.result, &status.output) != (result, &output) {
        status.updated_at = now;
    }
    (status.result, status.output) = (result, output);
    let Some(service_idx) = named.service_idx else {
        return;
    };
    let fault = service_fault(entry, service_idx);
    if let Some(slot) = entry.faults.get_mut(service_idx) {
        *slot = fault;
    }
}

/// The first check of a service that does not pass, for people.
fn service_fault(entry: &Entry, service_idx: usize) -> Option<String> {
    // Names number the checks of all services in order.
    let first: usize = entry
        .services
        .iter()
        .take(service_idx)
        .map(|s| s.checks.len())
        .sum();
    let n_checks = entry
        .services
        .get(service_idx)
        .map_or(0, |service| service.checks.len());
    (first..first + n_checks).find_map(|check_idx| {
        let prefix = format!("servicecheck-{check_idx:02}-");
        let mut statuses = entry.checks.values();
        let status = statuses.find(|status| status.name.starts_with(&prefix))?;
        match status.result {
            CheckResult::Passing => None,
            CheckResult::Waiting => Some(format!(
                "check {} has not passed yet: {}",
                status.name, status.output
            )),
            CheckResult::Critical => {
                Some(format!("check {} fails: {}", status.name, status.output))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{begin, plan_checks, record_outcome};
    use crate::board::Entry;
    use crate::tests::samples;
    use roost_model::machine::{Check, CheckKind, MachineSpec, MachineState};
    use roost_model::time::Timestamp;
    use roost_proto::worker::CheckResult;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_ms(1_000);

    fn checked() -> (MachineSpec, Entry) {
        let mut spec = samples::spec("web-1");
        let check = |port| Check {
            kind: CheckKind::Tcp,
            port,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            grace_period: Duration::from_secs(5),
        };
        spec.services = vec![samples::service(80), samples::service(81)];
        spec.services[1].checks = vec![check(81), check(82)];
        let entry = Entry {
            app: spec.app.clone(),
            region: spec.region.clone(),
            ipv4: samples::addresses(0).ipv4,
            services: spec.services.clone(),
            state: MachineState::Started,
            cordoned: false,
            pid: None,
            faults: vec![],
            checks: BTreeMap::new(),
        };
        (spec, entry)
    }

    #[test]
    fn an_adopted_machine_is_trusted_until_a_check_fails() {
        let (spec, mut entry) = checked();
        begin(&mut entry, &spec, &[true, true], NOW);
        assert_eq!(entry.healthy(), [true, true]);
        let first = &plan_checks(&spec)[0];
        record_outcome(&mut entry, first, Err("refused".into()), false, NOW);
        assert_eq!(entry.healthy(), [true, false]);
        begin(&mut entry, &spec, &[], NOW);
        assert_eq!(entry.healthy(), [false, false], "a new machine is not");
    }

    #[test]
    fn a_service_needs_all_of_its_checks_and_grace_hides_failures() {
        let (spec, mut entry) = checked();
        begin(&mut entry, &spec, &[], NOW);
        let checks = plan_checks(&spec);
        record_outcome(&mut entry, &checks[0], Ok("ok".into()), true, NOW);
        assert!(
            entry.faults[1]
                .as_deref()
                .unwrap()
                .contains("servicecheck-01-tcp-82")
        );
        record_outcome(&mut entry, &checks[1], Err("refused".into()), true, NOW);
        assert_eq!(
            entry.checks["servicecheck-01-tcp-82"].result,
            CheckResult::Waiting
        );
        record_outcome(&mut entry, &checks[1], Ok("ok".into()), true, NOW);
        assert_eq!(entry.faults[1], None);
        record_outcome(&mut entry, &checks[1], Err("refused".into()), false, NOW);
        assert_eq!(
            entry.checks["servicecheck-01-tcp-82"].result,
            CheckResult::Critical
        );
        assert!(entry.faults[1].as_deref().unwrap().contains("refused"));
    }
}

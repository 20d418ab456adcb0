//! Why a new machine is not healthy, on one screen.

use super::progress::Progress;
use crate::error::ApiError;
use crate::limits;
use crate::ports::LogSelection;
use roost_model::error::{Classify as _, chain};
use roost_model::id::MachineId;
use roost_model::machine::{MachineExit, Protocol};
use roost_proto::rest::DeploymentError;
use roost_proto::worker::{CheckResult, ListeningSocket, MachineStatus, WorkerError};

/// An error of roost's own on the way to a machine.
pub(super) fn of_api_error(error: &ApiError) -> DeploymentError {
    DeploymentError {
        code: error.code.to_owned(),
        message: error.message.clone(),
        hint: error.hint.clone(),
        machine: None,
        log_tail: vec![],
        listening: vec![],
    }
}

/// The worker refused something about a machine.
pub(super) fn of_worker_error(id: &MachineId, error: &WorkerError) -> DeploymentError {
    DeploymentError {
        code: error.code().to_string(),
        message: chain(error),
        hint: error.hint(),
        machine: Some(id.to_string()),
        log_tail: vec![],
        listening: vec![],
    }
}

/// The machine's process ended, or could not be started.
pub(super) async fn exited(progress: &Progress, status: &MachineStatus) -> DeploymentError {
    let ending = match status.last_exit {
        Some(exit) => describe(exit),
        None => "it could not be started".to_owned(),
    };
    let reason = status
        .state_reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let oom = status.last_exit.is_some_and(|exit| exit.oom_killed);
    let hint = if oom {
        let mib = status.spec.guest.memory.as_mib();
        format!("it has {mib} MiB; give it more memory")
    } else if status.last_exit.is_none() {
        "change what the reason names; `roost doctor` checks the node".to_owned()
    } else {
        "look at its last log lines; run the image by hand to see what it needs".to_owned()
    };
    DeploymentError {
        code: if status.last_exit.is_some() {
            "machine-exited"
        } else {
            "machine-start-failed"
        }
        .to_owned(),
        message: format!(
            "machine {} is {}: {ending}{reason}",
            status.id,
            status.state.as_str()
        ),
        hint: Some(hint),
        machine: Some(status.id.to_string()),
        log_tail: log_tail(progress, status).await,
        listening: vec![],
    }
}

fn describe(exit: MachineExit) -> String {
    if let Some(cause) = exit.cause.below_the_app() {
        return cause.to_owned();
    }
    match (exit.oom_killed, exit.signal) {
        (true, _) => "it used more memory than it has and was killed".to_owned(),
        (false, Some(signal)) => format!("its process was ended by signal {signal}"),
        (false, None) => format!("its process ended with exit code {}", exit.exit_code),
    }
}

/// The machine runs, but its checks did not pass in time.
pub(super) async fn unhealthy(progress: &Progress, status: &MachineStatus) -> DeploymentError {
    let seconds = progress.record.wait_timeout.as_secs();
    let sockets = progress
        .state
        .worker
        .listening_sockets(&status.id)
        .await
        .unwrap_or_default();
    let listening: Vec<String> = sockets
        .iter()
        .map(|socket| format!("{} {}", socket.protocol, socket.address))
        .collect();
    let mut error = DeploymentError {
        code: "machine-unhealthy".to_owned(),
        message: format!(
            "machine {} was not healthy within {seconds} s: {}",
            status.id,
            failing_checks(status)
        ),
        hint: Some(
            "look at its last log lines, or give it more time with `wait_timeout`".to_owned(),
        ),
        machine: Some(status.id.to_string()),
        log_tail: log_tail(progress, status).await,
        listening,
    };
    if let Some(port) = unserved_port(status, &sockets) {
        error.code = "wrong-port".to_owned();
        error.message = format!("machine {} {}", status.id, where_it_listens(port, &sockets));
        error.hint = Some(format!(
            "make the app listen on 0.0.0.0:{port}, or set `internal_port` to the port it listens on"
        ));
    }
    error
}

/// Where a machine that runs listens instead of at its services' ports; `None` when it serves them.
pub(super) async fn misplaced(progress: &Progress, status: &MachineStatus) -> Option<String> {
    let worker = &progress.state.worker;
    // Only a notice: the machine may be gone by now, and the end of the wait says why.
    let sockets = worker.listening_sockets(&status.id).await.ok()?;
    unserved_port(status, &sockets).map(|port| where_it_listens(port, &sockets))
}

/// The first port of a service on which nothing listens that others reach.
fn unserved_port(status: &MachineStatus, sockets: &[ListeningSocket]) -> Option<u16> {
    let mut ports = status
        .spec
        .services
        .iter()
        .map(|service| (service.protocol, service.internal_port));
    let unserved = ports.find(|(protocol, port)| !is_served(*protocol, *port, sockets));
    unserved.map(|(_, port)| port)
}

/// Whether something listens on this port at an address that others reach.
fn is_served(protocol: Protocol, port: u16, sockets: &[ListeningSocket]) -> bool {
    sockets.iter().any(|socket| {
        socket.protocol.starts_with(protocol.as_str())
            && socket.address.port() == port
            && !socket.address.ip().is_loopback()
    })
}

fn where_it_listens(port: u16, sockets: &[ListeningSocket]) -> String {
    if sockets.is_empty() {
        return format!("listens on no port, and is expected on 0.0.0.0:{port}");
    }
    let all: Vec<String> = sockets
        .iter()
        .map(|socket| socket.address.to_string())
        .collect();
    format!("listens on {}, not on 0.0.0.0:{port}", all.join(", "))
}

fn failing_checks(status: &MachineStatus) -> String {
    let failing: Vec<String> = status
        .checks
        .iter()
        .filter(|check| check.result != CheckResult::Passing)
        .map(|check| format!("check {} says: {}", check.name, check.output))
        .collect();
    if failing.is_empty() {
        format!("it is {}", status.state.as_str())
    } else {
        failing.join("; ")
    }
}

pub(super) async fn log_tail(progress: &Progress, status: &MachineStatus) -> Vec<String> {
    let selection = LogSelection {
        app: status.spec.app.clone(),
        machine: Some(status.id.clone()),
        region: None,
        since: None,
        until: None,
        limit: limits::LOG_TAIL_LINES,
        contains: None,
    };
    match progress.state.logs.query(selection).await {
        Ok(records) => records.into_iter().map(|record| record.message).collect(),
        // The deployment's own error matters more than this one.
        Err(error) => vec![format!("(its log could not be read: {error})")],
    }
}

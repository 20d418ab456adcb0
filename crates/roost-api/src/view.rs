//! What domain values look like on the wire.

use crate::app::ports;
use crate::state::ApiState;
use roost_model::machine::{MachineState, Service};
use roost_model::time::Timestamp;
use roost_proto::machine_config::MachineConfig;
use roost_proto::rest;
use roost_proto::worker::{CheckResult, Lease, LeaseNonce, MachineEvent, MachineStatus, Process};
use roost_store::records::{
    AppRecord, DeploymentRecord, DeploymentStatus, ReleaseRecord, SecretRecord,
};
use std::time::Duration;

/// RFC 3339, UTC, with milliseconds.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let ms = i64::try_from(at.as_ms()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .unwrap_or(jiff::Timestamp::MAX)
        .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        .to_string()
}

pub(crate) fn app(state: &ApiState, record: &AppRecord, machines: &[MachineStatus]) -> rest::App {
    let status = if machines
        .iter()
        .any(|machine| machine.state == MachineState::Started)
    {
        "deployed"
    } else if record.current_release.is_none() && machines.is_empty() {
        "pending"
    } else {
        "suspended"
    };
    let mut services = machines.iter().flat_map(|machine| &machine.spec.services);
    // What an app without machines will serve nobody knows yet.
    let urls = if machines.is_empty() || services.any(Service::has_url) {
        state.urls(record.name.as_str())
    } else {
        vec![]
    };
    rest::App {
        id: record.id.clone(),
        name: record.name.to_string(),
        status: status.to_owned(),
        machine_count: u64::try_from(machines.len()).unwrap_or(u64::MAX),
        current_release: record.current_release,
        urls,
        ports: ports::of_app(state, &record.name),
        created_at: record.created_at.as_ms(),
    }
}

pub(crate) fn event(event: MachineEvent) -> rest::MachineEvent {
    rest::MachineEvent {
        seq: event.seq,
        kind: event.kind,
        status: event.state.as_str().to_owned(),
        source: event.source,
        timestamp: event.at.as_ms(),
        request: event.detail,
    }
}

pub(crate) fn machine(status: MachineStatus, events: Vec<MachineEvent>) -> rest::Machine {
    let image = &status.spec.image;
    let pinned = image.digest.as_ref().map(ToString::to_string);
    let checks = status.checks.iter().map(|check| rest::MachineCheck {
        name: check.name.clone(),
        status: match check.result {
            CheckResult::Waiting => "warning",
            CheckResult::Passing => "passing",
            CheckResult::Critical => "critical",
        }
        .to_owned(),
        output: check.output.clone(),
        updated_at: rfc3339(check.updated_at),
    });
    rest::Machine {
        id: status.id.to_string(),
        name: status.spec.name.to_string(),
        app: status.spec.app.to_string(),
        state: status.state.as_str().to_owned(),
        state_reason: status.state_reason,
        region: status.spec.region.to_string(),
        instance_id: status.instance_id.to_string(),
        private_ip: status.private_ipv6.to_string(),
        private_ipv4: status.private_ipv4.to_string(),
        image_ref: rest::MachineImage {
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            tag: image.tag.clone(),
            digest: status.image_digest.or(pinned),
        },
        config: MachineConfig::from(&status.spec),
        rung: status.rung.to_string(),
        pid: status.pid,
        checks: checks.collect(),
        cordoned: status.cordoned,
        nonce: None,
        events: events.into_iter().map(event).collect(),
        due_at: status.due_at.map(rfc3339),
        created_at: rfc3339(status.created_at),
        updated_at: rfc3339(status.updated_at),
    }
}

pub(crate) fn lease(lease: Lease, nonce: Option<&LeaseNonce>) -> rest::LeaseResponse {
    let nonce = nonce.filter(|_| lease.is_own);
    rest::LeaseResponse {
        status: "success".to_owned(),
        data: rest::Lease {
            nonce: nonce.map(|nonce| nonce.expose().to_owned()),
            expires_at: lease.expires_at.as_ms() / 1_000,
            owner: lease.owner,
            description: lease.description,
            version: lease.version.to_string(),
        },
    }
}

pub(crate) fn process(process: Process) -> rest::Process {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (used, age) = (ms(process.cpu_time), ms(process.age));
    rest::Process {
        pid: process.pid,
        stime: used,
        rtime: age,
        command: process.command,
        directory: process.directory,
        cpu: used.saturating_mul(100) / age.max(1),
        rss: process.memory,
        listen_sockets: process
            .listening
            .into_iter()
            .map(|socket| rest::ProcessSocket {
                proto: socket.protocol,
                address: socket.address.to_string(),
            })
            .collect(),
    }
}

pub(crate) fn release(
    app: &AppRecord,
    record: ReleaseRecord,
    canary: Option<rest::CanaryJudgement>,
) -> rest::Release {
    rest::Release {
        canary,
        current: app.current_release == Some(record.version),
        image: name_of_image(&record),
        id: record.id,
        version: record.version,
        image_digest: record.image_digest,
        status: record.status.as_str().to_owned(),
        description: record.description,
        config: record.config,
        created_at: record.created_at.as_ms(),
    }
}

/// The image's name alone: clients that pulled it first deploy it by digest, which stands beside it.
fn name_of_image(record: &ReleaseRecord) -> String {
    let image = &record.image;
    let name = match &record.image_digest {
        Some(_) => image
            .split_once('@')
            .map_or(image.as_str(), |(name, _)| name),
        None => image,
    };
    name.to_owned()
}

pub(crate) fn deployment(
    state: &ApiState,
    app: &AppRecord,
    record: DeploymentRecord,
    steps: Vec<rest::DeploymentStep>,
) -> rest::Deployment {
    // That old machines are being removed is no matter of the caller's.
    let status = match record.status {
        DeploymentStatus::Retiring => DeploymentStatus::Running,
        other => other,
    };
    rest::Deployment {
        id: record.id,
        app: app.name.to_string(),
        release: record.release_version,
        status: status.as_str().to_owned(),
        error: record.error,
        canary: record.canary,
        steps,
        urls: state.urls(app.name.as_str()),
        created_at: record.created_at.as_ms(),
        finished_at: record.finished_at.map(Timestamp::as_ms),
    }
}

pub(crate) fn secret(record: SecretRecord) -> rest::Secret {
    rest::Secret {
        name: record.name.to_string(),
        digest: record.digest,
        created_at: record.created_at.as_ms(),
        updated_at: record.updated_at.as_ms(),
    }
}

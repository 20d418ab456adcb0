//! From a spec to the machine config that says the same, with every default written out.

use super::{
    CheckConfig, CheckHeader, FileConfig, GuestConfig, InitConfig, MachineConfig, ProcessConfig,
    RestartConfig, RootfsConfig, ServiceConfig, StaticConfig, StopConfigWire,
};
use crate::duration::WireDuration;
use base64::Engine as _;
use roost_model::machine::{
    Check, CheckKind, CheckTls, CpuKind, Isolation, MachineFile, MachineSpec, ProcessSpec,
    RestartWhen,
};
use roost_model::size::ByteSize;

impl From<&MachineSpec> for MachineConfig {
    fn from(spec: &MachineSpec) -> Self {
        Self {
            image: spec.image.to_string(),
            env: spec.process.env.clone(),
            init: InitConfig {
                exec: spec.process.exec.clone(),
                entrypoint: spec.process.entrypoint.clone(),
                cmd: spec.process.cmd.clone(),
                user: spec.process.user.clone(),
                workdir: spec.process.workdir.clone(),
                swap_size_mb: (spec.swap > ByteSize(0)).then(|| spec.swap.as_mib()),
            },
            processes: spec.processes.iter().map(ProcessConfig::from).collect(),
            guest: Some(GuestConfig {
                cpu_kind: match spec.guest.cpu_kind {
                    CpuKind::Shared => "shared".into(),
                    CpuKind::Performance => "performance".into(),
                },
                cpus: spec.guest.n_cpus,
                memory_mb: spec.guest.memory.as_mib(),
            }),
            size: None,
            // An addition of roost: left out unless somebody asked for it.
            isolation: (spec.isolation != Isolation::Default)
                .then(|| spec.isolation.as_str().to_owned()),
            rootfs: Some(RootfsConfig {
                size_gb: spec.root_disk.as_mib() / 1024,
            }),
            metadata: spec.metadata.clone(),
            services: spec.services.iter().map(ServiceConfig::from).collect(),
            checks: spec
                .checks
                .iter()
                .map(|(name, check)| (name.clone(), check.into()))
                .collect(),
            files: spec.files.iter().map(FileConfig::from).collect(),
            statics: spec.statics.iter().map(StaticConfig::from).collect(),
            restart: Some(RestartConfig {
                policy: match spec.restart.when {
                    RestartWhen::No => "no".into(),
                    RestartWhen::OnFailure => "on-failure".into(),
                    RestartWhen::Always => "always".into(),
                },
                max_retries: Some(spec.restart.retries_max),
            }),
            stop_config: Some(StopConfigWire {
                signal: spec.stop.signal.map(|signal| signal.as_str().to_owned()),
                timeout: Some(WireDuration(spec.stop.timeout)),
            }),
            auto_destroy: spec.auto_destroy,
            schedule: spec.schedule.as_ref().map(ToString::to_string),
            standbys: spec.standbys.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&ProcessSpec> for ProcessConfig {
    fn from(process: &ProcessSpec) -> Self {
        Self {
            exec: process.exec.clone(),
            entrypoint: process.entrypoint.clone(),
            cmd: process.cmd.clone(),
            user: process.user.clone(),
            env: process.env.clone(),
        }
    }
}

impl From<&Check> for CheckConfig {
    fn from(check: &Check) -> Self {
        let base = Self {
            kind: check.kind.as_str().into(),
            port: check.kind.port(),
            interval: Some(WireDuration(check.interval)),
            timeout: Some(WireDuration(check.timeout)),
            grace_period: Some(WireDuration(check.grace_period)),
            purpose: Some(check.purpose.as_str().into()),
            success_threshold: Some(check.success_threshold),
            failure_threshold: Some(check.failure_threshold),
            unhealthy: check.stops_unhealthy.then(|| "stop".into()),
            ..Self::default()
        };
        match &check.kind {
            CheckKind::Tcp { .. } => base,
            CheckKind::Http(http) => Self {
                method: Some(http.method.clone()),
                path: Some(http.path.clone()),
                headers: http.headers.iter().map(CheckHeader::from).collect(),
                expected_statuses: Some(http.statuses.to_texts()),
                ..base.with_tls(http.tls.as_ref())
            },
            CheckKind::Grpc(grpc) => Self {
                grpc_service: Some(grpc.service.clone()),
                ..base.with_tls(grpc.tls.as_ref())
            },
            CheckKind::Exec { command } => Self {
                command: Some(command.clone()),
                ..base
            },
        }
    }
}

impl CheckConfig {
    fn with_tls(self, tls: Option<&CheckTls>) -> Self {
        Self {
            protocol: Some(if tls.is_some() { "https" } else { "http" }.into()),
            tls_server_name: tls.and_then(|tls| tls.server_name.clone()),
            tls_skip_verify: tls.is_some_and(|tls| tls.skip_verify),
            ..self
        }
    }
}

impl From<(&String, &String)> for CheckHeader {
    fn from((name, value): (&String, &String)) -> Self {
        Self {
            name: name.clone(),
            values: vec![value.clone()],
        }
    }
}

impl From<&MachineFile> for FileConfig {
    fn from(file: &MachineFile) -> Self {
        Self {
            guest_path: file.guest_path.clone(),
            raw_value: base64::engine::general_purpose::STANDARD.encode(&file.content),
            mode: Some(file.mode),
        }
    }
}

//! The machine config of the Machines API, and its conversion to a spec.
//!
//! Every member that is read is honoured; members of the original API that
//! roost does not honour yet are refused by name, never dropped.

use crate::duration::WireDuration;
use base64::Engine as _;
use roost_model::image_ref::ImageRef;
use roost_model::limits;
use roost_model::machine::{
    Check, CheckKind, CpuKind, Guest, MachineFile, MachineSpec, ProcessSpec, RestartPolicy,
    RestartWhen, Service, ServiceProtocol, StopConfig, StopSignal,
};
use roost_model::name::{AppName, MachineName, RegionCode, check_env_name};
use roost_model::size::ByteSize;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

/// What a machine should be.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MachineConfig {
    /// The image reference.
    pub image: String,
    /// Environment variables above the image's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What to run.
    #[serde(skip_serializing_if = "InitConfig::is_empty")]
    pub init: InitConfig,
    /// The size, in numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestConfig>,
    /// The size, as a preset; not together with `guest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Where it takes traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceConfig>,
    /// Health checks by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, CheckConfig>,
    /// Files written before start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileConfig>,
    /// When to restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartConfig>,
    /// How to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfigWire>,
    /// Whether to remove the machine when it has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_destroy: bool,
}

/// What to run in a machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InitConfig {
    /// Replaces entrypoint and command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Replaces the image's user: `user[:group]`. An addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Replaces the image's working directory. An addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

impl InitConfig {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The size of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// `shared` (the default) or `performance`.
    #[serde(default = "default_cpu_kind")]
    pub cpu_kind: String,
    /// Number of CPUs; 1 by default.
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// Memory in MiB; 256 by default.
    #[serde(default = "default_memory_mb")]
    pub memory_mb: u64,
}

fn default_cpu_kind() -> String {
    "shared".into()
}
fn default_cpus() -> u32 {
    1
}
fn default_memory_mb() -> u64 {
    256
}

/// A service: a port of the machine that takes traffic through the edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// `tcp`.
    #[serde(default = "default_protocol")]
    pub protocol: String,
    /// The port the app listens on.
    pub internal_port: u16,
    /// The public ports; 80 and 443 with their usual handlers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortConfig>,
    /// Checks that take the machine out of routing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckConfig>,
}

fn default_protocol() -> String {
    "tcp".into()
}

/// A public port of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// 80 or 443.
    pub port: u16,
    /// `["http"]` for 80, `["tls", "http"]` for 443.
    #[serde(default)]
    pub handlers: Vec<String>,
    /// Whether plain HTTP is answered with a redirect to HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force_https: bool,
    /// Options of the `http` handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_options: Option<HttpOptions>,
}

/// Options of the `http` handler.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpOptions {
    /// Speak HTTP/2 with prior knowledge to the app.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub h2_backend: bool,
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckConfig {
    /// `tcp` or `http`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The port; a service check uses the service's port when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Time between two checks; 10 s by default, at least 1 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<WireDuration>,
    /// Time one check may take; 2 s by default, at most 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WireDuration>,
    /// Time after start in which failures do not count; 5 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<WireDuration>,
    /// HTTP method; GET by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP path; `/` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<CheckHeader>,
}

/// A header of an HTTP check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckHeader {
    /// Its name.
    pub name: String,
    /// Its values; sent joined by commas.
    pub values: Vec<String>,
}

/// A file written before start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Absolute path in the machine.
    pub guest_path: String,
    /// The content, base64.
    pub raw_value: String,
    /// Permission bits; 0o644 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// When to restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartConfig {
    /// `no`, `on-failure` or `always`.
    pub policy: String,
    /// Most restarts in five minutes (`on-failure`); 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
}

/// How to stop.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = StopConfig)]
pub struct StopConfigWire {
    /// The first signal, such as `SIGTERM`; the image's own, else SIGINT, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Time between the signal and SIGKILL; 5 s by default, at most 300 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WireDuration>,
}

/// One thing that is wrong with a machine config, with the path of the member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigFault {
    /// Where: `services[0].ports[1].handlers`.
    pub path: String,
    /// What: a sentence without a full stop.
    pub problem: String,
}

impl std::fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// Who a machine is, beside its config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineIdentity {
    /// The app.
    pub app: AppName,
    /// The machine's name.
    pub name: MachineName,
    /// The region.
    pub region: RegionCode,
}

/// Collects every fault instead of stopping at the first.
#[derive(Debug, Default)]
struct Faults(Vec<ConfigFault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push(ConfigFault {
            path: path.into(),
            problem: problem.into(),
        });
    }
}

impl MachineConfig {
    /// The spec that this config asks for, or everything that is wrong with it.
    pub fn to_spec(&self, identity: MachineIdentity) -> Result<MachineSpec, Vec<ConfigFault>> {
        let mut faults = Faults::default();
        let image = ImageRef::parse(&self.image)
            .map_err(|error| faults.add("image", error.to_string()))
            .ok();
        self.check_env(&mut faults);
        let guest = self.to_guest(&mut faults);
        let services = self.to_services(&mut faults);
        let checks = self.to_checks(&mut faults);
        let files = self.to_files(&mut faults);
        let restart = self.to_restart(&mut faults);
        let stop = self.to_stop(&mut faults);
        let process = ProcessSpec {
            exec: self.init.exec.clone(),
            entrypoint: self.init.entrypoint.clone(),
            cmd: self.init.cmd.clone(),
            user: self.init.user.clone(),
            workdir: self.init.workdir.clone(),
            env: self.env.clone(),
        };
        match image {
            Some(image) if faults.0.is_empty() => Ok(MachineSpec {
                app: identity.app,
                name: identity.name,
                region: identity.region,
                image,
                process,
                guest,
                services,
                checks,
                files,
                restart,
                stop,
                auto_destroy: self.auto_destroy,
                metadata: self.metadata.clone(),
            }),
            _ => Err(faults.0),
        }
    }

    fn check_env(&self, faults: &mut Faults) {
        if self.env.len() > limits::ENV_VARS_MAX {
            faults.add(
                "env",
                format!("more than {} variables", limits::ENV_VARS_MAX),
            );
        }
        for (name, value) in &self.env {
            if let Err(error) = check_env_name("variable name", name) {
                faults.add(format!("env.{}", error.text), error.to_string());
            }
            if value.contains('\0') {
                faults.add(format!("env.{name}"), "the value has a NUL byte in it");
            }
        }
    }

    fn to_guest(&self, faults: &mut Faults) -> Guest {
        match (&self.guest, &self.size) {
            (Some(_), Some(_)) => {
                faults.add("size", "give either `size` or `guest`, not both");
                Guest::DEFAULT
            }
            (None, None) => Guest::DEFAULT,
            (None, Some(name)) => Guest::preset(name).unwrap_or_else(|| {
                let known = Guest::PRESETS.join(", ");
                faults.add("size", format!("`{name}` is not a size; known: {known}"));
                Guest::DEFAULT
            }),
            (Some(guest), None) => guest.to_guest(faults),
        }
    }

    fn to_services(&self, faults: &mut Faults) -> Vec<Service> {
        if self.services.len() > limits::SERVICES_MAX {
            faults.add(
                "services",
                format!("more than {} services", limits::SERVICES_MAX),
            );
        }
        self.services
            .iter()
            .enumerate()
            .map(|(idx, service)| service.to_service(&format!("services[{idx}]"), faults))
            .collect()
    }

    fn to_checks(&self, faults: &mut Faults) -> BTreeMap<String, Check> {
        if self.checks.len() > limits::CHECKS_MAX {
            faults.add("checks", format!("more than {} checks", limits::CHECKS_MAX));
        }
        let mut checks = BTreeMap::new();
        for (name, check) in &self.checks {
            let check = check.to_check(&format!("checks.{name}"), None, faults);
            checks.insert(name.clone(), check);
        }
        checks
    }

    fn to_files(&self, faults: &mut Faults) -> Vec<MachineFile> {
        let mut files = Vec::new();
        for (idx, file) in self.files.iter().enumerate() {
            if !file.guest_path.starts_with('/')
                || file.guest_path.split('/').any(|part| part == "..")
            {
                faults.add(
                    format!("files[{idx}].guest_path"),
                    "is not an absolute path without `..`",
                );
            }
            match base64::engine::general_purpose::STANDARD.decode(&file.raw_value) {
                Ok(content) => files.push(MachineFile {
                    guest_path: file.guest_path.clone(),
                    content,
                    mode: file.mode.unwrap_or(0o644) & 0o7777,
                }),
                Err(_) => faults.add(format!("files[{idx}].raw_value"), "is not base64"),
            }
        }
        files
    }

    fn to_restart(&self, faults: &mut Faults) -> RestartPolicy {
        let Some(restart) = &self.restart else {
            return RestartPolicy::DEFAULT;
        };
        let when = match restart.policy.as_str() {
            "no" => RestartWhen::No,
            "on-failure" => RestartWhen::OnFailure,
            "always" => RestartWhen::Always,
            other => {
                faults.add(
                    "restart.policy",
                    format!("`{other}` is not one of no, on-failure, always"),
                );
                RestartWhen::No
            }
        };
        let retries_max = restart
            .max_retries
            .unwrap_or(RestartPolicy::DEFAULT.retries_max);
        RestartPolicy { when, retries_max }
    }

    fn to_stop(&self, faults: &mut Faults) -> StopConfig {
        let Some(stop) = &self.stop_config else {
            return StopConfig::DEFAULT;
        };
        let signal = stop.signal.as_deref().and_then(|text| {
            let signal = StopSignal::parse(text);
            if signal.is_none() {
                let known = StopSignal::NAMES.join(", ");
                faults.add(
                    "stop_config.signal",
                    format!("`{text}` is not one of {known}"),
                );
            }
            signal
        });
        let timeout = stop
            .timeout
            .map_or(StopConfig::DEFAULT.timeout, |timeout| timeout.0);
        if timeout > Duration::from_secs(limits::STOP_TIMEOUT_MAX_SECONDS) {
            faults.add("stop_config.timeout", "is longer than 300 s");
        }
        StopConfig { signal, timeout }
    }
}

impl GuestConfig {
    fn to_guest(&self, faults: &mut Faults) -> Guest {
        let cpu_kind = match self.cpu_kind.as_str() {
            "shared" => CpuKind::Shared,
            "performance" => CpuKind::Performance,
            other => {
                faults.add(
                    "guest.cpu_kind",
                    format!("`{other}` is not one of shared, performance"),
                );
                CpuKind::Shared
            }
        };
        if !(1..=16).contains(&self.cpus) {
            faults.add("guest.cpus", "is not between 1 and 16");
        }
        if !(limits::MEMORY_MIB_MIN..=131_072).contains(&self.memory_mb) {
            faults.add("guest.memory_mb", "is not between 16 and 131072");
        }
        let memory = ByteSize::mib(self.memory_mb.min(131_072));
        Guest {
            cpu_kind,
            n_cpus: self.cpus,
            memory,
        }
    }
}

impl ServiceConfig {
    fn to_service(&self, path: &str, faults: &mut Faults) -> Service {
        if self.protocol != "tcp" {
            faults.add(
                format!("{path}.protocol"),
                format!("`{}` is not supported; use tcp", self.protocol),
            );
        }
        if self.internal_port == 0 {
            faults.add(format!("{path}.internal_port"), "is 0");
        }
        for (idx, port) in self.ports.iter().enumerate() {
            port.check(&format!("{path}.ports[{idx}]"), faults);
        }
        let h2_backend = self.ports.iter().any(|port| {
            port.http_options
                .as_ref()
                .is_some_and(|options| options.h2_backend)
        });
        let checks = self
            .checks
            .iter()
            .enumerate()
            .map(|(idx, check)| {
                check.to_check(
                    &format!("{path}.checks[{idx}]"),
                    Some(self.internal_port),
                    faults,
                )
            })
            .collect();
        Service {
            internal_port: self.internal_port,
            protocol: ServiceProtocol::Http,
            force_https: self.ports.iter().any(|port| port.force_https),
            h2_backend,
            checks,
        }
    }
}

impl PortConfig {
    fn check(&self, path: &str, faults: &mut Faults) {
        let mut handlers: Vec<&str> = self.handlers.iter().map(String::as_str).collect();
        handlers.sort_unstable();
        let fits = match self.port {
            80 => handlers == ["http"],
            443 => handlers == ["http", "tls"],
            _ => false,
        };
        if !fits {
            faults.add(
                path,
                "only port 80 with [\"http\"] and port 443 with [\"tls\", \"http\"] are supported",
            );
        }
    }
}

impl CheckConfig {
    fn to_check(&self, path: &str, service_port: Option<u16>, faults: &mut Faults) -> Check {
        let kind = match self.kind.as_str() {
            "tcp" => CheckKind::Tcp,
            "http" => self.to_http(path, faults),
            other => {
                faults.add(
                    format!("{path}.type"),
                    format!("`{other}` is not one of tcp, http"),
                );
                CheckKind::Tcp
            }
        };
        let port = self.port.or(service_port).unwrap_or(0);
        if port == 0 {
            faults.add(format!("{path}.port"), "is missing");
        }
        let seconds = |value: Option<WireDuration>, default| {
            value.map_or(Duration::from_secs(default), |duration| duration.0)
        };
        let interval = seconds(self.interval, 10);
        let timeout = seconds(self.timeout, 2);
        if interval < Duration::from_secs(1) {
            faults.add(format!("{path}.interval"), "is shorter than 1 s");
        }
        if timeout > Duration::from_secs(60) || timeout.is_zero() {
            faults.add(format!("{path}.timeout"), "is not between 1 ms and 60 s");
        }
        Check {
            kind,
            port,
            interval,
            timeout,
            grace_period: seconds(self.grace_period, 5),
        }
    }

    fn to_http(&self, path: &str, faults: &mut Faults) -> CheckKind {
        let request_path = self.path.clone().unwrap_or_else(|| "/".into());
        if !request_path.starts_with('/')
            || request_path.contains(|c: char| c.is_ascii_control() || c == ' ')
        {
            faults.add(
                format!("{path}.path"),
                "does not start with a slash or has a space in it",
            );
        }
        let headers = self
            .headers
            .iter()
            .map(|header| (header.name.clone(), header.values.join(", ")))
            .collect();
        let method = self.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        CheckKind::Http {
            method,
            path: request_path,
            headers,
        }
    }
}

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
            },
            guest: Some(GuestConfig {
                cpu_kind: match spec.guest.cpu_kind {
                    CpuKind::Shared => "shared".into(),
                    CpuKind::Performance => "performance".into(),
                },
                cpus: spec.guest.n_cpus,
                memory_mb: spec.guest.memory.as_mib(),
            }),
            size: None,
            metadata: spec.metadata.clone(),
            services: spec.services.iter().map(ServiceConfig::from).collect(),
            checks: spec
                .checks
                .iter()
                .map(|(name, check)| (name.clone(), check.into()))
                .collect(),
            files: spec.files.iter().map(FileConfig::from).collect(),
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
        }
    }
}

impl From<&Service> for ServiceConfig {
    fn from(service: &Service) -> Self {
        let http_options = service.h2_backend.then_some(HttpOptions {
            h2_backend: service.h2_backend,
        });
        let port = |port, handlers: &[&str], force_https| PortConfig {
            port,
            handlers: handlers.iter().map(|&handler| handler.to_owned()).collect(),
            force_https,
            http_options: http_options.clone(),
        };
        Self {
            protocol: default_protocol(),
            internal_port: service.internal_port,
            ports: vec![
                port(80, &["http"], service.force_https),
                port(443, &["tls", "http"], false),
            ],
            checks: service.checks.iter().map(CheckConfig::from).collect(),
        }
    }
}

impl From<&Check> for CheckConfig {
    fn from(check: &Check) -> Self {
        let base = Self {
            port: Some(check.port),
            interval: Some(WireDuration(check.interval)),
            timeout: Some(WireDuration(check.timeout)),
            grace_period: Some(WireDuration(check.grace_period)),
            ..Self::default()
        };
        match &check.kind {
            CheckKind::Tcp => Self {
                kind: "tcp".into(),
                ..base
            },
            CheckKind::Http {
                method,
                path,
                headers,
            } => Self {
                kind: "http".into(),
                method: Some(method.clone()),
                path: Some(path.clone()),
                headers: headers
                    .iter()
                    .map(|(name, value)| CheckHeader {
                        name: name.clone(),
                        values: vec![value.clone()],
                    })
                    .collect(),
                ..base
            },
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

#[cfg(test)]
mod tests {
    use super::{MachineConfig, MachineIdentity};
    use roost_model::name::{AppName, MachineName, RegionCode};

    fn identity() -> MachineIdentity {
        MachineIdentity {
            app: AppName::parse("web").unwrap(),
            name: MachineName::parse("web-1").unwrap(),
            region: RegionCode::parse("local").unwrap(),
        }
    }

    #[test]
    fn a_config_survives_the_way_through_the_spec() {
        let json = serde_json::json!({
            "image": "nginx:1.25",
            "env": {"A": "b"},
            "init": {"cmd": ["nginx"]},
            "guest": {"cpus": 2, "memory_mb": 512},
            "services": [{"internal_port": 80, "ports": [
                {"port": 80, "handlers": ["http"], "force_https": true},
                {"port": 443, "handlers": ["tls", "http"]}],
                "checks": [{"type": "http", "path": "/up", "interval": "2s"}]}],
            "checks": {"alive": {"type": "tcp", "port": 80, "timeout": 1_000_000_000}},
            "files": [{"guest_path": "/etc/x", "raw_value": "aGk="}],
            "restart": {"policy": "always"},
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
        });
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let spec = config.to_spec(identity()).unwrap();
        assert!(spec.services[0].force_https);
        let again = MachineConfig::from(&spec).to_spec(identity()).unwrap();
        assert_eq!(spec, again);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let json = serde_json::json!({
            "image": "NOT OK",
            "env": {"FLY_X": "1"},
            "guest": {"cpus": 0, "cpu_kind": "huge"},
            "services": [{"internal_port": 0, "protocol": "udp", "ports": [{"port": 22}]}],
            "checks": {"c": {"type": "icmp"}},
            "restart": {"policy": "perhaps"},
            "stop_config": {"signal": "SIGNOPE", "timeout": "1h"},
        });
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let faults = config.to_spec(identity()).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        for path in [
            "image",
            "env.FLY_X",
            "guest.cpus",
            "guest.cpu_kind",
            "services[0].protocol",
            "services[0].internal_port",
            "services[0].ports[0]",
            "checks.c.type",
            "checks.c.port",
            "restart.policy",
            "stop_config.signal",
            "stop_config.timeout",
        ] {
            assert!(paths.contains(&path), "{path} in {paths:?}");
        }
    }

    #[test]
    fn members_that_are_not_honoured_are_refused_by_name() {
        let json = serde_json::json!({"image": "a", "schedule": "daily"});
        let error = serde_json::from_value::<MachineConfig>(json).unwrap_err();
        assert!(error.to_string().contains("schedule"), "{error}");
    }
}

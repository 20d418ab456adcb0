//! From a machine config to the spec that it asks for; every fault is collected.

use super::{
    CheckConfig, ConfigFault, GuestConfig, MachineConfig, MachineIdentity, PortConfig,
    ServiceConfig,
};
use crate::duration::WireDuration;
use base64::Engine as _;
use roost_model::image_ref::ImageRef;
use roost_model::limits;
use roost_model::machine::{
    Check, CheckKind, CpuKind, Guest, Isolation, MachineFile, MachineSpec, ProcessSpec,
    RestartPolicy, RestartWhen, Service, ServiceProtocol, StopConfig, StopSignal,
};
use roost_model::name::check_env_name;
use roost_model::size::ByteSize;
use std::collections::BTreeMap;
use std::time::Duration;

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
        let isolation = self.to_isolation(&mut faults);
        let root_disk = self.to_root_disk(&mut faults);
        let swap = self.to_swap(&mut faults);
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
                isolation,
                guest,
                root_disk,
                swap,
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
            (None, Some(name)) => Guest::preset(name).unwrap_or_else(|unknown| {
                faults.add("size", unknown.to_string());
                Guest::DEFAULT
            }),
            (Some(guest), None) => guest.to_guest(faults),
        }
    }

    fn to_isolation(&self, faults: &mut Faults) -> Isolation {
        let Some(text) = &self.isolation else {
            return Isolation::Default;
        };
        Isolation::parse(text).unwrap_or_else(|error| {
            faults.add("isolation", error.to_string());
            Isolation::Default
        })
    }

    fn to_root_disk(&self, faults: &mut Faults) -> ByteSize {
        let gib = match &self.rootfs {
            Some(rootfs) => rootfs.size_gb,
            None => limits::ROOT_DISK_GIB_DEFAULT,
        };
        if !(1..=limits::ROOT_DISK_GIB_MAX).contains(&gib) {
            faults.add(
                "rootfs.size_gb",
                format!("must be 1 to {}", limits::ROOT_DISK_GIB_MAX),
            );
            return ByteSize::gib(limits::ROOT_DISK_GIB_DEFAULT);
        }
        ByteSize::gib(gib)
    }

    fn to_swap(&self, faults: &mut Faults) -> ByteSize {
        let mib = self.init.swap_size_mb.unwrap_or(0);
        if mib > limits::SWAP_MIB_MAX {
            faults.add(
                "init.swap_size_mb",
                format!("must be 0 to {}", limits::SWAP_MIB_MAX),
            );
            return ByteSize(0);
        }
        ByteSize::mib(mib)
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
        let cpu_kind = CpuKind::parse(&self.cpu_kind).unwrap_or_else(|| {
            faults.add(
                "guest.cpu_kind",
                format!("`{}` is not one of shared, performance", self.cpu_kind),
            );
            CpuKind::Shared
        });
        if !(1..=limits::CPUS_MAX).contains(&self.cpus) {
            faults.add(
                "guest.cpus",
                format!("is not between 1 and {}", limits::CPUS_MAX),
            );
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

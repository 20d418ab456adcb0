//! From a machine config to the spec that it asks for; every fault is collected.

use super::{
    CheckConfig, ConfigFault, GuestConfig, MachineConfig, MachineIdentity, ProcessConfig,
    RestartConfig,
};
use base64::Engine as _;
use roost_model::id::MachineId;
use roost_model::image_ref::ImageRef;
use roost_model::limits;
use roost_model::machine::{
    Check, CheckDraft, CheckPlace, CpuKind, Guest, Isolation, MachineFile, MachineSpec,
    ProcessSpec, RestartPolicy, RestartWhen, Rung, StopConfig, StopSignal,
};
use roost_model::name::check_env_name;
use roost_model::schedule::Schedule;
use roost_model::size::ByteSize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Collects every fault instead of stopping at the first.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<ConfigFault>,
    /// Whether the config was accepted once, by rules that may have been others.
    pub(super) of_record: bool,
}

impl Faults {
    pub(super) fn of_record() -> Self {
        Self {
            of_record: true,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    pub(super) fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.found.push(ConfigFault {
            path: path.into(),
            problem: problem.into(),
        });
    }
}

impl MachineConfig {
    /// The spec that this config asks for, or everything that is wrong with it.
    pub fn to_spec(&self, identity: MachineIdentity) -> Result<MachineSpec, Vec<ConfigFault>> {
        self.convert(identity, Faults::default())
    }

    /// The spec of a config that was accepted once: what is only a rule for
    /// users, such as how often they may have something checked, is let be.
    pub fn to_recorded_spec(
        &self,
        identity: MachineIdentity,
    ) -> Result<MachineSpec, Vec<ConfigFault>> {
        let of_record = true;
        let found = vec![];
        self.convert(identity, Faults { found, of_record })
    }

    fn convert(
        &self,
        identity: MachineIdentity,
        mut faults: Faults,
    ) -> Result<MachineSpec, Vec<ConfigFault>> {
        let image = ImageRef::parse(&self.image)
            .map_err(|error| faults.add("image", error.to_string()))
            .ok();
        check_env(&self.env, "env", &mut faults);
        let processes = self.to_processes(&mut faults);
        let guest = self.to_guest(&mut faults);
        let isolation = self.to_isolation(&mut faults);
        let root_disk = self.to_root_disk(&mut faults);
        let swap = self.to_swap(&mut faults);
        let services = self.to_services(&mut faults);
        let checks = self.to_checks(&mut faults);
        let files = self.to_files(&mut faults);
        let statics = self.to_statics(&mut faults);
        let restart = self.to_restart(&mut faults);
        let stop = self.to_stop(&mut faults);
        let schedule = self.to_schedule(&mut faults);
        let standbys = self.to_standbys(&mut faults);
        let process = ProcessSpec {
            exec: self.init.exec.clone(),
            entrypoint: self.init.entrypoint.clone(),
            cmd: self.init.cmd.clone(),
            user: self.init.user.clone(),
            workdir: self.init.workdir.clone(),
            env: self.env.clone(),
        };
        match image {
            Some(image) if faults.found.is_empty() => Ok(MachineSpec {
                app: identity.app,
                name: identity.name,
                region: identity.region,
                image,
                process,
                processes,
                isolation,
                guest,
                root_disk,
                swap,
                services,
                checks,
                files,
                statics,
                restart,
                stop,
                auto_destroy: self.auto_destroy,
                schedule,
                standbys,
                metadata: self.metadata.clone(),
            }),
            _ => Err(faults.found),
        }
    }

    fn to_processes(&self, faults: &mut Faults) -> Vec<ProcessSpec> {
        let most = limits::PROCESSES_MAX;
        if self.processes.len() > most {
            faults.add("processes", format!("more than {most}"));
            return vec![];
        }
        let init = &self.init;
        let is_in_init = init.exec.is_some() || init.entrypoint.is_some() || init.cmd.is_some();
        if !self.processes.is_empty() && is_in_init {
            let problem = "says what to run, and so does `processes`: say it there only";
            faults.add("init", problem);
        }
        if self.processes.len() > 1 && self.isolation.as_deref() == Some(Rung::Container.as_str()) {
            let problem = "several programs run in VMs only: use `isolation` `vm` or `vm-emulated`";
            faults.add("processes", problem);
        }
        let processes = self.processes.iter().enumerate();
        let to_spec = |(idx, process): (usize, &ProcessConfig)| {
            check_env(&process.env, &format!("processes[{idx}].env"), faults);
            ProcessSpec {
                exec: process.exec.clone(),
                entrypoint: process.entrypoint.clone(),
                cmd: process.cmd.clone(),
                user: process.user.clone(),
                workdir: None,
                env: process.env.clone(),
            }
        };
        processes.map(to_spec).collect()
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

    fn to_checks(&self, faults: &mut Faults) -> BTreeMap<String, Check> {
        let of_services = self.services.iter().map(|service| service.checks.len());
        let n_checks = self.checks.len() + of_services.sum::<usize>();
        if n_checks > limits::CHECKS_MAX && !faults.of_record {
            let most = limits::CHECKS_MAX;
            faults.add(
                "checks",
                format!("{n_checks} with those of services, and {most} is the most"),
            );
        }
        let mut checks = BTreeMap::new();
        for (name, check) in &self.checks {
            let path = format!("checks.{}", name.escape_debug());
            if let Some(problem) = Check::name_problem(name).filter(|_| !faults.of_record) {
                faults.add(path.clone(), problem);
            }
            if let Some(check) = check.to_check(&path, CheckPlace::Machine, faults) {
                checks.insert(name.clone(), check);
            }
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

    fn to_schedule(&self, faults: &mut Faults) -> Option<Schedule> {
        let text = self.schedule.as_deref()?;
        let schedule = Schedule::parse(text)
            .map_err(|error| faults.add("schedule", error.to_string()))
            .ok();
        let always = |restart: &RestartConfig| restart.policy == "always";
        let contradiction = if self.restart.as_ref().is_some_and(always) {
            "`restart.policy` is `always`, so that the machine never rests to be started"
        } else if self.auto_destroy {
            "`auto_destroy` removes the machine after its first run"
        } else if !self.standbys.is_empty() {
            "a machine with `standbys` rests until another is lost"
        } else {
            return schedule;
        };
        faults.add("schedule", contradiction);
        schedule
    }

    fn to_standbys(&self, faults: &mut Faults) -> Vec<MachineId> {
        if !self.standbys.is_empty() && !self.services.is_empty() {
            let problem = "a machine with `services` takes traffic and cannot stand by";
            faults.add("standbys", problem);
        }
        let most = limits::STANDBYS_MAX;
        if self.standbys.len() > most {
            faults.add("standbys", format!("more than {most} machines"));
            return vec![];
        }
        let mut ids = vec![];
        for (idx, text) in self.standbys.iter().enumerate() {
            let path = format!("standbys[{idx}]");
            match MachineId::parse(text) {
                Ok(id) if ids.contains(&id) => faults.add(path, format!("names {id} again")),
                Ok(id) => ids.push(id),
                Err(error) => faults.add(path, error.to_string()),
            }
        }
        ids
    }
}

fn check_env(env: &BTreeMap<String, String>, path: &str, faults: &mut Faults) {
    if env.len() > limits::ENV_VARS_MAX {
        let problem = format!("more than {} variables", limits::ENV_VARS_MAX);
        faults.add(path, problem);
    }
    for (name, value) in env {
        if let Err(error) = check_env_name("variable name", name) {
            faults.add(format!("{path}.{}", error.text), error.to_string());
        }
        if value.contains('\0') {
            faults.add(format!("{path}.{name}"), "the value has a NUL byte in it");
        }
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

impl CheckConfig {
    pub(super) fn to_check(
        &self,
        path: &str,
        place: CheckPlace,
        faults: &mut Faults,
    ) -> Option<Check> {
        let draft = CheckDraft {
            kind: self.kind.clone(),
            port: self.port,
            interval: self.interval.map(|interval| interval.0),
            timeout: self.timeout.map(|timeout| timeout.0),
            grace_period: self.grace_period.map(|grace_period| grace_period.0),
            purpose: self.purpose.clone(),
            success_threshold: self.success_threshold,
            failure_threshold: self.failure_threshold,
            unhealthy: self.unhealthy.clone(),
            method: self.method.clone(),
            path: self.path.clone(),
            protocol: self.protocol.clone(),
            headers: self
                .headers
                .iter()
                .map(|header| (header.name.clone(), header.values.join(", ")))
                .collect(),
            tls_server_name: self.tls_server_name.clone(),
            tls_skip_verify: self.tls_skip_verify,
            expected_statuses: self.expected_statuses.clone(),
            grpc_service: self.grpc_service.clone(),
            command: self.command.clone(),
        };
        let interval_min = place.interval_min();
        match draft.build(place) {
            Ok(check) => {
                if check.interval < interval_min && !faults.of_record {
                    let problem = format!("is shorter than {} s", interval_min.as_secs());
                    faults.add(format!("{path}.interval"), problem);
                }
                Some(check)
            }
            Err(found) => {
                for fault in found {
                    faults.add(format!("{path}.{}", fault.key), fault.problem);
                }
                None
            }
        }
    }
}

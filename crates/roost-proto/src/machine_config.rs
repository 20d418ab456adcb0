//! The machine config of the Machines API; `to_spec` and `from_spec` convert it.
//!
//! Every member that is read is honoured, or says that it is only recorded yet;
//! other members of the original API are refused by name, never dropped.

mod from_spec;
mod services;
mod to_spec;

pub use services::{
    AutostopConfig, ConcurrencyConfig, HeaderChange, HttpOptionsConfig, PortConfig,
    ProxyProtoOptions, ReplayCacheConfig, ResponseOptions, ServiceConfig, SessionAffinityConfig,
    StaticConfig, TlsOptionsConfig,
};

use crate::duration::WireDuration;
use roost_model::limits;
use roost_model::name::{AppName, MachineName, RegionCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Several programs to run instead of the one of `init`: the end of one is the end of all. In
    /// VMs only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessConfig>,
    /// The size, in numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestConfig>,
    /// The size, as a preset; not together with `guest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The rung of the isolation ladder: `container`, `vm-emulated`, `vm`, or `default`, which is
    /// the strongest that the node has proven without emulation. An addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// The root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootfsConfig>,
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
    /// Folders whose files the edge serves by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statics: Vec<StaticConfig>,
    /// When to restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartConfig>,
    /// How to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_config: Option<StopConfigWire>,
    /// Whether to remove the machine when it has ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub auto_destroy: bool,
    /// When to start it, if it rests then: `hourly`, `daily`, `weekly` or `monthly`, counted from
    /// its creation, or the five fields of a cron line, in UTC, which is an addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Ids of the machines that it stands by for: it is not started until the node of one of them
    /// is lost. Only without `services`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<String>,
}

/// The root file system of a machine. It does not outlive a stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RootfsConfig {
    /// What the machine may write to it, in GiB, where the node's file system can limit that;
    /// 8 by default.
    #[serde(default = "default_rootfs_gb")]
    pub size_gb: u64,
}

fn default_rootfs_gb() -> u64 {
    limits::ROOT_DISK_GIB_DEFAULT
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
    /// Swap beside the memory, in MiB; none by default. A VM has it on a disk of its own, a
    /// container as far as its node has swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_size_mb: Option<u64>,
}

impl InitConfig {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One of several programs of a machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// Replaces entrypoint and command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Vec<String>>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Replaces the user of `init` and of the image: `user[:group]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Environment variables above those of the machine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
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

/// A health check.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckConfig {
    /// `tcp`, `http`, `grpc` or `exec`; the last two are additions of roost.
    #[serde(rename = "type")]
    pub kind: String,
    /// The port; a service check uses the service's port when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Time between two checks; 10 s by default, at least 2 s, in a service 1 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<WireDuration>,
    /// Time one check may take; 2 s by default, at most 60 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WireDuration>,
    /// Time after start in which failures do not count; 5 s by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<WireDuration>,
    /// What it decides: `readiness`, whether traffic goes to the machine; `informational`, only
    /// whether a deploy goes on. Checks of services are always `readiness`, others are
    /// `informational` by default.
    #[serde(rename = "kind", skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// So many have to pass in a row before it passes; 1 by default. An addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<u32>,
    /// So many have to fail in a row before it fails; 1 by default, 3 with `unhealthy`. An
    /// addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
    /// `stop`: the machine is stopped when the check fails, and its restart policy decides
    /// whether it is started again, as after a failure. An addition of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
    /// HTTP method; GET by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// HTTP path; `/` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http` (the default), or `https` for TLS; of `http` and `grpc` checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The name that the app's certificate has to be for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Whether any certificate will do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls_skip_verify: bool,
    /// HTTP headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<CheckHeader>,
    /// The HTTP statuses that pass, such as `204` or `200-299`, which is the default. An addition
    /// of roost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_statuses: Option<Vec<String>>,
    /// The service that a `grpc` check asks about; the server as a whole when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_service: Option<String>,
    /// What an `exec` check runs in the machine: program and arguments. It passes with exit code 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
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

#[cfg(test)]
mod tests {
    use super::{MachineConfig, MachineIdentity};
    use roost_model::machine::{Autostop, Isolation, Rung, Service, SessionKey};
    use roost_model::name::{AppName, MachineName, RegionCode};
    use roost_model::size::ByteSize;

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
            "init": {"cmd": ["nginx"], "swap_size_mb": 128},
            "guest": {"cpus": 2, "memory_mb": 512},
            "isolation": "vm-emulated",
            "rootfs": {"size_gb": 20},
            "services": [{"internal_port": 80, "ports": [
                {"port": 80, "handlers": ["http"], "force_https": true},
                {"port": 443, "handlers": ["tls", "http"]}],
                "checks": [{"type": "http", "path": "/up", "interval": "1s"}]}],
            "checks": {"alive": {"type": "tcp", "port": 80, "timeout": 1_000_000_000},
                "https": {"type": "http", "port": 443, "protocol": "https", "tls_skip_verify": true,
                    "tls_server_name": "a.example", "expected_statuses": ["200", "300-399"],
                    "headers": [{"name": "Host", "values": ["a.example"]}]},
                "grpc": {"type": "grpc", "port": 50051, "grpc_service": "a.B", "kind": "readiness"},
                "exec": {"type": "exec", "command": ["true"], "unhealthy": "stop",
                    "success_threshold": 2, "failure_threshold": 5}},
            "files": [{"guest_path": "/etc/x", "raw_value": "aGk="}],
            "statics": [{"guest_path": "/a", "url_prefix": "/b"},
                {"guest_path": "/c", "url_prefix": "/", "index_document": "d.html"}],
            "restart": {"policy": "no"},
            "stop_config": {"signal": "SIGTERM", "timeout": "10s"},
            "schedule": "0  4 * * mon",
        });
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let spec = config.to_spec(identity()).unwrap();
        assert!(spec.services[0].ports[0].force_https);
        assert_eq!(spec.isolation, Isolation::Rung(Rung::VmEmulated));
        assert_eq!(spec.root_disk, ByteSize::gib(20));
        assert_eq!(spec.swap, ByteSize::mib(128));
        assert_eq!(spec.schedule.as_ref().unwrap().to_string(), "0 4 * * mon");
        let again = MachineConfig::from(&spec).to_spec(identity()).unwrap();
        assert_eq!(spec, again);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let json = serde_json::json!({
            "image": "NOT OK",
            "env": {"FLY_X": "1"},
            "init": {"swap_size_mb": 70_000},
            "guest": {"cpus": 0, "cpu_kind": "huge"},
            "isolation": "firecracker",
            "rootfs": {"size_gb": 0},
            "services": [{"internal_port": 0, "protocol": "sctp", "ports": [{"port": 80}]}],
            "checks": {"c": {"type": "icmp"}, "d": {"type": "tcp", "interval": "1s"},
                "servicecheck-1": {"type": "tcp", "port": 1}},
            "restart": {"policy": "perhaps"},
            "stop_config": {"signal": "SIGNOPE", "timeout": "1h"},
            "schedule": "0 25 * * *",
            "standbys": ["web-1"],
            "processes": [{"env": {"ROOST X": ""}}],
        });
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let faults = config.to_spec(identity()).unwrap_err();
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        for path in [
            "image",
            "env.FLY_X",
            "init.swap_size_mb",
            "guest.cpus",
            "guest.cpu_kind",
            "isolation",
            "rootfs.size_gb",
            "services[0].protocol",
            "services[0].internal_port",
            "services[0].ports[0].handlers",
            "checks.c.type",
            "checks.d.port",
            "checks.servicecheck-1",
            "restart.policy",
            "stop_config.signal",
            "stop_config.timeout",
            "schedule",
            "standbys",
            "standbys[0]",
            "processes[0].env.ROOST X",
        ] {
            assert!(paths.contains(&path), "{path} in {paths:?}");
        }
    }

    #[test]
    fn services_survive_the_way_through_the_spec_and_share_no_port() {
        let json = serde_json::json!({"image": "a", "services": [
            {"internal_port": 80, "autostart": true, "autostop": "suspend",
                "min_machines_running": 2, "concurrency": {"type": "requests", "hard_limit": 9},
                "ports": [{"port": 443, "handlers": ["tls", "http"],
                    "tls_options": {"alpn": ["h2"], "versions": ["TLSv1.3"]},
                    "http_options": {"idle_timeout": 600, "h2_backend": true, "compress": true, "replay_cache": [
                        {"path_prefix": "/", "ttl_seconds": 10, "type": "header", "name": "X-Id"},
                        {"path_prefix": "a.b/c", "ttl_seconds": 11, "type": "cookie", "name": "d",
                            "allow_bypass": true}],
                        "session_affinity": {"type": "header", "name": "X-S"}, "response":
                        {"pristine": true, "headers": {"a": "b", "c": ["d", "e"], "f": false}}}}]},
            {"internal_port": 1, "autostop": true, "ports": [
                {"start_port": 9000, "end_port": 9009, "handlers": ["proxy_proto"],
                    "proxy_proto_options": {"version": "v2"}}]}]});
        let config: MachineConfig = serde_json::from_value(json.clone()).unwrap();
        let spec = config.to_spec(identity()).unwrap();
        let http = &spec.services[0].port(443).unwrap().http;
        assert_eq!(http.response_headers["f"], Vec::<String>::new());
        assert_eq!(http.replay_cache.len(), 2);
        let key = SessionKey::Header("x-s".into());
        assert_eq!(http.session_affinity.as_deref(), Some(&key));
        assert_eq!(spec.services[1].autostop, Autostop::Stop);
        let again = MachineConfig::from(&spec);
        assert_eq!(again.to_spec(identity()).unwrap(), spec);
        let found = faults(
            serde_json::json!({"image": "a", "services": [{"internal_port": 1}, {"internal_port": 2}]}),
        );
        assert_eq!(
            found[0],
            "services[1].ports[0]: port 80: another service has it already"
        );
    }

    #[test]
    fn services_as_they_were_recorded_before_they_had_options_are_read() {
        let port =
            |port: u16, handlers: &[&str]| serde_json::json!({"port": port, "handlers": handlers});
        let service = |internal_port: u16| {
            let ports = [port(80, &["http"]), port(443, &["tls", "http"])];
            serde_json::json!({"protocol": "tcp", "internal_port": internal_port, "ports": ports})
        };
        // Two of them could have the same ports then.
        let json = serde_json::json!({"image": "a", "services": [service(8_080), service(9_090)]});
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let spec = config.to_recorded_spec(identity()).unwrap();
        assert_eq!(spec.services, [Service::http(8_080), Service::http(9_090)]);
    }

    #[test]
    fn a_recorded_config_may_have_intervals_that_users_may_not_have() {
        let json = serde_json::json!({
            "image": "a", "checks": {"c": {"type": "tcp", "port": 1, "interval": "1s"}},
        });
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let faults = config.to_spec(identity()).unwrap_err();
        assert_eq!(
            faults[0].to_string(),
            "checks.c.interval: is shorter than 2 s"
        );
        assert!(config.to_recorded_spec(identity()).is_ok());
    }

    #[test]
    fn members_that_are_not_honoured_are_refused_by_name() {
        let json = serde_json::json!({"image": "a", "mounts": []});
        let error = serde_json::from_value::<MachineConfig>(json).unwrap_err();
        assert!(error.to_string().contains("mounts"), "{error}");
    }

    fn faults(json: serde_json::Value) -> Vec<String> {
        let config: MachineConfig = serde_json::from_value(json).unwrap();
        let faults = config.to_spec(identity()).err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_schedule_that_could_never_start_the_machine_is_refused_and_says_why() {
        let with = |schedule: &str, key: &str, value: serde_json::Value| {
            faults(serde_json::json!({"image": "a", "schedule": schedule, key: value}))
        };
        let none = Vec::<String>::new();
        assert_eq!(with("daily", "services", serde_json::json!([])), none);
        let found = with("0 25 * * *", "env", serde_json::json!({}));
        assert_eq!(found, ["schedule: hour: `25` is not a number from 0 to 23"]);
        for (key, value) in [
            ("restart", serde_json::json!({"policy": "always"})),
            ("auto_destroy", true.into()),
            ("standbys", serde_json::json!(["00000000000001"])),
        ] {
            let found = with("daily", key, value);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("schedule: "), "{found:?}");
        }
    }

    #[test]
    fn several_programs_are_those_of_a_vm_and_take_the_place_of_the_one() {
        let json = serde_json::json!({
            "image": "a",
            "env": {"A": "1", "B": "1"},
            "init": {"user": "app", "workdir": "/w"},
            "processes": [
                {"cmd": ["one"]},
                {"exec": ["two"], "user": "root", "env": {"B": "2"}},
            ],
        });
        let config: MachineConfig = serde_json::from_value(json.clone()).unwrap();
        let spec = config.to_spec(identity()).unwrap();
        assert_eq!(
            MachineConfig::from(&spec).to_spec(identity()).unwrap(),
            spec
        );
        let [one, two] = &spec.programs()[..] else {
            panic!("two programs");
        };
        assert_eq!(one.cmd.as_deref(), Some(&["one".to_owned()][..]));
        assert_eq!(one.workdir.as_deref(), Some("/w"));
        assert_eq!((one.user.as_deref(), &*one.env["B"]), (Some("app"), "1"));
        assert_eq!((two.user.as_deref(), &*two.env["B"]), (Some("root"), "2"));
        assert_eq!(two.env["A"], "1");

        let with = |key: &str, value: serde_json::Value| {
            let mut json = json.clone();
            json[key] = value;
            faults(json)
        };
        let found = with("isolation", "container".into());
        assert!(found[0].starts_with("processes: "), "{found:?}");
        let found = with("init", serde_json::json!({"cmd": ["x"]}));
        assert!(found[0].starts_with("init: "), "{found:?}");
        let many = vec![serde_json::json!({}); 17];
        assert_eq!(with("processes", many.into()), ["processes: more than 16"]);
    }

    #[test]
    fn a_standby_names_machines_once_and_takes_no_traffic() {
        let with = |standbys: serde_json::Value| {
            faults(serde_json::json!({"image": "a", "standbys": standbys}))
        };
        let id = "00000000000001";
        assert_eq!(with(serde_json::json!([id])), Vec::<String>::new());
        let found = with(serde_json::json!([id, id]));
        assert_eq!(found, [format!("standbys[1]: names {id} again")]);
        let many: Vec<String> = (0..17).map(|n| format!("{n:014x}")).collect();
        assert_eq!(with(many.into()), ["standbys: more than 16 machines"]);
    }
}

//! Every key of the app configuration, and what roost does with it.
//!
//! A path is written without array brackets: `services.ports.handlers`.

use Kind::{
    Any, Boolean, Command, CommandLine, Duration, Fraction, Integer, Map, Scalars, Share, Size,
    Table, Tables, Text, Texts,
};
use Status::{Honoured, Refused, Warned};

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number, or its digits as text.
    Integer,
    /// A number or a percentage as text, above 0.
    Fraction,
    /// The same, from 0 to 1.
    Share,
    /// True or false.
    Boolean,
    /// Go-style text or a whole number.
    Duration,
    /// `512mb` or a whole number.
    Size,
    /// A list of text.
    Texts,
    /// Text that is split by shell-word rules.
    CommandLine,
    /// A list of text, or text that is split by shell-word rules.
    Command,
    /// A table of free names to scalars.
    Scalars,
    /// A table of free names to tables whose keys are at `PATH.*`.
    Map,
    /// A table with known keys.
    Table,
    /// A list of tables with known keys; one table stands for a list of one.
    Tables,
    /// Anything: the value is looked at elsewhere, or not at all.
    Any,
}

/// What roost does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has its effect.
    Honoured,
    /// It has no effect yet; a warning says so, with this text.
    Warned(&'static str),
    /// The file is refused, since without the key the app would not be what its author wants.
    Refused(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct KeyRule {
    /// Its path from the top of the file.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What roost does with it.
    pub status: Status,
}

const fn key(path: &'static str, kind: Kind, status: Status) -> KeyRule {
    KeyRule { path, kind, status }
}

const COUNTED: Status =
    Warned("requests are counted whatever it says, and connections that are not HTTP");
const HTTP_OPTION: Status = Warned("this option of the edge is not supported yet");
const SELF_SIGNED: Status = Warned("every name of an app has a certificate of the local authority");
const TEST_MACHINES: Status =
    Warned("test machines are not supported yet: the command does not run");
const COMPONENTS: Status = Refused("machines of several containers are not supported yet");
const BUILDER: Status =
    Refused("this build method is not supported; use `dockerfile`, `image`, `static` or `binary`");
const DEDICATED: Status = Warned("dedicated hosts do not exist here");
const BUCKET: Status =
    Refused("files of a bucket are not served; put them into the image and name their folder");
const GPU: Status = Refused("GPUs are not supported");
const MOUNTS: Status = Refused(
    "volumes are not supported yet, and without one the app's data would be lost at every deploy",
);

/// Every known key.
pub const KEYS: &[KeyRule] = &[
    key("app", Text, Honoured),
    key("primary_region", Text, Honoured),
    key("kill_signal", Text, Honoured),
    key("kill_timeout", Duration, Honoured),
    key("isolation", Text, Honoured),
    key("swap_size_mb", Integer, Honoured),
    key(
        "console_command",
        Any,
        Warned("there is no `console` command yet; use `roost exec`"),
    ),
    key("host_dedication_id", Any, DEDICATED),
    key("machine_config", Any, COMPONENTS),
    key("container", Any, COMPONENTS),
    key("machine_checks", Any, TEST_MACHINES),
    key("build", Table, Honoured),
    key("build.image", Text, Honoured),
    key("build.dockerfile", Text, Honoured),
    key("build.ignorefile", Text, Honoured),
    key("build.build-target", Text, Honoured),
    key("build.args", Any, Honoured),
    key("build.static", Text, Honoured),
    key("build.binary", Text, Honoured),
    key("build.builder", Any, BUILDER),
    key("build.buildpacks", Any, BUILDER),
    key("build.builtin", Any, BUILDER),
    key("build.settings", Any, BUILDER),
    key("build.compose", Any, BUILDER),
    key(
        "build.compression",
        Any,
        Warned("layers are always compressed with gzip"),
    ),
    key(
        "build.compression_level",
        Any,
        Warned("the compression level is fixed"),
    ),
    key("deploy", Table, Honoured),
    key("deploy.strategy", Text, Honoured),
    key("deploy.max_unavailable", Fraction, Honoured),
    key("deploy.wait_timeout", Duration, Honoured),
    key("deploy.count", Integer, Honoured),
    key("deploy.canary", Table, Honoured),
    key("deploy.canary.percent", Integer, Honoured),
    key("deploy.canary.by_client", Boolean, Honoured),
    key("deploy.canary.header", Text, Honoured),
    key("deploy.canary.regions", Texts, Honoured),
    key("deploy.canary.wait", Duration, Honoured),
    key("deploy.canary.requests", Integer, Honoured),
    key("deploy.canary.more_errors", Share, Honoured),
    key("deploy.canary.times_slower", Fraction, Honoured),
    key("deploy.release_command", CommandLine, Honoured),
    key(
        "deploy.release_command_timeout",
        Any,
        Warned("release commands are not supported yet"),
    ),
    key(
        "deploy.release_command_vm",
        Any,
        Warned("release commands are not supported yet"),
    ),
    key(
        "deploy.seed_command",
        Any,
        Warned("seed commands are not supported yet: it does not run"),
    ),
    key("env", Scalars, Honoured),
    key("processes", Scalars, Honoured),
    key("http_service", Table, Honoured),
    key("http_service.internal_port", Integer, Honoured),
    key("http_service.force_https", Boolean, Honoured),
    key("http_service.auto_stop_machines", Any, Honoured),
    key("http_service.auto_start_machines", Boolean, Honoured),
    key("http_service.min_machines_running", Integer, Honoured),
    key("http_service.processes", Texts, Honoured),
    key("http_service.concurrency", Table, Honoured),
    key("http_service.concurrency.type", Text, COUNTED),
    key("http_service.concurrency.soft_limit", Integer, Honoured),
    key("http_service.concurrency.hard_limit", Integer, Honoured),
    key("http_service.http_options", Table, Honoured),
    key("http_service.http_options.h2_backend", Boolean, Honoured),
    key("http_service.http_options.idle_timeout", Integer, Honoured),
    key(
        "http_service.http_options.headers_read_timeout",
        Any,
        HTTP_OPTION,
    ),
    key("http_service.http_options.compress", Boolean, Honoured),
    key("http_service.http_options.response", Table, Honoured),
    key(
        "http_service.http_options.response.pristine",
        Boolean,
        Honoured,
    ),
    key("http_service.http_options.response.headers", Any, Honoured),
    key("http_service.http_options.replay_cache", Tables, Honoured),
    key(
        "http_service.http_options.replay_cache.path_prefix",
        Text,
        Honoured,
    ),
    key(
        "http_service.http_options.replay_cache.ttl_seconds",
        Integer,
        Honoured,
    ),
    key(
        "http_service.http_options.replay_cache.type",
        Text,
        Honoured,
    ),
    key(
        "http_service.http_options.replay_cache.name",
        Text,
        Honoured,
    ),
    key(
        "http_service.http_options.replay_cache.allow_bypass",
        Boolean,
        Honoured,
    ),
    key(
        "http_service.http_options.session_affinity",
        Table,
        Honoured,
    ),
    key(
        "http_service.http_options.session_affinity.type",
        Text,
        Honoured,
    ),
    key(
        "http_service.http_options.session_affinity.name",
        Text,
        Honoured,
    ),
    key("http_service.tls_options", Table, Honoured),
    key("http_service.tls_options.alpn", Texts, Honoured),
    key("http_service.tls_options.versions", Texts, Honoured),
    key(
        "http_service.tls_options.default_self_signed",
        Boolean,
        SELF_SIGNED,
    ),
    key("http_service.checks", Tables, Honoured),
    key("http_service.checks.grace_period", Duration, Honoured),
    key("http_service.checks.interval", Duration, Honoured),
    key("http_service.checks.timeout", Duration, Honoured),
    key("http_service.checks.success_threshold", Integer, Honoured),
    key("http_service.checks.failure_threshold", Integer, Honoured),
    key("http_service.checks.kind", Text, Honoured),
    key("http_service.checks.unhealthy", Text, Honoured),
    key("http_service.checks.method", Text, Honoured),
    key("http_service.checks.path", Text, Honoured),
    key("http_service.checks.headers", Scalars, Honoured),
    key("http_service.checks.expected_statuses", Texts, Honoured),
    key("http_service.checks.protocol", Text, Honoured),
    key("http_service.checks.tls_skip_verify", Boolean, Honoured),
    key("http_service.checks.tls_server_name", Text, Honoured),
    key("http_service.checks.grpc_service", Text, Honoured),
    key("http_service.checks.command", Command, Honoured),
    key("http_service.checks.type", Text, Honoured),
    key("http_service.checks.port", Integer, Honoured),
    key("http_service.machine_checks", Any, TEST_MACHINES),
    key("services", Tables, Honoured),
    key("services.protocol", Text, Honoured),
    key("services.internal_port", Integer, Honoured),
    key("services.auto_stop_machines", Any, Honoured),
    key("services.auto_start_machines", Boolean, Honoured),
    key("services.min_machines_running", Integer, Honoured),
    key("services.processes", Texts, Honoured),
    key("services.concurrency", Table, Honoured),
    key("services.concurrency.type", Text, COUNTED),
    key("services.concurrency.soft_limit", Integer, Honoured),
    key("services.concurrency.hard_limit", Integer, Honoured),
    key("services.ports", Tables, Honoured),
    key("services.ports.port", Integer, Honoured),
    key("services.ports.start_port", Integer, Honoured),
    key("services.ports.end_port", Integer, Honoured),
    key("services.ports.handlers", Texts, Honoured),
    key("services.ports.force_https", Boolean, Honoured),
    key("services.ports.http_options", Table, Honoured),
    key("services.ports.http_options.h2_backend", Boolean, Honoured),
    key(
        "services.ports.http_options.idle_timeout",
        Integer,
        Honoured,
    ),
    key(
        "services.ports.http_options.headers_read_timeout",
        Any,
        HTTP_OPTION,
    ),
    key("services.ports.http_options.compress", Boolean, Honoured),
    key("services.ports.http_options.response", Table, Honoured),
    key(
        "services.ports.http_options.response.pristine",
        Boolean,
        Honoured,
    ),
    key(
        "services.ports.http_options.response.headers",
        Any,
        Honoured,
    ),
    key("services.ports.http_options.replay_cache", Tables, Honoured),
    key(
        "services.ports.http_options.replay_cache.path_prefix",
        Text,
        Honoured,
    ),
    key(
        "services.ports.http_options.replay_cache.ttl_seconds",
        Integer,
        Honoured,
    ),
    key(
        "services.ports.http_options.replay_cache.type",
        Text,
        Honoured,
    ),
    key(
        "services.ports.http_options.replay_cache.name",
        Text,
        Honoured,
    ),
    key(
        "services.ports.http_options.replay_cache.allow_bypass",
        Boolean,
        Honoured,
    ),
    key(
        "services.ports.http_options.session_affinity",
        Table,
        Honoured,
    ),
    key(
        "services.ports.http_options.session_affinity.type",
        Text,
        Honoured,
    ),
    key(
        "services.ports.http_options.session_affinity.name",
        Text,
        Honoured,
    ),
    key("services.ports.tls_options", Table, Honoured),
    key("services.ports.tls_options.alpn", Texts, Honoured),
    key("services.ports.tls_options.versions", Texts, Honoured),
    key(
        "services.ports.tls_options.default_self_signed",
        Boolean,
        SELF_SIGNED,
    ),
    key("services.ports.proxy_proto_options", Table, Honoured),
    key("services.ports.proxy_proto_options.version", Text, Honoured),
    key("services.tcp_checks", Tables, Honoured),
    key("services.tcp_checks.grace_period", Duration, Honoured),
    key("services.tcp_checks.interval", Duration, Honoured),
    key("services.tcp_checks.timeout", Duration, Honoured),
    key("services.tcp_checks.success_threshold", Integer, Honoured),
    key("services.tcp_checks.failure_threshold", Integer, Honoured),
    key("services.tcp_checks.kind", Text, Honoured),
    key("services.tcp_checks.unhealthy", Text, Honoured),
    key("services.http_checks", Tables, Honoured),
    key("services.http_checks.grace_period", Duration, Honoured),
    key("services.http_checks.interval", Duration, Honoured),
    key("services.http_checks.timeout", Duration, Honoured),
    key("services.http_checks.success_threshold", Integer, Honoured),
    key("services.http_checks.failure_threshold", Integer, Honoured),
    key("services.http_checks.kind", Text, Honoured),
    key("services.http_checks.unhealthy", Text, Honoured),
    key("services.http_checks.method", Text, Honoured),
    key("services.http_checks.path", Text, Honoured),
    key("services.http_checks.headers", Scalars, Honoured),
    key("services.http_checks.expected_statuses", Texts, Honoured),
    key("services.http_checks.protocol", Text, Honoured),
    key("services.http_checks.tls_skip_verify", Boolean, Honoured),
    key("services.http_checks.tls_server_name", Text, Honoured),
    key("services.grpc_checks", Tables, Honoured),
    key("services.grpc_checks.grace_period", Duration, Honoured),
    key("services.grpc_checks.interval", Duration, Honoured),
    key("services.grpc_checks.timeout", Duration, Honoured),
    key("services.grpc_checks.success_threshold", Integer, Honoured),
    key("services.grpc_checks.failure_threshold", Integer, Honoured),
    key("services.grpc_checks.kind", Text, Honoured),
    key("services.grpc_checks.unhealthy", Text, Honoured),
    key("services.grpc_checks.protocol", Text, Honoured),
    key("services.grpc_checks.tls_skip_verify", Boolean, Honoured),
    key("services.grpc_checks.tls_server_name", Text, Honoured),
    key("services.grpc_checks.grpc_service", Text, Honoured),
    key("services.exec_checks", Tables, Honoured),
    key("services.exec_checks.grace_period", Duration, Honoured),
    key("services.exec_checks.interval", Duration, Honoured),
    key("services.exec_checks.timeout", Duration, Honoured),
    key("services.exec_checks.success_threshold", Integer, Honoured),
    key("services.exec_checks.failure_threshold", Integer, Honoured),
    key("services.exec_checks.kind", Text, Honoured),
    key("services.exec_checks.unhealthy", Text, Honoured),
    key("services.exec_checks.command", Command, Honoured),
    key("services.machine_checks", Any, TEST_MACHINES),
    key("checks", Map, Honoured),
    key("checks.*.grace_period", Duration, Honoured),
    key("checks.*.interval", Duration, Honoured),
    key("checks.*.timeout", Duration, Honoured),
    key("checks.*.success_threshold", Integer, Honoured),
    key("checks.*.failure_threshold", Integer, Honoured),
    key("checks.*.kind", Text, Honoured),
    key("checks.*.unhealthy", Text, Honoured),
    key("checks.*.method", Text, Honoured),
    key("checks.*.path", Text, Honoured),
    key("checks.*.headers", Scalars, Honoured),
    key("checks.*.expected_statuses", Texts, Honoured),
    key("checks.*.protocol", Text, Honoured),
    key("checks.*.tls_skip_verify", Boolean, Honoured),
    key("checks.*.tls_server_name", Text, Honoured),
    key("checks.*.grpc_service", Text, Honoured),
    key("checks.*.command", Command, Honoured),
    key("checks.*.port", Integer, Honoured),
    key("checks.*.type", Text, Honoured),
    key("checks.*.processes", Texts, Honoured),
    key("mounts", Any, MOUNTS),
    key("vm", Tables, Honoured),
    key("vm.size", Text, Honoured),
    key("vm.memory", Size, Honoured),
    key("vm.memory_mb", Integer, Honoured),
    key("vm.cpus", Integer, Honoured),
    key("vm.cpu_kind", Text, Honoured),
    key("vm.gpu_kind", Any, GPU),
    key("vm.gpus", Any, GPU),
    key(
        "vm.kernel_args",
        Any,
        Warned("the machine has no kernel of its own"),
    ),
    key("vm.host_dedication_id", Any, DEDICATED),
    key("vm.persist_rootfs", Text, Honoured),
    key("vm.processes", Texts, Honoured),
    key("restart", Tables, Honoured),
    key("restart.policy", Text, Honoured),
    key("restart.retries", Integer, Honoured),
    key("restart.processes", Texts, Honoured),
    key(
        "metrics",
        Any,
        Warned("metrics of apps are not collected yet"),
    ),
    key("statics", Tables, Honoured),
    key("statics.guest_path", Text, Honoured),
    key("statics.url_prefix", Text, Honoured),
    key("statics.index_document", Text, Honoured),
    key("statics.tigris_bucket", Any, BUCKET),
    key("files", Tables, Honoured),
    key("files.guest_path", Text, Honoured),
    key("files.raw_value", Text, Honoured),
    key("files.local_path", Text, Honoured),
    key(
        "files.secret_name",
        Any,
        Refused(
            "files from secrets are not supported yet; the app gets secrets as environment variables",
        ),
    ),
    key("files.processes", Texts, Honoured),
    key("experimental", Table, Honoured),
    key("experimental.cmd", Command, Honoured),
    key("experimental.entrypoint", Command, Honoured),
    key("experimental.exec", Command, Honoured),
    key("experimental.kill_timeout", Duration, Honoured),
    key("experimental.machine_config", Any, COMPONENTS),
    key("experimental.container", Any, COMPONENTS),
    key(
        "experimental.auto_rollback",
        Any,
        Warned("a failed deploy is always undone"),
    ),
    key(
        "experimental.enable_consul",
        Any,
        Warned("there is no Consul here"),
    ),
    key(
        "experimental.enable_etcd",
        Any,
        Warned("there is no etcd here"),
    ),
    key(
        "experimental.lazy_load_images",
        Any,
        Warned("images are always loaded whole"),
    ),
    key(
        "experimental.attached",
        Any,
        Warned("attached secrets are not supported"),
    ),
    key(
        "experimental.metrics_port",
        Any,
        Warned("metrics of apps are not collected yet"),
    ),
    key(
        "experimental.metrics_path",
        Any,
        Warned("metrics of apps are not collected yet"),
    ),
];

/// Old spellings and what they are called now.
pub const ALIASES: &[(&str, &str)] = &[
    ("mount", "mounts"),
    ("metric", "metrics"),
    ("compute", "vm"),
    ("computes", "vm"),
    ("build.build_target", "build-target"),
];

/// The rule for a path without brackets.
pub fn rule(path: &str) -> Option<&'static KeyRule> {
    KEYS.iter().find(|rule| rule.path == path)
}

/// The last parts of the paths directly under `prefix` (empty for the top).
pub fn names_under(prefix: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(move |rule| {
        let rest = match prefix {
            "" => rule.path,
            _ => rule.path.strip_prefix(prefix)?.strip_prefix('.')?,
        };
        (!rest.contains('.')).then_some(rest)
    })
}

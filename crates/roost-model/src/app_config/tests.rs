//! What the app configuration promises.

use super::keys::{ALIASES, KEYS, Status, rule};
use super::{AppConfig, ConfigErrors, ConfigWarning, FileSource, parse};
use crate::machine::{
    Autostop, CheckKind, CheckPurpose, CheckTls, ConcurrencyKind, GrpcCheck, Isolation,
    PortHandler, ProxyVersion, ReplayCacheRule, Rung, SessionKey, StaticFolder, TlsVersion,
};
use crate::size::ByteSize;
use proptest::prelude::*;
use std::time::Duration;

fn ok(text: &str) -> (AppConfig, Vec<ConfigWarning>) {
    parse(text, "roost.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

fn bad(text: &str) -> ConfigErrors {
    parse(text, "roost.toml").expect_err("the file has faults")
}

/// Every key of the reference of fly.toml, by its path without brackets.
const REFERENCE: &str = "
app primary_region kill_signal kill_timeout swap_size_mb console_command host_dedication_id machine_config
container machine_checks
build.image build.dockerfile build.ignorefile build.build-target build.args build.builder build.buildpacks
build.builtin build.settings build.compose build.compression build.compression_level
deploy.strategy deploy.max_unavailable deploy.wait_timeout deploy.release_command deploy.release_command_timeout
deploy.release_command_vm deploy.seed_command
env processes
http_service.internal_port http_service.force_https http_service.auto_stop_machines
http_service.auto_start_machines http_service.min_machines_running http_service.processes
http_service.concurrency http_service.http_options http_service.tls_options http_service.checks
http_service.machine_checks
http_service.http_options.idle_timeout http_service.http_options.headers_read_timeout
http_service.http_options.compress http_service.http_options.h2_backend http_service.http_options.response
http_service.http_options.replay_cache
services.protocol services.internal_port services.auto_stop_machines services.auto_start_machines
services.min_machines_running services.processes services.ports services.concurrency
services.ports.port services.ports.start_port services.ports.end_port services.ports.handlers
services.ports.force_https services.ports.http_options services.ports.tls_options
services.ports.proxy_proto_options
services.tcp_checks services.http_checks services.machine_checks
services.tcp_checks.grace_period services.tcp_checks.interval services.tcp_checks.timeout
services.http_checks.grace_period services.http_checks.interval services.http_checks.timeout
services.http_checks.method services.http_checks.path services.http_checks.protocol
services.http_checks.tls_skip_verify services.http_checks.tls_server_name services.http_checks.headers
http_service.checks.grace_period http_service.checks.interval http_service.checks.timeout
http_service.checks.method http_service.checks.path http_service.checks.protocol
http_service.checks.tls_skip_verify http_service.checks.tls_server_name http_service.checks.headers
checks.*.grace_period checks.*.interval checks.*.timeout checks.*.method checks.*.path checks.*.protocol
checks.*.tls_skip_verify checks.*.tls_server_name checks.*.headers checks.*.port checks.*.type
checks.*.processes
mounts
vm.size vm.memory vm.memory_mb vm.cpus vm.cpu_kind vm.gpu_kind vm.gpus vm.kernel_args vm.host_dedication_id
vm.persist_rootfs vm.processes
restart.policy restart.retries restart.processes
metrics
statics.guest_path statics.url_prefix statics.index_document statics.tigris_bucket
files.guest_path files.raw_value files.local_path files.secret_name files.processes
experimental.cmd experimental.entrypoint experimental.exec experimental.machine_config experimental.container
experimental.auto_rollback experimental.enable_consul experimental.enable_etcd experimental.lazy_load_images
experimental.attached experimental.kill_timeout experimental.metrics_port experimental.metrics_path
";

#[test]
fn every_key_of_the_reference_has_a_status() {
    for path in REFERENCE.split_whitespace() {
        assert!(rule(path).is_some(), "{path} is not in the table");
    }
}

#[test]
fn every_warned_key_warns_by_name_and_every_refused_key_is_refused_by_name() {
    for rule in KEYS {
        let path = rule.path.replace('*', "x");
        match rule.status {
            Status::Honoured => continue,
            Status::Warned(why) => {
                // The other members of the tables on the way are missing, which may be a fault of its own.
                let warned = match parse(&format!("{path} = 1"), "t") {
                    Ok((_, warnings)) => warnings
                        .iter()
                        .any(|warning| warning.path == path && warning.message == why),
                    Err(errors) => !errors.errors.iter().any(|error| error.path == path),
                };
                assert!(warned, "{path}");
            }
            Status::Refused(why) => {
                let errors = bad(&format!("{path} = 1"));
                assert!(
                    errors
                        .errors
                        .iter()
                        .any(|error| error.path == path && error.problem.contains(why)),
                    "{errors}"
                );
            }
        }
    }
    assert!(
        ALIASES
            .iter()
            .all(|(_, new)| KEYS.iter().any(|rule| rule.path.ends_with(new)))
    );
}

#[test]
fn a_whole_file_is_read() {
    let (config, warnings) = ok(r#"
app = "web"
primary_region = "fra"
kill_signal = "SIGTERM"
kill_timeout = 30
isolation = "vm-emulated"
swap_size_mb = 512

[build]
dockerfile = "deploy/Dockerfile"
build-target = "run"
[build.args]
VERSION = 3

[deploy]
strategy = "bluegreen"
max_unavailable = "25%"
wait_timeout = "2m"

[env]
PORT = 3000
DEBUG = true

[processes]
app = "serve --title 'my app'"

[http_service]
internal_port = 3000
force_https = true
auto_stop_machines = "off"
processes = ["app"]
[[http_service.checks]]
path = "/up"
interval = 5000
headers = { X-A = "b" }

[checks.alive]
type = "tcp"
port = 3001
grace_period = "1s"

[[vm]]
size = "shared-cpu-2x"
memory = "1gb"

[[restart]]
policy = "never"

[[files]]
guest_path = "/etc/motd"
raw_value = "hello"
"#);
    assert_eq!(config.app.as_deref(), Some("web"));
    assert_eq!(config.kill_timeout, Some(Duration::from_secs(30)));
    assert_eq!(config.isolation, Some(Isolation::Rung(Rung::VmEmulated)));
    assert_eq!(config.swap, ByteSize::mib(512));
    assert_eq!(config.deploy.max_unavailable, Some(0.25));
    assert_eq!(config.env["PORT"], "3000");
    assert_eq!(config.build.args["VERSION"], "3");
    assert_eq!(config.process.unwrap(), ["serve", "--title", "my app"]);
    let service = &config.services[0];
    assert!(service.ports[0].force_https && service.internal_port == 3000);
    assert_eq!(
        service.checks[0].interval,
        Duration::from_secs(5),
        "integers in checks are milliseconds"
    );
    assert_eq!(config.checks["alive"].kind.port(), Some(3001));
    assert_eq!(config.vm.unwrap().memory, Some(ByteSize::gib(1)));
    assert_eq!(config.restart.unwrap().policy, "no");
    assert_eq!(config.files[0].source, FileSource::Text("hello".into()));
    let paths: Vec<_> = warnings
        .iter()
        .map(|warning| (warning.line, warning.path.as_str()))
        .collect();
    assert_eq!(paths, [(16, "deploy.strategy")]);
}

#[test]
fn a_canary_is_read_and_its_faults_are_named() {
    let (config, warnings) = ok(r#"
[deploy]
strategy = "canary"
[deploy.canary]
percent = 5
by_client = true
header = "x-canary: 1"
regions = ["fra", "ams"]
wait = "2m"
requests = 500
more_errors = "1%"
times_slower = 1.5
"#);
    assert!(config.deploy.is_canary && warnings.is_empty());
    let canary = config.deploy.canary;
    assert_eq!((canary.percent, canary.by_client), (Some(5), true));
    assert_eq!(canary.header.as_deref(), Some("x-canary: 1"));
    assert_eq!(canary.regions, ["fra", "ams"]);
    assert_eq!(canary.wait, Some(Duration::from_secs(120)));
    assert_eq!(canary.requests, Some(500));
    assert_eq!(
        (canary.more_errors, canary.times_slower),
        (Some(0.01), Some(1.5))
    );
    for (text, share) in [("0", Some(0.0)), ("0.0", Some(0.0)), ("'100%'", Some(1.0))] {
        let (config, _) = ok(&format!("[deploy.canary]\nmore_errors = {text}\n"));
        assert_eq!(config.deploy.canary.more_errors, share);
    }
    for text in ["-0.1", "1.1", "'101%'", "'x'"] {
        let text = bad(&format!("[deploy.canary]\nmore_errors = {text}\n")).to_string();
        let expected = "`deploy.canary.more_errors` must be a number from 0 to 1";
        assert!(text.contains(expected), "{text}");
    }
    for name in [
        "TE",
        "expect",
        "x-forwarded-proto",
        "fly-region",
        "keep-alive",
    ] {
        let text = bad(&format!("[deploy.canary]\nheader = '{name}: 1'\n")).to_string();
        assert!(text.contains("the edge takes off or sets itself"), "{text}");
    }
    let text =
        bad("[deploy.canary]\npercent = 101\nheader = 'x'\nregions = ['Not OK']\nrequests = 0\n")
            .to_string();
    for part in [
        "roost.toml:2: `deploy.canary.percent` must be between 0 and 100",
        "roost.toml:3: `deploy.canary.header` header is not of the form",
        "roost.toml:4: `deploy.canary.regions` region code",
        "roost.toml:5: `deploy.canary.requests` must be between 1 and",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn every_fault_is_named_at_once_with_its_line_and_the_nearest_name() {
    let errors = bad(
        "app = 'Not OK'\nprimary_regoin = 'x'\n[http_service]\ninternal_port = true\ninternl_port = 1\n\
        [[mounts]]\nsource = 'data'\n[env]\nFLY_X = '1'\n[processes]\nweb = 'a'\n[[services]]\nprotocol = 'sctp'\n\
        [[services.ports]]\nport = 80\nhandlers = ['tls']\n",
    );
    let text = errors.to_string();
    for part in [
        "roost.toml:1: `app` has 'N' in it",
        "roost.toml:2: `primary_regoin` is not a known key; did you mean `primary_region`?",
        "roost.toml:4: `http_service.internal_port` must be a whole number, but is true",
        "roost.toml:5: `http_service.internl_port` is not a known key; did you mean `internal_port`?",
        "roost.toml:6: `mounts` is refused: volumes are not supported yet",
        "roost.toml:9: `env.FLY_X` starts with FLY_",
        "roost.toml:11: `processes` is refused: several process groups",
        "roost.toml:13: `services[0].protocol` must be tcp or udp",
        "roost.toml:16: `services[0].ports[0].handlers` port 80 is plain HTTP",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
}

#[test]
fn swap_is_a_bounded_number_of_megabytes() {
    assert_eq!(ok("swap_size_mb = 0").0.swap, ByteSize(0));
    assert_eq!(ok("swap_size_mb = '256'").0.swap, ByteSize::mib(256));
    for value in ["-1", "65537"] {
        let text = bad(&format!("swap_size_mb = {value}")).to_string();
        let problem = format!("`swap_size_mb` must be between 0 and 65536, but is {value}");
        assert!(text.contains(&problem), "{text}");
    }
    let text = bad("swap_size_mb = '1gb'").to_string();
    assert!(text.contains("must be a whole number"), "{text}");
}

#[test]
fn old_spellings_are_tolerated() {
    let (config, _) = ok(
        "[[compute]]\nmemory_mb = 512\n[[processes]]\nname = 'app'\ncommand = 'run'\n\
        [[env]]\nA = 'b'\n[build]\nbuild_target = 'x'\n[[services]]\ninternal_port = '80'\n\
        [[services.ports]]\nport = '80'\nhandlers = ['http']\n[[services.http_checks]]\n\
        headers = [{name = 'a', value = 'b'}]\n[[checks]]\nname = 'c'\ntype = 'tcp'\nport = 1\n",
    );
    assert_eq!(config.vm.unwrap().memory, Some(ByteSize::mib(512)));
    assert_eq!(config.process.unwrap(), ["run"]);
    assert_eq!(config.env["A"], "b");
    assert_eq!(config.build.target.as_deref(), Some("x"));
    assert_eq!(config.services[0].internal_port, 80);
    let CheckKind::Http(http) = &config.services[0].checks[0].kind else {
        panic!("not an HTTP check: {:?}", config.services[0].checks);
    };
    assert_eq!((http.port, http.headers["a"].as_str()), (80, "b"));
    assert!(config.checks.contains_key("c"));
}

#[test]
fn roosts_own_builds_are_read_and_two_methods_are_refused() {
    let (config, _) = ok("[build]\nbinary = 'bin/app'\nargs = ['-v']\n");
    assert_eq!(config.build.binary.as_deref(), Some("bin/app"));
    assert_eq!(config.build.binary_args, ["-v"]);
    assert_eq!(
        ok("[build]\nstatic = 'public'")
            .0
            .build
            .static_root
            .as_deref(),
        Some("public")
    );
    assert!(
        bad("[build]\nstatic = 'a'\nimage = 'b'")
            .to_string()
            .contains("more than one way")
    );
    assert!(
        bad("[build]\nstatic = '../a'")
            .to_string()
            .contains("inside the app's folder")
    );
}

#[test]
fn what_is_not_toml_and_what_is_too_large_is_refused_with_the_reason() {
    assert!(
        bad("app = \n[x")
            .to_string()
            .contains("roost.toml:1: this is not TOML")
    );
    let large = "#".repeat(crate::limits::APP_CONFIG_BYTES_MAX + 1);
    assert!(bad(&large).to_string().contains("is the most"));
    let deep = format!("a = {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(parse(&deep, "t").is_err());
}

#[test]
fn checks_of_all_kinds_are_read() {
    let (config, warnings) = ok(r#"
[http_service]
internal_port = 3000
[[http_service.checks]]
protocol = "https"
tls_server_name = "a.example"
expected_statuses = ["200-299", "401"]
method = "head"
[[http_service.checks]]
type = "grpc"
grpc_service = "shop.Cart"
[[services]]
internal_port = 80
[[services.grpc_checks]]
[[services.exec_checks]]
command = "redis-cli ping"
success_threshold = 2
[[services.http_checks]]
interval = 100
timeout = "5m"
tls_skip_verify = false
[[services.ports]]
port = 9000
[checks.alive]
type = "exec"
command = ["/bin/check", "-q"]
kind = "readiness"
failure_threshold = 4
unhealthy = "stop"
"#);
    let (web, second) = (&config.services[0], &config.services[1]);
    let CheckKind::Http(http) = &web.checks[0].kind else {
        panic!("not an HTTP check");
    };
    let server_name = Some("a.example".to_owned());
    let skip_verify = false;
    assert_eq!(
        http.tls,
        Some(CheckTls {
            server_name,
            skip_verify
        })
    );
    assert!(http.statuses.contains(401) && http.method == "HEAD");
    let grpc = GrpcCheck {
        port: 3000,
        service: "shop.Cart".into(),
        tls: None,
    };
    assert_eq!(web.checks[1].kind, CheckKind::Grpc(grpc));
    let times = |idx: usize| (second.checks[idx].interval, second.checks[idx].timeout);
    assert_eq!(
        times(0),
        (Duration::from_secs(1), Duration::from_secs(60)),
        "clamped"
    );
    let command = vec!["redis-cli".to_owned(), "ping".to_owned()];
    assert_eq!(second.checks[1].kind, CheckKind::Exec { command });
    assert_eq!(second.checks[1].success_threshold, 2);
    let alive = &config.checks["alive"];
    assert!(alive.stops_unhealthy && alive.failure_threshold == 4);
    assert_eq!(alive.purpose, CheckPurpose::Readiness);
    let paths: Vec<&str> = warnings
        .iter()
        .map(|warning| warning.path.as_str())
        .collect();
    let of_check = |key| format!("services[0].http_checks[0].{key}");
    assert_eq!(paths, [of_check("interval"), of_check("timeout")]);
}

#[test]
fn faults_of_checks_are_named_with_their_lines() {
    let errors = bad(
        "[checks.a]\ntype = 'tcp'\n[checks.b]\ntype = 'icmp'\nport = 1\n[checks.c]\ntype = 'tcp'\nport = 1\n\
        interval = '1s'\ntimeout = '61s'\n[checks.d]\ntype = 'exec'\n[checks.e]\ntype = 'tcp'\nport = 1\npath = '/'\n\
        [checks.servicecheck-00]\ntype = 'tcp'\nport = 70000\n[[services]]\n[[services.http_checks]]\n\
        kind = 'liveness'\nprotocol = 'ws'\nexpected_statuses = ['2xx']\n",
    );
    let text = errors.to_string();
    for part in [
        "roost.toml:1: `checks.a.port` is missing",
        "roost.toml:4: `checks.b.type` must be one of tcp, http, grpc, exec",
        "roost.toml:10: `checks.c.timeout` must be more than 0 and at most 60 s",
        "`checks.d.command` is missing",
        "roost.toml:16: `checks.e.path` has no meaning in a check of type tcp, only of http",
        "`checks.servicecheck-00` has a name like those of the checks of services",
        "roost.toml:19: `checks.servicecheck-00.port` must be between 1 and 65535, but is 70000",
        "`services[0].http_checks[0].kind` must be informational or readiness; `unhealthy",
        "`services[0].http_checks[0].protocol` must be \"http\" or \"https\"",
        "`services[0].http_checks[0].expected_statuses` `2xx` is not a status",
    ] {
        assert!(text.contains(part), "{part}\nin\n{text}");
    }
    assert_eq!(errors.errors.len(), 10, "each once:\n{text}");
    let short = bad("[checks.c]\ntype = 'tcp'\nport = 1\ninterval = '1s'");
    assert!(
        short
            .to_string()
            .contains("`checks.c.interval` is shorter than 2 s"),
        "{short}"
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text, "t");
    }

    #[test]
    fn no_value_of_any_key_panics(idx in 0..KEYS.len(), value in prop::sample::select(vec![
        "1", "-1", "1.5", "nan", "9223372036854775807", "99999999999999999999", "''", "'x'", "'9999999999999999h'",
        "'99999999999gb'", "'-5%'", "true", "[]", "[1]", "['a']", "[{}]", "{}", "{a = 1}", "{a = {}}", "1979-05-27",
        "[{a = 1}, 2]", "'\"'", "[[]]",
    ])) {
        let path = KEYS[idx].path.replace('*', "x");
        let _ = parse(&format!("{path} = {value}"), "t");
        let (head, last) = path.rsplit_once('.').unwrap_or(("env", &path));
        let _ = parse(&format!("[[{head}]]\n{last} = {value}"), "t");
    }
}

#[test]
fn services_of_all_kinds_are_read() {
    let (config, _) = ok(r#"
[http_service]
internal_port = 3000
force_https = true
auto_stop_machines = "suspend"
concurrency = "200,250"
[http_service.tls_options]
versions = ["TLSv1.3"]
[[services]]
internal_port = 1883
auto_start_machines = false
[services.concurrency]
hard_limit = 10
[[services.ports]]
port = 8883
handlers = ["tls", "proxy_proto"]
tls_options.alpn = ["mqtt"]
proxy_proto_options.version = "v2"
[[services.ports]]
start_port = 9000
end_port = 9010
"#);
    let [web, mqtt] = &config.services[..] else {
        panic!("{:?}", config.services);
    };
    assert!(web.autostart && web.autostop == Autostop::Suspend);
    assert_eq!(web.concurrency.kind, ConcurrencyKind::Requests);
    assert_eq!(web.concurrency.hard_limit, Some(250));
    let [http, https] = [80, 443].map(|number| web.port(number).unwrap());
    assert!(http.force_https && http.tls.only.is_none());
    assert_eq!(https.tls.only, Some(TlsVersion::V13));
    assert!(!mqtt.autostart);
    assert_eq!(mqtt.concurrency.soft_limit, 10);
    let tls = mqtt.port(8883).unwrap();
    assert_eq!(tls.proxy_proto, Some(ProxyVersion::V2));
    assert_eq!(tls.tls.alpn, ["mqtt"]);
    assert_eq!(mqtt.port(9010).unwrap().handler, PortHandler::Raw);
}

#[test]
fn sessions_of_replays_are_read_and_their_faults_named() {
    let rule =
        "path_prefix = 'Shop.example/cart/'\nttl_seconds = 60\ntype = 'cookie'\nname = 'sid'\n";
    let text = format!("[http_service]\n[[http_service.http_options.replay_cache]]\n{rule}");
    let (config, warnings) = ok(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let service = &config.services[0];
    for port in [80, 443] {
        assert_eq!(
            *service.port(port).unwrap().http.replay_cache,
            [ReplayCacheRule {
                host: Some("shop.example".into()),
                path: "/cart".into(),
                ttl: Duration::from_secs(60),
                key: SessionKey::Cookie("sid".into()),
                allow_bypass: false,
            }]
        );
    }
    for (from, to, problem) in [
        (
            "Shop.example/cart/",
            "https://a/b",
            "path_prefix` must be /path or host/path",
        ),
        (
            "Shop.example/cart/",
            "a:80/b",
            "path_prefix` must be /path or host/path",
        ),
        (
            "Shop.example/cart/",
            "/b/*",
            "path_prefix` must be /path or host/path",
        ),
        ("60", "9", "ttl_seconds` must be 10 to 86400"),
        (
            "'cookie'",
            "'color'",
            "type` must be \"cookie\" or \"header\"",
        ),
        ("'sid'", "'a b'", "name` must name a cookie or a header"),
    ] {
        let text = bad(&text.replace(from, to)).to_string();
        let expected = format!("`http_service.http_options.replay_cache[0].{problem}");
        assert!(text.contains(&expected), "{expected}\nin\n{text}");
    }
}

#[test]
fn session_affinity_is_read_and_its_faults_named() {
    let of = |lines: &str| {
        format!("[http_service.http_options.session_affinity]\n{lines}\n[http_service]\n")
    };
    for (lines, key) in [
        (
            "type = 'cookie'",
            SessionKey::Cookie("roost-session".into()),
        ),
        (
            "type = 'cookie'\nname = 'sid'",
            SessionKey::Cookie("sid".into()),
        ),
        (
            "type = 'header'\nname = 'X-Id'",
            SessionKey::Header("x-id".into()),
        ),
    ] {
        let (config, warnings) = ok(&of(lines));
        assert!(warnings.is_empty(), "{warnings:?}");
        for port in [80, 443] {
            let http = &config.services[0].port(port).unwrap().http;
            assert_eq!(http.session_affinity.as_deref(), Some(&key));
        }
    }
    let mine = "http_service.http_options.session_affinity";
    for (lines, problem) in [
        ("", "type` must be \"cookie\" or \"header\""),
        ("type = 'ip'", "type` must be \"cookie\" or \"header\""),
        ("type = 'header'", "name` must name a cookie or a header"),
        (
            "type = 'cookie'\nname = 'a;b'",
            "name` must name a cookie or a header",
        ),
        (
            "type = 'header'\nname = 'X-Forwarded-For'",
            "name` is a header that the edge",
        ),
        (
            "type = 'header'\nname = 'fly-client-ip'",
            "name` is a header that the edge",
        ),
    ] {
        let text = bad(&of(lines)).to_string();
        assert!(text.contains(&format!("`{mine}.{problem}")), "{text}");
    }
    let rule = "path_prefix = '/'\nttl_seconds = 60\ntype = 'cookie'\nname = 'sid'\n";
    let cache = format!("[[http_service.http_options.replay_cache]]\n{rule}");
    let text = bad(&(of("type = 'cookie'\nname = 'sid'") + &cache)).to_string();
    assert!(text.contains("is a cookie of replay_cache"), "{text}");
    ok(&(of("type = 'cookie'") + &cache));
    let pristine = "http_options.response.pristine = true";
    let text = bad(&(of("type = 'cookie'") + pristine)).to_string();
    assert!(
        text.contains(&format!("`{mine}` by cookie needs")),
        "{text}"
    );
    ok(&(of("type = 'header'\nname = 'x'") + pristine));
}

#[test]
fn static_folders_are_read_and_their_faults_named() {
    let first = "[[statics]]\nguest_path = '/srv/a'\nurl_prefix = '/static/'\n";
    let second =
        "[[statics]]\nguest_path = '/b'\nurl_prefix = '/'\nindex_document = 'index.html'\n";
    let text = format!("isolation = 'container'\n{first}{second}");
    let (config, warnings) = ok(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let path = |path| StaticFolder::file_of(&config.statics, path);
    assert_eq!(path("/static/x").as_deref(), Some("/srv/a/x"));
    assert_eq!(path("/x/").as_deref(), Some("/b/x/index.html"));
    for (from, to, problem) in [
        ("'/srv/a'", "'a'", "statics[0].guest_path` must be"),
        ("'/static/'", "'static'", "statics[0].url_prefix` must be"),
        (
            "'index.html'",
            "'a/b'",
            "statics[1].index_document` must be",
        ),
        (
            "'/static/'",
            "'//'",
            "statics[1]` has the url_prefix of another one",
        ),
        (
            "'/b'",
            "'/b'\ntigris_bucket = 'x'",
            "files of a bucket are not served",
        ),
    ] {
        let text = bad(&text.replace(from, to)).to_string();
        assert!(text.contains(problem), "{problem}\nin\n{text}");
    }
    let (_, warnings) = ok(&text.replace("'container'", "'vm'"));
    assert_eq!((warnings[0].line, &*warnings[0].path), (2, "statics"));
}

#[test]
fn options_of_http_that_are_obeyed_warn_of_nothing() {
    let options =
        "idle_timeout = 600\ncompress = true\nresponse.pristine = true\nresponse.headers.a = 'b'\n";
    let (config, warnings) = ok(&format!("[http_service.http_options]\n{options}"));
    assert!(warnings.is_empty(), "{warnings:?}");
    let http = &config.services[0].port(443).unwrap().http;
    assert_eq!(http.idle_timeout, Some(Duration::from_secs(600)));
    assert!(http.compress && http.pristine && http.response_headers["a"] == ["b"]);
}

#[test]
fn faults_of_services_are_named_where_they_are() {
    let text = bad(
        "[http_service]\nauto_stop_machines = 'sometimes'\n[http_service.concurrency]\nsoft_limit = 20\n\
        hard_limit = 10\n[http_service.http_options]\nidle_timeout = 0\n\
        [[services]]\n[[services.ports]]\nport = 25\nhandlers = ['smtp']\n\
        [[services.ports]]\nport = 26\nforce_https = true\n",
    )
    .to_string();
    for line in [
        "roost.toml:2: `http_service.auto_stop_machines` must be \"off\", \"stop\" or \"suspend\"",
        "roost.toml:4: `http_service.concurrency.soft_limit` is 20, above the hard limit of 10",
        "roost.toml:7: `http_service.http_options.idle_timeout` must be 1 to 3600 s",
        "roost.toml:11: `services[0].ports[0].handlers` `smtp` is not one of http",
        "roost.toml:14: `services[0].ports[1].force_https` is for ports with the http handler",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    assert_eq!(text.lines().count(), 5, "{text}");
    let text =
        bad("[http_service]\n[[services]]\n[[services.ports]]\nport = 80\nhandlers = ['http']\n")
            .to_string();
    assert_eq!(
        text,
        "roost.toml:3: `services[0].ports[0]` port 80: another service has it already"
    );
}

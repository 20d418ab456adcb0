//! `[http_service]` and `[[services]]`: where the app takes traffic.

use super::{check_groups, checks, flag, line_of, number, tables, text};
use crate::app_config::Findings;
use crate::app_config::tree::{Node, Value};
use crate::limits;
use crate::machine::{
    AffinityDraft, ConcurrencyDraft, HttpOptions, PortDraft, ReplayCacheDraft, Service,
    ServiceDraft, ServiceFault, service_conflicts,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The port of a service that names none (Fly.io: 8080).
const INTERNAL_PORT_DEFAULT: u16 = 8080;
/// The keys that the model calls otherwise.
const RENAMED: [(&str, &str); 2] = [
    ("autostop", "auto_stop_machines"),
    ("autostart", "auto_start_machines"),
];

/// A service with the table that it comes from.
struct Found<'a> {
    path: String,
    table: &'a Node,
    /// Whether the ports are those that `[http_service]` stands for.
    is_short: bool,
}

impl Found<'_> {
    /// Reports a fault where its key is.
    fn report(&self, fault: &ServiceFault, findings: &mut Findings) {
        let mut key = fault.key.as_str();
        if self.is_short && key.starts_with("ports[") {
            key = key.split_once('.').map_or("", |(_, key)| key);
        }
        if let Some((_, ours)) = RENAMED.iter().find(|(model, _)| *model == key) {
            key = ours;
        }
        let path = match key {
            "" => self.path.clone(),
            key => format!("{}.{key}", self.path),
        };
        // `[http_service]` stands for two ports: what is wrong with both is said once.
        if !findings.errors.iter().any(|error| error.path == path) {
            findings.error(line_at(self.table, key), path, fault.problem.clone());
        }
    }
}

/// The line of the value at `ports[1].handlers`, or of the last part of the path that is there.
fn line_at(table: &Node, path: &str) -> usize {
    let mut node = table;
    for part in path.split('.') {
        let (key, idx) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
            Some((key, idx)) => (key, idx.parse().unwrap_or(0)),
            None => (part, 0),
        };
        let Some(next) = node.get(key) else { break };
        node = match &next.value {
            Value::List(items) if part.ends_with(']') => items.get(idx).unwrap_or(next),
            _ => next,
        };
    }
    node.line
}

/// All services of the file.
pub(super) fn of(root: &Node, findings: &mut Findings) -> Vec<Service> {
    let mut found = vec![];
    if let Some(table) = root.get("http_service") {
        let path = "http_service".to_owned();
        found.push(Found {
            path,
            table,
            is_short: true,
        });
    }
    for (path, table) in tables(root, "services") {
        found.push(Found {
            path,
            table,
            is_short: false,
        });
    }
    found.retain(|found| matches!(found.table.value, Value::Table(_)));
    if found.len() > limits::SERVICES_MAX {
        let problem = format!("has more than {} services", limits::SERVICES_MAX);
        findings.error(line_of(root, "services"), "services", problem);
        return vec![];
    }
    // All of them, so that every fault is found.
    let services: Vec<Option<Service>> =
        found.iter().map(|found| service(found, findings)).collect();
    let Some(services) = services.into_iter().collect::<Option<Vec<_>>>() else {
        return vec![];
    };
    for (idx, fault) in service_conflicts(&services) {
        found[idx].report(&fault, findings);
    }
    services
}

pub(super) fn internal_port(table: &Node, path: &str, findings: &mut Findings) -> u16 {
    number(table, "internal_port", path, (1, 65_535), findings).unwrap_or(INTERNAL_PORT_DEFAULT)
}

fn service(found: &Found<'_>, findings: &mut Findings) -> Option<Service> {
    let Found { path, table, .. } = found;
    check_groups(table, path, findings);
    let prefix = format!("{path}.");
    let internal_port = internal_port(table, &prefix, findings);
    let (ports, check_keys): (Vec<PortDraft>, &[&str]) = if found.is_short {
        (short_ports(table, path, findings), &["checks"])
    } else {
        let ports = tables(table, "ports");
        let ports = ports
            .into_iter()
            .map(|(key, port)| port_draft(port, &format!("{path}.{key}"), findings))
            .collect();
        let keys = &["tcp_checks", "http_checks", "grpc_checks", "exec_checks"];
        (ports, keys)
    };
    let auto_start = table.get("auto_start_machines").and_then(Node::boolean);
    let most = i64::from(limits::MIN_MACHINES_RUNNING_MAX);
    let draft = ServiceDraft {
        protocol: text(table, "protocol"),
        internal_port,
        ports,
        concurrency: concurrency(table, &prefix, findings),
        autostart: auto_start.unwrap_or(true),
        autostop: autostop(table),
        min_machines_running: number(table, "min_machines_running", &prefix, (0, most), findings)
            .unwrap_or(0),
        checks: checks::of_service(table, path, check_keys, internal_port, findings),
    };
    match draft.build() {
        Ok(service) => Some(service),
        Err(faults) => {
            for fault in faults {
                found.report(&fault, findings);
            }
            None
        }
    }
}

/// The word; booleans are of old, and anything else is reported as no word.
fn autostop(table: &Node) -> Option<String> {
    let node = table.get("auto_stop_machines")?;
    let word = match node.boolean() {
        Some(true) => "stop",
        Some(false) => "off",
        None => node.text().unwrap_or_default(),
    };
    Some(word.to_owned())
}

/// The two ports that `[http_service]` stands for.
fn short_ports(table: &Node, path: &str, findings: &mut Findings) -> Vec<PortDraft> {
    let mut options = port_draft(table, path, findings);
    let force_https = std::mem::take(&mut options.force_https);
    let http = PortDraft {
        force_https,
        http: options.http.clone(),
        replay_cache: options.replay_cache.clone(),
        session_affinity: options.session_affinity.clone(),
        ..PortDraft::single(Service::HTTP_PORT, &["http"])
    };
    let https = PortDraft {
        http: options.http,
        replay_cache: options.replay_cache,
        session_affinity: options.session_affinity,
        alpn: options.alpn,
        versions: options.versions,
        ..PortDraft::single(Service::HTTPS_PORT, &["tls", "http"])
    };
    vec![http, https]
}

fn port_draft(port: &Node, path: &str, findings: &mut Findings) -> PortDraft {
    let prefix = format!("{path}.");
    let tls = port.get("tls_options");
    let tls_texts = |key| tls.and_then(|tls| tls.get(key)).and_then(Node::texts);
    let proxy_proto = port.get("proxy_proto_options");
    let mut numbered = |key| number(port, key, &prefix, (1, 65_535), findings);
    PortDraft {
        port: numbered("port"),
        start_port: numbered("start_port"),
        end_port: numbered("end_port"),
        handlers: port
            .get("handlers")
            .and_then(Node::texts)
            .unwrap_or_default(),
        force_https: flag(port, "force_https"),
        http: port.get("http_options").map(http_options),
        replay_cache: port
            .get("http_options")
            .and_then(|options| options.get("replay_cache"))
            .map_or(&[][..], Node::items)
            .iter()
            .map(replay_cache)
            .collect(),
        session_affinity: port
            .get("http_options")
            .and_then(|options| options.get("session_affinity"))
            .map(|affinity| AffinityDraft {
                kind: text(affinity, "type"),
                name: text(affinity, "name"),
            }),
        alpn: tls_texts("alpn"),
        versions: tls_texts("versions"),
        proxy_proto_version: proxy_proto.and_then(|options| text(options, "version")),
    }
}

fn http_options(options: &Node) -> HttpOptions {
    let seconds = options.get("idle_timeout").and_then(Node::integer);
    let response = options.get("response");
    HttpOptions {
        h2_backend: flag(options, "h2_backend"),
        // What is out of range is for the model to refuse.
        idle_timeout: seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))),
        compress: flag(options, "compress"),
        pristine: response.is_some_and(|response| flag(response, "pristine")),
        response_headers: response
            .and_then(|response| response.get("headers"))
            .map(response_headers)
            .unwrap_or_default(),
        replay_cache: [].into(),
        session_affinity: None,
    }
}

fn replay_cache(rule: &Node) -> ReplayCacheDraft {
    let seconds = rule.get("ttl_seconds").and_then(Node::integer);
    ReplayCacheDraft {
        path_prefix: text(rule, "path_prefix"),
        ttl_seconds: seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        kind: text(rule, "type"),
        name: text(rule, "name"),
        allow_bypass: flag(rule, "allow_bypass"),
    }
}

/// Text sets a header, a list sets it several times, `false` takes it away.
fn response_headers(headers: &Node) -> BTreeMap<String, Vec<String>> {
    let values = |node: &Node| match node.boolean() {
        Some(false) => vec![],
        _ => node
            .texts()
            .or_else(|| node.scalar_text().map(|text| vec![text]))
            .unwrap_or_default(),
    };
    let entries = headers.entries().iter();
    entries
        .map(|entry| (entry.key.clone(), values(&entry.node)))
        .collect()
}

fn concurrency(table: &Node, prefix: &str, findings: &mut Findings) -> ConcurrencyDraft {
    let Some(table) = table.get("concurrency") else {
        return ConcurrencyDraft::default();
    };
    let prefix = format!("{prefix}concurrency.");
    let mut limit = |key| number(table, key, &prefix, (1, i64::from(u32::MAX)), findings);
    ConcurrencyDraft {
        kind: text(table, "type"),
        soft_limit: limit("soft_limit"),
        hard_limit: limit("hard_limit"),
    }
}

//! The checks of an app configuration.

use super::super::Findings;
use super::super::tree::Node;
use super::services::internal_port;
use super::{Unit, check_groups, command, duration, flag, line_of, number, scalars, tables, text};
use crate::limits;
use crate::machine::{Check, CheckDraft, CheckPlace};
use std::collections::BTreeMap;
use std::time::Duration;

/// Times of the checks of services are brought within these, with a warning (Fly.io does the same).
const SERVICE_TIMES: (Duration, Duration) = (
    limits::CHECK_INTERVAL_MIN_OF_SERVICES,
    Duration::from_secs(60),
);

/// The checks of a service, which are under these keys.
pub(super) fn of_service(
    service: &Node,
    path: &str,
    keys: &[&str],
    port: u16,
    findings: &mut Findings,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for key in keys {
        for (check_path, table) in tables(service, key) {
            // Old generators leave empty check tables behind.
            if table.entries().is_empty() {
                continue;
            }
            let path = format!("{path}.{check_path}");
            let mut draft = draft(table, &path, findings);
            if draft.kind.is_empty() {
                draft.kind = key.strip_suffix("_checks").unwrap_or("http").into();
            }
            clamp(&mut draft, table, &path, findings);
            checks.extend(build(
                &draft,
                CheckPlace::Service { port },
                table,
                &path,
                findings,
            ));
        }
    }
    checks
}

/// The checks of the machine, by name.
pub(super) fn of_machine(root: &Node, findings: &mut Findings) -> BTreeMap<String, Check> {
    let fallback = root
        .get("http_service")
        .map(|table| internal_port(table, "http_service.", &mut Findings::default()));
    let mut checks = BTreeMap::new();
    for entry in root.get("checks").map_or(&[][..], Node::entries) {
        let shown: String = entry
            .key
            .chars()
            .filter(|c| !c.is_control())
            .take(80)
            .collect();
        let path = format!("checks.{shown}");
        let table = &entry.node;
        if table.entries().is_empty() {
            continue;
        }
        check_groups(table, &path, findings);
        if let Some(problem) = Check::name_problem(&entry.key) {
            findings.error(entry.line, path.clone(), problem);
        }
        let mut draft = draft(table, &path, findings);
        if draft.kind != "exec" {
            draft.port = draft.port.or(fallback);
        }
        if let Some(check) = build(&draft, CheckPlace::Machine, table, &path, findings) {
            checks.insert(entry.key.clone(), check);
        }
    }
    checks
}

fn draft(table: &Node, path: &str, findings: &mut Findings) -> CheckDraft {
    let prefix = format!("{path}.");
    let most = i64::from(limits::CHECK_THRESHOLD_MAX);
    CheckDraft {
        kind: text(table, "type").unwrap_or_default(),
        port: number(table, "port", &prefix, (1, 65_535), findings),
        interval: duration(table, "interval", Unit::Milliseconds),
        timeout: duration(table, "timeout", Unit::Milliseconds),
        grace_period: duration(table, "grace_period", Unit::Milliseconds),
        purpose: text(table, "kind"),
        success_threshold: number(table, "success_threshold", &prefix, (1, most), findings),
        failure_threshold: number(table, "failure_threshold", &prefix, (1, most), findings),
        unhealthy: text(table, "unhealthy"),
        method: text(table, "method"),
        path: text(table, "path"),
        protocol: text(table, "protocol"),
        headers: scalars(table, "headers"),
        tls_server_name: text(table, "tls_server_name"),
        tls_skip_verify: flag(table, "tls_skip_verify"),
        expected_statuses: table.get("expected_statuses").and_then(Node::texts),
        grpc_service: text(table, "grpc_service"),
        command: command(table, "command"),
    }
}

fn clamp(draft: &mut CheckDraft, table: &Node, path: &str, findings: &mut Findings) {
    let (least, most) = SERVICE_TIMES;
    for (key, time) in [
        ("interval", &mut draft.interval),
        ("timeout", &mut draft.timeout),
        ("grace_period", &mut draft.grace_period),
    ] {
        let Some(asked) = *time else { continue };
        let is_none = key == "grace_period" && asked.is_zero();
        let used = asked.clamp(least, most);
        if used != asked && !is_none {
            *time = Some(used);
            let seconds = used.as_secs();
            let message = format!("it is not between 1 s and 60 s, so {seconds} s is used");
            findings.warn(line_of(table, key), format!("{path}.{key}"), message);
        }
    }
}

/// The check, or its faults where they are.
fn build(
    draft: &CheckDraft,
    place: CheckPlace,
    table: &Node,
    path: &str,
    findings: &mut Findings,
) -> Option<Check> {
    match draft.build(place) {
        Ok(check) if check.interval >= place.interval_min() => Some(check),
        Ok(_) => {
            let problem = format!("is shorter than {} s", place.interval_min().as_secs());
            findings.error(
                line_of(table, "interval"),
                format!("{path}.interval"),
                problem,
            );
            None
        }
        Err(faults) => {
            for fault in faults {
                // Out of range, or of another kind: reported already.
                let is_reported = findings
                    .errors
                    .iter()
                    .any(|error| error.path == format!("{path}.{}", fault.key));
                if !is_reported {
                    findings.error(
                        line_of(table, fault.key),
                        format!("{path}.{}", fault.key),
                        fault.problem,
                    );
                }
            }
            None
        }
    }
}

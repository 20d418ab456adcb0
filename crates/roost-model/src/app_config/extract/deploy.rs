//! `[deploy]`.

use super::super::{CanarySection, DeploySection, Findings};
use super::{Node, Unit, command, duration, flag, fraction, line_of, number, share, text};
use crate::name::RegionCode;
use crate::split::HeaderMatch;

pub(super) fn deploy(root: &Node, findings: &mut Findings) -> DeploySection {
    let Some(table) = root.get("deploy") else {
        return DeploySection::default();
    };
    if let Some(node) = table.get("strategy")
        && let Some(strategy) = node.text()
    {
        match strategy {
            "rolling" | "canary" => {}
            "immediate" | "bluegreen" => findings.warn(
                node.line,
                "deploy.strategy",
                format!(
                    "`{strategy}` is not supported yet: the deploy is rolling, start before stop"
                ),
            ),
            _ => findings.error(
                node.line,
                "deploy.strategy",
                "must be one of rolling, immediate, canary, bluegreen",
            ),
        }
    }
    DeploySection {
        count: number(table, "count", "deploy.", (0, 1000), findings),
        max_unavailable: table.get("max_unavailable").and_then(fraction),
        wait_timeout: duration(table, "wait_timeout", Unit::Seconds),
        is_canary: table.get("strategy").and_then(Node::text) == Some("canary"),
        canary: table
            .get("canary")
            .map(|table| canary(table, findings))
            .unwrap_or_default(),
        release_command: command(table, "release_command").filter(|words| !words.is_empty()),
    }
}

fn canary(table: &Node, findings: &mut Findings) -> CanarySection {
    const PATH: &str = "deploy.canary.";
    let header = text(table, "header");
    if let Some(Err(error)) = header.as_deref().map(HeaderMatch::parse) {
        let line = line_of(table, "header");
        findings.error(line, format!("{PATH}header"), error.to_string());
    }
    let regions = table.get("regions").and_then(Node::texts);
    let regions = regions.unwrap_or_default();
    for error in regions
        .iter()
        .filter_map(|code| RegionCode::parse(code).err())
    {
        let line = line_of(table, "regions");
        findings.error(line, format!("{PATH}regions"), error.to_string());
    }
    CanarySection {
        percent: number(table, "percent", PATH, (0, 100), findings),
        by_client: flag(table, "by_client"),
        header,
        regions,
        wait: duration(table, "wait", Unit::Seconds),
        requests: number(table, "requests", PATH, (1, 1_000_000), findings),
        more_errors: table.get("more_errors").and_then(share),
        times_slower: table.get("times_slower").and_then(fraction),
    }
}

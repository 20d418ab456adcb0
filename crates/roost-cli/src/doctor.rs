//! `roost doctor`: the client's side, then the host's.

use crate::args::{DoctorArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::limits;
use crate::output::Output;
use crate::roostd::{self, Check};
use crate::up_options::Options;
use roost_proto::rest::{NodeInfo, NodeRung, TokenInfo};
use std::path::Path;
use std::time::Duration;

/// Runs `doctor`.
pub(crate) async fn run(
    client: &Client,
    _global: &Global,
    args: &DoctorArgs,
    output: Output,
) -> Result<(), CliError> {
    let (mut checks, rungs) = client_checks(client).await;
    let data_dir = args
        .data_dir
        .as_deref()
        .unwrap_or(Path::new("/var/lib/roost"));
    if roostd::find().is_ok() {
        let options = Options::read(data_dir).unwrap_or_default();
        let mut host = roostd::doctor(data_dir, options.as_ref(), output).await?;
        if !rungs.is_empty() {
            // A node that runs knows; the check of its host can only remember.
            host.retain(|check| !(check.name.starts_with("rung ") || check.name == "isolation"));
        }
        checks.extend(host);
    } else {
        let detail = "not checked: roostd is not installed here";
        checks.push(check("host", "warn", detail, None));
    }
    checks.extend(rungs);
    let n_failed = checks.iter().filter(|check| check.status == "fail").count();
    output.result(&serde_json::json!({"checks": checks}), || {
        roostd::render(&checks)
    });
    if n_failed > 0 {
        return Err(CliError::failed(
            "doctor-failed",
            format!("{n_failed} of {} checks failed", checks.len()),
        ));
    }
    Ok(())
}

fn check(name: &str, status: &str, detail: impl Into<String>, fix: Option<&str>) -> Check {
    Check {
        name: name.into(),
        status: status.into(),
        detail: detail.into(),
        fix: fix.map(str::to_owned),
    }
}

/// What the node offers, weakest first, and what machines get by default.
fn rungs(node: &NodeInfo) -> Vec<Check> {
    let mut checks: Vec<Check> = node.rungs.iter().map(rung).collect();
    if let Some(default) = &node.isolation {
        let detail = format!("machines that ask for nothing else get `{default}`");
        checks.push(check("isolation", "pass", detail, None));
    }
    checks
}

fn rung(rung: &NodeRung) -> Check {
    let name = format!("rung {}", rung.rung);
    let Some(reason) = &rung.refusal else {
        let detail = "proven: the node starts machines on it";
        return check(&name, "pass", detail, None);
    };
    let fix = "mend what the checks of its host name, then restart roostd, which tries it again";
    check(&name, "warn", format!("refused: {reason}"), Some(fix))
}

fn clock(skew: Duration) -> Check {
    // The platform tells whole seconds only.
    let seconds = skew.as_secs();
    if skew > limits::CLOCK_SKEW_MAX {
        let detail = format!("this clock and the platform's are {seconds} s apart");
        let fix = "set both by NTP, for instance with chrony";
        return check("client clock", "warn", detail, Some(fix));
    }
    let detail = "agrees with the platform's within a few seconds";
    check("client clock", "pass", detail, None)
}

/// The checks, and what is known of the rungs when the platform answers.
async fn client_checks(client: &Client) -> (Vec<Check>, Vec<Check>) {
    let url = client.api_url();
    if !client.is_healthy().await {
        let fix = Some("`roost up` starts a platform; --api-url names another");
        let api = check("api", "fail", format!("no answer at {url}"), fix);
        return (vec![api], Vec::new());
    }
    let mut checks = vec![check("api", "pass", format!("answers at {url}"), None)];
    match client.get::<TokenInfo>("/v1/token").await {
        Ok(token) => checks.push(check(
            "token",
            "pass",
            format!("{} ({})", token.name, token.scope),
            None,
        )),
        Err(error) => checks.push(check(
            "token",
            "fail",
            error.message,
            Some("`roost login`, or set ROOST_TOKEN"),
        )),
    }
    if let Some(skew) = client.clock_skew().await {
        checks.push(clock(skew));
    }
    let node = match client.get::<NodeInfo>("/v1/node").await {
        Ok(node) => node,
        Err(error) => {
            checks.push(check("version", "warn", error.message, None));
            return (checks, Vec::new());
        }
    };
    checks.push(version(&node.version));
    (checks, rungs(&node))
}

fn version(platform: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if platform == own {
        return check("version", "pass", format!("{own} on both sides"), None);
    }
    let detail = format!("client {own}, platform {platform}");
    let fix = "install the client of the platform's version";
    check("version", "warn", detail, Some(fix))
}

#[cfg(test)]
mod tests {
    use super::{clock, rung};
    use roost_proto::rest::NodeRung;
    use std::time::Duration;

    #[test]
    fn a_rung_is_proven_or_a_warning_with_the_node_s_reason() {
        let mut vm = NodeRung {
            rung: "vm".into(),
            refusal: None,
        };
        assert_eq!(rung(&vm).status, "pass");
        vm.refusal = Some("there is no /dev/kvm".into());
        let refused = rung(&vm);
        assert_eq!((&*refused.name, &*refused.status), ("rung vm", "warn"));
        assert_eq!(refused.detail, "refused: there is no /dev/kvm");
        assert!(refused.fix.is_some());
    }

    #[test]
    fn a_clock_that_is_off_is_a_warning_with_a_fix() {
        assert_eq!(clock(Duration::from_secs(1)).status, "pass");
        let off = clock(Duration::from_secs(90));
        assert_eq!(off.status, "warn");
        assert!(off.detail.contains("90 s apart") && off.fix.is_some());
    }
}

//! `roost doctor`: the client's side, then the host's.

use crate::args::{DoctorArgs, Global};
use crate::client::Client;
use crate::error::CliError;
use crate::limits;
use crate::output::Output;
use crate::roostd::{self, Check};
use roost_proto::rest::{NodeInfo, TokenInfo};
use std::path::Path;
use std::time::Duration;

/// Runs `doctor`.
pub(crate) async fn run(
    client: &Client,
    _global: &Global,
    args: &DoctorArgs,
    output: Output,
) -> Result<(), CliError> {
    let mut checks = client_checks(client).await;
    let data_dir = args
        .data_dir
        .as_deref()
        .unwrap_or(Path::new("/var/lib/roost"));
    let host = match roostd::find() {
        Ok(_) => {
            let folder = data_dir.to_string_lossy();
            let args = ["doctor", "--json", "--data-dir", &folder];
            let answer = roostd::json(&args);
            Some(output.wait("the check of this host", answer).await?)
        }
        Err(_) => None,
    };
    match &host {
        Some(value) => checks.extend(roostd::checks(value)),
        None => checks.push(check(
            "host",
            "warn",
            "not checked: roostd is not installed here",
            None,
        )),
    }
    let n_failed = checks.iter().filter(|check| check.status == "fail").count();
    let isolation = host.as_ref().and_then(|value| value.get("isolation"));
    output.result(
        &serde_json::json!({"checks": checks, "isolation": isolation}),
        || roostd::render(&checks),
    );
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

async fn client_checks(client: &Client) -> Vec<Check> {
    let url = client.api_url();
    if !client.is_healthy().await {
        return vec![check(
            "api",
            "fail",
            format!("no answer at {url}"),
            Some("`roost up` starts a platform; --api-url names another"),
        )];
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
    let own = env!("CARGO_PKG_VERSION");
    match client.get::<NodeInfo>("/v1/node").await {
        Ok(node) if node.version == own => checks.push(check(
            "version",
            "pass",
            format!("{own} on both sides"),
            None,
        )),
        Ok(node) => {
            let detail = format!("client {own}, platform {}", node.version);
            checks.push(check(
                "version",
                "warn",
                detail,
                Some("install the client of the platform's version"),
            ));
        }
        Err(error) => checks.push(check("version", "warn", error.message, None)),
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::clock;
    use std::time::Duration;

    #[test]
    fn a_clock_that_is_off_is_a_warning_with_a_fix() {
        assert_eq!(clock(Duration::from_secs(1)).status, "pass");
        let off = clock(Duration::from_secs(90));
        assert_eq!(off.status, "warn");
        assert!(off.detail.contains("90 s apart") && off.fix.is_some());
    }
}

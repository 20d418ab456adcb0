//! `roostd doctor`: what this host can do.

use crate::args::DoctorArgs;
use crate::config::NodePaths;
use crate::daemon;
use crate::databases;
use crate::rungs;
use anyhow::Result;
use roost_host::doctor::{CheckResult, CheckStatus, DoctorConfig, examine};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

/// Checks the host and prints the results. Fails when machines cannot run here.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    // A daemon that runs holds its ports itself.
    let paths = if args.data_dir.exists() {
        Some(NodePaths::of(&args.data_dir)?.0)
    } else {
        None
    };
    let runs = paths.as_ref().map(daemon::is_running).transpose()?;
    let runs = runs.unwrap_or(false);
    let ports = if runs { &[] } else { args.ports.as_slice() };
    let listen = ports
        .iter()
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))
        .collect();
    let config = DoctorConfig {
        data_dir: args.data_dir.clone(),
        listen,
        // The directory need not be there yet, and is not made by a check.
        vms: rungs::setup(&args.vms, args.data_dir.join("kernels"))?,
    };
    let mut checks = crate::runtime()?.block_on(examine(config));
    checks.extend(paths.iter().flat_map(databases::examine));
    print(&checks, args.json)?;
    let failed = checks.iter().any(|check| check.status == CheckStatus::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn print(checks: &[CheckResult], as_json: bool) -> Result<()> {
    if as_json {
        let list: Vec<Value> = checks.iter().map(check_json).collect();
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "checks": list }))?
        );
        return Ok(());
    }
    for check in checks {
        println!(
            "{:4}  {:20}  {}",
            check.status.as_str(),
            check.name,
            check.detail
        );
        if let Some(fix) = &check.fix {
            println!("{:28}fix: {fix}", "");
        }
    }
    Ok(())
}

fn check_json(check: &CheckResult) -> Value {
    json!({
        "name": check.name,
        "status": check.status.as_str(),
        "detail": check.detail,
        "fix": check.fix,
    })
}

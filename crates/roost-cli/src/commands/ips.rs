//! `ips`: dedicated addresses.

use crate::args::{Global, IpsCommand};
use crate::client::{Client, encode};
use crate::error::CliError;
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_proto::rest::{AssignIpRequest, IpAssignment, IpAssignmentList};
use std::net::IpAddr;

/// Runs `ips …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: IpsCommand,
    output: Output,
) -> Result<(), CliError> {
    let app = app_name(global)?;
    match command {
        IpsCommand::List => {
            let list: IpAssignmentList = client.get(&path(&app)).await?;
            let row = |own: &IpAssignment| {
                vec![
                    own.ip.clone(),
                    own.kind.clone(),
                    own.region.clone(),
                    own.state.clone(),
                    date(own.created_at),
                ]
            };
            let rows = || list.ips.iter().map(row).collect();
            output.result(&list.ips, || {
                table(&["address", "type", "region", "state", "created"], rows())
            });
            Ok(())
        }
        IpsCommand::AllocateV4 => allocate(client, global, &app, "v4", output).await,
        IpsCommand::AllocateV6 { private } => {
            let kind = if private { "private_v6" } else { "v6" };
            allocate(client, global, &app, kind, output).await
        }
        IpsCommand::Release { addresses } => {
            release(client, global, &app, &addresses, output).await
        }
    }
}

fn path(app: &str) -> String {
    format!("/v1/apps/{app}/ip_assignments")
}

async fn allocate(
    client: &Client,
    global: &Global,
    app: &str,
    kind: &str,
    output: Output,
) -> Result<(), CliError> {
    if global.dry_run {
        let details = serde_json::json!({"app": app, "type": kind});
        let what = format!("give {app} a {kind} address of its own");
        output.plan("ips allocate", details, &what);
        return Ok(());
    }
    let kind = kind.to_owned();
    let request = AssignIpRequest { kind };
    let own: IpAssignment = client.create(&path(app), Some(&request)).await?;
    output.result(&own, || format!("{} is {app}'s", own.ip));
    Ok(())
}

async fn release(
    client: &Client,
    global: &Global,
    app: &str,
    addresses: &[IpAddr],
    output: Output,
) -> Result<(), CliError> {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let all = texts.join(" ");
    let what = format!("take {all} from {app}; another app may get it");
    if global.dry_run {
        let details = serde_json::json!({"app": app, "addresses": texts});
        output.plan("ips release", details, &what);
        return Ok(());
    }
    output.confirm(&what, &all)?;
    for address in &texts {
        let path = format!("{}/{}", path(app), encode(address));
        client.delete(&path).await?;
    }
    output.result(&serde_json::json!({"released": texts}), || {
        format!("released {all}")
    });
    Ok(())
}

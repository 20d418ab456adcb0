//! `machines leases …`.

use super::{list, locate, path, plan};
use crate::args::Global;
use crate::args::machines::LeasesCommand;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, date, printable, table};
use crate::project::app_name;
use roost_proto::rest::{Lease, LeaseResponse, Machine};
use serde::Serialize;

/// A lease and what it is on.
#[derive(Serialize)]
struct Held {
    machine: String,
    #[serde(flatten)]
    lease: Lease,
}

pub(super) async fn run(
    client: &Client,
    global: &Global,
    command: LeasesCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        LeasesCommand::List { machine } => {
            let machines = match machine {
                Some(wanted) => vec![locate(client, global, &wanted).await?],
                None => list(client, &app_name(global)?).await?,
            };
            let held = held(client, machines).await?;
            output.result(&held, || table_of(&held));
        }
        LeasesCommand::Clear(machine) => {
            let machine = locate(client, global, &machine.machine).await?;
            if global.dry_run {
                plan("leases clear", &machine, output);
                return Ok(());
            }
            let what = format!("end the lease on machine {}", machine.id);
            output.confirm(&what, &machine.id)?;
            let url = format!("{}/lease?force=true", path(&machine));
            client.delete(&url).await?;
            let id = &machine.id;
            output.result(&serde_json::json!({"cleared": id}), || {
                format!("machine {id} is not leased any more")
            });
        }
    }
    Ok(())
}

async fn held(client: &Client, machines: Vec<Machine>) -> Result<Vec<Held>, CliError> {
    let mut held = vec![];
    for machine in machines {
        let url = format!("{}/lease", path(&machine));
        match client.get::<LeaseResponse>(&url).await {
            Ok(LeaseResponse { data: lease, .. }) => held.push(Held {
                machine: machine.id,
                lease,
            }),
            Err(error) if error.code == "lease-not-found" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}

fn table_of(held: &[Held]) -> String {
    let rows = held.iter().map(|held| {
        vec![
            held.machine.clone(),
            printable(&held.lease.owner),
            printable(&held.lease.description),
            date(held.lease.expires_at.saturating_mul(1_000)),
        ]
    });
    table(&["machine", "owner", "for", "until"], rows.collect())
}

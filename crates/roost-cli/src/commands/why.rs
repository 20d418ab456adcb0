//! `why`: what recorded evidence says about a state.

mod request;

use super::machines::{asker_of, locate, said_of};
use super::ops::{describe as describe_operation, find};
use crate::args::{Global, WhyCommand};
use crate::client::{Client, encode};
use crate::error::CliError;
use crate::output::{Output, date, printable};
use roost_proto::rest::{Machine, MachineEvent, RequestRecord};
use roost_proto::worker::Operation;
use serde::Serialize;

/// Most events that are told; `machines status` shows more.
const EVENTS: usize = 8;
/// Most events that are looked through for the first one.
const EVENTS_MAX: usize = 200;

/// Why a machine is as it is.
#[derive(Debug, Serialize)]
struct MachineWhy {
    machine: Machine,
    /// Why it is on its node, when that is recorded.
    placement: Option<String>,
    /// The newest operation, with its steps.
    operation: Option<Operation>,
}

/// Runs `why …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: WhyCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        WhyCommand::Machine(wanted) => {
            let found = locate(client, global, &wanted.machine).await?;
            let (app, id) = (encode(&found.app), encode(&found.id));
            let machine: Machine = client.get(&format!("/v1/apps/{app}/machines/{id}")).await?;
            let path = format!("/v1/apps/{app}/operations?machine={id}");
            let operations: Vec<Operation> = client.get(&path).await?;
            let operation = match operations.first() {
                Some(newest) => Some(find(client, &found.app, &newest.id).await?),
                None => None,
            };
            let path = format!("/v1/apps/{app}/machines/{id}/events?limit={EVENTS_MAX}");
            let events: Vec<MachineEvent> = client.get(&path).await?;
            let why = MachineWhy {
                placement: events.iter().rev().find_map(placement_of),
                machine,
                operation,
            };
            output.result(&why, || explain(&why));
        }
        WhyCommand::Request { id } => {
            let path = format!("/v1/requests/{}", encode(&id));
            let record: RequestRecord = client.get(&path).await?;
            output.result(&record, || request::explain(&record));
        }
    }
    Ok(())
}

/// Why the machine was created where it was, if the event says so.
fn placement_of(event: &MachineEvent) -> Option<String> {
    let placement = event.request.get("placement")?;
    placement.as_str().map(printable)
}

fn explain(why: &MachineWhy) -> String {
    let machine = &why.machine;
    let mut lines = vec![match &machine.state_reason {
        Some(reason) => format!(
            "machine {} of {} is {}: {}",
            machine.id,
            machine.app,
            machine.state,
            printable(reason)
        ),
        None => format!(
            "machine {} of {} is {}",
            machine.id, machine.app, machine.state
        ),
    }];
    lines.push(format!(
        "it is in region {} on the rung {}, version {}",
        machine.region, machine.rung, machine.instance_id
    ));
    if let Some(placement) = &why.placement {
        lines.push(format!("it is there because: {placement}"));
    }
    if machine.cordoned {
        lines.push(format!(
            "it is cordoned and gets no traffic: `roost machines uncordon {}` puts it back",
            machine.id
        ));
    }
    for check in &machine.checks {
        let said = printable(&check.output);
        lines.push(format!("check {} is {}: {said}", check.name, check.status));
    }
    if let Some(operation) = &why.operation {
        lines.push("last operation:".to_owned());
        lines.push(describe_operation(operation));
    }
    lines.push("what happened, newest first:".to_owned());
    for event in machine.events.iter().take(EVENTS) {
        lines.push(format!(
            "  {}  {} → {} ({}){}",
            date(event.timestamp),
            event.kind,
            event.status,
            asker_of(event),
            said_of(event)
        ));
    }
    lines.join("\n")
}

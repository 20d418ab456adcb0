//! `machines cordon|uncordon|signal|ps|metadata`: one thing of one machine.

use super::{locate, path, plan};
use crate::args::machines::MetadataCommand;
use crate::args::{Global, MachineId};
use crate::client::{Client, NOTHING, encode};
use crate::error::CliError;
use crate::output::{Output, printable, table};
use roost_proto::rest::{Machine, Process, SetMetadataRequest, SignalRequest};
use std::collections::BTreeMap;

/// Runs `cordon` and `uncordon`.
pub(super) async fn cordon(
    client: &Client,
    global: &Global,
    machine: &MachineId,
    verb: &str,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, &machine.machine).await?;
    if global.dry_run {
        plan(verb, &machine, output);
        return Ok(());
    }
    let url = format!("{}/{verb}", path(&machine));
    let answer: serde_json::Value = client.post(&url, NOTHING).await?;
    output.result(&answer, || format!("{verb}ed {}", machine.id));
    Ok(())
}

/// Runs `signal`.
pub(super) async fn signal(
    client: &Client,
    global: &Global,
    machine: &MachineId,
    signal: &str,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, &machine.machine).await?;
    if global.dry_run {
        plan("signal", &machine, output);
        return Ok(());
    }
    let request = SignalRequest {
        signal: signal.into(),
    };
    let url = format!("{}/signal", path(&machine));
    let answer: serde_json::Value = client.post(&url, Some(&request)).await?;
    output.result(&answer, || format!("sent {signal} to {}", machine.id));
    Ok(())
}

/// Runs `ps`.
pub(super) async fn processes(
    client: &Client,
    global: &Global,
    machine: &MachineId,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, &machine.machine).await?;
    let processes: Vec<Process> = client.get(&format!("{}/ps", path(&machine))).await?;
    output.result(&processes, || table_of(&processes));
    Ok(())
}

fn table_of(processes: &[Process]) -> String {
    let rows = processes.iter().map(|process| {
        let sockets = process.listen_sockets.iter();
        let sockets: Vec<&str> = sockets.map(|socket| socket.address.as_str()).collect();
        vec![
            process.pid.to_string(),
            format!("{} s", process.rtime / 1_000),
            format!("{}%", process.cpu),
            format!("{} MiB", process.rss / (1024 * 1024)),
            sockets.join(" "),
            printable(&process.command),
        ]
    });
    table(
        &["pid", "age", "cpu", "memory", "listens on", "command"],
        rows.collect(),
    )
}

/// Runs `metadata …`.
pub(super) async fn metadata(
    client: &Client,
    global: &Global,
    command: MetadataCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        MetadataCommand::List(machine) => {
            let machine = locate(client, global, &machine.machine).await?;
            let url = format!("{}/metadata", path(&machine));
            let metadata: BTreeMap<String, String> = client.get(&url).await?;
            output.result(&metadata, || {
                let rows = metadata.iter();
                let rows = rows.map(|(key, value)| vec![printable(key), printable(value)]);
                table(&["key", "value"], rows.collect())
            });
        }
        MetadataCommand::Set {
            machine,
            key,
            value,
        } => {
            let machine = locate(client, global, &machine.machine).await?;
            if global.dry_run {
                plan("metadata set", &machine, output);
                return Ok(());
            }
            let request = SetMetadataRequest { value };
            let url = entry(&machine, &key);
            client.post::<()>(&url, Some(&request)).await?;
            done(&machine, &key, "set", output);
        }
        MetadataCommand::Remove { machine, key } => {
            let machine = locate(client, global, &machine.machine).await?;
            if global.dry_run {
                plan("metadata remove", &machine, output);
                return Ok(());
            }
            client.delete(&entry(&machine, &key)).await?;
            done(&machine, &key, "removed", output);
        }
    }
    Ok(())
}

fn entry(machine: &Machine, key: &str) -> String {
    format!("{}/metadata/{}", path(machine), encode(key))
}

fn done(machine: &Machine, key: &str, what: &str, output: Output) {
    let id = &machine.id;
    output.result(&serde_json::json!({"machine": id, "key": key}), || {
        format!("{what} {} of {id}", printable(key))
    });
}

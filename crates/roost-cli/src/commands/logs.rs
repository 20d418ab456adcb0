//! `logs`: query, then follow.

use crate::args::{Global, LogsArgs};
use crate::client::{Client, encode};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::{Output, printable};
use crate::project::app_name;
use roost_proto::logs::{LogRecord, LogStream};

/// Most records of one millisecond that are remembered, to not print them twice.
const NEWEST_MAX: usize = 1000;

/// Runs `logs`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    args: &LogsArgs,
    output: Output,
) -> Result<(), CliError> {
    let app = app_name(global)?;
    let mut query = format!("/v1/apps/{app}/logs?limit={}", args.lines);
    if let Some(machine) = &args.machine {
        query.push_str(&format!("&machine={}", encode(machine)));
    }
    if !args.follow {
        let records: Vec<LogRecord> = super::list_of(client.get(&query).await?, "logs")?;
        for record in &records {
            print(record, output);
        }
        return Ok(());
    }
    query.push_str("&follow=true");
    tokio::select! {
        result = follow(client, &query, output) => result,
        _ = tokio::signal::ctrl_c() => Err(CliError::new(Exit::Interrupted, "interrupted", "interrupted")),
    }
}

async fn follow(client: &Client, path: &str, output: Output) -> Result<(), CliError> {
    // Records of the newest millisecond: they come again after a broken connection.
    let mut newest: Vec<LogRecord> = Vec::new();
    let mut lines = client.events(path, None).await?;
    loop {
        while let Ok(Some(event)) = lines.next_event().await {
            if let Ok(record) = serde_json::from_str::<LogRecord>(&event.data) {
                if newest.contains(&record) {
                    continue;
                }
                print(&record, output);
                newest.retain(|old| old.time == record.time);
                if newest.len() < NEWEST_MAX {
                    newest.push(record);
                }
            }
        }
        // The platform restarted or the connection broke: go on where it stopped.
        let resumed = match newest.first() {
            Some(record) => format!("{path}&since={}", encode(&record.time)),
            None => path.to_owned(),
        };
        lines = loop {
            tokio::time::sleep(limits::RETRY_PAUSE).await;
            match client.events(&resumed, None).await {
                Ok(lines) => break lines,
                Err(error) if error.code.starts_with("api-") => {}
                Err(error) => return Err(error),
            }
        };
    }
}

fn print(record: &LogRecord, output: Output) {
    if output.json {
        return output.object(record);
    }
    let stream = match record.stream {
        LogStream::Stdout => "",
        LogStream::Stderr => " [stderr]",
        LogStream::System => " [roost]",
    };
    let program = record
        .program
        .map(|number| format!(" [program {number}]"))
        .unwrap_or_default();
    let level = record
        .level
        .as_ref()
        .map(|level| format!(" {}", printable(level)))
        .unwrap_or_default();
    let message = printable(&record.message);
    let fields = record
        .fields
        .as_ref()
        .map(|fields| {
            fields
                .iter()
                .map(|(name, value)| {
                    let value = value.to_string();
                    format!(" {}={}", printable(name), printable(&value))
                })
                .collect::<String>()
        })
        .unwrap_or_default();
    output.line(&format!(
        "{} {}{program}{stream}{level} {message}{fields}",
        record.time, record.machine
    ));
}

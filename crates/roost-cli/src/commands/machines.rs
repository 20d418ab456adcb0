//! `machines` and `exec`.

mod create;
mod leases;
mod parts;

use crate::args::{ExecArgs, Global, MachinesCommand};
use crate::client::{Client, NOTHING, encode};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::{Output, printable, table};
use crate::project::app_name;
use roost_proto::rest::{AppList, ExecRequest, ExecResponse, Machine, MachineEvent};
use std::time::{Duration, Instant};

/// Longest wait that the API takes in one request.
const WAIT_SECONDS_MAX: u64 = 60;

/// Runs `machines …`; gives the exit code.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: MachinesCommand,
    output: Output,
) -> Result<u8, CliError> {
    match command {
        MachinesCommand::List { include_deleted } => {
            let app = app_name(global)?;
            let machines = if include_deleted {
                let url = format!("/v1/apps/{app}/machines?include_deleted=true");
                super::list_of(client.get(&url).await?, "machines")?
            } else {
                list(client, &app).await?
            };
            output.result(&machines, || table_of(&machines));
        }
        MachinesCommand::Status(machine) => {
            let machine = locate(client, global, &machine.machine).await?;
            let machine: Machine = client.get(&path(&machine)).await?;
            output.result(&machine, || describe(&machine));
        }
        MachinesCommand::Start(machine) => {
            act(client, global, &machine.machine, "start", output).await?
        }
        MachinesCommand::Stop(machine) => {
            act(client, global, &machine.machine, "stop", output).await?
        }
        MachinesCommand::Suspend(machine) => {
            act(client, global, &machine.machine, "suspend", output).await?
        }
        MachinesCommand::Restart(machine) => {
            act(client, global, &machine.machine, "restart", output).await?
        }
        MachinesCommand::Destroy { machine, force } => {
            destroy(client, global, &machine.machine, force, output).await?;
        }
        MachinesCommand::Run(args) => create::create(client, global, *args, true, output).await?,
        MachinesCommand::Create(args) => {
            create::create(client, global, *args, false, output).await?
        }
        MachinesCommand::Update(args) => create::update(client, global, *args, output).await?,
        MachinesCommand::Clone(args) => create::clone(client, global, args, output).await?,
        MachinesCommand::Cordon(machine) => {
            parts::cordon(client, global, &machine, "cordon", output).await?
        }
        MachinesCommand::Uncordon(machine) => {
            parts::cordon(client, global, &machine, "uncordon", output).await?
        }
        MachinesCommand::Signal { machine, signal } => {
            parts::signal(client, global, &machine, &signal, output).await?
        }
        MachinesCommand::Ps(machine) => parts::processes(client, global, &machine, output).await?,
        MachinesCommand::Metadata(command) => {
            parts::metadata(client, global, command, output).await?
        }
        MachinesCommand::Leases(command) => leases::run(client, global, command, output).await?,
        MachinesCommand::Exec { machine, command } => {
            let machine = locate(client, global, &machine.machine).await?;
            return run_in(client, global, &machine, command, output).await;
        }
        MachinesCommand::Wait { machine, state } => {
            let machine = locate(client, global, &machine.machine).await?;
            let what = format!("{} to be {state}", machine.id);
            let waiting = wait(client, global, &machine, &state);
            output.wait(&what, waiting).await?;
            output.result(
                &serde_json::json!({"machine": machine.id, "state": state}),
                || format!("{} is {state}", machine.id),
            );
        }
    }
    Ok(0)
}

async fn destroy(
    client: &Client,
    global: &Global,
    wanted: &str,
    force: bool,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, wanted).await?;
    if global.dry_run {
        plan("destroy", &machine, output);
        return Ok(());
    }
    let what = format!("destroy machine {} of {}", machine.id, machine.app);
    output.confirm(&what, &machine.id)?;
    client
        .delete(&format!("{}?force={force}", path(&machine)))
        .await
        .map_err(|error| match error.code.as_str() {
            "machine-conflict" if !force => error.hint("add --force"),
            _ => error,
        })?;
    output.result(&serde_json::json!({"destroyed": machine.id}), || {
        format!("destroyed {}", machine.id)
    });
    Ok(())
}

fn path(machine: &Machine) -> String {
    format!("/v1/apps/{}/machines/{}", machine.app, machine.id)
}

/// The machines of an app.
pub(crate) async fn list(client: &Client, app: &str) -> Result<Vec<Machine>, CliError> {
    super::list_of(
        client.get(&format!("/v1/apps/{app}/machines")).await?,
        "machines",
    )
}

/// The machine with this id or name, in the app at hand or else in any.
pub(crate) async fn locate(
    client: &Client,
    global: &Global,
    wanted: &str,
) -> Result<Machine, CliError> {
    let apps = match app_name(global) {
        Ok(app) => vec![app],
        Err(_) => client
            .get::<AppList>("/v1/apps")
            .await?
            .apps
            .into_iter()
            .map(|app| app.name)
            .collect(),
    };
    for app in apps {
        let found = list(client, &app)
            .await?
            .into_iter()
            .find(|machine| machine.id == wanted || machine.name == wanted);
        if let Some(machine) = found {
            return Ok(machine);
        }
    }
    let shown: String = wanted.chars().take(80).collect();
    Err(CliError::new(
        Exit::NotFound,
        "machine-not-found",
        format!("there is no machine {shown}"),
    )
    .hint("`roost machines list -a APP` shows them"))
}

/// Says what an action would be done to.
fn plan(action: &str, machine: &Machine, output: Output) {
    let (id, app, state) = (&machine.id, &machine.app, &machine.state);
    let details = serde_json::json!({"app": app, "machine": id, "state": state});
    let text = format!("{action} machine {id} of {app}, which is {state}");
    output.plan(&format!("machines {action}"), details, &text);
}

async fn act(
    client: &Client,
    global: &Global,
    wanted: &str,
    action: &str,
    output: Output,
) -> Result<(), CliError> {
    let machine = locate(client, global, wanted).await?;
    if global.dry_run {
        plan(action, &machine, output);
        return Ok(());
    }
    let answer: serde_json::Value = client
        .post(&format!("{}/{action}", path(&machine)), NOTHING)
        .await?;
    let state = match action {
        "stop" => " --state stopped",
        "suspend" => " --state suspended",
        _ => "",
    };
    output.result(&answer, || {
        format!(
            "{action} {}: begun; `roost machines wait {}{state}` waits for it",
            machine.id, machine.id
        )
    });
    Ok(())
}

async fn wait(
    client: &Client,
    global: &Global,
    machine: &Machine,
    state: &str,
) -> Result<(), CliError> {
    let timeout = Duration::from_secs(global.timeout.unwrap_or(300));
    let since = Instant::now();
    loop {
        let left = timeout
            .saturating_sub(since.elapsed())
            .as_secs()
            .clamp(1, WAIT_SECONDS_MAX);
        let url = format!(
            "{}/wait?state={}&timeout={left}",
            path(machine),
            encode(state)
        );
        match client.get::<serde_json::Value>(&url).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code == "wait-timeout" && since.elapsed() < timeout => {}
            Err(error) if error.code == "wait-timeout" => {
                let mut message = error.message;
                // The server knows the last of several waits only.
                if let Some((start, _)) = message.rsplit_once(", after ") {
                    message = format!("{start}, after {} s", timeout.as_secs());
                }
                return Err(CliError {
                    exit: Exit::StillRunning,
                    message,
                    ..error
                });
            }
            Err(error) => return Err(error),
        }
    }
}

/// Runs `exec`; gives the exit code.
pub(crate) async fn exec(
    client: &Client,
    global: &Global,
    args: ExecArgs,
    output: Output,
) -> Result<u8, CliError> {
    let machine = match &args.machine {
        Some(wanted) => locate(client, global, wanted).await?,
        None => {
            let app = app_name(global)?;
            list(client, &app)
                .await?
                .into_iter()
                .find(|machine| machine.state == "started")
                .ok_or_else(|| {
                    CliError::new(
                        Exit::NotFound,
                        "no-machine",
                        format!("no machine of {app} runs"),
                    )
                    .hint("`roost status` shows why")
                })?
        }
    };
    run_in(client, global, &machine, args.command, output).await
}

async fn run_in(
    client: &Client,
    global: &Global,
    machine: &Machine,
    command: Vec<String>,
    output: Output,
) -> Result<u8, CliError> {
    if global.dry_run {
        let (id, app) = (&machine.id, &machine.app);
        let text = format!("run `{}` in machine {id} of {app}", command.join(" "));
        let details = serde_json::json!({"app": app, "machine": id, "command": command});
        output.plan("exec", details, &text);
        return Ok(0);
    }
    let request = ExecRequest {
        command,
        cmd: None,
        stdin: None,
        timeout: global.timeout,
    };
    let url = format!("{}/exec", path(machine));
    let running = client.post_within(exec_timeout(global.timeout), &url, Some(&request));
    let answer: ExecResponse =
        output
            .wait("the command to end", running)
            .await
            .map_err(|error| match error.code.as_str() {
                "machine-invalid" => CliError {
                    exit: Exit::ProgramMissing,
                    ..error
                }
                .hint("only programs of the app's own image can run; small images have no shell"),
                _ => error,
            })?;
    if output.json {
        output.object(&answer);
    } else {
        output.raw(&answer.stdout, &answer.stderr);
    }
    if answer.truncated {
        output.warn("the output was cut");
    }
    Ok(u8::try_from(answer.exit_code).unwrap_or(1))
}

/// Time for the answer about a command that has `seconds` to run, or the platform's default.
fn exec_timeout(seconds: Option<u64>) -> Duration {
    let Some(seconds) = seconds else {
        return limits::REQUEST_TIMEOUT;
    };
    Duration::from_secs(seconds).saturating_add(limits::EXEC_MARGIN)
}

/// A table of machines.
pub(crate) fn table_of(machines: &[Machine]) -> String {
    let rows = machines
        .iter()
        .map(|machine| {
            let n_passing = machine
                .checks
                .iter()
                .filter(|check| check.status == "passing")
                .count();
            let checks = match machine.checks.len() {
                0 => "-".into(),
                n_checks => format!("{n_passing}/{n_checks} pass"),
            };
            let image = machine.image_ref.tag.as_ref().map_or_else(
                || machine.image_ref.repository.clone(),
                |tag| format!("{}:{tag}", machine.image_ref.repository),
            );
            let cordoned = if machine.cordoned { " (cordoned)" } else { "" };
            vec![
                machine.id.clone(),
                machine.name.clone(),
                format!("{}{cordoned}", machine.state),
                machine.rung.clone(),
                checks,
                machine.region.clone(),
                machine.private_ipv4.clone(),
                image,
            ]
        })
        .collect();
    table(
        &[
            "id", "name", "state", "rung", "checks", "region", "address", "image",
        ],
        rows,
    )
}

fn describe(machine: &Machine) -> String {
    let mut text = table_of(std::slice::from_ref(machine));
    if let Some(reason) = &machine.state_reason {
        text.push_str(&format!("\nreason: {}", printable(reason)));
    }
    if let Some(schedule) = &machine.config.schedule {
        let due_at = machine.due_at.as_deref().unwrap_or("never");
        text.push_str(&format!(
            "\nschedule: {}, next at {due_at}",
            printable(schedule)
        ));
    }
    if !machine.config.standbys.is_empty() {
        let ids = machine.config.standbys.join(", ");
        text.push_str(&format!("\nstands by for: {}", printable(&ids)));
    }
    for check in &machine.checks {
        text.push_str(&format!(
            "\ncheck {}: {} {}",
            check.name,
            check.status,
            printable(&check.output)
        ));
    }
    for event in &machine.events {
        text.push_str(&format!(
            "\n{}  {} → {} ({}){}",
            crate::output::date(event.timestamp),
            event.kind,
            event.status,
            asker_of(event),
            said_of(event)
        ));
    }
    text
}

/// Who asked for it, by name where there is one.
pub(crate) fn asker_of(event: &MachineEvent) -> String {
    let cause = event.request.get("cause");
    let text = |key: &str| cause.and_then(|cause| cause.get(key)?.as_str());
    match text("name").or_else(|| text("id")) {
        Some(subject) => format!("{} {}", event.source, printable(subject)),
        None => event.source.clone(),
    }
}

/// What an event says beyond its kind.
pub(crate) fn said_of(event: &MachineEvent) -> String {
    let text = |key: &str| event.request.get(key).and_then(serde_json::Value::as_str);
    let is_resumed = event.request.get("resumed") == Some(&true.into());
    let said = match text("reason").or_else(|| text("error")) {
        Some(reason) => Some(printable(reason)),
        None if is_resumed => Some("resumed".to_owned()),
        None => None,
    };
    let kernel = text("kernel").map(|release| format!("its kernel is {}", printable(release)));
    let parts: Vec<String> = said.into_iter().chain(kernel).collect();
    match parts.as_slice() {
        [] => String::new(),
        parts => format!(": {}", parts.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::exec_timeout;
    use crate::limits;
    use std::time::Duration;

    #[test]
    fn the_answer_about_a_command_is_waited_for_longer_than_the_command_may_run() {
        for seconds in [1, 90, 300, 600] {
            assert!(exec_timeout(Some(seconds)) > Duration::from_secs(seconds));
        }
        assert_eq!(exec_timeout(None), limits::REQUEST_TIMEOUT);
        // Any number that the command line takes.
        assert!(exec_timeout(Some(u64::MAX)) >= Duration::from_secs(u64::MAX));
    }
}

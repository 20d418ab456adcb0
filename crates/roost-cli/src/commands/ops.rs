//! `ops`: operations under way and past, shown, watched and cancelled.

use crate::args::{Global, OpsCommand};
use crate::client::{Client, NOTHING, encode};
use crate::deploy::{self, Deadline, Proof};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::{Output, date, printable, table};
use crate::project::app_name;
use roost_proto::rest::{App, Deployment};
use roost_proto::worker::{Operation, OperationStep};

/// Runs `ops …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: OpsCommand,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    match command {
        OpsCommand::List {
            machine,
            unfinished,
        } => {
            let machine = machine.as_deref();
            let operations = list(client, &name, machine, unfinished).await?;
            output.result(&operations, || {
                table(
                    &["id", "kind", "subject", "status", "began", "why"],
                    operations.iter().map(row).collect(),
                )
            });
        }
        OpsCommand::Show { id } => {
            let operation = find(client, &name, &id).await?;
            output.result(&operation, || describe(&operation));
        }
        OpsCommand::Watch { id: Some(id) } if is_of_machine(&id) => {
            watch(client, global, &name, &id, output).await?;
        }
        OpsCommand::Watch { id } => {
            let deployments = deployments(client, &name).await?;
            let deployment = choose(&name, deployments, id.as_deref())?;
            let app: App = client.get(&format!("/v1/apps/{name}")).await?;
            if let Some(now) = superseded_by(&deployment, &app) {
                let value = serde_json::json!({"type": "deployment", "deployment": deployment, "url": null});
                output.result(&value, || {
                    let release = deployment.release;
                    format!("release {release} of {name} was deployed; release {now} serves now")
                });
                return Ok(());
            }
            let deadline = Deadline::of(global);
            deploy::see_through(client, deadline, deployment, &app, Proof::Wanted, output).await?;
        }
        OpsCommand::Cancel { id: Some(id) } if is_of_machine(&id) => {
            cancel(client, global, &name, &id, output).await?;
        }
        OpsCommand::Cancel { id } => {
            let deployments = deployments(client, &name).await?;
            let deployment = choose(&name, deployments, id.as_deref())?;
            if global.dry_run {
                plan_cancel(&deployment, output);
                return Ok(());
            }
            let ended =
                deploy::cancel(client, &name, &deployment.id, Deadline::of(global), output).await?;
            output.result(&ended, || {
                format!(
                    "release {} of {name} was cancelled and undone",
                    ended.release
                )
            });
        }
    }
    Ok(())
}

/// The release that came after that of a deployment which succeeded.
fn superseded_by(deployment: &Deployment, app: &App) -> Option<u64> {
    app.current_release
        .filter(|now| deployment.status == "succeeded" && *now != deployment.release)
}

async fn deployments(client: &Client, app: &str) -> Result<Vec<Deployment>, CliError> {
    client.get(&format!("/v1/apps/{app}/deployments")).await
}

async fn list(
    client: &Client,
    app: &str,
    machine: Option<&str>,
    only_unfinished: bool,
) -> Result<Vec<Operation>, CliError> {
    let mut path = format!("/v1/apps/{app}/operations?unfinished={only_unfinished}");
    if let Some(machine) = machine {
        path.push_str(&format!("&machine={}", encode(machine)));
    }
    client.get(&path).await
}

/// Cancels an operation of a machine.
async fn cancel(
    client: &Client,
    global: &Global,
    app: &str,
    id: &str,
    output: Output,
) -> Result<(), CliError> {
    let operation = find(client, app, id).await?;
    if global.dry_run {
        let text = format!("cancel {}", summary(&operation));
        output.plan("ops cancel", serde_json::json!(operation), &text);
        return Ok(());
    }
    let path = format!("/v1/apps/{app}/operations/{}/cancel", encode(id));
    let cancelled: Operation = client.post(&path, NOTHING).await?;
    output.result(&cancelled, || summary(&cancelled));
    Ok(())
}

/// One operation of an app, with its steps.
pub(crate) async fn find(client: &Client, app: &str, id: &str) -> Result<Operation, CliError> {
    let path = format!("/v1/apps/{app}/operations/{}", encode(id));
    client.get(&path).await
}

/// Whether an id is that of an operation of a machine. The others are deployments, which have
/// more to tell.
fn is_of_machine(id: &str) -> bool {
    id.starts_with("run_")
}

/// Prints each step of an operation as it ends; fails if the operation does.
async fn watch(
    client: &Client,
    global: &Global,
    app: &str,
    id: &str,
    output: Output,
) -> Result<(), CliError> {
    let late = |why: String| {
        CliError::new(
            Exit::StillRunning,
            "wait-timeout",
            format!("operation {id}: {why}"),
        )
        .hint(format!("`roost ops watch -a {app} {id}` goes on watching"))
    };
    let ended = Deadline::of(global).wait(follow(client, app, id, output), late);
    let operation = ended.await?;
    if operation.status == "succeeded" {
        output.result(&operation, || summary(&operation));
        return Ok(());
    }
    Err(CliError::failed("operation-failed", summary(&operation))
        .hint(format!("`roost ops show -a {app} {id}` shows its steps")))
}

async fn follow(
    client: &Client,
    app: &str,
    id: &str,
    output: Output,
) -> Result<Operation, CliError> {
    let mut n_told = 0;
    loop {
        let operation = find(client, app, id).await?;
        let is_over = |step: &&OperationStep| step.ended_at.is_some();
        for step in operation.steps.iter().take_while(is_over).skip(n_told) {
            output.say(&step_line(step));
            n_told += 1;
        }
        if operation.is_ended() {
            return Ok(operation);
        }
        tokio::time::sleep(limits::WATCH_INTERVAL).await;
    }
}

fn row(operation: &Operation) -> Vec<String> {
    vec![
        operation.id.clone(),
        operation.kind.clone(),
        operation.subject.clone(),
        operation.status.clone(),
        date(operation.created_at),
        printable(operation.reason.as_deref().unwrap_or_default()),
    ]
}

fn summary(operation: &Operation) -> String {
    let Operation {
        kind,
        subject,
        status,
        ..
    } = operation;
    match &operation.reason {
        Some(reason) => format!("{kind} of {subject}: {status}: {}", printable(reason)),
        None => format!("{kind} of {subject}: {status}"),
    }
}

/// An operation with its steps, for people.
pub(crate) fn describe(operation: &Operation) -> String {
    let cause = operation.cause["name"]
        .as_str()
        .or(operation.cause["kind"].as_str())
        .unwrap_or("roost");
    let asked = format!(
        "asked for by {} at {}",
        printable(cause),
        date(operation.created_at)
    );
    let steps = operation.steps.iter().map(step_line);
    let lines: Vec<String> = [summary(operation), asked]
        .into_iter()
        .chain(steps)
        .collect();
    lines.join("\n")
}

fn step_line(step: &OperationStep) -> String {
    let outcome = step.outcome.as_deref().unwrap_or("under way");
    let took = match step.ended_at {
        Some(ended) => format!(" after {} ms", ended.saturating_sub(step.started_at)),
        None => String::new(),
    };
    let attempt = match step.attempt {
        1 => String::new(),
        n => format!(" (attempt {n})"),
    };
    let reason = match &step.reason {
        Some(reason) => format!(": {}", printable(reason)),
        None => String::new(),
    };
    format!("  {}{attempt}: {outcome}{took}{reason}", step.name)
}

/// The deployment with this id, else the one under way.
fn choose(
    app: &str,
    deployments: Vec<Deployment>,
    id: Option<&str>,
) -> Result<Deployment, CliError> {
    let is_it = |deployment: &Deployment| match id {
        Some(id) => deployment.id == id,
        None => !deploy::is_over(deployment),
    };
    deployments.into_iter().find(is_it).ok_or_else(|| {
        let message = match id {
            Some(id) => {
                let shown: String = id.chars().take(60).collect();
                format!("{app} has no deployment {shown}")
            }
            None => format!("no deployment of {app} is under way"),
        };
        CliError::new(Exit::NotFound, "not-found", message)
            .hint(format!("`roost ops list -a {app}` shows its deployments"))
    })
}

/// Fails as the platform would while a deployment of the app is under way, for `--dry-run`.
pub(crate) async fn check_none_under_way(client: &Client, app: &str) -> Result<(), CliError> {
    let path = format!("/v1/apps/{app}/deployments");
    let deployments: Vec<Deployment> = client.get(&path).await?;
    let Some(deployment) = deployments.iter().find(|one| !deploy::is_over(one)) else {
        return Ok(());
    };
    let message = format!("deployment {} of {app} is under way", deployment.id);
    Err(
        CliError::new(Exit::Conflict, "deploy-in-progress", message).hint(format!(
            "wait for it: `roost ops watch -a {app}`; or undo it: `roost ops cancel -a {app}`"
        )),
    )
}

fn plan_cancel(deployment: &Deployment, output: Output) {
    let Deployment {
        id,
        app,
        release,
        status,
        ..
    } = deployment;
    let details = serde_json::json!({"app": app, "deployment": id, "status": status});
    let text = format!("cancel deployment {id} of {app} to release {release}, which is {status}");
    output.plan("ops cancel", details, &text);
}

//! `ops`: deployments under way and past, watched and cancelled.

use crate::args::{Global, OpsCommand};
use crate::client::Client;
use crate::deploy::{self, Deadline, Proof};
use crate::error::{CliError, Exit};
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_proto::rest::{App, Deployment};

/// Runs `ops …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: OpsCommand,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    let path = format!("/v1/apps/{name}/deployments");
    let deployments: Vec<Deployment> = client.get(&path).await?;
    match command {
        OpsCommand::List => {
            output.result(&deployments, || {
                table(
                    &["id", "release", "status", "began", "why"],
                    deployments.iter().map(row).collect(),
                )
            });
        }
        OpsCommand::Watch { id } => {
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
        OpsCommand::Cancel { id } => {
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

fn row(deployment: &Deployment) -> Vec<String> {
    let why = deployment.error.as_ref().map(|error| error.message.clone());
    vec![
        deployment.id.clone(),
        deployment.release.to_string(),
        deployment.status.clone(),
        date(deployment.created_at),
        why.unwrap_or_default(),
    ]
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

//! `releases` and `rollback`.

use crate::args::{Global, RollbackArgs};
use crate::client::Client;
use crate::deploy::{self, Proof};
use crate::error::CliError;
use crate::limits;
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_proto::rest::{App, Deployment, RollbackRequest};
use std::time::Duration;

/// Runs `releases`.
pub(crate) async fn list(client: &Client, global: &Global, output: Output) -> Result<(), CliError> {
    let releases = deploy::releases(client, &app_name(global)?).await?;
    output.result(&releases, || {
        let rows = releases
            .iter()
            .map(|release| {
                let status = if release.current {
                    "serves".to_owned()
                } else {
                    release.status.clone()
                };
                let description = release.description.clone().unwrap_or_default();
                vec![
                    release.version.to_string(),
                    status,
                    release.image.clone(),
                    date(release.created_at),
                    description,
                ]
            })
            .collect();
        table(
            &["release", "status", "image", "created", "description"],
            rows,
        )
    });
    Ok(())
}

/// Runs `rollback`.
pub(crate) async fn rollback(
    client: &Client,
    global: &Global,
    args: &RollbackArgs,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    let app: App = client.get(&format!("/v1/apps/{name}")).await?;
    let request = RollbackRequest {
        version: args.release,
    };
    let deployment: Deployment = client
        .create(&format!("/v1/apps/{name}/rollback"), Some(&request))
        .await?;
    output.say(&format!(
        "back to an earlier release of {name}, as release {}",
        deployment.release
    ));
    let timeout = global
        .timeout
        .map_or(limits::DEPLOY_TIMEOUT, Duration::from_secs);
    let deployment = deploy::follow(client, &name, deployment, timeout, output).await?;
    deploy::finish(deployment, &app, Proof::Wanted, output)
        .await
        .map(drop)
}

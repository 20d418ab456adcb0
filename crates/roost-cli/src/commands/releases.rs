//! `releases` and `rollback`.

use crate::args::{Global, RollbackArgs};
use crate::client::Client;
use crate::commands::ops;
use crate::deploy;
use crate::error::{CliError, Exit};
use crate::output::{Output, date, table};
use crate::project::app_name;
use roost_proto::rest::{App, Deployment, RollbackRequest};

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
                let canary = release.canary.as_ref().map(|canary| {
                    let word = if canary.passed { "passed" } else { "failed" };
                    format!("canary {word}: {}", canary.reason)
                });
                let words = [release.description.clone(), canary];
                let words: Vec<String> = words.into_iter().flatten().collect();
                let description = words.join("; ");
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

/// Chooses the release as the platform would, and says what it is.
async fn plan(
    client: &Client,
    app: &App,
    wanted: Option<u64>,
    output: Output,
) -> Result<(), CliError> {
    let name = &app.name;
    let releases = deploy::releases(client, name).await?;
    let found = match wanted {
        Some(version) => releases.iter().find(|release| release.version == version),
        None => releases.iter().find(|release| {
            let is_earlier = app.current_release.is_some_and(|now| release.version < now);
            is_earlier && release.status == "succeeded"
        }),
    };
    let Some(release) = found else {
        return Err(match wanted {
            Some(version) => CliError::new(
                Exit::NotFound,
                "not-found",
                format!("{name} has no release {version}"),
            ),
            None => CliError::new(
                Exit::Conflict,
                "never-deployed",
                format!("{name} has no earlier release"),
            ),
        }
        .hint("`roost releases` shows the releases that exist"));
    };
    ops::check_none_under_way(client, name).await?;
    let details = serde_json::json!({"app": name, "release": release});
    let (version, image) = (release.version, &release.image);
    let text = format!("deploy release {version} of {name} again, with the image {image}");
    output.plan("rollback", details, &text);
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
    if global.dry_run {
        return plan(client, &app, args.release, output).await;
    }
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
    deploy::leave_or_see_through(client, global, deployment, &app, args.detach, output).await
}

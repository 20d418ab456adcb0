//! `apps`, `status` and `open`.

use crate::args::{AppsCommand, Global, OpenArgs};
use crate::client::Client;
use crate::commands::{machines, ops};
use crate::deploy;
use crate::error::{CliError, Exit};
use crate::output::{Output, count, date, printable, table};
use crate::project::{app_name, checked_name};
use roost_proto::rest::{App, AppList, AppPort, Deployment};

/// Runs `apps …`.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    command: AppsCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        AppsCommand::List => {
            let list: AppList = client.get("/v1/apps").await?;
            output.result(&list, || {
                table(
                    &["name", "status", "machines", "release", "url"],
                    list.apps.iter().map(row).collect(),
                )
            });
        }
        AppsCommand::Create { name } => {
            let name = checked_name(&name)?;
            if global.dry_run {
                return plan_create(client, &name, output).await;
            }
            let app = deploy::create_app(client, &name).await?;
            output.result(&app, || format!("created {}", app.name));
        }
        AppsCommand::Show { name } => {
            let name = match name {
                Some(name) => checked_name(&name)?,
                None => app_name(global)?,
            };
            let app: App = client.get(&format!("/v1/apps/{name}")).await?;
            output.result(&app, || describe(&app));
        }
        AppsCommand::Destroy { name } => {
            let name = checked_name(&name)?;
            let app: App = client.get(&format!("/v1/apps/{name}")).await?;
            let n_machines = app.machine_count;
            let machines = count(n_machines, "machine");
            let what = format!("destroy {name} with {machines}, its releases and secrets");
            if global.dry_run {
                ops::check_none_under_way(client, &name).await?;
                let details = serde_json::json!({"app": name, "machines": n_machines});
                output.plan("apps destroy", details, &what);
                return Ok(());
            }
            output.confirm(&what, &name)?;
            client
                .delete(&format!("/v1/apps/{name}?force=true"))
                .await?;
            output.result(&serde_json::json!({"destroyed": name}), || {
                format!("destroyed {name}")
            });
        }
    }
    Ok(())
}

async fn plan_create(client: &Client, name: &str, output: Output) -> Result<(), CliError> {
    match client.get::<App>(&format!("/v1/apps/{name}")).await {
        Ok(_) => {
            let message = format!("an app `{name}` exists already");
            Err(CliError::new(Exit::Conflict, "name-taken", message))
        }
        Err(error) if error.exit == Exit::NotFound => {
            let details = serde_json::json!({"app": name});
            output.plan("apps create", details, &format!("create {name}"));
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn release(app: &App) -> String {
    app.current_release
        .map_or_else(|| "-".into(), |release| release.to_string())
}

fn row(app: &App) -> Vec<String> {
    let url = app.urls.first().cloned().unwrap_or_else(|| "-".into());
    vec![
        app.name.clone(),
        app.status.clone(),
        app.machine_count.to_string(),
        release(app),
        url,
    ]
}

fn describe(app: &App) -> String {
    let mut text = format!(
        "app       {}\nstatus    {}\nrelease   {}\nmachines  {}\ncreated   {}",
        app.name,
        app.status,
        release(app),
        app.machine_count,
        date(app.created_at)
    );
    for url in &app.urls {
        text.push_str(&format!("\nurl       {url}"));
    }
    for port in &app.ports {
        let AppPort {
            address,
            protocol,
            port,
            problem,
        } = port;
        let shown = match address {
            Some(address) if address.contains(':') => format!("[{}]:{port}", printable(address)),
            Some(address) => format!("{}:{port}", printable(address)),
            None => port.to_string(),
        };
        let shown = match protocol.as_str() {
            "tcp" => shown,
            other => format!("{shown}/{}", printable(other)),
        };
        let problem = problem.as_deref().map(printable);
        let problem = problem.map(|problem| format!(" is not open: {problem}"));
        text.push_str(&format!(
            "\nport      {shown}{}",
            problem.unwrap_or_default()
        ));
    }
    text
}

/// Runs `status`.
pub(crate) async fn status(
    client: &Client,
    global: &Global,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    let app: App = client.get(&format!("/v1/apps/{name}")).await?;
    let machines = machines::list(client, &name).await?;
    let path = format!("/v1/apps/{name}/deployments");
    let deployments: Vec<Deployment> = client.get(&path).await?;
    let latest = deployments.first();
    output.result(
        &serde_json::json!({"app": app, "machines": machines, "latest_deployment": latest}),
        || {
            let mut text = describe(&app);
            if let Some(line) = latest.and_then(deploy_line) {
                text.push_str(&format!("\ndeploy    {line}"));
            }
            text.push_str(&format!("\n\n{}", machines::table_of(&machines)));
            for machine in &machines {
                if let Some(reason) = &machine.state_reason {
                    text.push_str(&format!("\n{} is {}: {reason}", machine.id, machine.state));
                }
                for check in machine
                    .checks
                    .iter()
                    .filter(|check| check.status != "passing")
                {
                    text.push_str(&format!(
                        "\n{} check {} is {}: {}",
                        machine.id,
                        check.name,
                        check.status,
                        printable(&check.output)
                    ));
                }
            }
            text
        },
    );
    Ok(())
}

/// The latest deployment when it is not simply done.
fn deploy_line(latest: &Deployment) -> Option<String> {
    let release = latest.release;
    match latest.status.as_str() {
        "succeeded" => None,
        "failed" => {
            let why = latest.error.as_ref().map(|error| error.message.as_str());
            let why = why.unwrap_or("for an unknown reason");
            Some(format!("release {release} failed and was undone: {why}"))
        }
        status => Some(format!("release {release} is being deployed ({status})")),
    }
}

/// Runs `open`.
pub(crate) async fn open(
    client: &Client,
    global: &Global,
    args: &OpenArgs,
    output: Output,
) -> Result<(), CliError> {
    let name = app_name(global)?;
    let app: App = client.get(&format!("/v1/apps/{name}")).await?;
    let Some(url) = app.urls.first() else {
        return Err(
            CliError::new(Exit::NotFound, "no-url", format!("{name} has no URL yet"))
                .hint("deploy it with an [http_service]"),
        );
    };
    output.result(&serde_json::json!({"url": url}), || url.clone());
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    if !args.print && !output.json && has_display {
        let opened = std::process::Command::new("xdg-open").arg(url).status();
        if !opened.is_ok_and(|status| status.success()) {
            output.warn("no browser could be opened");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::deploy_line;
    use roost_proto::rest::{Deployment, DeploymentError};

    fn deployment(status: &str) -> Deployment {
        Deployment {
            id: "d1".into(),
            app: "web".into(),
            release: 2,
            status: status.into(),
            error: (status == "failed").then(|| DeploymentError {
                code: "wrong-port".into(),
                message: "it listens on 3000".into(),
                hint: None,
                machine: None,
                log_tail: Vec::new(),
                listening: Vec::new(),
            }),
            canary: None,
            steps: Vec::new(),
            urls: Vec::new(),
            created_at: 0,
            finished_at: None,
        }
    }

    #[test]
    fn status_tells_of_a_deploy_that_failed_or_goes_on() {
        assert_eq!(deploy_line(&deployment("succeeded")), None);
        let failed = deploy_line(&deployment("failed")).unwrap();
        assert_eq!(
            failed,
            "release 2 failed and was undone: it listens on 3000"
        );
        let running = deploy_line(&deployment("running")).unwrap();
        assert!(running.contains("is being deployed"), "{running}");
    }
}

//! `roost deploy`: from a folder or an image to a release that answers.

mod canary;
mod deadline;
mod follow;
mod image;
mod pull;

pub(crate) use deadline::Deadline;
pub(crate) use follow::{Proof, cancel, is_over, leave_or_see_through, see_through};

use crate::args::{DeployArgs, Global};
use crate::client::Client;
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::project::{self, Project};
use follow::{leave, prove_for};
use image::Source;
use roost_model::app_config::AppConfig;
use roost_model::machine::{Isolation, Rung, Service};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_model::size::ByteSize;
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::rest::{
    App, CanaryConfig, CreateAppRequest, CreateDeploymentRequest, Deployment, NodeInfo, Release,
};
use std::path::Path;

/// Whether an unchanged app gets a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// It gets one.
    Deploy,
    /// It is left as it is.
    Leave,
}

/// Deploys, and gives the app's URL when there is one.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    args: &DeployArgs,
    output: Output,
    unchanged: Unchanged,
) -> Result<Option<String>, CliError> {
    check_folder(&args.folder)?;
    let project = project::find(global, &args.folder)?;
    if let Some(project) = &project {
        project.print_warnings(output);
    }
    let mut config = project
        .as_ref()
        .map(|project| project.config.clone())
        .unwrap_or_default();
    if let Some(port) = args.internal_port {
        set_internal_port(&mut config, port)?;
    }
    config.isolation = args.isolation.or(config.isolation);
    config.env.extend(args.env.iter().cloned());
    let name = name(global, args, &config)?;
    refuse_release_command(&config, args)?;
    let canary = canary::wanted(&config.deploy, &args.canary)?;
    let source = image::source(args, &config)?;
    if global.dry_run {
        let machine = |image: &str| machine_config(project.as_ref(), &config, image);
        return dry_run(&name, machine, canary.as_ref(), &source, output).map(|()| None);
    }
    let deadline = Deadline::of(global);
    let app = ensure_app(client, &name, output).await?;
    warn_of_swap(client, &config, output).await;
    let image = async {
        match source {
            Source::Image(image) => pull::pull(client, &name, &image, output).await,
            Source::Upload(upload) => image::build(client, &name, upload, output).await,
        }
    };
    let image = deadline.wait(Box::pin(image), without_image).await?;
    let machine_config = machine_config(project.as_ref(), &config, &image)?;
    if unchanged == Unchanged::Leave && is_current(client, &app, &machine_config).await? {
        output.say(&format!("  {name} is unchanged: nothing to do"));
        let urls = if has_url(&config) { &app.urls } else { &[][..] };
        return prove_for(urls, Proof::Required, output).await;
    }
    let request = CreateDeploymentRequest {
        config: machine_config,
        count: args.count.or(config.deploy.count),
        max_unavailable: config.deploy.max_unavailable,
        wait_timeout: args
            .wait_timeout
            .or(config.deploy.wait_timeout)
            .map(|timeout| timeout.as_secs().max(1)),
        canary,
        description: args.description.clone(),
    };
    let deployment = begin(client, &name, &request, output);
    let late = |gave_up| not_begun_yet(gave_up, &name);
    let deployment = deadline.wait(deployment, late).await?;
    output.say(&format!("release {} of {name}", deployment.release));
    if args.detach {
        leave(&deployment, output);
        return Ok(None);
    }
    let proof = match (has_url(&config), unchanged) {
        (false, _) => Proof::None,
        (true, Unchanged::Leave) => Proof::Required,
        (true, Unchanged::Deploy) => Proof::Wanted,
    };
    Box::pin(see_through(
        client, deadline, deployment, &app, proof, output,
    ))
    .await
}

fn has_url(config: &AppConfig) -> bool {
    config.services.iter().any(Service::has_url)
}

/// Says so where the swap that is asked for is not the platform's to give.
async fn warn_of_swap(client: &Client, config: &AppConfig, output: Output) {
    if config.swap == ByteSize(0) {
        return;
    }
    let rung = match config.isolation.unwrap_or_default() {
        Isolation::Rung(rung) => Some(rung.to_string()),
        // The deploy itself says what is wrong with the platform.
        Isolation::Default => match client.get::<NodeInfo>("/v1/node").await {
            Ok(node) => node.isolation,
            Err(_) => None,
        },
    };
    if rung.as_deref() == Some(Rung::Container.as_str()) {
        output.warn(
            "`swap_size_mb`: a container swaps only if its host has swap; the logs of its machine \
             say if not, and a VM has swap of its own",
        );
    }
}

/// The time was over before there was anything to deploy.
fn without_image(gave_up: String) -> CliError {
    let message = format!("{gave_up} for the image; no deploy has begun");
    CliError::new(Exit::StillRunning, "detached", message)
        .hint("run the same command again; --timeout says how long it waits")
}

/// The time was over before the platform said that the deploy has begun.
fn not_begun_yet(gave_up: String, app: &str) -> CliError {
    let message = format!("{gave_up} for the deploy to begin; it may begin yet");
    CliError::new(Exit::StillRunning, "detached", message)
        .hint(format!("`roost ops list -a {app}` shows whether it did"))
}

async fn begin(
    client: &Client,
    name: &str,
    request: &CreateDeploymentRequest,
    output: Output,
) -> Result<Deployment, CliError> {
    let path = format!("/v1/apps/{name}/deployments");
    let waits_for = "the platform to begin the deploy";
    output
        .wait(waits_for, client.create(&path, Some(request)))
        .await
}

/// Fails unless the folder of an app is there.
pub(crate) fn check_folder(folder: &Path) -> Result<(), CliError> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(
        CliError::usage(format!("{} is not a folder", folder.display()))
            .hint("name the folder of the app, or run this in it"),
    )
}

fn name(global: &Global, args: &DeployArgs, config: &AppConfig) -> Result<String, CliError> {
    match global.app.as_ref().or(config.app.as_ref()) {
        Some(name) => project::checked_name(name),
        None => Err(CliError::usage(format!(
            "{} has no roost.toml or fly.toml that names the app",
            args.folder.display()
        ))
        .hint("`roost launch` writes one; or add --app NAME")),
    }
}

fn set_internal_port(config: &mut AppConfig, port: u16) -> Result<(), CliError> {
    match config.services.as_mut_slice() {
        // As an app configuration has it.
        [] => config.services.push(Service {
            autostart: true,
            ..Service::http(port)
        }),
        [service] => service.internal_port = port,
        _ => {
            return Err(CliError::usage(
                "--internal-port does not say which of the configuration's services it is for",
            ));
        }
    }
    Ok(())
}

fn refuse_release_command(config: &AppConfig, args: &DeployArgs) -> Result<(), CliError> {
    if config.deploy.release_command.is_some() && !args.skip_release_command {
        return Err(CliError::usage("`deploy.release_command` is set, and release commands are not supported yet: it would not run")
            .hint("run it by hand with `roost exec` after the deploy, and add --skip-release-command"));
    }
    Ok(())
}

fn machine_config(
    project: Option<&Project>,
    config: &AppConfig,
    image: &str,
) -> Result<MachineConfig, CliError> {
    let base = project
        .and_then(|project| project.file.parent())
        .unwrap_or(Path::new("."));
    project::machine_config(config, image, base)
}

fn dry_run(
    name: &str,
    machine_config: impl FnOnce(&str) -> Result<MachineConfig, CliError>,
    canary: Option<&CanaryConfig>,
    source: &Source,
    output: Output,
) -> Result<(), CliError> {
    let (image, upload) = match source {
        Source::Image(image) => (image.clone(), None),
        Source::Upload(upload) => ("the image that the build makes".to_owned(), Some(upload)),
    };
    let machine = machine_config(&image)?;
    let value = serde_json::json!({
        "type": "dry-run", "app": name, "build": upload.map(|upload| &upload.plan), "config": machine,
        "canary": canary,
        "upload_files": upload.map(|upload| upload.packing.paths.len()),
        "upload_bytes": upload.map(|upload| upload.packing.n_bytes),
    });
    output.result(&value, || {
        let upload = upload.map(|upload| {
            let (n_files, n_bytes) = (upload.packing.paths.len(), upload.packing.n_bytes);
            format!("\nwould send {n_files} files, {n_bytes} bytes, for a build")
        });
        let machine = serde_json::to_string_pretty(&machine).unwrap_or_default();
        let first = if canary.is_some() {
            ", one machine as a canary first,"
        } else {
            ""
        };
        format!(
            "would deploy {name}{first} with{}\n{machine}",
            upload.unwrap_or_default()
        )
    });
    Ok(())
}

async fn ensure_app(client: &Client, name: &str, output: Output) -> Result<App, CliError> {
    match client.get::<App>(&format!("/v1/apps/{name}")).await {
        Err(error) if error.exit == Exit::NotFound => {
            output.say(&format!("app {name} does not exist yet: creating it"));
            create_app(client, name).await
        }
        result => result,
    }
}

/// Creates an app and reads it back.
pub(crate) async fn create_app(client: &Client, name: &str) -> Result<App, CliError> {
    let request = CreateAppRequest {
        app_name: name.to_owned(),
        org_slug: None,
    };
    let _: serde_json::Value = client.create("/v1/apps", Some(&request)).await?;
    client.get(&format!("/v1/apps/{name}")).await
}

/// Whether the current release has this image and config.
async fn is_current(client: &Client, app: &App, wanted: &MachineConfig) -> Result<bool, CliError> {
    if app.current_release.is_none() || app.machine_count == 0 || app.status != "deployed" {
        return Ok(false);
    }
    let releases = releases(client, &app.name).await?;
    let Some(current) = releases.iter().find(|release| release.current) else {
        return Ok(false);
    };
    let digest = |image: &str| image.split_once('@').map(|(_, digest)| digest.to_owned());
    let is_same_image = match digest(&wanted.image) {
        Some(wanted) => {
            current.image_digest.as_ref() == Some(&wanted)
                || digest(&current.image).as_ref() == Some(&wanted)
        }
        None => current.image == wanted.image,
    };
    Ok(is_same_image && normal_form(wanted) == normal_form(&current.config))
}

/// A config with every default written out and without its image, so that equal ones look equal.
fn normal_form(config: &MachineConfig) -> Option<MachineConfig> {
    let identity = MachineIdentity {
        app: AppName::parse("x").ok()?,
        name: MachineName::parse("x").ok()?,
        region: RegionCode::parse("x").ok()?,
    };
    let config = MachineConfig {
        image: "x".into(),
        metadata: Default::default(),
        ..config.clone()
    };
    config
        .to_spec(identity)
        .ok()
        .map(|spec| MachineConfig::from(&spec))
}

/// The releases of an app, whether they come as a list or inside an object.
pub(crate) async fn releases(client: &Client, app: &str) -> Result<Vec<Release>, CliError> {
    crate::commands::list_of(
        client.get(&format!("/v1/apps/{app}/releases")).await?,
        "releases",
    )
}

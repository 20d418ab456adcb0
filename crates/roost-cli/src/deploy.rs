//! `roost deploy`: from a folder or an image to a release that answers.

use crate::args::{DeployArgs, Global};
use crate::client::{Client, Lines, encode};
use crate::error::{CliError, Exit};
use crate::limits;
use crate::output::{Output, seconds};
use crate::project::{self, Project};
use crate::{pack, prove};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use roost_model::app_config::{AppConfig, ServiceSection};
use roost_model::name::{AppName, MachineName, RegionCode};
use roost_proto::machine_config::{MachineConfig, MachineIdentity};
use roost_proto::rest::{
    App, BuildEvent, BuildPlan, CreateAppRequest, CreateDeploymentRequest, Deployment,
    DeploymentStep, Release,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// Whether an unchanged app gets a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// It gets one.
    Deploy,
    /// It is left as it is.
    Leave,
}

/// What it means when the URL of a finished release does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The app takes no traffic: there is nothing to ask.
    None,
    /// A warning: the machines are healthy, but the app may not speak HTTP, or this client may be elsewhere.
    Wanted,
    /// A failure.
    Required,
}

/// Where the image comes from.
enum Source {
    Image(String),
    Build(BuildPlan),
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
    let name = name(global, args, &config)?;
    refuse_release_command(&config, args)?;
    let source = source(args, &config)?;
    if args.dry_run {
        return dry_run(&name, args, project.as_ref(), &config, &source, output).map(|()| None);
    }
    let app = ensure_app(client, &name, output).await?;
    let image = match source {
        Source::Image(image) => image,
        Source::Build(plan) => build(client, &name, &args.folder, &config, &plan, output).await?,
    };
    let machine_config = machine_config(project.as_ref(), &config, &image)?;
    if unchanged == Unchanged::Leave && is_current(client, &app, &machine_config).await? {
        output.say(&format!("  {name} is unchanged: nothing to do"));
        let urls = if config.services.is_empty() {
            &[][..]
        } else {
            &app.urls
        };
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
        description: args.description.clone(),
    };
    let deployment = begin(client, &name, &request, output).await?;
    output.say(&format!("release {} of {name}", deployment.release));
    if args.detach {
        output.result(&deployment, || {
            format!(
                "deploy {} has begun; `roost status -a {name}` shows it",
                deployment.id
            )
        });
        return Ok(None);
    }
    let timeout = global
        .timeout
        .map_or(limits::DEPLOY_TIMEOUT, Duration::from_secs);
    let finished = follow(client, &name, deployment, timeout, output).await?;
    let proof = match (config.services.is_empty(), unchanged) {
        (true, _) => Proof::None,
        (false, Unchanged::Leave) => Proof::Required,
        (false, Unchanged::Deploy) => Proof::Wanted,
    };
    finish(finished, &app, proof, output).await
}

async fn begin(
    client: &Client,
    name: &str,
    request: &CreateDeploymentRequest,
    output: Output,
) -> Result<Deployment, CliError> {
    let path = format!("/v1/apps/{name}/deployments");
    // The platform answers once it has the image.
    let waits_for = format!("the platform to have the image {}", request.config.image);
    output
        .wait(&waits_for, client.create(&path, Some(request)))
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
        [] => config.services.push(ServiceSection {
            internal_port: port,
            force_https: false,
            h2_backend: false,
            checks: Vec::new(),
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

fn source(args: &DeployArgs, config: &AppConfig) -> Result<Source, CliError> {
    let build = &config.build;
    if let Some(image) = args.image.as_ref().or(build.image.as_ref()) {
        return Ok(Source::Image(image.clone()));
    }
    let (plan, kind, path) = if let Some(root) = &build.static_root {
        (
            BuildPlan::Static { root: root.clone() },
            "folder",
            root.clone(),
        )
    } else if let Some(path) = &build.binary {
        (
            BuildPlan::Binary {
                path: path.clone(),
                args: build.binary_args.clone(),
            },
            "file",
            path.clone(),
        )
    } else {
        let names = ["Dockerfile", "dockerfile"];
        let found = build.dockerfile.clone().or_else(|| {
            names
                .iter()
                .find(|name| args.folder.join(name).is_file())
                .map(|&name| name.to_owned())
        });
        let Some(dockerfile) = found else {
            return Err(CliError::usage(format!("{} has nothing to build", args.folder.display()))
                .hint("add a Dockerfile, or `[build] static = \"public\"` or `binary = \"path\"` to roost.toml")
                .hint("or deploy an image: --image NAME"));
        };
        let plan = BuildPlan::Dockerfile {
            dockerfile: dockerfile.clone(),
            args: build.args.clone(),
            target: build.target.clone(),
        };
        (plan, "file", dockerfile)
    };
    let full = args.folder.join(&path);
    let exists = if kind == "folder" {
        full.is_dir()
    } else {
        full.is_file()
    };
    if !exists {
        return Err(CliError::usage(format!(
            "[build] names the {kind} {path}, but {} is not there",
            full.display()
        )));
    }
    Ok(Source::Build(plan))
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
    args: &DeployArgs,
    project: Option<&Project>,
    config: &AppConfig,
    source: &Source,
    output: Output,
) -> Result<(), CliError> {
    let (image, plan, upload) = match source {
        Source::Image(image) => (image.clone(), None, None),
        Source::Build(plan) => {
            let packing = list(&args.folder, config, plan)?;
            (
                "the image that the build makes".to_owned(),
                Some(plan),
                Some((packing.paths.len(), packing.n_bytes)),
            )
        }
    };
    let machine = machine_config(project, config, &image)?;
    let value = serde_json::json!({
        "type": "dry-run", "app": name, "build": plan, "config": machine,
        "upload_files": upload.map(|(n_files, _)| n_files), "upload_bytes": upload.map(|(_, n_bytes)| n_bytes),
    });
    output.result(&value, || {
        let upload = upload.map(|(n_files, n_bytes)| {
            format!("\nwould send {n_files} files, {n_bytes} bytes, for a build")
        });
        let machine = serde_json::to_string_pretty(&machine).unwrap_or_default();
        format!(
            "would deploy {name} with{}\n{machine}",
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

fn list(folder: &Path, config: &AppConfig, plan: &BuildPlan) -> Result<pack::Packing, CliError> {
    let keep = match plan {
        BuildPlan::Static { root } => root,
        BuildPlan::Binary { path, .. } => path,
        BuildPlan::Dockerfile { dockerfile, .. } => dockerfile,
    };
    let mut packing = pack::list(folder, config.build.ignorefile.as_deref(), &[keep.as_str()])?;
    // roost's own builders need only what they are told to take.
    if !matches!(plan, BuildPlan::Dockerfile { .. }) && keep != "." {
        packing.keep_only(Path::new(keep));
    }
    Ok(packing)
}

async fn build(
    client: &Client,
    name: &str,
    folder: &Path,
    config: &AppConfig,
    plan: &BuildPlan,
    output: Output,
) -> Result<String, CliError> {
    let since = Instant::now();
    let packing = list(folder, config, plan)?;
    let plan = serde_json::to_string(plan)
        .map_err(|error| CliError::failed("internal", error.to_string()))?;
    let path = format!("/v1/apps/{name}/builds?plan={}", encode(&plan));
    let mut lines = upload(client, &path, packing, output).await?;
    let mut waits_for = "the build to begin".to_owned();
    while let Some(line) = output.wait(&waits_for, lines.next_line()).await? {
        if line.trim().is_empty() {
            continue;
        }
        let event: BuildEvent = serde_json::from_str(&line).map_err(|error| {
            CliError::failed(
                "bad-answer",
                format!("a line of the build is not what was expected: {error}"),
            )
        })?;
        if output.json {
            output.object(&serde_json::json!({"type": "build", "event": event}));
        }
        match event {
            BuildEvent::Progress { message } => {
                output.say(&format!("  build: {message}"));
                waits_for = format!("the build, at: {message}");
            }
            BuildEvent::Done { image, size_bytes } => {
                output.step(
                    &format!("built {image}, {} KiB", size_bytes.div_ceil(1024)),
                    since,
                );
                return Ok(image);
            }
            BuildEvent::Failed { error } => return Err(CliError::from_api(500, error)),
        }
    }
    Err(
        CliError::failed("build-broken-off", "the build ended without saying how")
            .hint("try again; see `roost doctor`"),
    )
}

/// Sends a folder: with a bar on a terminal, else with a line before and after.
async fn upload(
    client: &Client,
    path: &str,
    packing: pack::Packing,
    output: Output,
) -> Result<Lines, CliError> {
    let since = Instant::now();
    let n_files = packing.paths.len();
    let size = HumanBytes(packing.n_bytes);
    let files = if n_files == 1 { "file" } else { "files" };
    let text = format!("{n_files} {files}, {size}");
    let bar = if output.draws() {
        let style = ProgressStyle::with_template(
            "  sending {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(packing.tar_size()).with_style(style)
    } else {
        output.say(&format!("  sending {text}"));
        ProgressBar::hidden()
    };
    let sent = bar.clone();
    // The platform may answer before it has everything: only the body knows its end.
    let body = packing.into_body(move |n_bytes| match n_bytes {
        Some(n_bytes) => sent.inc(n_bytes),
        None => {
            sent.finish_and_clear();
            output.step(&format!("sent {text}"), since);
        }
    });
    let upload = client.upload(path, body);
    let lines = if bar.is_hidden() {
        output.wait("the platform to take the folder", upload).await
    } else {
        upload.await
    };
    if lines.is_err() {
        bar.finish_and_clear();
    }
    lines
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

fn is_over(deployment: &Deployment) -> bool {
    matches!(deployment.status.as_str(), "succeeded" | "failed")
}

/// Prints steps as they happen until the deployment is over.
pub(crate) async fn follow(
    client: &Client,
    app: &str,
    deployment: Deployment,
    timeout: Duration,
    output: Output,
) -> Result<Deployment, CliError> {
    let carries_on = |what: &str| {
        CliError::new(
            Exit::StillRunning,
            "detached",
            format!("{what}; the platform carries on with the deploy"),
        )
        .hint(format!("see how it goes: `roost status -a {app}`"))
        .hint(format!("go back afterwards: `roost rollback -a {app}`"))
    };
    tokio::select! {
        result = follow_to_end(client, app, deployment, output) => result,
        () = tokio::time::sleep(timeout) => Err(carries_on(&format!("gave up waiting after {} s", timeout.as_secs()))),
        _ = tokio::signal::ctrl_c() => Err(carries_on("interrupted")),
    }
}

async fn follow_to_end(
    client: &Client,
    app: &str,
    deployment: Deployment,
    output: Output,
) -> Result<Deployment, CliError> {
    let path = format!("/v1/apps/{app}/deployments/{}", deployment.id);
    let mut steps = Steps {
        seen: 0,
        since: Instant::now(),
        waits_for: "the deploy to begin".into(),
        output,
    };
    let mut is_lost = false;
    loop {
        let last = (steps.seen > 0).then(|| steps.seen.to_string());
        if let Ok(lines) = client
            .events(&format!("{path}/events"), last.as_deref())
            .await
        {
            if std::mem::take(&mut is_lost) {
                output.say("  the API answers again");
            }
            steps.follow(lines).await;
        }
        match client.get::<Deployment>(&path).await {
            Ok(deployment) => {
                for step in &deployment.steps {
                    steps.print(step);
                }
                if is_over(&deployment) {
                    return Ok(deployment);
                }
            }
            // The platform restarts and resumes the deploy; the time limit of the caller ends this.
            Err(error) if error.code.starts_with("api-") => {
                if !is_lost {
                    output.say("  the API does not answer; waiting for it to come back");
                }
                is_lost = true;
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(limits::RETRY_PAUSE).await;
    }
}

/// The steps that were printed, and what comes next.
struct Steps {
    seen: u64,
    since: Instant,
    waits_for: String,
    output: Output,
}

impl Steps {
    /// Reads events until the stream ends, breaks or says that the deployment is over.
    async fn follow(&mut self, mut lines: Lines) {
        let output = self.output;
        while let Ok(Some(event)) = output.wait(&self.waits_for, lines.next_event()).await {
            if let Ok(step) = serde_json::from_str::<DeploymentStep>(&event.data) {
                self.print(&step);
            } else if serde_json::from_str::<Deployment>(&event.data)
                .is_ok_and(|deployment| is_over(&deployment))
            {
                return;
            }
        }
    }

    fn print(&mut self, step: &DeploymentStep) {
        if step.seq <= self.seen {
            return;
        }
        self.seen = step.seq;
        self.waits_for = match (step.name.as_str(), step.status.as_str()) {
            ("healthy" | "listening", "started") => {
                let machine = step.machine.as_deref().unwrap_or("the machine");
                format!("{machine} to be healthy")
            }
            (_, "started") => step.message.clone(),
            _ => format!("what comes after `{}`", step.message),
        };
        let output = self.output;
        if output.json {
            output.object(&serde_json::json!({"type": "step", "step": step}));
        } else if is_shown(step) || output.verbose {
            let machine = step
                .machine
                .as_ref()
                .map(|machine| format!(" {machine}"))
                .unwrap_or_default();
            output.say(&format!(
                "  {:>7}  {}{machine}: {}",
                seconds(self.since),
                step.name,
                step.message
            ));
        }
    }
}

/// A beginning is left out, since its end comes soon; a notice has no end.
fn is_shown(step: &DeploymentStep) -> bool {
    step.status != "started" || step.name == "listening"
}

/// Turns the end of a deployment into a proven URL or an error on one screen.
pub(crate) async fn finish(
    deployment: Deployment,
    before: &App,
    proof: Proof,
    output: Output,
) -> Result<Option<String>, CliError> {
    if deployment.status == "failed" {
        return Err(failure(&deployment, before.current_release));
    }
    let app = &deployment.app;
    let url = prove_for(&deployment.urls, proof, output).await?;
    let value = serde_json::json!({"type": "deployment", "deployment": deployment, "url": url});
    output.result(&value, || {
        let url = url.as_deref().unwrap_or(match proof {
            Proof::None => "it takes no traffic from outside",
            Proof::Wanted | Proof::Required => "no URL of it has answered a request from here",
        });
        let verb = if proof == Proof::None {
            "runs"
        } else {
            "serves"
        };
        format!("release {} of {app} {verb}\n  {url}", deployment.release)
    });
    output.say(&format!(
        "next: roost status -a {app} · roost logs -f -a {app} · roost open -a {app}"
    ));
    Ok(url)
}

async fn prove_for(
    urls: &[String],
    proof: Proof,
    output: Output,
) -> Result<Option<String>, CliError> {
    if urls.is_empty() || proof == Proof::None {
        return Ok(None);
    }
    match prove::any(urls, output).await {
        Ok(url) => Ok(Some(url)),
        Err(error) if proof == Proof::Required => Err(error),
        Err(error) => {
            output.warn(&unproven(&error));
            Ok(None)
        }
    }
}

fn unproven(error: &CliError) -> String {
    format!(
        "the deploy succeeded and its machines are healthy, but {error}; that is fine for an app \
         that does not speak HTTP, or when this computer cannot reach that address"
    )
}

fn failure(deployment: &Deployment, serving: Option<u64>) -> CliError {
    let app = &deployment.app;
    let Some(cause) = &deployment.error else {
        return CliError::failed(
            "deploy-failed",
            format!(
                "release {} of {app} failed and was undone",
                deployment.release
            ),
        );
    };
    let mut error = CliError::failed(
        &cause.code,
        format!(
            "release {} of {app} failed: {}",
            deployment.release, cause.message
        ),
    );
    if let Some(machine) = &cause.machine {
        error.details.push(format!("machine: {machine}"));
    }
    if !cause.listening.is_empty() {
        error
            .details
            .push(format!("it listens on: {}", cause.listening.join(", ")));
    }
    if !cause.log_tail.is_empty() {
        error.details.push("last log lines:".into());
        error
            .details
            .extend(cause.log_tail.iter().map(|line| format!("  {line}")));
    }
    error.details.push(match serving {
        Some(release) => format!("the deploy was undone: release {release} still serves"),
        None => "the deploy was undone: no release serves yet".into(),
    });
    error.hints.extend(cause.hint.clone());
    error
}

#[cfg(test)]
mod tests {
    use super::failure;
    use roost_proto::rest::{Deployment, DeploymentError};

    #[test]
    fn a_failed_deploy_says_cause_machine_sockets_logs_and_what_serves() {
        let deployment = Deployment {
            id: "d1".into(),
            app: "web".into(),
            release: 2,
            status: "failed".into(),
            error: Some(DeploymentError {
                code: "unhealthy".into(),
                message: "nothing answers on port 8080".into(),
                hint: Some("set internal_port = 3000".into()),
                machine: Some("m1".into()),
                log_tail: vec!["listening on 3000".into()],
                listening: vec!["127.0.0.1:3000".into()],
            }),
            steps: Vec::new(),
            urls: Vec::new(),
            created_at: 0,
            finished_at: Some(1),
        };
        let text = failure(&deployment, Some(1)).render();
        for part in [
            "error: release 2 of web failed: nothing answers on port 8080",
            "machine: m1",
            "it listens on: 127.0.0.1:3000",
            "    listening on 3000",
            "release 1 still serves",
            "hint: set internal_port = 3000",
            "code: unhealthy",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.lines().count() < 24, "one screen");
    }
}

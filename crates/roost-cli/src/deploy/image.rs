//! Where the image of a deploy comes from: named, or made of a folder or archive that is sent.

use crate::args::DeployArgs;
use crate::client::{Client, Lines, encode};
use crate::error::CliError;
use crate::output::{Output, printable};
use crate::pack::{self, Packing};
use indicatif::{HumanBytes, ProgressBar, ProgressFinish, ProgressStyle};
use roost_model::app_config::AppConfig;
use roost_proto::rest::{BuildEvent, BuildPlan};
use std::path::Path;
use std::time::Instant;

/// Where the image comes from.
pub(super) enum Source {
    /// The platform pulls it.
    Image(String),
    /// The platform makes it of what is sent.
    Upload(Upload),
}

/// What is sent, and what the platform makes of it.
pub(super) struct Upload {
    pub(super) plan: BuildPlan,
    pub(super) packing: Packing,
}

/// Decides what to deploy, and checks that what it names is there.
pub(super) fn source(args: &DeployArgs, config: &AppConfig) -> Result<Source, CliError> {
    if let Some(path) = &args.archive {
        let (path, packing) = pack::archive(path)?;
        let image = args.archive_image.clone();
        let plan = BuildPlan::Archive { path, image };
        return Ok(Source::Upload(Upload { plan, packing }));
    }
    if let Some(image) = args.image.as_ref().or(config.build.image.as_ref()) {
        return Ok(Source::Image(image.clone()));
    }
    let plan = build_plan(&args.folder, config)?;
    let packing = pack_folder(&args.folder, config, &plan)?;
    Ok(Source::Upload(Upload { plan, packing }))
}

/// How the folder is to be built.
fn build_plan(folder: &Path, config: &AppConfig) -> Result<BuildPlan, CliError> {
    let build = &config.build;
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
                .find(|name| folder.join(name).is_file())
                .map(|&name| name.to_owned())
        });
        let Some(dockerfile) = found else {
            return Err(CliError::usage(format!("{} has nothing to build", folder.display()))
                .hint("add a Dockerfile, or `[build] static = \"public\"` or `binary = \"path\"` to roost.toml")
                .hint("or deploy an image: --image NAME, or --archive FILE"));
        };
        let plan = BuildPlan::Dockerfile {
            dockerfile: dockerfile.clone(),
            args: build.args.clone(),
            target: build.target.clone(),
        };
        (plan, "file", dockerfile)
    };
    let full = folder.join(&path);
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
    Ok(plan)
}

/// What of the folder is sent for a build.
fn pack_folder(folder: &Path, config: &AppConfig, plan: &BuildPlan) -> Result<Packing, CliError> {
    let keep = match plan {
        BuildPlan::Static { root } => root,
        BuildPlan::Binary { path, .. } | BuildPlan::Archive { path, .. } => path,
        BuildPlan::Dockerfile { dockerfile, .. } => dockerfile,
    };
    let mut packing = pack::list(folder, config.build.ignorefile.as_deref(), &[keep.as_str()])?;
    // roost's own builders need only what they are told to take.
    if !matches!(plan, BuildPlan::Dockerfile { .. }) && keep != "." {
        packing.keep_only(Path::new(keep));
    }
    Ok(packing)
}

/// Sends what there is to send, follows the build, and gives the reference of its image.
pub(super) async fn build(
    client: &Client,
    name: &str,
    upload: Upload,
    output: Output,
) -> Result<String, CliError> {
    let since = Instant::now();
    let plan = serde_json::to_string(&upload.plan)
        .map_err(|error| CliError::failed("internal", error.to_string()))?;
    let path = format!("/v1/apps/{name}/builds?plan={}", encode(&plan));
    let mut lines = send(client, &path, upload.packing, output).await?;
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
                let message = printable(&message);
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

/// Sends files: with a bar on a terminal, else with a line before and after.
async fn send(
    client: &Client,
    path: &str,
    packing: Packing,
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
        // Also when the time is over.
        let finish = ProgressFinish::AndClear;
        ProgressBar::new(packing.tar_size())
            .with_style(style)
            .with_finish(finish)
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
        output.wait("the platform to take the upload", upload).await
    } else {
        upload.await
    };
    if lines.is_err() {
        bar.finish_and_clear();
    }
    lines
}

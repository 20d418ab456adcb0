//! `roost launch`: an app configuration with the reason for every default, then a deploy.

use crate::args::{DeployArgs, Global, LaunchArgs};
use crate::client::Client;
use crate::deploy::{self, Unchanged};
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::project;
use std::path::Path;

/// A value of the new configuration and why it is that.
struct Choice {
    text: String,
    why: String,
}

/// Writes `roost.toml` and deploys it.
pub(crate) async fn run(
    client: &Client,
    global: &Global,
    args: &LaunchArgs,
    output: Output,
) -> Result<(), CliError> {
    deploy::check_folder(&args.folder)?;
    let file = args.folder.join("roost.toml");
    if project::find(
        &Global {
            config: None,
            ..global.clone()
        },
        &args.folder,
    )?
    .is_some()
    {
        return Err(CliError::new(
            Exit::Conflict,
            "config-exists",
            format!("{} has an app configuration already", args.folder.display()),
        )
        .hint("`roost deploy` deploys it"));
    }
    let name = name(global, args)?;
    let build = build(args)?;
    let port = port(args);
    let text = config_text(&name, &build, &port, args);
    output.say(&format!("{}:\n\n{text}", file.display()));
    let then = if args.no_deploy { "" } else { " and deploy it" };
    let what = format!("write {}{then}", file.display());
    if global.dry_run {
        let deploys = !args.no_deploy;
        let details =
            serde_json::json!({"app": name.text, "file": file, "config": text, "deploy": deploys});
        output.plan("launch", details, &what);
        return Ok(());
    }
    output.confirm(&what, "yes")?;
    std::fs::write(&file, &text)
        .map_err(|error| CliError::io(format!("write {}", file.display()), &error))?;
    if args.no_deploy {
        output.result(&serde_json::json!({"file": file, "app": name.text}), || {
            format!("wrote {}", file.display())
        });
        return Ok(());
    }
    let deploy = DeployArgs {
        folder: args.folder.clone(),
        detach: args.detach,
        ..DeployArgs::default()
    };
    let global = Global {
        app: Some(name.text),
        config: None,
        ..global.clone()
    };
    deploy::run(client, &global, &deploy, output, Unchanged::Deploy)
        .await
        .map(drop)
}

fn name(global: &Global, args: &LaunchArgs) -> Result<Choice, CliError> {
    if let Some(name) = args.name.as_ref().or(global.app.as_ref()) {
        return Ok(Choice {
            text: project::checked_name(name)?,
            why: "as you said".into(),
        });
    }
    let (from, why) = match &args.image {
        Some(image) => {
            let start = image.split(['@']).next().unwrap_or(image);
            let last = start.rsplit('/').next().unwrap_or(start);
            (
                last.split(':').next().unwrap_or(last).to_owned(),
                "the name of the image",
            )
        }
        None => {
            let folder = args.folder.canonicalize().map_err(|error| {
                CliError::io(format!("look at {}", args.folder.display()), &error)
            })?;
            (
                folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                "the name of the folder",
            )
        }
    };
    let text: String = from
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(50)
        .collect();
    let text = text.trim_matches('-').to_owned();
    project::checked_name(&text).map_err(|error| error.hint("choose one with --name"))?;
    Ok(Choice {
        text,
        why: why.into(),
    })
}

fn build(args: &LaunchArgs) -> Result<Choice, CliError> {
    if let Some(image) = &args.image {
        roost_model::image_ref::ImageRef::parse(image)
            .map_err(|error| CliError::usage(error.to_string()))?;
        return Ok(Choice {
            text: format!("image = {}", quoted(image)),
            why: "as you said".into(),
        });
    }
    if ["Dockerfile", "dockerfile"]
        .iter()
        .any(|name| args.folder.join(name).is_file())
    {
        return Ok(Choice {
            text: "dockerfile = \"Dockerfile\""
                .replace("Dockerfile\"", &format!("{}\"", dockerfile(&args.folder))),
            why: "the folder has one".into(),
        });
    }
    for root in ["public", "dist", "."] {
        if args.folder.join(root).join("index.html").is_file() {
            return Ok(Choice {
                text: format!("static = {}", quoted(root)),
                why: format!("{root}/index.html is there"),
            });
        }
    }
    Err(CliError::usage(format!(
        "{} has neither a Dockerfile nor an index.html",
        args.folder.display()
    ))
    .hint("launch an image: --image NAME")
    .hint("or write roost.toml by hand: `[build] binary = \"path\"` runs one static executable"))
}

fn dockerfile(folder: &Path) -> &'static str {
    if folder.join("Dockerfile").is_file() {
        "Dockerfile"
    } else {
        "dockerfile"
    }
}

fn port(args: &LaunchArgs) -> Choice {
    if let Some(port) = args.internal_port {
        return Choice {
            text: port.to_string(),
            why: "as you said".into(),
        };
    }
    let exposed = std::fs::read_to_string(args.folder.join(dockerfile(&args.folder)))
        .ok()
        .and_then(|text| {
            text.lines().rev().find_map(|line| {
                let mut words = line.split_whitespace();
                let is_expose = words.next()?.eq_ignore_ascii_case("expose");
                let port = words.next()?.trim_end_matches("/tcp").parse::<u16>().ok()?;
                (is_expose && port > 0).then_some(port)
            })
        });
    match exposed {
        Some(port) if args.image.is_none() => Choice {
            text: port.to_string(),
            why: "EXPOSE in the Dockerfile".into(),
        },
        _ => Choice {
            text: "8080".into(),
            why: "the usual port; change it when the app listens elsewhere".into(),
        },
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn config_text(name: &Choice, build: &Choice, port: &Choice, args: &LaunchArgs) -> String {
    let isolation = args.isolation.map(|isolation| {
        let word = quoted(isolation.as_str());
        format!("# as you said\nisolation = {word}\n")
    });
    let mut text = format!(
        "# {}\napp = {}\n{}\n[build]\n# {}\n{}\n\n[http_service]\n# {}\ninternal_port = {}\n# plain HTTP works too; \
         set to true to send everyone to HTTPS\nforce_https = false\n\n[[vm]]\n# the smallest; raise it when the app \
         needs more\nsize = \"shared-cpu-1x\"\n",
        name.why,
        quoted(&name.text),
        isolation.unwrap_or_default(),
        build.why,
        build.text,
        port.why,
        port.text
    );
    if !args.env.is_empty() {
        text.push_str("\n[env]\n# as you said\n");
        let variables: toml::Table = args
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().into()))
            .collect();
        text.push_str(&variables.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{build, config_text, name, port};
    use crate::args::{Cli, Command};
    use clap::Parser as _;
    use roost_model::machine::{Isolation, Rung};

    #[test]
    fn what_launch_writes_is_an_app_configuration_with_reasons() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("My App_1");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("Dockerfile"), "FROM x\nEXPOSE 3000/tcp\n").unwrap();
        let mut words = vec!["roost", "launch", folder.to_str().unwrap()];
        words.extend(["-e", "A=x=\"1", "--isolation", "vm-emulated"]);
        let cli = Cli::parse_from(words);
        let Command::Launch(args) = cli.command else {
            panic!("launch")
        };
        let text = config_text(
            &name(&cli.global, &args).unwrap(),
            &build(&args).unwrap(),
            &port(&args),
            &args,
        );
        let (config, warnings) = roost_model::app_config::parse(&text, "t").unwrap();
        assert!(warnings.is_empty());
        assert_eq!(config.app.as_deref(), Some("my-app-1"));
        assert_eq!(config.build.dockerfile.as_deref(), Some("Dockerfile"));
        assert_eq!(config.services[0].internal_port, 3000);
        assert_eq!(config.isolation, Some(Isolation::Rung(Rung::VmEmulated)));
        assert_eq!(config.env["A"], "x=\"1");
        assert!(text.contains("# EXPOSE in the Dockerfile"));
    }
}

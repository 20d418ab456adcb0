//! Commands about the client itself: `login`, `version`, `completion`, `config`.

use crate::args::{CompletionArgs, ConfigCommand, Global, Shell};
use crate::client::Client;
use crate::complete;
use crate::error::{CliError, Exit};
use crate::output::Output;
use crate::project;
use crate::settings::{self, Target, UserFile};
use roost_proto::rest::{NodeInfo, TokenInfo};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::Path;

/// Runs `login`: asks for the token, proves it, stores it.
pub(crate) async fn login(global: &Global, output: Output) -> Result<(), CliError> {
    let target = settings::target(&Global {
        token: None,
        ..global.clone()
    })?;
    let token = match &global.token {
        Some(token) => token.clone(),
        None => {
            if std::io::stdin().is_terminal() {
                output.say(&format!("token for {}:", target.api_url));
            }
            let mut line = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut line)
                .map_err(|error| CliError::io("read the token", &error))?;
            line
        }
    };
    let token = token.trim().to_owned();
    if token.is_empty() {
        return Err(CliError::usage("no token was given")
            .hint("pass --token, set ROOST_TOKEN, or pipe it to standard input"));
    }
    let api_url = target.api_url;
    let client = Client::new(Target {
        api_url: api_url.clone(),
        token: Some(token.clone()),
    })?;
    let info: TokenInfo = client.get("/v1/token").await?;
    let path = settings::user_file_path()?;
    if global.dry_run {
        let details =
            serde_json::json!({"api_url": api_url, "token_name": info.name, "file": path});
        let text = format!(
            "store the token {} for {api_url} in {}",
            info.name,
            path.display()
        );
        output.plan("login", details, &text);
        return Ok(());
    }
    settings::write_user_file(
        &path,
        &UserFile {
            api_url: Some(api_url.clone()),
            token: Some(token),
        },
    )?;
    let value = serde_json::json!({"api_url": api_url, "token_name": info.name, "scope": info.scope, "file": path});
    output.result(&value, || {
        format!(
            "logged in to {api_url} as {} ({}); stored in {}",
            info.name,
            info.scope,
            path.display()
        )
    });
    Ok(())
}

/// Runs `version`.
pub(crate) async fn version(client: &Client, output: Output) -> Result<(), CliError> {
    let own = env!("CARGO_PKG_VERSION");
    let platform = client.get::<NodeInfo>("/v1/node").await;
    let server = platform.as_ref().ok().map(|node| node.version.clone());
    let value = serde_json::json!({"client": own, "platform": server, "api_url": client.api_url()});
    output.result(&value, || {
        let platform = match &platform {
            Ok(node) => format!("{} at {}", node.version, client.api_url()),
            Err(error) => format!("unknown ({})", error.message),
        };
        format!("roost     {own}\nplatform  {platform}")
    });
    Ok(())
}

/// Runs `completion`.
pub(crate) fn completion(args: &CompletionArgs, output: Output) -> Result<(), CliError> {
    let shell = match args.shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
    };
    let script = complete::script(shell)
        .ok_or_else(|| CliError::failed("internal", format!("no script for {shell}")))?;
    output.result(
        &serde_json::json!({"shell": shell, "script": script}),
        || script.clone(),
    );
    Ok(())
}

/// Runs `config …`.
pub(crate) fn config(
    global: &Global,
    command: &ConfigCommand,
    output: Output,
) -> Result<(), CliError> {
    let Some(project) = project::find(global, Path::new("."))? else {
        return Err(CliError::new(
            Exit::NotFound,
            "config-not-found",
            "there is no roost.toml or fly.toml here",
        )
        .hint("add -c FILE"));
    };
    project.print_warnings(output);
    match command {
        ConfigCommand::Validate => {
            let warnings: Vec<String> = project.warnings.iter().map(ToString::to_string).collect();
            let value =
                serde_json::json!({"file": project.file, "valid": true, "warnings": warnings});
            output.result(&value, || format!("{} is valid", project.file.display()));
        }
        ConfigCommand::Show => {
            let image = project
                .config
                .build
                .image
                .clone()
                .unwrap_or_else(|| "(the image that the build makes)".into());
            let base = project.file.parent().unwrap_or(Path::new("."));
            let machine = project::machine_config(&project.config, &image, base)?;
            let value = serde_json::json!({"app": project.config.app, "config": machine});
            output.result(&value, || {
                serde_json::to_string_pretty(&value).unwrap_or_default()
            });
        }
    }
    Ok(())
}

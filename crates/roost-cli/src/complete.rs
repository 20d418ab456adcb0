//! Completion in the shell, with the names that the platform knows.
//!
//! The script of `roost completion SHELL` runs this program with
//! [`VARIABLE`] set and the words of the line as arguments. The shell stands
//! still meanwhile: an answer that is late or a platform that is away means no
//! names, and nothing is printed.

use crate::args::{Cli, Global};
use crate::client::Client;
use crate::commands::machines;
use crate::error::CliError;
use crate::{deploy, limits, project, settings};
use clap::{CommandFactory as _, FromArgMatches as _};
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use roost_proto::rest::{App, AppList, CertificateList, Deployment, IpAssignmentList, SecretList};
use std::ffi::OsString;

/// The environment variable that asks for completions instead of a command.
const VARIABLE: &str = "ROOST_COMPLETE";

/// Answers the shell, if it is the shell that asks.
pub(crate) fn answer() -> bool {
    let folder = std::env::current_dir().ok();
    let command = || {
        let mut command = Cli::command();
        // Adds `--help` and `--version`.
        command.build();
        flags_last(command)
    };
    CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), folder.as_deref())
        // Nothing that is printed here would help who presses a key in a shell.
        .unwrap_or(true)
}

/// Hides flags, so that they are offered where nothing else fits: a name is one key away then.
fn flags_last(command: clap::Command) -> clap::Command {
    let hide = |arg: clap::Arg| {
        let is_flag = !arg.is_positional();
        arg.hide(is_flag)
    };
    command.mut_args(hide).mut_subcommands(flags_last)
}

/// The script of a shell; `None` for a shell that is not known.
pub(crate) fn script(shell: &str) -> Option<String> {
    let mut script = Vec::new();
    Shells::builtins()
        .completer(shell)?
        .write_registration(VARIABLE, "roost", "roost", "roost", &mut script)
        .ok()?;
    Some(String::from_utf8_lossy(&script).into_owned())
}

/// The line so far, as far as it can be understood.
fn global() -> Option<Global> {
    let words: Vec<OsString> = std::env::args_os()
        .skip_while(|word| word != "--")
        .skip(1)
        .collect();
    let matches = Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(words)
        .ok()?;
    let mut global = Global::from_arg_matches(&matches).ok()?;
    // The word under the cursor may be that of `--app`.
    global.app = global.app.filter(|app| project::checked_name(app).is_ok());
    Some(global)
}

/// Asks the platform, for a while.
fn ask<F>(question: impl FnOnce(Client, Global) -> F) -> Vec<CompletionCandidate>
where
    F: Future<Output = Result<Vec<CompletionCandidate>, CliError>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    let answer = || {
        let global = global()?;
        let client = Client::new(settings::target(&global).ok()?).ok()?;
        runtime.block_on(async {
            let answer = question(client.read_only(true), global);
            let answer = tokio::time::timeout(limits::COMPLETION_TIMEOUT, answer).await;
            answer.ok()?.ok()
        })
    };
    let answer = answer();
    // Dropping it would wait for a name server that does not answer.
    runtime.shutdown_background();
    answer.unwrap_or_default()
}

fn candidate(value: impl Into<OsString>, help: String) -> CompletionCandidate {
    CompletionCandidate::new(value).help(Some(help.into()))
}

async fn all_apps(client: &Client) -> Result<Vec<App>, CliError> {
    client
        .get::<AppList>("/v1/apps")
        .await
        .map(|list| list.apps)
}

/// Names of apps.
pub(crate) fn apps() -> Vec<CompletionCandidate> {
    ask(|client, _| async move {
        let apps = all_apps(&client).await?;
        let row = |app: App| candidate(app.name, app.status);
        Ok(apps.into_iter().map(row).collect())
    })
}

/// Ids of machines: of the app at hand, else of every app.
pub(crate) fn machine_ids() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let apps = match project::app_name(&global) {
            Ok(app) => vec![app],
            Err(_) => {
                let apps = all_apps(&client).await?;
                apps.into_iter().map(|app| app.name).collect()
            }
        };
        let mut found = Vec::new();
        for app in apps {
            for machine in machines::list(&client, &app).await? {
                let help = format!("{} of {app}, {}", machine.name, machine.state);
                found.push(candidate(machine.id, help));
            }
        }
        Ok(found)
    })
}

/// Versions of releases, the newest first.
pub(crate) fn releases() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let app = project::app_name(&global)?;
        let releases = deploy::releases(&client, &app).await?;
        let rows = releases.into_iter().enumerate().map(|(idx, release)| {
            let help = format!("{}, {}", release.status, release.image);
            candidate(release.version.to_string(), help).display_order(Some(idx))
        });
        Ok(rows.collect())
    })
}

/// Ids of deployments, the newest first.
pub(crate) fn deployments() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let app = project::app_name(&global)?;
        let path = format!("/v1/apps/{app}/deployments");
        let deployments: Vec<Deployment> = client.get(&path).await?;
        let rows = deployments
            .into_iter()
            .enumerate()
            .map(|(idx, deployment)| {
                let help = format!("release {}, {}", deployment.release, deployment.status);
                candidate(deployment.id, help).display_order(Some(idx))
            });
        Ok(rows.collect())
    })
}

/// Names of secrets.
pub(crate) fn secrets() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let app = project::app_name(&global)?;
        let list: SecretList = client.get(&format!("/v1/apps/{app}/secrets")).await?;
        let row = |secret: roost_proto::rest::Secret| CompletionCandidate::new(secret.name);
        Ok(list.secrets.into_iter().map(row).collect())
    })
}

/// Custom host names of an app.
pub(crate) fn host_names() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let app = project::app_name(&global)?;
        let path = format!("/v1/apps/{app}/certificates");
        let list: CertificateList = client.get(&path).await?;
        let row = |found: roost_proto::rest::Certificate| CompletionCandidate::new(found.hostname);
        Ok(list.certificates.into_iter().map(row).collect())
    })
}

/// Dedicated addresses of an app.
pub(crate) fn addresses() -> Vec<CompletionCandidate> {
    ask(|client, global| async move {
        let app = project::app_name(&global)?;
        let path = format!("/v1/apps/{app}/ip_assignments");
        let list: IpAssignmentList = client.get(&path).await?;
        let row = |own: roost_proto::rest::IpAssignment| candidate(own.ip, own.kind);
        Ok(list.ips.into_iter().map(row).collect())
    })
}

/// Commands, `errors`, and the codes of errors.
pub(crate) fn help_topics() -> Vec<CompletionCandidate> {
    let root = Cli::command();
    let commands = root.get_subcommands().map(clap::Command::get_name);
    let mut topics: Vec<CompletionCandidate> = commands
        .map(|name| CompletionCandidate::new(name.to_owned()))
        .collect();
    topics.push(CompletionCandidate::new("errors"));
    topics.extend(crate::help::codes().map(CompletionCandidate::new));
    topics
}

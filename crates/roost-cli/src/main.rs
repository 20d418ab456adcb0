//! The `roost` command.
//!
//! A client of the REST API, beside `up` and `down`, which start and remove a
//! platform on this machine. It prints in one place (`output`), fails in one
//! form (`error`) and takes its settings from flags, environment, the app
//! configuration and the user file, in this order.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod complete;
mod deploy;
mod doctor;
mod error;
mod help;
mod launch;
mod limits;
mod output;
mod pack;
mod ports;
mod project;
mod prove;
mod roostd;
mod settings;
mod up;
mod up_options;

#[cfg(test)]
mod tests;

use args::{Cli, Command};
use clap::Parser as _;
use clap::error::ErrorKind;
use client::Client;
use commands::{apps, certs, ips, local, logs, machines, ops, releases, secrets, why};
use deploy::Unchanged;
use error::CliError;
use output::Output;
use std::process::ExitCode;

fn main() -> ExitCode {
    if complete::answer() {
        return ExitCode::SUCCESS;
    }
    command()
}

#[tokio::main]
async fn command() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let output = Output {
        json: cli.global.json,
        quiet: cli.global.quiet,
        verbose: cli.global.verbose,
        yes: cli.global.yes,
    };
    match Box::pin(run(cli, output)).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.error(&error);
            ExitCode::from(u8::try_from(error.exit as i32).unwrap_or(1))
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    let exit_code = u8::try_from(error.exit_code()).unwrap_or(2);
    // The command line that could not be read may ask for JSON all the same.
    let json = std::env::args_os()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    let lacks_command = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if (lacks_command && !json) || !error.use_stderr() {
        // Nothing can be done about a terminal that is gone.
        let _ = error.print();
    } else {
        let output = Output {
            json,
            quiet: false,
            verbose: false,
            yes: false,
        };
        let text = error.to_string();
        let error = if lacks_command {
            // All that clap says is the help.
            usage_error(&format!("a command is missing\n\n{text}"))
        } else {
            usage_error(&text)
        };
        output.error(&error);
    }
    ExitCode::from(exit_code)
}

/// What clap says in several paragraphs: the fault, tips, the usage, where more is told.
fn usage_error(text: &str) -> CliError {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let (fault, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let words: Vec<&str> = fault.split_whitespace().collect();
    let mut error = CliError::usage(words.join(" "));
    for line in rest.lines().map(str::trim) {
        if let Some(tip) = line.strip_prefix("tip: ") {
            error = error.hint(tip);
        } else if let Some(usage) = line.strip_prefix("Usage: ") {
            error = error.hint(format!("the usage is: {usage}"));
        }
    }
    error
}

/// Runs a command; gives the exit code.
async fn run(cli: Cli, output: Output) -> Result<u8, CliError> {
    let global = cli.global;
    let client = Client::new(settings::target(&global)?)?.read_only(global.dry_run);
    output.detail(&format!("API: {}", client.api_url()));
    match cli.command {
        Command::Up(args) => up::run(&global, &args, output).await?,
        Command::Down(args) => up::down(&global, &args, output).await?,
        Command::Launch(args) => launch::run(&client, &global, &args, output).await?,
        Command::Deploy(args) => {
            deploy::run(&client, &global, &args, output, Unchanged::Deploy).await?;
        }
        Command::Apps(command) => apps::run(&client, &global, command, output).await?,
        Command::Machines(command) => {
            return machines::run(&client, &global, command, output).await;
        }
        Command::Status => apps::status(&client, &global, output).await?,
        Command::Logs(args) => logs::run(&client, &global, &args, output).await?,
        Command::Secrets(command) => secrets::run(&client, &global, command, output).await?,
        Command::Certs(command) => certs::run(&client, &global, command, output).await?,
        Command::Ips(command) => ips::run(&client, &global, command, output).await?,
        Command::Releases => releases::list(&client, &global, output).await?,
        Command::Rollback(args) => releases::rollback(&client, &global, &args, output).await?,
        Command::Ops(command) => ops::run(&client, &global, command, output).await?,
        Command::Why(command) => why::run(&client, &global, command, output).await?,
        Command::Exec(args) => return machines::exec(&client, &global, args, output).await,
        Command::Open(args) => apps::open(&client, &global, &args, output).await?,
        Command::Doctor(args) => doctor::run(&client, &global, &args, output).await?,
        Command::Login => local::login(&global, output).await?,
        Command::Version => local::version(&client, output).await?,
        Command::Completion(args) => local::completion(&args, output)?,
        Command::Help(args) => help::run(&args, output)?,
        Command::Config(command) => local::config(&global, &command, output)?,
    }
    Ok(0)
}
